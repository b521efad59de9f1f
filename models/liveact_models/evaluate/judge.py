"""The judge: two small networks that read the mouth and the look of a rendered face from its pixels.

They are trained on rendered frames only (`judge_training`), never on a generated one. Pictures of any size are brought to
128 x 128 pixels first.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from liveact_models.world.motion import ACTIONS, EMOTIONS
from liveact_models.world.mouth import MOUTH

CHECKPOINT = Path(__file__).resolve().parents[2] / "checkpoints" / "judge.safetensors"
SIDE = 128
"""Pixels a side of a picture as the judge sees it."""
LOOK_SIDE = 64
CROP = 48
"""Pixels a side of the mouth's crop, out of `SIDE`."""
POSE = ("yaw", "pitch", "roll", "hand", "hand_swing", "blink")
"""What is read of a frame's state beside mouth and emotion; names and units are those of `world.face`."""
ACTION_POSE = ("yaw", "pitch", "hand", "hand_swing")
"""What of the pose tells an action."""
IDENTITY = 48
_SMOOTH = 2
"""Frames on either side over which the mouth's place is averaged: a shaking crop would look like a moving mouth."""


class JudgeError(RuntimeError):
    """A judge that cannot be loaded; the message names the file and the command that makes it."""


@dataclass(frozen=True)
class Sight:
    """What was read of T frames."""

    mouth: NDArray[np.float32]
    """[T, 4] as `MOUTH`, 0 to 1."""
    emotion: NDArray[np.float32]
    """[T, 5] probabilities as `EMOTIONS`."""
    pose: NDArray[np.float32]
    """[T, 6] as `POSE`."""
    place: NDArray[np.float32]
    """[T, 2] centre of the mouth (x, y) in fractions of the picture."""
    identity: NDArray[np.float32]
    """[T, 48] of length 1: near for one person, far for two."""

    def __len__(self) -> int:
        return len(self.mouth)

    @classmethod
    def joined(cls, parts: list[Sight]) -> Sight:
        """One after the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def _conv(width: int, channels: int, stride: int, kernel: int = 3) -> nn.Sequential:
    """Group normalisation and not batch's: a judge must not see a frame differently for its neighbours' sake."""
    return nn.Sequential(
        nn.Conv2d(width, channels, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.GroupNorm(8, channels),
        nn.SiLU(),
    )


class MouthNet(nn.Module):
    """Crop [B, 3, 48, 48] in [-1, 1] -> mouth [B, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(3, 16, 2, 5), _conv(16, 32, 1), _conv(32, 48, 2), _conv(48, 48, 1), _conv(48, 64, 2), nn.Flatten(),
            nn.Linear(64 * 6 * 6, 64), nn.SiLU(), nn.Linear(64, len(MOUTH)),
        )  # fmt: skip

    def forward(self, crops: Tensor) -> Tensor:
        return self.body(crops)


