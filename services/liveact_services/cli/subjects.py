"""A portrait and a voice as a model gets them: what measurements of its arithmetic are made on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from liveact_services.cli import options

if TYPE_CHECKING:
    from torch import Tensor

    from liveact_models.denoiser import BlockDenoiser
    from liveact_models.pipeline import Pipeline
    from liveact_models.session import SessionState


@dataclass(frozen=True)
class Subject:
    """One session to be: the same for every denoiser of the model."""

    start: Callable[[BlockDenoiser], SessionState]
    features: Tensor
    """Of the voice, [frames, layers, dim]; it begins again at its end."""

    def audio(self, block: int) -> Tensor:
        """What the block hears, [frames + 4, layers, dim]."""
        import torch

        from liveact_models.timeline import block_feature_frames

        rows = torch.tensor(block_feature_frames(block))
        return self.features[rows.clamp(min=0) % len(self.features)]


def subject(pipeline: Pipeline, image: Path, voice: Path, size: tuple[int, int]) -> Subject:
    """Raises `BadInput`, `PortraitError`, `VoiceError` or `ConfigError` for what the model does not take."""
    from liveact_services.client import read_voice

    portrait, sound = options.read_image(image), read_voice(voice)
    width, height = size
    state = pipeline.start(portrait, width=width or None, height=height or None).state

    def start(denoiser: BlockDenoiser) -> SessionState:
        return denoiser.open(
            width=state.width, height=state.height, fps=state.fps, seed=state.seed,
            text=state.text, clip=state.clip, reference=state.reference,
        )  # fmt: skip

    return Subject(start, pipeline.encode_clip(sound.heard(), state.fps))
