"""Which linears stay in the model's own type: each one's error in fp8 is measured on what it really multiplies."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from liveact_models.config import ConfigError, ModelConfig
from liveact_models.disk import replace_text
from liveact_models.hardware import hardware
from liveact_models.precision.fp8 import quantise
from liveact_models.precision.linear import linears_of
from liveact_models.precision.products import emulated

CALIBRATION = "fp8.json"
"""The file beside the checkpoint's weights."""
FORMAT, VERSION = "liveact-fp8", 1
_TEXT = ("preset", "fingerprint", "date", "hardware", "torch")


@dataclass(frozen=True)
class Calibration:
    """What a calibration run found."""

    preset: str
    fingerprint: str
    """Of the `ModelConfig` that was measured."""
    errors: dict[str, float]
    """Relative error of each linear's output in fp8, ||y8 - y|| / ||y|| over all calls of the run."""
    kept: tuple[str, ...]
    """Those that stay in the model's own type."""
    blocks: int
    date: str
    hardware: str
    torch: str

    def save(self, folder: Path) -> Path:
        """Write it beside the weights in `folder`; gives the file."""
        target = folder / CALIBRATION
        replace_text(target, json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=1) + "\n")
        return target

    @classmethod
    def read(cls, folder: Path, config: ModelConfig) -> Calibration | None:
        """The one beside the weights in `folder`, None where there is none.

        Raises `ConfigError` for a file that is damaged or of another model: `liveact calibrate` writes it again.
        """
        path = folder / CALIBRATION
        if not path.is_file():
            return None
        try:
            found = _parsed(json.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path}: not a calibration ({type(error).__name__}: {error}); write it with liveact calibrate"
            ) from None
        if found.fingerprint != config.fingerprint():
            raise ConfigError(
                f"{path}: measured on model {found.preset} ({found.fingerprint}), this is {config.name} "
                f"({config.fingerprint()}); write it with liveact calibrate"
            )
        return found


def _parsed(data: dict[str, Any]) -> Calibration:
    if (data["format"], data["version"]) != (FORMAT, VERSION):
        raise ValueError(
            f"format {data['format']!r} version {data['version']!r}, accepted is {FORMAT!r} version {VERSION}"
        )
    errors = {str(name): float(error) for name, error in data["errors"].items()}
    kept = tuple(str(name) for name in data["kept"])
    if unknown := sorted(set(kept) - set(errors)):
        raise ValueError(f"layer {unknown[0]} is kept and was not measured")
    return Calibration(
        errors=errors, kept=kept, blocks=int(data["blocks"]), **{name: str(data[name]) for name in _TEXT}
    )


class Calibrating:
    """Watches a model's linears while it computes in its own type, and computes each one in fp8 beside it."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._off: dict[str, float] = defaultdict(float)
        self._whole: dict[str, float] = defaultdict(float)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Whatever the model computes meanwhile counts. Slower than the model alone by two or three times."""
        hooks = [
            linear.register_forward_hook(
                lambda module, args, output, name=name: self._note(name, module, args[0], output)
            )
            for name, linear in linears_of(self._model)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _note(self, name: str, linear: nn.Module, x: Tensor, output: Tensor) -> None:
        assert isinstance(linear, nn.Linear)
        with torch.inference_mode():
            bias = 0.0 if linear.bias is None else linear.bias.float()
            # The bias is exact in both and would only hide the error.
            whole = output.flatten(0, -2).float() - bias
            found = emulated(quantise(x.flatten(0, -2)), quantise(linear.weight), None, torch.float32)
            self._off[name] += float((found - whole).square().sum())
            self._whole[name] += float(whole.square().sum())

    def result(self, config: ModelConfig, blocks: int, limit: float, most: float) -> Calibration:
        """Kept are the linears whose error is above `limit`, the worst first, at most the share `most` of all.

        Raises `ConfigError` when nothing was computed meanwhile.
        """
        if not self._whole:
            raise ConfigError("nothing was measured: the model must compute at least one block")
        errors = {name: (self._off[name] / max(self._whole[name], 1e-30)) ** 0.5 for name in self._whole}
        worst = sorted((name for name in errors if errors[name] > limit), key=lambda name: -errors[name])
        return Calibration(
            preset=config.name, fingerprint=config.fingerprint(), errors={n: round(e, 6) for n, e in errors.items()},
            kept=tuple(worst[: int(most * len(errors))]), blocks=blocks, date=datetime.now(UTC).strftime("%Y-%m-%d"),
            hardware=hardware(), torch=torch.__version__,
        )  # fmt: skip
