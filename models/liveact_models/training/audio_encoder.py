"""The sound encoder's lesson: every layer must say, linearly, what the mouth does (model-facts, "Network", Audio).

The diffusion transformer reads all layers of a frame's window, so each is taught; the heads are thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liveact_models.config import AudioEncoderConfig
from liveact_models.training.speech_bank import CUES, Windows
from liveact_models.world.mouth import MOUTH, VISEMES

if TYPE_CHECKING:
    from liveact_models.encoders import AudioEncoder

MOUTH_MEAN = (0.25, 0.5, 0.2, 0.3)
MOUTH_SPREAD = (0.2, 0.15, 0.27, 0.28)
"""Mean and standard deviation of each mouth value in speech: what the heads give is counted in these."""
MOUTH_WEIGHTS = (2.0, 1.0, 1.0, 1.0)
DELTA_SCALE = 2.0
CUE_SPREAD = 0.3
RESIDUAL = 0.1


@dataclass(frozen=True)
class AudioLosses:
    """How the parts of the loss are weighted; the mouth's own is 1."""

    delta: float = 0.3
    visemes: float = 0.15
    cues: float = 0.2
    layers: tuple[float, ...] = (0.4, 0.6, 0.8, 1.0)
    """Of each layer's loss."""


class AudioHeads(nn.Module):
    """One linear map a layer: its state in a frame -> mouth, the mouth's change, cues and viseme of that frame."""

    sizes = (len(MOUTH), len(MOUTH), len(CUES), len(VISEMES))

    def __init__(self, config: AudioEncoderConfig) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Linear(config.hidden_size, sum(self.sizes)) for _ in range(config.num_hidden_layers)
        )
        for parameter in self.heads.parameters():
            nn.init.zeros_(parameter)

    def forward(self, states: Tensor) -> tuple[Tensor, ...]:
        """States [B, T, layers, dim] -> (mouth, delta, cues, visemes), each [layers, B, T, its size]."""
        outputs = torch.stack([head(states[:, :, layer]) for layer, head in enumerate(self.heads)])
        return outputs.split(self.sizes, dim=-1)


def initialize(encoder: AudioEncoder) -> None:
    """Weights to begin with: variance kept from layer to layer, where the library's own assume many wide layers."""
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Linear):
            tail = name.endswith(("out_proj", "output_dense"))  # what a layer adds to its input: little at first
            nn.init.normal_(module.weight, std=(RESIDUAL if tail else 1.0) * module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv1d) and "weight" in dict(module.named_parameters(recurse=False)):
            nn.init.kaiming_normal_(module.weight)


def audio_loss(
    encoder: AudioEncoder, heads: AudioHeads, windows: Windows, losses: AudioLosses, dtype: torch.dtype
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch, and the squared error of each mouth value at the last layer in units of its variance."""
    frames = windows.mouth.shape[1]
    device_type = windows.sound.device.type
    with torch.autocast(device_type, dtype, enabled=dtype != torch.float32):
        states = encoder(windows.sound, frames)
    mouth, delta, cues, visemes = heads(states.float())
    layers = torch.tensor(losses.layers, device=mouth.device) / sum(losses.layers)
    weight = windows.weight / windows.weight.sum()  # [B, T]

    shape = (windows.mouth - windows.mouth.new_tensor(MOUTH_MEAN)) / windows.mouth.new_tensor(MOUTH_SPREAD)
    errors = (mouth - shape).square()  # [layers, B, T, 4]
    moved = (delta - DELTA_SCALE * torch.gradient(shape, dim=1)[0]).square().mean(dim=-1)
    cued = (cues - windows.cues / CUE_SPREAD).square().mean(dim=-1)
    classes = F.cross_entropy(
        visemes.flatten(0, 2), windows.visemes.expand(len(visemes), -1, -1).flatten(), reduction="none"
    ).view_as(moved)
    mouthed = (errors * errors.new_tensor(MOUTH_WEIGHTS)).sum(dim=-1) / sum(MOUTH_WEIGHTS)
    total = mouthed + losses.delta * moved + losses.cues * cued + losses.visemes * classes  # [layers, B, T]
    loss = torch.einsum("lbt,bt,l->", total, weight, layers)
    last = torch.einsum("btc,bt->c", errors[-1].detach(), weight)
    right = (visemes[-1].detach().argmax(-1) == windows.visemes).float()
    return loss, {**dict(zip(MOUTH, last, strict=True)), "visemes": (right * weight).sum()}
