"""Sound on the clock the model was trained at (model-facts, "Network", Audio).

The sound is stretched by trained_fps / fps with its pitch kept, resampled to 16 kHz, amplified and normalised: a frame
of video then lasts 1 / trained_fps of prepared sound, whatever rate the video is shown at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from liveact_models.timeline import AUDIO_WINDOW_FRAMES, audio_window_start, block_feature_frames
from liveact_models.voice.source import Samples

if TYPE_CHECKING:
    import torch
    from av.filter import Graph

    from liveact_models.encoders.audio import AudioEncoder

ENCODER_RATE = 16000
TRAINED_FPS = 25
GAIN = 3.0
STD_FLOOR = 0.02
"""Least standard deviation, after the gain, that sound is divided by: faint noise stays faint."""
VARIANCE_EPS = 1e-7
ATEMPO_RANGE = (0.5, 2.0)
"""Tempo one atempo filter changes well; beyond it filters are chained."""


@dataclass(frozen=True)
class BlockVoice:
    """What a block hears: `AUDIO_WINDOW_FRAMES` video frames of sound from `timeline.audio_window_start`."""

    samples: Samples
    """[n] float32, mono, at `rate`; zeros where the block must not hear."""
    rate: int
    fps: float
    mean: float
    std: float
    """Of all voiced sound up to the end of the block's sound, before the gain; 0 while nothing was voiced."""


def normalize(samples: Samples) -> Samples:
    """Samples [n] at zero mean and unit variance, as wav2vec2's extractor: (x - mean) / sqrt(var + 1e-7)."""
    wide = samples.astype(np.float64)
    return ((wide - wide.mean()) / np.sqrt(wide.var() + VARIANCE_EPS)).astype(np.float32)


def prepare_clip(
    samples: Samples, rate: int, fps: float, trained_fps: float = TRAINED_FPS, gain: float = GAIN
) -> Samples:
    """A whole clip at once, the released form: normalised sound [frames * 16000 / trained_fps] for its frames of video.

    Raises `ValueError` when there is no sample.
    """
    if not len(samples):
        raise ValueError("no sound to prepare: the clip holds no sample")
    length = round(len(samples) / rate * fps * ENCODER_RATE / trained_fps)
    return normalize(_stretch(samples, rate, trained_fps / fps, length) * np.float32(gain))


def prepare_window(voice: BlockVoice, trained_fps: float = TRAINED_FPS, gain: float = GAIN) -> Samples:
    """A block's window normalised by the statistics it carries: AUDIO_WINDOW_FRAMES * 16000 / trained_fps samples.

    A pure function of its arguments, so a block that is made again hears the same.
    """
    length = round(AUDIO_WINDOW_FRAMES * ENCODER_RATE / trained_fps)
    stretched = _stretch(voice.samples, voice.rate, trained_fps / voice.fps, length)
    scale = max(voice.std * gain, STD_FLOOR)
    return (stretched * np.float32(gain / scale) - np.float32(voice.mean * gain / scale)).astype(np.float32)


def block_features(
    encoder: AudioEncoder, voice: BlockVoice, block: int, trained_fps: float = TRAINED_FPS
) -> torch.Tensor:
    """Features [len(block_frames) + 4, layers, dim] of the block's frames and two more on either side.

    Frames before the session's start have frame 0's features (model-facts, "Audio": indices clamped).
    """
    import torch

    window = encoder.encode(torch.from_numpy(prepare_window(voice, trained_fps)), AUDIO_WINDOW_FRAMES)
    start = audio_window_start(block)
    return window[[max(frame, 0) - start for frame in block_feature_frames(block)]]


def _stretch(samples: Samples, rate: int, tempo: float, length: int) -> Samples:
    """Samples [length] at 16 kHz of samples [n] at `rate`, played `tempo` times as fast at the same pitch."""
    import av
    from av.filter import Graph

    if rate == ENCODER_RATE and tempo == 1:
        stretched = samples
    else:
        graph = Graph()
        source = graph.add_abuffer(sample_rate=rate, format="flt", layout="mono", time_base=Fraction(1, rate))
        filters = [graph.add("aresample", str(ENCODER_RATE)), *(graph.add("atempo", f"{t!r}") for t in _tempos(tempo))]
        sink = graph.add("abuffersink")
        graph.link_nodes(source, *filters, sink).configure()
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples, np.float32)[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        graph.push(frame)
        graph.push(None)
        stretched = np.concatenate(list(_pull(graph)))
    return np.pad(stretched[:length], (0, max(0, length - len(stretched))))


def _tempos(tempo: float) -> list[float]:
    """Factors within atempo's range whose product is `tempo`."""
    low, high = ATEMPO_RANGE
    factors = []
    while not low <= tempo <= high:
        factors.append(high if tempo > high else low)
        tempo /= factors[-1]
    return factors if tempo == 1 else [*factors, tempo]


def _pull(graph: Graph) -> Iterator[Samples]:
    import av

    while True:
        try:
            yield graph.pull().to_ndarray()[0]
        except (av.error.EOFError, av.error.BlockingIOError):
            return
