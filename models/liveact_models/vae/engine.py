"""How a VAE's decoder is computed, chosen once: its numbers, how features lie in memory, whether passes are fused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from liveact_models.checkpoint import Checkpoint
    from liveact_models.vae.base import Vae

DecoderPrecision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class DecoderEngine:
    """The default is what the model was compared with; every other choice gives other last bits, bf16 more than those."""

    precision: DecoderPrecision = "fp32"
    channels_last: bool = False
    """Whether a pixel's features stand beside each other, weights likewise. The tiny VAE always has it so."""
    compile: bool = False
    """Whether norms and activations are one pass, by torch.compile; left out, and said, where no C++ compiler is."""

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def describe(self) -> str:
        """For logs and benchmarks."""
        ways = (("channels last", self.channels_last), ("norms compiled", self.compile))
        return ", ".join((self.precision, *(way for way, chosen in ways if chosen)))


def load_decoder(checkpoint: Checkpoint, engine: DecoderEngine, device: torch.device | str) -> Vae:
    """The checkpoint's decoder, computed so. Raises `CheckpointError` for weights that cannot be loaded."""
    vae = checkpoint.load_vae("decode", device=str(device), dtype=engine.dtype)
    vae.arrange(channels_last=engine.channels_last, compile=engine.compile)
    return vae
