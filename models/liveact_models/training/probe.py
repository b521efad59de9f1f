"""The sound encoder's examination: how much of the mouth one linear map reads from each of its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from liveact_models.timeline import AUDIO_REACH
from liveact_models.voice import VoiceBuffer, block_features
from liveact_models.voice.prepare import ENCODER_RATE
from liveact_models.world.mouth import mouth_track
from liveact_models.world.voices import Utterance, speech, voices

if TYPE_CHECKING:
    from liveact_models.encoders import AudioEncoder

RIDGE = 1e-3
PASSAGE_SECONDS = 12.0


class Probe:
    """Ridge regression from one layer's state in a frame to the mouth of that frame."""

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


@torch.no_grad()
def session_states(encoder: AudioEncoder, utterance: Utterance, fps: int) -> tuple[Tensor, NDArray[np.float32]]:
    """States [frames, layers, dim] of an utterance as the service hears it, block by block, and its mouth [frames, 4].

    Of the whole blocks whose sound is there; `fps` is also the rate the encoder is trained at.
    """
    buffer = VoiceBuffer(ENCODER_RATE, fps)
    buffer.append(utterance.samples)
    rows: list[Tensor] = []
    while buffer.ready(block := len(rows)):
        rows.append(block_features(encoder, buffer.window(block), block, fps)[AUDIO_REACH:-AUDIO_REACH])
    states = torch.cat(rows).float()
    return states, mouth_track(utterance.phones, len(states), fps)


def examine(
    encoder: AudioEncoder, fps: int, fitted_on: Sequence[Utterance], heard: Mapping[str, Sequence[Utterance]]
) -> dict[str, Tensor]:
    """Pearson's r [layers, 4] of a probe fitted on some utterances, for each named group of others."""
    probe = Probe(*_together(encoder, fitted_on, fps))
    return {name: probe.correlation(*_together(encoder, group, fps)) for name, group in heard.items()}


def papers(seconds: float) -> tuple[list[Utterance], dict[str, list[Utterance]]]:
    """What to fit a probe on, and what to examine with: `seconds` of the trained voices each, and all held-out voices once.

    Examined sentences are of the test split, the held-out voices' sound is clean.
    """
    count = max(1, round(seconds / PASSAGE_SECONDS))
    fitted_on = [speech(number, PASSAGE_SECONDS, "train") for number in range(count)]
    trained = [speech(number, PASSAGE_SECONDS, "test") for number in range(count)]
    strangers = [
        speech(number, PASSAGE_SECONDS, "test", voice, augment=False) for number, voice in enumerate(voices("held-out"))
    ]
    return fitted_on, {"trained voices": trained, "held-out voices": strangers}


def _together(encoder: AudioEncoder, group: Sequence[Utterance], fps: int) -> tuple[Tensor, NDArray[np.float32]]:
    states, mouths = zip(*(session_states(encoder, utterance, fps) for utterance in group), strict=True)
    return torch.cat(states), np.concatenate(mouths)


def _with_one(states: Tensor) -> Tensor:
    """[frames, layers, dim] -> float64 [layers, frames, dim + 1]."""
    return F.pad(states.double().transpose(0, 1), (0, 1), value=1.0)
