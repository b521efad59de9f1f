"""The sound encoder's lesson: every layer must say, linearly, what the mouth does (model-facts, "Network", Audio).

The diffusion transformer reads all layers of a frame's window, so each is taught; the heads are thrown away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from liveact_models.config import AudioEncoderConfig
from liveact_models.timeline import AUDIO_REACH
from liveact_models.training.speech_bank import CUES, Windows
from liveact_models.voice import VoiceBuffer, block_features
from liveact_models.voice.prepare import ENCODER_RATE
from liveact_models.world.mouth import MOUTH, VISEMES, mouth_track

if TYPE_CHECKING:
    from liveact_models.encoders import AudioEncoder
    from liveact_models.world.voices import Utterance

MOUTH_SPREAD = (0.2, 0.13, 0.2, 0.25)
"""Standard deviation of each mouth value in speech: errors are counted in it."""
MOUTH_WEIGHTS = (2.0, 1.0, 1.0, 1.0)
DELTA_SPREAD = 0.12
CUE_SPREAD = 0.3
RIDGE = 1e-3
PHASES = 3
BAND_HERTZ = (90.0, 7300.0)
"""The middles of the lowest and the highest band."""
BAND_WIDTH = 0.5
"""Standard deviation of a band around its middle, in steps from one band to the next."""



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

    def forward(self, states: Tensor) -> tuple[Tensor, ...]:
        """States [B, T, layers, dim] -> (mouth, delta, cues, visemes), each [layers, B, T, its size]."""
        outputs = torch.stack([head(states[:, :, layer]) for layer, head in enumerate(self.heads)])
        return outputs.split(self.sizes, dim=-1)


def initialize(encoder: AudioEncoder) -> None:
    """Weights to begin with: variance kept from layer to layer, and a first convolution that hears like an ear."""
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv1d) and "weight" in dict(module.named_parameters(recurse=False)):
            nn.init.kaiming_normal_(module.weight)
    first = next(module for module in encoder.feature_extractor.modules() if isinstance(module, nn.Conv1d))
    filters, _, taps = first.weight.shape
    with torch.no_grad():
        first.weight.copy_(gabor_filters(filters, taps)[:, None])


def gabor_filters(filters: int, taps: int) -> Tensor:
    """Band-pass filters [filters, taps] for 16 kHz, each of norm 1: bands on the mel scale, three phases a band.

    Of three waves a third of a turn apart the positive parts, which is about what GELU leaves of each, sum up to the band's
    envelope. A norm of 1 leaves noise 50 dB under the voice below the floor of the group norm that follows.
    """
    bands = -(-filters // PHASES)
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in BAND_HERTZ)
    mel = torch.linspace(low, high, bands, dtype=torch.float64)
    hertz = 700 * (10 ** (mel / 2595) - 1)
    width = torch.gradient(hertz)[0].clamp_min(ENCODER_RATE / taps)  # as narrow as the taps can tell apart
    time = (torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2) / ENCODER_RATE
    envelope = torch.exp(-0.5 * (2 * math.pi * BAND_WIDTH * width[:, None] * time).square())  # [bands, taps]
    turns = torch.arange(PHASES, dtype=torch.float64) / PHASES
    waves = torch.cos(2 * math.pi * (hertz[:, None, None] * time + turns[:, None])) * envelope[:, None]
    waves = (waves - waves.mean(dim=-1, keepdim=True)).flatten(0, 1)[:filters]
    return (waves / waves.norm(dim=-1, keepdim=True)).float()


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

    spread = windows.mouth.new_tensor(MOUTH_SPREAD)
    errors = ((mouth - windows.mouth) / spread).square()  # [layers, B, T, 4]
    change = torch.gradient(windows.mouth, dim=1)[0]
    moved = ((delta - change) / DELTA_SPREAD).square().mean(dim=-1)
    cued = ((cues - windows.cues) / CUE_SPREAD).square().mean(dim=-1)
    classes = F.cross_entropy(
        visemes.flatten(0, 2), windows.visemes.expand(len(visemes), -1, -1).flatten(), reduction="none"
    ).view_as(moved)
    shape = (errors * errors.new_tensor(MOUTH_WEIGHTS)).sum(dim=-1) / sum(MOUTH_WEIGHTS)
    total = shape + losses.delta * moved + losses.cues * cued + losses.visemes * classes  # [layers, B, T]
    loss = torch.einsum("lbt,bt,l->", total, weight, layers)
    last = torch.einsum("btc,bt->c", errors[-1].detach(), weight)
    right = (visemes[-1].detach().argmax(-1) == windows.visemes).float()
    return loss, {**dict(zip(MOUTH, last, strict=True)), "visemes": (right * weight).sum()}


@torch.no_grad()
def session_states(encoder: AudioEncoder, utterance: Utterance, fps: int) -> tuple[Tensor, NDArray[np.float32]]:
    """States [frames, layers, dim] of an utterance as the service hears it, block by block, and its mouth [frames, 4]."""
    buffer = VoiceBuffer(ENCODER_RATE, fps)
    buffer.append(utterance.samples)
    rows: list[Tensor] = []
    while buffer.ready(block := len(rows)):
        rows.append(block_features(encoder, buffer.window(block), block, fps)[AUDIO_REACH:-AUDIO_REACH])
    states = torch.cat(rows).float()
    return states, mouth_track(utterance.phones, len(states), fps)


class Probe:
    """Ridge regression from one layer's state in a frame to the mouth: what a single linear map can read there."""

    def __init__(self, states: Tensor, mouth: NDArray[np.float32]) -> None:
        """Fitted on states [frames, layers, dim] and mouth [frames, 4]."""
        features = _with_one(states)  # [layers, frames, dim + 1]
        truth = torch.from_numpy(mouth).double().expand(len(features), -1, -1)
        gram = features.mT @ features / features.shape[1]
        gram += RIDGE * torch.eye(gram.shape[-1], dtype=gram.dtype)
        self.weights = torch.linalg.solve(gram, features.mT @ truth / features.shape[1])

    def correlation(self, states: Tensor, mouth: NDArray[np.float32]) -> Tensor:
        """Pearson's r [layers, 4] between what is read from other states and the truth."""
        read = _with_one(states) @ self.weights  # [layers, frames, 4]
        read = read - read.mean(dim=1, keepdim=True)
        truth = torch.from_numpy(mouth).double()
        truth = truth - truth.mean(dim=0)
        norms = read.square().sum(dim=1).sqrt() * truth.square().sum(dim=0).sqrt()
        return (read * truth).sum(dim=1) / norms.clamp_min(1e-9)


def _with_one(states: Tensor) -> Tensor:
    """[frames, layers, dim] -> float64 [layers, frames, dim + 1]."""
    return F.pad(states.double().transpose(0, 1), (0, 1), value=1.0)
