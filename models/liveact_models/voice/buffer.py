"""A session's sound on its media clock: written in chunks of any size, heard block by block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from liveact_models.timeline import AUDIO_WINDOW_FRAMES, audio_window_start, block_frames, block_sound_frames
from liveact_models.voice.prepare import BlockVoice
from liveact_models.voice.source import Samples


class VoiceBuffer:
    """Sound from frame 0 on, at `rate` samples and `fps` video frames a second.

    What it answers depends on the sound alone, never on how it was cut into chunks. Video frame f starts at sample
    round(f * rate / fps), so the sound of the blocks tiles without a gap.
    """

    def __init__(self, rate: int, fps: float) -> None:
        if rate <= 0 or fps <= 0:
            raise ValueError(f"rate {rate} at {fps} frames a second: both must be positive")
        self.rate = rate
        self.fps = fps
        self._tape = _Tape()
        self._sums = [_Sums()]
        """Of the voiced sound before each frame, from `_first` on; extended as blocks ask."""
        self._first = 0
        """The first frame still held."""

    @property
    def written_frames(self) -> int:
        """Whole video frames written."""
        frames = int(self._tape.stop * self.fps / self.rate) + 1
        while self.boundary(frames) > self._tape.stop:
            frames -= 1
        return frames

    @property
    def written(self) -> int:
        """Samples written, from frame 0."""
        return self._tape.stop

    @property
    def nbytes(self) -> int:
        """Bytes of sound held."""
        return self._tape.nbytes

    def append(self, samples: Samples, voiced: bool = True) -> None:
        """Write samples [n] at the end; silence is zeros with `voiced` false, which the statistics pass over."""
        self._tape.append(samples, voiced)

    def ready(self, block: int) -> bool:
        """Whether all the sound the block hears is written."""
        return self.boundary(block_sound_frames(block).stop) <= self._tape.stop

    def window(self, block: int) -> BlockVoice:
        """What the block hears: zeros before frame 0 and past the end of its sound.

        Raises `ValueError` unless `ready(block)`, or when that sound was released.
        """
        if not self.ready(block):
            raise ValueError(f"block {block}: its sound is not written, {self.written_frames} frames are")
        start = audio_window_start(block)
        stop = block_sound_frames(block).stop
        samples = np.zeros(self.boundary(start + AUDIO_WINDOW_FRAMES) - self.boundary(start), np.float32)
        heard = self._read(max(start, 0), stop)
        skip = self.boundary(max(start, 0)) - self.boundary(start)
        samples[skip : skip + len(heard)] = heard
        sums = self._sums_before(stop)
        return BlockVoice(samples, self.rate, self.fps, sums.mean, sums.std)

    def played(self, block: int) -> Samples:
        """The samples that belong to the block's video frames, as they were written.

        Raises `ValueError` when they are not all written, or were released.
        """
        frames = block_frames(block)
        if self.boundary(frames.stop) > self._tape.stop:
            raise ValueError(f"block {block}: its sound is not written, {self.written_frames} frames are")
        return self._read(frames.start, frames.stop)

    def truncate(self, frame: int) -> None:
        """Forget what was written from this video frame on; the next append goes there.

        Raises `ValueError` when sound from that frame on was released already.
        """
        if frame < self._first:
            raise ValueError(f"frame {frame}: sound before frame {self._first} was released")
        self._tape.truncate(self.boundary(frame))
        # The sums before `frame` count whole frames before it only, so they stay.
        del self._sums[frame - self._first + 1 :]

    def release(self, block: int) -> None:
        """Forget the sound that no block after this one needs; the statistics keep counting it.

        Raises `ValueError` when that sound is not all written.
        """
        frame = max(audio_window_start(block + 1), 0)
        if frame <= self._first:
            return
        if self.boundary(frame) > self._tape.stop:
            raise ValueError(f"block {block}: its sound is not written, {self.written_frames} frames are")
        self._sums_before(frame)
        del self._sums[: frame - self._first]
        self._first = frame
        self._tape.release(self.boundary(frame))

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Copies of all that later blocks depend on, whatever the chunks were: what `restore` takes.

        `samples` [n] (float32) and `voiced` [n] (bool) from the first frame held on, `sums` [3] (count, sum and sum of
        squares of the voiced samples before that frame) and `clock` [3] (rate, fps, that frame), both float64.
        """
        samples, voiced = self._tape.read(self._tape.start, self._tape.stop)
        return {
            "samples": samples,
            "voiced": voiced,
            # Those of later frames are added up again from the samples, to the same bits.
            "sums": np.array(astuple(self._sums[0]), np.float64),
            "clock": np.array([self.rate, self.fps, self._first], np.float64),
        }

    @classmethod
    def restore(cls, snapshot: Mapping[str, NDArray[Any]]) -> VoiceBuffer:
        """The buffer `snapshot()` described; raises `ValueError` naming the array that does not fit."""
        for name, dtype in _SNAPSHOT.items():
            if name not in snapshot:
                raise ValueError(f"voice: array {name!r} is missing; accepted are {', '.join(_SNAPSHOT)}")
            length = len(snapshot["samples"]) if name in ("samples", "voiced") else 3
            array = snapshot[name]
            if array.dtype != dtype or array.shape != (length,):
                raise ValueError(
                    f"voice: array {name!r} is {array.shape} of {array.dtype}; accepted is {(length,)} of {dtype}"
                )
        if unknown := sorted(set(snapshot) - set(_SNAPSHOT)):
            raise ValueError(f"voice: array {unknown[0]!r} is unknown; accepted are {', '.join(_SNAPSHOT)}")
        count, total, squares = snapshot["sums"].tolist()
        rate, fps, first = snapshot["clock"].tolist()
        buffer = cls(int(rate), fps)
        buffer._first = int(first)
        buffer._sums = [_Sums(int(count), total, squares)]
        buffer._tape = _Tape.holding(buffer.boundary(buffer._first), snapshot["samples"], snapshot["voiced"])
        return buffer

    def boundary(self, frame: int) -> int:
        """The sample at which video frame `frame` starts."""
        return round(frame * self.rate / self.fps)

    def _read(self, start: int, stop: int) -> Samples:
        if start < self._first:
            raise ValueError(f"frame {start}: sound before frame {self._first} was released")
        return self._tape.read(self.boundary(start), self.boundary(stop))[0]

    def _sums_before(self, frame: int) -> _Sums:
        """Added up frame by frame, so that rounding does not depend on the chunks or on when it is asked."""
        while len(self._sums) <= frame - self._first:
            at = self._first + len(self._sums) - 1
            samples, voiced = self._tape.read(self.boundary(at), self.boundary(at + 1))
            self._sums.append(self._sums[-1].plus(samples[voiced]))
        return self._sums[frame - self._first]


