"""What is in the configured checkpoint, and whether it fits into the memory of what is to compute with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from liveact_models.disk import GIB
from liveact_services.cli.check import Check, Found

if TYPE_CHECKING:
    from liveact_models.checkpoint import Checkpoint
    from liveact_models.vae import Parts
    from liveact_services.config import DenoiserConfig, ServiceConfig

PULL = "liveact weights pull soulx-liveact"
FOLDER = "checkpoints/soulx-liveact"
FLOAT32 = 4
"""Bytes a value of every module but the transformer and the decoder, which have the configured types."""


def weights(config: ServiceConfig) -> Iterator[Check]:
    """Whether the configured checkpoint opens, what it is, and whether each of its modules is what the sizes want."""
    from liveact_models.checkpoint import CheckpointError
    from liveact_models.checkpoint.inspect import inspect

    try:
        checkpoint = config.open_checkpoint()
    except CheckpointError as error:
        yield Check("model", "checkpoint", Found.FAILED, str(error), f"{PULL}, or name a folder with --checkpoint")
        return
    if not checkpoint.trained:
        fix = f"for the released weights: {PULL}, then --preset soulx-liveact-18b --checkpoint {FOLDER}"
        yield Check("model", "checkpoint", Found.WARNING, checkpoint.describe(), fix)
    else:
        yield Check("model", "checkpoint", Found.OK, checkpoint.describe())
        modules = inspect(checkpoint)
        for module in modules:
            if not module.fits:
                detail = module.error or f"{module.source}: {module.misfits[0]}"
                more = f" ({len(module.misfits)} tensors do not fit)" if len(module.misfits) > 1 else ""
                fix = f"liveact weights verify {checkpoint.folder} lists all; {PULL} fetches again"
                yield Check("model", f"weights of {module.name}", Found.FAILED, detail + more, fix)
        if all(module.fits for module in modules):
            size = sum(module.nbytes for module in modules) / GIB
            what = ", ".join(
                f"{m.name} {m.parameters / 1e6:,.0f} M in {m.dtypes[0]}"
                for m in modules
                if m.parameters >= 1e6 and m.dtypes
            )
            yield Check("model", "weights", Found.OK, f"{checkpoint.kind} layout, {size:.2f} GiB stored: {what}")
    yield from fit(config, checkpoint)


@dataclass(frozen=True)
class Need:
    """Bytes that one pool's Denoiser and what computes beside it take."""

    transformer: int
    """On the device."""
    offloaded: int
    """Of the transformer, in host memory."""
    session: int
    """One session at the default size, while a block of it is made."""
    beside: int
    """Weights of the other stages on the same device."""

    @property
    def least(self) -> int:
        """With one session."""
        return self.transformer + self.beside + self.session

    def describe(self) -> str:
        """One line for people."""
        words = [f"transformer {self.transformer / GIB:.2f} GiB", f"a session {self.session / GIB:.2f}"]
        if self.beside:
            words.append(f"the other stages {self.beside / GIB:.2f}")
        if self.offloaded:
            words.append(f"and {self.offloaded / GIB:.2f} in host memory")
        return ", ".join(words)


def fit(config: ServiceConfig, checkpoint: Checkpoint) -> Iterator[Check]:
    """Of every pool: what its Denoiser needs, what the device has, and what to do if that is less."""
    import psutil
    import torch

    for pool, stage in config.denoisers.items():
        on_gpu = stage.num_gpus > 0 and config.device != "cpu"
        need = need_of(config, checkpoint, stage, on_gpu)
        if on_gpu and not torch.cuda.is_available():
            detail = f"{pool} needs {need.least / GIB:.2f} GiB of a GPU: {need.describe()}; no CUDA device is here"
            yield Check("model", "memory", Found.WARNING, detail, "run doctor where the Denoisers will run")
            continue
        device = torch.cuda.get_device_name() if on_gpu else "this machine"
        has = torch.cuda.get_device_properties(0).total_memory if on_gpu else psutil.virtual_memory().available
        sessions = (has - need.transformer - need.beside) / max(need.session, 1)
        detail = f"{pool}: {need.describe()}; {device} has {has / GIB:.2f}"
        if sessions >= 1:
            yield Check("model", "memory", Found.OK, f"{detail}: room for {int(sessions)} sessions")
        else:
            yield Check(
                "model", "memory", Found.FAILED, f"{detail}: too little", _way_out(config, checkpoint, stage, has)
            )


def need_of(config: ServiceConfig, checkpoint: Checkpoint, stage: DenoiserConfig, on_gpu: bool) -> Need:
    """What the Denoiser of that pool takes, on each of its ranks, and who else is on its device."""
    from liveact_models.engine import empty_transformer
    from liveact_models.memory import memory_bytes
    from liveact_models.offload import host_bytes, host_tensors
    from liveact_models.parallel import heads_of

    model = checkpoint.config
    transformer = empty_transformer(checkpoint, stage.engine)
    tensors = transformer.state_dict()
    freed = host_bytes(transformer, stage.offload_blocks) if on_gpu and stage.offload_blocks else 0
    held = sum(tensors[name].nbytes for name in host_tensors(transformer, stage.offload_blocks))
    heads = max(len(part) for part in heads_of(model.transformer.num_heads, stage.ranks if stage.shares_steps else 1))
    (width, height), sampling = model.limits.default, config.sampling(model)
    steps = range(sampling.num_steps) if stage.parallel == "steps" else (None,)
    memory = max(
        memory_bytes(model, width, height, stage.engine.cache_dtype, sampling.guided, heads, step) for step in steps
    )
    beside = 0 if on_gpu and stage.num_gpus >= 1 else _beside(config, checkpoint, on_gpu)
    # While a block is made there are the memory it reads and the one it writes.
    return Need(sum(t.nbytes for t in tensors.values()) - freed, held if freed else 0, 2 * memory, beside)


def _beside(config: ServiceConfig, checkpoint: Checkpoint, on_gpu: bool) -> int:
    """Weights of the stages that share the Denoiser's device: all of them on a host, on a GPU where a share of it is asked."""
    from liveact_models.checkpoint.inspect import empty_module

    modules: dict[str, tuple[tuple[str, Parts], ...]] = {
        "conditioner": (("text_encoder", "both"), ("image_encoder", "both")),
        "audio_encoder": (("audio_encoder", "both"),),
        "vae_encoder": (("vae", "encode"),),
        "vae_decoder": (("vae", "decode"),),
    }
    there = [stage for stage in modules if (getattr(config, stage).num_gpus > 0) == on_gpu]
    taken = 0
    for stage in there:
        itemsize = config.vae_decoder.engine.dtype.itemsize if stage == "vae_decoder" else FLOAT32
        for name, parts in modules[stage]:
            module = empty_module(checkpoint, name, parts)
            taken += sum(tensor.numel() for tensor in module.state_dict().values()) * itemsize
    return taken


def _way_out(config: ServiceConfig, checkpoint: Checkpoint, stage: DenoiserConfig, has: int) -> str:
    layers = checkpoint.config.transformer.num_layers
    if stage.num_gpus > 0 and config.device != "cpu":
        for count in range(max(3, stage.offload_blocks + 1), layers + 1):
            if need_of(config, checkpoint, stage.model_copy(update={"offload_blocks": count}), True).least <= has:
                return f"denoiser.offload_blocks={count}, or put the other stages elsewhere"
    smaller = "denoiser.precision=bf16, or " if stage.precision == "fp32" else ""
    return f"{smaller}more memory"
