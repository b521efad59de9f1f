"""From audio features to the audio tokens of a latent frame (model-facts, "Time and shapes", "Audio")."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liveact_models.config import TransformerConfig
from liveact_models.timeline import AUDIO_REACH


def gather_audio_windows(embedding: Tensor, start: int, stop: int) -> Tensor:
    """The windows of video frames [start, stop): [frames, layers, dim] -> [stop - start, 5, layers, dim].

    A frame's window is itself and two frames on either side; indices outside the embedding are clamped to its ends.
    """
    frames = torch.arange(start, stop, device=embedding.device)
    reach = torch.arange(-AUDIO_REACH, AUDIO_REACH + 1, device=embedding.device)
    return embedding[(frames[:, None] + reach).clamp(0, len(embedding) - 1)]


class AudioProjection(nn.Module):
    """Audio windows of video frames -> tokens of latent frames."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        features = config.audio_blocks * config.audio_channels
        self.window = config.audio_window
        self.group = config.vae_scale
        self.tokens = (config.context_tokens, config.output_dim)
        self.proj1 = nn.Linear(self.window * features, config.intermediate_dim)
        self.proj1_vf = nn.Linear((self.window + self.group - 1) * features, config.intermediate_dim)
        self.proj2 = nn.Linear(config.intermediate_dim, config.intermediate_dim)
        self.proj3 = nn.Linear(config.intermediate_dim, config.context_tokens * config.output_dim)
        self.norm = nn.LayerNorm(config.output_dim)

    def forward(self, windows: Tensor, first_block: bool) -> Tensor:
        """windows [frames, audio_window, layers, dim] -> [latent_frames, context_tokens, output_dim].

        In the first block the first video frame is a latent frame of its own; every other one is a group of four.
        """
        single = windows[: 1 if first_block else 0]
        groups = windows[len(single) :].unflatten(0, (-1, self.group))
        hidden = torch.cat((self.proj1(single.flatten(1)), self.proj1_vf(self._joined(groups).flatten(1))))
        hidden = F.relu(self.proj2(F.relu(hidden)))
        return self.norm(self.proj3(hidden).unflatten(-1, self.tokens))

    def _joined(self, groups: Tensor) -> Tensor:
        """[latent_frames, 4, 5, ...] -> [latent_frames, 8, ...]: windows overlap, each instant is kept once.

        The first frame gives its left half with its centre, the last its centre with its right half, the others their
        centres.
        """
        centre = self.window // 2
        left, between, right = groups[:, 0, : centre + 1], groups[:, 1:-1, centre], groups[:, -1, centre:]
        return torch.cat((left, between, right), dim=1)
