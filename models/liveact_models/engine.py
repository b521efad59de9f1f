"""How a transformer is computed: its precision, its attention and the form of its memory; applied to the model from outside."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from liveact_models.config import ConfigError
from liveact_models.graphs import CudaCapture, use_graphs
from liveact_models.precision import FP8, Calibration, choose_product, linears_of, to_fp8
from liveact_models.precision.products import PRODUCTS, Product, ProductChoice
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
    graphs: bool = False
    """Whether the diffusion steps are captured in CUDA graphs."""

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.precision]

    @property
    def matrix_dtype(self) -> torch.dtype:
        """The type of what the layers multiply."""
        return FP8 if self.precision == "fp8" else self.dtype

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
        words += ["steps in CUDA graphs"] if self.engine.graphs else []
        return "; ".join((*words, f"attention {self.attention.describe()}"))


def choose(engine: Engine, config: ModelConfig, device: torch.device) -> Choices:
    """What the engine comes to on that device, before any weights. Raises `ConfigError` naming what is accepted."""
    if engine.graphs and device.type != "cuda":
        raise ConfigError(f"graphs on device {device}: CUDA graphs need a CUDA device; accepted here is graphs false")
    attention = choose_attention(engine.attention, device, engine.dtype, config.transformer.head_dim)
    product = choose_product(device, engine.dtype) if engine.precision == "fp8" else None
    return Choices(engine, attention, product)


def load_transformer(
    checkpoint: Checkpoint,
    engine: Engine,
    device: torch.device,
    calibrated: bool = True,
    offload_blocks: int = 0,
) -> tuple[LiveActTransformer, Choices]:
    """The checkpoint's transformer, computed as the engine says; the log says what was chosen.

    Without a calibration beside the weights, or with `calibrated` false, every linear of the layers is in fp8.
    `offload_blocks`: layers whose matrices stay in host memory. Raises `ConfigError` for an engine that the device cannot be, a
    damaged calibration or a number of layers that cannot be offloaded, and `CheckpointError` for weights.
    """
    choices = choose(engine, checkpoint.config, device)
    if choices.product is None:
        transformer = checkpoint.load_transformer(device=str(device), dtype=engine.dtype, offload_blocks=offload_blocks)
    else:
        found = Calibration.read(checkpoint.folder, checkpoint.config) if checkpoint.trained and calibrated else None
        kept = () if found is None else found.kept
        transformer, replaced = _load_fp8(checkpoint, choices.product.product, kept, engine, device, offload_blocks)
        left = {name for name, _ in linears_of(transformer)}
        choices = dataclasses.replace(
            choices, fp8_layers=len(replaced), kept=tuple(name for name in kept if name in left),
            calibrated=found is not None,
        )  # fmt: skip
    use_attention(transformer, choices.attention.backend)
    if engine.graphs:
        use_graphs(transformer, CudaCapture())
    log.info("transformer: %s", choices.describe())
    return transformer, choices


def empty_transformer(checkpoint: Checkpoint, engine: Engine) -> LiveActTransformer:
    """What `load_transformer` makes of a checkpoint, every tensor of its type and without storage: to be counted.

    Raises `ConfigError` for a damaged calibration.
    """
    from liveact_models.transformer import LiveActTransformer

    with torch.device("meta"):
        transformer = LiveActTransformer(checkpoint.config.transformer).to(engine.dtype)
    if engine.precision == "fp8":
        found = Calibration.read(checkpoint.folder, checkpoint.config) if checkpoint.trained else None
        to_fp8(transformer, PRODUCTS["scaled-mm"], () if found is None else found.kept)
    return transformer


def _load_fp8(
    checkpoint: Checkpoint,
    product: Product,
    kept: Collection[str],
    engine: Engine,
    device: torch.device,
    offload_blocks: int,
) -> tuple[LiveActTransformer, list[str]]:
    """The transformer and the names of its linears in fp8: loaded as such, where weights are loaded and the layers are ours."""
    replaced: list[str] = []

    def replace(transformer: LiveActTransformer) -> None:
        replaced[:] = to_fp8(transformer, product, kept)

    ours = product.multiply is not None
    if offload_blocks and not ours:
        raise ConfigError(
            f"offload_blocks {offload_blocks}: {product.name} keeps its layers on the device; accepted with it is 0"
        )
    early = ours and checkpoint.trained
    transformer = checkpoint.load_transformer(
        device=str(device), dtype=engine.dtype, offload_blocks=offload_blocks, prepare=replace if early else None
    )
    if not early:
        replace(transformer)
    return transformer, replaced
