"""How far this implementation lies from golden tensors of the official code: one row an output."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from liveact_models.parity.golden import ParityError
from liveact_models.parity.report import ParityRow, relative_error

__all__ = ["MODULES", "THRESHOLD", "ParityError", "ParityRow", "relative_error", "run"]

THRESHOLD = 1e-4
"""Largest relative error, in float32 on a CPU, that counts as the same function."""

MODULES = ("dit", "vae", "t5", "clip", "wav2vec2")


def run(directory: Path) -> list[ParityRow]:
    """The rows of every module whose NAME.json is in the folder, in the order of `MODULES`.

    Raises `ParityError` when the folder holds no module, or a module's file or tensor is missing or misshapen.
    """
    if not directory.is_dir():
        raise ParityError(f"{directory}: no such folder; give one laid out like tests/golden")
    found = [module for module in MODULES if (directory / f"{module}.json").is_file()]
    if not found:
        names = ", ".join(f"{module}.json" for module in MODULES)
        raise ParityError(f"{directory}: no module found; one of {names} must be there")
    rows: list[ParityRow] = []
    for module in found:
        try:
            rows.extend(_rows_of(module)(directory))
        except KeyError as error:
            raise ParityError(f"{directory}: module {module} lacks tensor {error}") from error
        except FileNotFoundError as error:
            raise ParityError(f"{directory}: module {module} lacks file {error.filename or error}") from error
        except (RuntimeError, ValueError) as error:  # names or shapes that are not those of the configuration
            raise ParityError(f"{directory}: module {module} cannot be compared: {error}") from error
    return rows


def _rows_of(module: str) -> Callable[[Path], Iterable[ParityRow]]:
    """Imported one by one: a folder with one module pays for that module's libraries only."""
    if module == "dit":
        from liveact_models.parity import dit

        return dit.rows
    if module == "vae":
        from liveact_models.parity import vae

        return vae.rows
    from liveact_models.parity import encoders

    return {"t5": encoders.t5_rows, "clip": encoders.clip_rows, "wav2vec2": encoders.wav2vec2_rows}[module]
