"""What the examples put where your model, your voice and your screen would be: a scripted LLM, a small TTS, a film."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

RATE = 24000
"""Samples a second of the voice."""
ANSWERS = {
    "who": "I am a drawn portrait, and every frame of me is made while I speak. You can interrupt me whenever you like.",
    "how": "Your words go to a language model, its answer to a voice, and the voice to LiveAct, which moves my face.",
}
OTHERWISE = "That is a good question, and I would rather not guess."


async def scripted_llm(question: str) -> AsyncIterator[str]:
    """The answer, word by word, as a language model streams it."""
    answer = next((text for word, text in ANSWERS.items() if word in question.lower()), OTHERWISE)
    for word in re.findall(r"\S+\s*", answer):
        await asyncio.sleep(0.02)
        yield word


async def sentences(words: AsyncIterator[str]) -> AsyncIterator[str]:
    """Whole sentences, each as soon as it is complete."""
    text = ""
    async for word in words:
        text += word
        if text.rstrip().endswith((".", "!", "?")):
            yield text.strip()
            text = ""
    if text.strip():
        yield text.strip()


class LocalVoice:
    """hibari-tts, a small voice that runs on one CPU core (`pip install 'liveact-serve[train]'`)."""

    def __init__(self) -> None:
        from hibari.tts import Hibari

        self._hibari = Hibari()

    async def say(self, text: str) -> bytes:
        """Mono PCM16 at `RATE`."""
        return await asyncio.to_thread(self._spoken, text)

    def _spoken(self, text: str) -> bytes:
        pieces: Iterator[np.ndarray] = self._hibari.stream(text, seed=7)
        samples = np.concatenate([np.asarray(piece, np.float32).ravel() for piece in pieces])
        return np.clip(samples * 32767, -32768, 32767).astype("<i2").tobytes()


class Film:
    """Pictures and their sound into an MP4, as a viewer had them. Times are seconds since the film began."""

    def __init__(self, path: Path, width: int, height: int, fps: int, rate: int = RATE) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: Any = av.open(str(path), "w")
        self._video: Any = self._file.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "18"})
        self._video.width, self._video.height, self._video.pix_fmt = width, height, "yuv420p"
        self._sound: Any = self._file.add_stream("aac", rate=rate, layout="mono")
        self._fps, self._rate = fps, rate
        self._tick, self._position = -1, 0

    def picture(self, pixels: np.ndarray, at: float) -> None:
        """uint8 [H, W, 3], RGB."""
        tick = round(at * self._fps)
        if tick <= self._tick:
            return
        self._tick = tick
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame.pts, frame.time_base = tick, Fraction(1, self._fps)
        self._file.mux(self._video.encode(frame))

    def sound(self, samples: np.ndarray, at: float) -> None:
        """int16, mono. What lies between two stretches is silence."""
        gap = round(at * self._rate) - self._position
        if gap > self._rate // 10:
            samples = np.concatenate([np.zeros(gap, np.int16), samples])
        if not len(samples):
            return
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = self._rate, self._position, Fraction(1, self._rate)
        self._position += len(samples)
        self._file.mux(self._sound.encode(frame))

    def close(self) -> None:
        """Write the end."""
        self._file.mux(self._video.encode(None))
        if self._position:
            self._file.mux(self._sound.encode(None))
        self._file.close()
