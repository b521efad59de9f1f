"""What the invisible mark says: 32 bits of a session's id and 24 that check them."""

from __future__ import annotations

import numpy as np

ID_DIGITS = 8
"""Hexadecimal digits of the session's id that are written."""
ID_BITS, CHECK_BITS = 4 * ID_DIGITS, 24
BITS = ID_BITS + CHECK_BITS
_POLYNOMIAL, _START = 0x864CFB, 0xB704CE
"""CRC-24 (RFC 9580)."""


def bits(session: str) -> np.ndarray:
    """Of a session's id, the first digits: +1 and -1, float32 [56]. An id of another form counts as its CRC says."""
    number = _number(session)
    word = number << CHECK_BITS | _check(number)
    return np.array([1 if word >> (BITS - 1 - i) & 1 else -1 for i in range(BITS)], np.float32)


def digits(signs: np.ndarray) -> str | None:
    """The digits that these bits say, 8 of them; None where the check does not hold."""
    word = 0
    for sign in signs:
        word = word << 1 | int(sign > 0)
    number = word >> CHECK_BITS
    return f"{number:08x}" if _check(number) == word & (1 << CHECK_BITS) - 1 else None


def _number(session: str) -> int:
    head = session[:ID_DIGITS]
    try:
        return int(head.ljust(ID_DIGITS, "0"), 16)
    except ValueError:
        return _crc(session.encode()) << 8


def _check(number: int) -> int:
    return _crc(number.to_bytes(ID_BITS // 8, "big"))


def _crc(data: bytes) -> int:
    crc = _START
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc = (crc << 1) ^ (_POLYNOMIAL if crc & 0x800000 else 0)
    return crc & 0xFFFFFF