_SNAPSHOT = {"samples": np.float32, "voiced": np.bool_, "sums": np.float64, "clock": np.float64}


@dataclass(frozen=True)
class _Sums:
    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def plus(self, samples: Samples) -> _Sums:
        wide = samples.astype(np.float64)
        return _Sums(self.count + len(wide), self.total + float(wide.sum()), self.squares + float((wide * wide).sum()))

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    @property
    def std(self) -> float:
        return max(self.squares / self.count - self.mean**2, 0.0) ** 0.5 if self.count else 0.0


class _Tape:
    """Samples by absolute position, held from `start` to `stop`; appending costs amortised constant time."""

    def __init__(self) -> None:
        self.start = self.stop = 0
        self._base = 0
        """The position of the arrays' first element, at most `start`."""
        self._samples = np.empty(0, np.float32)
        self._voiced = np.empty(0, np.bool_)

    @classmethod
    def holding(cls, start: int, samples: Samples, voiced: NDArray[np.bool_]) -> _Tape:
        """Copies of samples [n], each voiced or not, from position `start` on."""
        tape = cls()
        tape._base = tape.start = start
        tape.stop = start + len(samples)
        tape._samples, tape._voiced = samples.copy(), voiced.copy()
        return tape

    @property
    def nbytes(self) -> int:
        return self._samples.nbytes + self._voiced.nbytes

    def append(self, samples: Samples, voiced: bool) -> None:
        end = self.stop + len(samples)
        if end - self._base > len(self._samples):
            self._move(capacity=2 * (end - self.start))
        span = slice(self.stop - self._base, end - self._base)
        self._samples[span] = samples
        self._voiced[span] = voiced
        self.stop = end

    def read(self, start: int, stop: int) -> tuple[Samples, NDArray[np.bool_]]:
        """Copies of the samples [start, stop) and whether each is voiced."""
        span = slice(start - self._base, stop - self._base)
        return self._samples[span].copy(), self._voiced[span].copy()

    def truncate(self, position: int) -> None:
        self.stop = min(self.stop, position)

    def release(self, position: int) -> None:
        self.start = position
        if 2 * (self.start - self._base) > len(self._samples):
            self._move(capacity=2 * (self.stop - self.start))

    def _move(self, capacity: int) -> None:
        held = slice(self.start - self._base, self.stop - self._base)
        samples, voiced = np.empty(capacity, np.float32), np.empty(capacity, np.bool_)
        samples[: self.stop - self.start] = self._samples[held]
        voiced[: self.stop - self.start] = self._voiced[held]
        self._samples, self._voiced, self._base = samples, voiced, self.start
