"""What a checkpoint holds, module by module, without loading it: sizes, types, and what does not fit the architecture."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from liveact_models.checkpoint.errors import CheckpointError
from liveact_models.checkpoint.layouts import MODULES, Checkpoint, UntrainedCheckpoint
from liveact_models.checkpoint.stored import dtype_of, shape_of
from liveact_models.checkpoint.weights import Misfit, misfits

if TYPE_CHECKING:
    from liveact_models.vae import Parts


@dataclass(frozen=True)
class Inspection:
    """One module of a checkpoint."""

    name: str
    source: str
    tensors: int = 0
    parameters: int = 0
    """That the module is built of, whether stored or not."""
    nbytes: int = 0
    """As stored, of what the module reads."""
    dtypes: tuple[str, ...] = ()
    """Of what is stored, the type with most bytes first."""
    misfits: tuple[Misfit, ...] = ()
    error: str | None = None
    """Why the files cannot be read at all."""

    @property
    def fits(self) -> bool:
        return self.error is None and not self.misfits


def inspect(checkpoint: Checkpoint) -> list[Inspection]:
    """Every module, in the order of `MODULES`. Reads headers; of .pth archives their tables."""
    return [_inspect(checkpoint, name) for name in MODULES]


def empty_module(checkpoint: Checkpoint, name: str, parts: Parts = "both") -> nn.Module:
    """A module of the checkpoint's sizes without storage. `parts`: of its VAE, as for `load_vae`."""
    from liveact_models.encoders import AudioEncoder, ImageEncoder, TextEncoder
    from liveact_models.transformer.model import LiveActTransformer
    from liveact_models.vae import build_vae

    config = checkpoint.config
    decoding = checkpoint.small_decoder if parts == "decode" and checkpoint.small_decoder else checkpoint
    build: dict[str, Callable[[], nn.Module]] = {
        "transformer": lambda: LiveActTransformer(config.transformer),
        "vae": lambda: build_vae(decoding.config.vae, parts),
        "audio_encoder": lambda: AudioEncoder(config.audio_encoder),
        "text_encoder": lambda: TextEncoder(config.text_encoder, None),
        "image_encoder": lambda: ImageEncoder(config.image_encoder),
    }
    with torch.device("meta"):
        return build[name]()


def _inspect(checkpoint: Checkpoint, name: str) -> Inspection:
    module = empty_module(checkpoint, name)
    parameters = sum(tensor.numel() for tensor in module.state_dict().values())
    try:
        source = checkpoint.source(name)
        if isinstance(checkpoint, UntrainedCheckpoint):
            return Inspection(name, source, 0, parameters)
        tensors = checkpoint.tensors(name, module)
    except CheckpointError as error:
        return Inspection(name, error.reason, parameters=parameters, error=str(error))
    wrong = tuple(misfits(module, tensors))
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        dtype = dtype_of(tensors, tensor)
        sizes[str(dtype).removeprefix("torch.")] += math.prod(shape_of(tensors, tensor)) * dtype.itemsize
    dtypes = tuple(dtype for dtype, _ in sizes.most_common())
    return Inspection(name, source, len(tensors), parameters, sum(sizes.values()), dtypes, wrong)
