"""A Piper voice (VITS) from a file: a neural engine of its own, for evaluation on a voice that was never trained.

Only its file is needed, `<voice>.onnx` with `<voice>.onnx.json` beside it; espeak-ng spells the phonemes, onnxruntime runs it.
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from liveact_models.training import MissingExtra
from liveact_models.world.mouth import SILENCE, Phone
from liveact_models.world.voices.espeak_library import spelled
from liveact_models.world.voices.ipa import symbols
from liveact_models.world.voices.onnx import with_output
from liveact_models.world.voices.resample import resampled
from liveact_models.world.voices.utterance import RATE, Utterance
from liveact_models.world.voices.voice import Voice

_DURATIONS = "/Ceil_output_0"
_HOP = 256
"""Samples of one unit of duration."""
_BEGIN, _PAD, _END = "^", "_", "$"
_LONG = "ː"
_CLAUSE = re.compile(r"([^,.;:!?]+)([,.;:!?]*)")


class PiperVoice(Voice):
    """The voice in `model`; held out, and without random draws but for its pace, so that the same text sounds the same."""

    def __init__(self, model: Path) -> None:
        super().__init__(f"piper-{model.stem}", "held-out")
        self._model = model
        settings = json.loads(Path(f"{model}.json").read_text(encoding="utf-8"))
        self._ids: dict[str, list[int]] = settings["phoneme_id_map"]
        self._rate: int = settings["audio"]["sample_rate"]
        self._accent: str = settings["espeak"]["voice"]

    @cached_property
    def _session(self) -> Any:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtra("onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(with_output(self._model, _DURATIONS), options, ["CPUExecutionProvider"])

    def speak(self, text: str, rng: np.random.Generator) -> Utterance:
        letters = "".join(
            spelled(words, self._accent) + marks[:1] + " " for words, marks in _CLAUSE.findall(text)
        ).strip()
        tokens = [_BEGIN, _PAD]
        for letter in letters:
            if letter in self._ids:
                tokens += [letter, _PAD]
        tokens.append(_END)
        ids = np.array([[self._ids[token][0] for token in tokens]], np.int64)
        scales = np.array([0.0, rng.uniform(0.9, 1.15), 0.0], np.float32)  # noise, length, noise of the lengths
        sound, durations = self._session.run(
            None, {"input": ids, "input_lengths": np.array([ids.shape[1]], np.int64), "scales": scales}
        )
        samples = resampled(sound.reshape(-1), self._rate, RATE)
        ends = np.cumsum(durations.reshape(-1)) * (_HOP / self._rate)
        return Utterance(samples, _phones(tokens, ends), self.name, text)


def _phones(tokens: list[str], ends: np.ndarray) -> tuple[Phone, ...]:
    """Phonemes from the ends of all tokens in seconds.

    Pads and marks of stress add their time to the phoneme behind them; a mark of length and the end of a pause to what is before.
    """
    phones: list[Phone] = []
    start = 0.0
    for token, end in zip(tokens, ends.tolist(), strict=True):
        symbol = _symbol(token)
        if symbol:
            phones.append(Phone(symbol, start, end))
        elif token == _LONG or phones[-1].symbol == SILENCE:
            phones[-1] = Phone(phones[-1].symbol, phones[-1].start, end)
        else:
            continue
        start = end
    return tuple(phones)


def _symbol(token: str) -> str:
    """The phoneme that a token stands for; empty for a pad, a space and marks of stress or length."""
    if token in (*",.;:!?", _BEGIN, _END):
        return SILENCE
    return "" if token in (_PAD, " ") else "".join(symbols(token))
