"""The stage `latents`: clips of the synthetic world through the trained autoencoder and encoders, into a bank.

A step makes one shard. Everything is encoded by the code that serves: the voice block by block as inference hears it,
the portrait with its zero frames, each block's prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from liveact_models.checkpoint import Checkpoint, open_checkpoint
from liveact_models.timeline import FRAMES_PER_LATENT, block_frames
from liveact_models.training.clip_bank import SHARD, ClipBank
from liveact_models.training.clip_transformer import clip_latents
from liveact_models.training.products import open_products
from liveact_models.training.recipe import Recipe
from liveact_models.training.run_folder import RunFolder
from liveact_models.training.shards import ShardStage
from liveact_models.voice import VoiceBuffer, block_features
from liveact_models.world.clip import FPS, RATE, Clip, make_clip

TOKEN = 16
"""Pixels of a token's side."""


@dataclass(frozen=True)
class LatentsOptions:
    """Options of the recipe."""

    blocks: int = 3
    """Of a clip; from three on a clip has a memory."""
    size: int = 128
    """Side of the pictures in pixels."""
    processes: int = 2
    """They draw, speak and encode."""

    @property
    def frames(self) -> int:
        """Video frames of a clip."""
        return block_frames(self.blocks - 1).stop


def clip_seed(recipe: Recipe, clip: int) -> int:
    """The seed of the bank's clip of that number, for `make_clip`."""
    return recipe.seed * 1_000_000 + clip


class LatentsStage(ShardStage):
    """Encodes the clips."""

    def __init__(self, recipe: Recipe, run: RunFolder, device: torch.device) -> None:
        options = recipe.read_options(LatentsOptions)
        open_products(run, recipe)
        super().__init__(recipe, run, device, options.processes, _open_encoder, str(run.products), options)
        self.run.latents.mkdir(parents=True, exist_ok=True)

    def shard_path(self, shard: int) -> Path:
        return self.run.latents / SHARD.format(shard)

    def work(self, clip: int) -> tuple[Any, ...]:
        return _encode_clip, clip_seed(self.recipe, clip)

    def save(self, shard: int, clips: list[dict[str, NDArray[np.float16]]]) -> float:
        bank = ClipBank(**{name: torch.from_numpy(np.stack([clip[name] for clip in clips])) for name in clips[0]})
        bank.save(self.shard_path(shard))
        return 0.0


class ClipEncoder:
    """Turns a clip into what the transformer is given for it."""

    def __init__(self, checkpoint: Checkpoint, blocks: int) -> None:
        self.config = checkpoint.config
        self.blocks = blocks
        self.vae = checkpoint.load_vae("encode")
        self.audio = checkpoint.load_audio_encoder()
        self.text = checkpoint.load_text_encoder()
        self.image = checkpoint.load_image_encoder()

    @torch.inference_mode()
    def encode(self, clip: Clip, frames: NDArray[np.uint8]) -> dict[str, Tensor]:
        """The fields of `ClipBank` for one clip and its pictures [T, H, W, 3]."""
        portrait = to_video(clip.portrait()[None])[:, 0]
        # The transformer never sees more than this of a latent, and it takes half the time.
        with torch.autocast("cpu", torch.bfloat16):
            latents, reference = self.vae.encode(to_video(frames)), self.vae.encode_reference(portrait)
        fields = {
            "latents": latents,
            "reference": reference,
            "features": torch.cat([self.hear(clip, block) for block in range(self.blocks)]),
            "text": torch.stack([self.read(clip, block) for block in range(self.blocks)]),
            "clip": self.image.encode(portrait),
            "mouth": torch.from_numpy(clip.mouth),
            "regions": regions(clip),
        }
        return {name: value.half() for name, value in fields.items()}

    def hear(self, clip: Clip, block: int) -> Tensor:
        """Features [frames + 4, layers, dim] of the block, as a live session hears it."""
        voice = VoiceBuffer(RATE, FPS)
        voice.append(clip.samples)
        return block_features(self.audio, voice.window(block), block, self.config.trained_fps)

    def read(self, clip: Clip, block: int) -> Tensor:
        """The prompt of the block [text_len, text_dim], padded with zeros."""
        sizes = self.config.transformer
        start = block_frames(block).start
        prompt = [cue.prompt for cue in clip.cues if cue.frame <= start][-1]
        words = self.text.encode(prompt, sizes.text_len)
        return torch.nn.functional.pad(words, (0, 0, 0, sizes.text_len - len(words)))


def regions(clip: Clip) -> Tensor:
    """How much of each token face and mouth cover in every latent frame [F, 2, size / 16, size / 16]."""
    from liveact_models.world.draw import face_box, mouth_box

    side = clip.size // TOKEN
    covered = torch.stack(
        [
            torch.stack(
                [_coverage(box(clip.identity, clip.motion.state(frame)), side) for box in (face_box, mouth_box)]
            )
            for frame in range(clip.length)
        ]
    )
    later = covered[1:].unflatten(0, (-1, FRAMES_PER_LATENT)).amax(dim=1)
    return torch.cat((covered[:1], later))[: clip_latents(1 + (clip.length - 21) // 32)]


def _coverage(box: tuple[float, float, float, float], side: int) -> Tensor:
    """Share of every cell of a side x side grid that the box, in fractions of the picture, covers."""
    edges = torch.arange(side + 1) / side

    def along(low: float, high: float) -> Tensor:
        return (edges[1:].clamp(max=high) - edges[:-1].clamp(min=low)).clamp(min=0) * side

    return along(box[1], box[3])[:, None] * along(box[0], box[2])[None]


def to_video(frames: NDArray[np.uint8]) -> Tensor:
    """Pictures [T, H, W, 3] -> video [3, T, H, W] in [-1, 1]."""
    return torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 127.5 - 1


_encoder: ClipEncoder
"""Of a pool's process."""
_options: LatentsOptions


def _open_encoder(products: str, options: LatentsOptions) -> None:
    global _encoder, _options
    torch.set_num_threads(1)
    _encoder, _options = ClipEncoder(open_checkpoint(products), options.blocks), options


def _encode_clip(seed: int) -> dict[str, NDArray[np.float16]]:
    """The clip of that seed, drawn, spoken and encoded."""
    clip = make_clip(seed, _options.frames, "train", _options.size)
    return {name: value.numpy() for name, value in _encoder.encode(clip, clip.frames()).items()}
