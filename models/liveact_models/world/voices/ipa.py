"""The spellings of phonemes that engines use, brought to the one table of `world.mouth`."""

from __future__ import annotations

from liveact_models.world.mouth import COMPOUND, SILENCE, SYMBOLS

STRESS = "ˈˌ"
# Signs that change length, tone or colour but not what the lips do.
_MARKS = frozenset(STRESS + ":ːˑʰʲˠˤ̩̯̪̃ˀ'‿͡")
_SAME = {
    **{
        "g": "ɡ",
        "ɚ": "ə",
        "ɝ": "ɜ",
        "ᵊ": "ə",
        "ᵻ": "ɪ",
        "ʧ": "tʃ",
        "ʤ": "dʒ",
        "ʦ": "ts",
        "ʣ": "dz",
        "c": "k",
        "q": "k",
    },
    **{
        "ɻ": "ɹ",
        "ɽ": "ɾ",
        "ʀ": "ʁ",
        "χ": "x",
        "ɦ": "h",
        "ħ": "h",
        "ɭ": "l",
        "ʎ": "l",
        "ɳ": "n",
        "ɴ": "ŋ",
        "ɖ": "d",
        "ʈ": "t",
    },
    **{"ʐ": "ʒ", "ʝ": "j", "ɟ": "ɡ", "ɸ": "f", "ʍ": "w", "ɘ": "ə", "ɞ": "ɜ", "ɶ": "œ", "ʌ": "ʌ", "ɺ": "l", "ʕ": "h"},
    # The capitals of the misaki alphabet, which stand for diphthongs, and its flapped t.
    **{"A": "eɪ", "I": "aɪ", "O": "oʊ", "Q": "əʊ", "W": "aʊ", "Y": "ɔɪ", "T": "ɾ"},
}
_ARPABET = {
    **{"aa": "ɑ", "ae": "æ", "ah": "ʌ", "ao": "ɔ", "aw": "aʊ", "ax": "ə", "ay": "aɪ", "eh": "ɛ", "er": "ɜ", "ey": "eɪ"},
    **{"ih": "ɪ", "iy": "i", "ow": "oʊ", "oy": "ɔɪ", "uh": "ʊ", "uw": "u", "b": "b", "ch": "tʃ", "d": "d", "dh": "ð"},
    **{
        "f": "f",
        "g": "ɡ",
        "hh": "h",
        "jh": "dʒ",
        "k": "k",
        "l": "l",
        "m": "m",
        "n": "n",
        "ng": "ŋ",
        "p": "p",
        "r": "ɹ",
    },
    **{"s": "s", "sh": "ʃ", "t": "t", "th": "θ", "v": "v", "w": "w", "y": "j", "z": "z", "zh": "ʒ"},
    **{"pau": SILENCE, "sil": SILENCE, "h#": SILENCE, "ssil": SILENCE},
}


def symbols(ipa: str) -> tuple[str, ...]:
    """The table's symbols for a string of IPA or misaki letters, marks of stress, length and tone left out.

    Raises ValueError for a letter that has no place in the table.
    """
    letters = [letter for letter in ipa if letter not in _MARKS and not letter.isdigit()]
    found: list[str] = []
    position = 0
    while position < len(letters):
        pair = "".join(letters[position : position + 2])
        if pair in COMPOUND:
            found.append(pair)
            position += 2
            continue
        symbol = _SAME.get(letters[position], letters[position])
        if symbol not in SYMBOLS:
            raise ValueError(
                f"phoneme {letters[position]!r} in {ipa!r} is not in the table; it has {' '.join(SYMBOLS)}"
            )
        found.append(symbol)
        position += 1
    return tuple(found)


def from_arpabet(label: str) -> str:
    """The table's symbol for an ARPABET label of any case, with or without a digit for stress; ValueError for another."""
    try:
        return _ARPABET[label.lower().rstrip("012")]
    except KeyError:
        raise ValueError(f"phone label {label!r} is not ARPABET; known are {' '.join(_ARPABET)}") from None
