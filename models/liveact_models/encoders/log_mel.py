"""What a small encoder hears in place of the waveform: bands as an ear tells them apart, loudness by its logarithm."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from liveact_models.config import MEL_HOP, MEL_WINDOW, AudioEncoderConfig

RATE = 16000
BAND_HERTZ = (60.0, 8000.0)
"""Where the lowest band begins and the highest ends."""
FLOOR = 1e-2
"""Power under which a band is silent; the sound is normalised to unit variance."""
SPREAD_FLOOR = 0.25
"""Least variance that a band's loudness in a window is divided by: a window of faint noise stays flat."""


class LogMelExtractor(nn.Module):
    """Log-mel bands, each normalised over the window, and convolutions: takes the place of wav2vec2's feature extractor.

    A convolution over the waveform learns such bands too, from some hundred times the speech.
    """

    def __init__(self, config: AudioEncoderConfig) -> None:
        super().__init__()
        bands = config.mel_bands
        widths = (bands, *config.conv_dim)
        self.norm = nn.GroupNorm(bands, bands, eps=SPREAD_FLOOR)
        self.conv_layers = nn.ModuleList(
            nn.Conv1d(before, after, kernel, stride)
            for before, after, kernel, stride in zip(
                widths, widths[1:], config.conv_kernel, config.conv_stride, strict=False
            )
        )
        self.margin = config.margin
        # Constants, not weights: they stay real when the module is built on the meta device.
        self.register_buffer("window", torch.hann_window(MEL_WINDOW, device="cpu"), persistent=False)
        self.register_buffer("bands", mel_bands(bands), persistent=False)

    window: Tensor
    bands: Tensor

    def forward(self, sound: Tensor) -> Tensor:
        """Normalised 16 kHz sound [batch, samples] -> features [batch, channels, features]."""
        hidden = self.norm(self.loudness(sound).to(self.norm.weight.dtype))
        for convolution in self.conv_layers:
            hidden = functional.gelu(convolution(hidden))
        return hidden

    def loudness(self, sound: Tensor) -> Tensor:
        """The logarithm of each band's power: [batch, samples] -> float32 [batch, bands, time], 100 a second."""
        kind = "cpu" if sound.is_meta else sound.device.type  # autocast knows no meta device
        with torch.autocast(kind, enabled=False):  # powers need all their digits
            padded = functional.pad(sound.float(), (self.margin, self.margin))
            spectrum = torch.stft(
                padded, MEL_WINDOW, MEL_HOP, window=self.window.to(padded), center=False, return_complex=True
            )
            power = spectrum.real.square() + spectrum.imag.square()  # [batch, bins, time]
            return torch.log(self.bands.to(power).mT @ power + FLOOR)


def mel_bands(count: int) -> Tensor:
    """Triangles [bins, count] over the bins of a spectrum, their corners evenly spaced on the mel scale."""
    hertz = torch.linspace(0, RATE / 2, MEL_WINDOW // 2 + 1, device="cpu")
    low, high = (2595 * math.log10(1 + edge / 700) for edge in BAND_HERTZ)
    corners = torch.linspace(low, high, count + 2, device="cpu")
    mel = 2595 * torch.log10(1 + hertz / 700)[:, None]
    rising = (mel - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - mel) / (corners[2:] - corners[1:-1])
    return torch.minimum(rising, falling).clamp_min(0)
