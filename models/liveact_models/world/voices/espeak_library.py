"""libespeak-ng through ctypes: text to sound with the times of its phonemes, and text to phonemes.

The library keeps the phase of its voice and much else in globals that nothing resets, so that what was said before changes the
sound. Loading takes half a millisecond: it is loaded anew for every call, one call at a time.
"""

from __future__ import annotations

import _ctypes
import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from liveact_models.training import MissingExtra

RATE = 22050
"""Samples a second of everything that is synthesized."""
_SYNCHRONOUS = 2
_PHONEME_EVENTS_IN_IPA = 3
_UTF8 = 1
_IPA = 2
_PACE, _PITCH, _RANGE = 1, 3, 4
_END_OF_EVENTS, _PHONEME = 0, 7
_lock = threading.Lock()


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int) for name in ("type", "identifier", "text_position", "length", "milliseconds", "sample")),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def synthesized(
    text: str, voice: str, pace: int, pitch: int, pitch_range: int, seed: int
) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Samples (float32 at `RATE`) and (start in seconds, IPA) of each phoneme; an empty IPA is a pause.

    `pace` is in words a minute, `pitch` and `pitch_range` run from 0 to 99. Raises ValueError for a voice that espeak-ng does not
    know, MissingExtra without espeakng-loader.
    """
    sound: list[np.ndarray] = []
    phonemes: list[tuple[float, str]] = []

    @_Callback
    def collect(wave: ctypes._Pointer, length: int, events: ctypes._Pointer) -> int:
        if length > 0:
            sound.append(np.ctypeslib.as_array(wave, (length,)).copy())
        index = 0
        while (event := events[index]).type != _END_OF_EVENTS:
            if event.type == _PHONEME:
                phonemes.append((event.sample / RATE, event.id.string.decode(errors="ignore")))
            index += 1
        return 0

    with _library(voice) as library:
        library.espeak_SetSynthCallback(collect)
        for parameter, value in ((_PACE, pace), (_PITCH, pitch), (_RANGE, pitch_range)):
            library.espeak_SetParameter(parameter, value, 0)
        library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        data = text.encode()
        library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 1, 0, _UTF8, None, None)
    return np.concatenate(sound).astype(np.float32) / 32768, phonemes


def spelled(text: str, voice: str) -> str:
    """The text's phonemes in IPA with marks of stress, words apart by spaces; for engines that leave this to espeak-ng."""
    with _library(voice) as library:
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        data = ctypes.create_string_buffer(text.encode())
        rest = ctypes.c_void_p(ctypes.addressof(data))
        clauses = []
        while rest:  # the library moves the pointer on by a clause, and past the last one to null
            clauses.append(library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _IPA).decode())
    return " ".join(clauses)


@contextmanager
def _library(voice: str) -> Iterator[ctypes.CDLL]:
    """The library, fresh from the disk and with this voice chosen."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise MissingExtra("espeakng-loader") from error
    data = espeakng_loader.get_data_path()
    with _lock:
        library = ctypes.CDLL(espeakng_loader.get_library_path())
        try:
            rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), _PHONEME_EVENTS_IN_IPA)
            if rate != RATE:
                raise RuntimeError(f"espeak-ng did not start with its data in {data}: {rate} instead of {RATE} Hz")
            if library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise ValueError(f"espeak-ng has no voice {voice!r}")
            yield library
            library.espeak_Terminate()
        finally:
            _ctypes.dlclose(library._handle)
