"""How a transformer is computed: its precision, its attention and the form of its memory; applied to the model from outside."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from liveact_models.precision import FP8, Calibration, choose_product, linears_of, to_fp8
from liveact_models.precision.products import ProductChoice
from liveact_models.transformer import AttentionChoice, choose_attention, use_attention

if TYPE_CHECKING:
    from liveact_models.checkpoint import Checkpoint
    from liveact_models.config import ModelConfig
    from liveact_models.memory import CacheForm
    from liveact_models.transformer import LiveActTransformer

log = logging.getLogger(__name__)
Precision = Literal["fp32", "bf16", "fp8"]
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.bfloat16}
"""The type of what is not in fp8."""


@dataclass(frozen=True)
class Engine:
    """What is configured."""

    precision: Precision = "fp32"
    attention: str = "auto"
    cache: CacheForm = "exact"
    """Of the sessions' memory."""

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.precision]

    @property
    def cache_dtype(self) -> torch.dtype:
        return FP8 if self.cache == "fp8" else self.dtype


@dataclass(frozen=True)
class Choices:
    """What came of it on a device."""

    engine: Engine
    attention: AttentionChoice
    product: ProductChoice | None
    fp8_layers: int = 0
    kept: tuple[str, ...] = ()
    calibrated: bool = False

    def describe(self) -> str:
        """One line for logs and people."""
        words = [str(self.engine.precision)]
        if self.product is not None:
            words[0] += f" by {self.product.describe()}"
            if self.fp8_layers:
                kept = f"{len(self.kept)} kept in bf16" if self.calibrated else "not calibrated: see liveact calibrate"
                words[0] += f", {self.fp8_layers} linears, {kept}"
        words.append(f"memory {'fp8' if self.engine.cache == 'fp8' else 'as computed'}")
        return "; ".join((*words, f"attention {self.attention.describe()}"))


def choose(engine: Engine, config: ModelConfig, device: torch.device) -> Choices:
    """What the engine comes to on that device, before any weights. Raises `ConfigError` naming what is accepted."""
    attention = choose_attention(engine.attention, device, engine.dtype, config.transformer.head_dim)
    product = choose_product(device, engine.dtype) if engine.precision == "fp8" else None
    return Choices(engine, attention, product)


def load_transformer(
    checkpoint: Checkpoint, engine: Engine, device: torch.device, calibrated: bool = True
) -> tuple[LiveActTransformer, Choices]:
    """The checkpoint's transformer, computed as the engine says; the log says what was chosen.

    Without a calibration beside the weights, or with `calibrated` false, every linear of the layers is in fp8. Raises
    `ConfigError` for an engine that the device cannot be, or a damaged calibration, and `CheckpointError` for weights.
    """
    choices = choose(engine, checkpoint.config, device)
    transformer = checkpoint.load_transformer(device=str(device), dtype=engine.dtype)
    use_attention(transformer, choices.attention.backend)
    if choices.product is not None:
        found = Calibration.read(checkpoint.folder, checkpoint.config) if checkpoint.trained and calibrated else None
        kept = () if found is None else found.kept
        there = {name for name, _ in linears_of(transformer)}
        replaced = to_fp8(transformer, choices.product.product, kept)
        choices = Choices(
            engine,
            choices.attention,
            choices.product,
            len(replaced),
            tuple(k for k in kept if k in there),
            found is not None,
        )
    log.info("transformer: %s", choices.describe())
    return transformer, choices