class LookNet(nn.Module):
    """Picture [B, 3, 64, 64] in [-1, 1] -> emotion logits [B, 5], pose [B, 6], place [B, 2], identity [B, 48]."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            _conv(3, 16, 2, 5), _conv(16, 32, 2), _conv(32, 48, 1), _conv(48, 64, 2), _conv(64, 64, 1), _conv(64, 64, 2),
            nn.Flatten(), nn.Linear(64 * 4 * 4, 96), nn.SiLU(),
        )  # fmt: skip
        self.emotion = nn.Linear(96, len(EMOTIONS))
        self.pose = nn.Linear(96, len(POSE))
        self.place = nn.Linear(96, 2)
        self.identity = nn.Linear(96, IDENTITY)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        features = self.trunk(pictures)
        identity = functional.normalize(self.identity(features), dim=1)
        return self.emotion(features), self.pose(features), 0.5 + self.place(features), identity


class ActionNet(nn.Module):
    """Tracks [B, 4, T] as `ACTION_POSE` -> action logits [B, 5] as `ACTIONS`."""

    def __init__(self) -> None:
        super().__init__()
        self.motion = nn.Sequential(
            nn.Conv1d(len(ACTION_POSE), 32, 7, padding=3), nn.SiLU(), nn.Conv1d(32, 32, 5, padding=2), nn.SiLU(),
            nn.Conv1d(32, 32, 5, padding=2), nn.SiLU(),
        )  # fmt: skip
        self.head = nn.Linear(64, len(ACTIONS))

    def forward(self, tracks: Tensor) -> Tensor:
        moved = self.motion(tracks)
        return self.head(torch.cat((moved.mean(dim=2), moved.amax(dim=2)), dim=1))


class Judge(nn.Module):
    """Both networks, and the one that names actions; reads videos frame by frame."""

    def __init__(self) -> None:
        super().__init__()
        self.mouth = MouthNet()
        self.look = LookNet()
        self.action = ActionNet()

    @classmethod
    def load(cls, path: Path = CHECKPOINT) -> Judge:
        """The judge of that file. Raises `JudgeError`."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        judge = cls()
        try:
            weights = {name: tensor.float() for name, tensor in load_file(path).items()}
            judge.load_state_dict(weights)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise JudgeError(
                f"{path}: no usable judge ({error}); make one with: liveact evaluate judge --train"
            ) from None
        return judge.eval().requires_grad_(False)

    def save(self, path: Path) -> None:
        """Write the weights in half precision, which keeps the file under a megabyte."""
        from safetensors.torch import save_file

        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.half().contiguous() for name, tensor in self.state_dict().items()}, path)

    @torch.inference_mode()
    def see(self, frames: NDArray[np.uint8], batch: int = 128) -> Sight:
        """Read one video's frames [T, H, W, 3], in their order.

        Raises `ValueError` for frames of another shape or type, or none.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not len(frames):
            raise ValueError(f"frames {frames.shape} of {frames.dtype}: accepted are uint8 [T, H, W, 3] with T > 0")
        chunks = [normalised(frames[start : start + batch]) for start in range(0, len(frames), batch)]
        looks = [self.look(functional.avg_pool2d(chunk, SIDE // LOOK_SIDE)) for chunk in chunks]
        emotion, pose, place, identity = (torch.cat(parts) for parts in zip(*looks, strict=True))
        place = _smoothed(place)
        mouths = [self.mouth(mouth_crops(chunk, at)) for chunk, at in zip(chunks, place.split(batch), strict=True)]
        return Sight(
            mouth=torch.cat(mouths).clamp(0, 1).numpy(), emotion=emotion.softmax(dim=1).numpy(), pose=pose.numpy(),
            place=place.numpy(), identity=identity.numpy(),
        )  # fmt: skip


@cache
def shipped_judge() -> Judge:
    """The judge that comes with the package. Raises `JudgeError`."""
    return Judge.load()


def normalised(frames: NDArray[np.uint8]) -> Tensor:
    """Pictures [T, H, W, 3] -> [T, 3, 128, 128] in [-1, 1]."""
    pictures = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1
    if pictures.shape[2:] != (SIDE, SIDE):
        pictures = functional.interpolate(pictures, (SIDE, SIDE), mode="bilinear", antialias=True)
    return pictures


def action_tracks(pose: NDArray[np.float32]) -> NDArray[np.float32]:
    """The part of pose tracks [T, P] that tells an action: [T, 4]."""
    return pose[:, [POSE.index(name) for name in ACTION_POSE]]


def mouth_crops(pictures: Tensor, place: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """Crops [B, 3, 48, 48] of pictures [B, 3, 128, 128] around `place` [B, 2], in fractions of the picture.

    `scale` [B] widens what the crop takes in. Beyond the picture's edge its last pixels go on.
    """
    axis = (torch.arange(CROP) - (CROP - 1) / 2) * (2 / SIDE)  # in grid_sample's units, the picture being 2 wide
    reach = axis * torch.as_tensor(scale).reshape(-1, 1)
    centre = place * 2 - 1
    x = (centre[:, :1] + reach)[:, None, :].expand(-1, CROP, -1)
    y = (centre[:, 1:] + reach)[:, :, None].expand(-1, -1, CROP)
    return functional.grid_sample(pictures, torch.stack((x, y), dim=3), padding_mode="border", align_corners=False)


def _smoothed(track: Tensor) -> Tensor:
    """Running mean over time of [T, C], the ends held."""
    held = functional.pad(track.T[None], (_SMOOTH, _SMOOTH), mode="replicate")
    return functional.avg_pool1d(held, 2 * _SMOOTH + 1, stride=1)[0].T
