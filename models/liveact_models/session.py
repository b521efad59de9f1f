"""All that a session has become, as one value: exported between two blocks, adopted wherever the model is the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from liveact_models import blob
from liveact_models.blob import StateError
from liveact_models.config import ModelConfig, SamplingConfig, check_size
from liveact_models.memory import SCALES, cache_names, cache_shape, step_caches
from liveact_models.precision.fp8 import FP8, SCALE
from liveact_models.sampler import check_seed
from liveact_models.timeline import WINDOW_SLOTS
from liveact_models.transformer import Conditioning

__all__ = ["SessionState", "StateError"]

_MEMORY = "memory."
_DECODER = "decoder."
_VOICE = "voice."
_CONDITION = ("text", "clip", "reference")
_SCALARS: dict[str, type] = {
    **dict.fromkeys(("block", "seed", "width", "height", "fps", "prompt_version"), int),
    **dict.fromkeys(("preset", "fingerprint"), str),
}


@dataclass(eq=False)
class SessionState:
    """The value of a session between two blocks. Tensors are replaced, never written into, so sharing one is safe."""

    block: int
    """The next block to denoise."""
    seed: int
    width: int
    height: int
    fps: int
    prompt_version: int
    preset: str
    fingerprint: str
    """Of the `ModelConfig` that made it."""
    sampling: SamplingConfig
    text: Tensor
    """Text embedding [tokens <= text_len, text_dim]."""
    clip: Tensor
    """CLIP tokens [clip_tokens, clip_dim]."""
    reference: Tensor
    """VAE latents of the portrait and zero frames [16, 14, h, w]."""
    memory: dict[str, Tensor] = field(default_factory=dict)
    """ConvKV memory by cache, each [layers, 2, 6 * tokens_per_frame, heads, head_dim]; empty before block 0 is done.

    In fp8, NAME holds the numbers and NAME.scale their scales [..., 1] in float32."""
    decoder: dict[str, Tensor] = field(default_factory=dict)
    """The VAE decoder's feature cache; its names and shapes are the decoder's own."""
    voice: dict[str, Tensor] = field(default_factory=dict)
    """The sound at hand and its statistics; names and shapes are the voice buffer's own."""
    heads: range | None = None
    """The heads whose memory is here, on one rank of several; None: all. Only a whole session is exported."""
    step: int | None = None
    """The diffusion step whose memory is here, on a device of its own; None: all steps'."""
    conditioning: Conditioning | None = field(default=None, repr=False)
    """Derived from text and clip by the transformer, not part of the value: not exported, rebuilt when None."""

    @property
    def memory_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.memory.values())

    @property
    def memory_dtype(self) -> torch.dtype | None:
        """The type of the memory's numbers; None before block 0 is done."""
        return next((tensor.dtype for name, tensor in self.memory.items() if not name.endswith(SCALES)), None)

    def misfit(self, config: ModelConfig) -> str | None:
        """What is wrong with the tensors for a model of this config, in words; None when they fit."""
        expected = self._expected_shapes(config)
        tensors = {**self._conditions(), **{_MEMORY + name: tensor for name, tensor in self.memory.items()}}
        for name in sorted(expected.keys() | tensors.keys()):
            if name not in tensors:
                return f"tensor {name} is missing"
            if name not in expected:
                return f"tensor {name} is unexpected; accepted are {', '.join(expected)}"
            if tuple(tensors[name].shape) != expected[name] or not tensors[name].is_floating_point():
                found = f"{tuple(tensors[name].shape)} of {tensors[name].dtype}"
                return f"tensor {name} is {found}; accepted is {expected[name]} of a floating type"
        scales = {tensor.dtype for name, tensor in self.memory.items() if name.endswith(SCALES)}
        if len({tensor.dtype for name, tensor in self.memory.items() if not name.endswith(SCALES)}) > 1 or scales - {
            SCALE
        }:
            return "the memory's tensors are of different types; accepted is one"
        return None

    def _expected_shapes(self, config: ModelConfig) -> dict[str, tuple[int, ...]]:
        model = config.transformer
        words = min(max(self.text.shape[0] if self.text.dim() else 1, 1), model.text_len)
        heads = model.num_heads if self.heads is None else len(self.heads)
        caches = {name: cache_shape(config, self.width, self.height, heads) for name in self._caches()}
        if self.memory_dtype == FP8:
            caches |= {name + SCALES: (*shape[:-1], 1) for name, shape in caches.items()}
        return {
            "text": (words, model.text_dim),
            "clip": (model.clip_tokens, model.clip_dim),
            "reference": (model.out_dim, WINDOW_SLOTS, self.height // 8, self.width // 8),
            **{_MEMORY + name: shape for name, shape in caches.items()},
        }

    def _caches(self) -> tuple[str, ...]:
        names = cache_names(self.sampling) if self.block else ()
        return names if self.step is None else tuple(name for name in names if name in step_caches(self.step))

    def _conditions(self) -> dict[str, Tensor]:
        return {"text": self.text, "clip": self.clip, "reference": self.reference}

    def to(self, device: torch.device | str) -> SessionState:
        """The same value with every tensor on that device."""
        return dataclasses.replace(
            self,
            text=self.text.to(device),
            clip=self.clip.to(device),
            reference=self.reference.to(device),
            memory={name: tensor.to(device) for name, tensor in self.memory.items()},
            decoder={name: tensor.to(device) for name, tensor in self.decoder.items()},
            voice={name: tensor.to(device) for name, tensor in self.voice.items()},
            conditioning=None,
        )

    def part(self, heads: range) -> SessionState:
        """What one rank of several holds of a whole session: the memory of these heads, in storage of its own."""
        memory = {name: tensor[..., heads.start : heads.stop, :].contiguous() for name, tensor in self.memory.items()}
        return dataclasses.replace(self, memory=memory, heads=heads)

    def at_step(self, step: int) -> SessionState:
        """What the device of one diffusion step holds of a whole session: the memory of that step."""
        own = step_caches(step)
        memory = {name: tensor for name, tensor in self.memory.items() if name.removesuffix(SCALES) in own}
        return dataclasses.replace(self, memory=memory, step=step)

    @classmethod
    def of_steps(cls, parts: Sequence[SessionState]) -> SessionState:
        """The whole session out of what the devices of its steps hold, in the order of the steps.

        Raises `ValueError` when the parts are not one session's, all steps of it, at one block.
        """
        steps, blocks = [part.step for part in parts], [part.block for part in parts]
        if steps != [*range(parts[0].sampling.num_steps)] or len(set(blocks)) != 1:
            raise ValueError(
                f"parts of steps {steps} before blocks {blocks}: accepted are all {parts[0].sampling.num_steps} steps in "
                "their order, before one block"
            )
        memory = {name: tensor for part in parts for name, tensor in part.memory.items()}
        return dataclasses.replace(parts[0], memory=memory, step=None)

    @classmethod
    def joined(cls, parts: Sequence[SessionState]) -> SessionState:
        """The whole session out of what the ranks hold of it, in the order of their heads.

        Raises `ValueError` when the parts are not one session's, at one block.
        """
        blocks = [part.block for part in parts]
        stops = [0, *(part.heads.stop if part.heads else 0 for part in parts)]
        if len(set(blocks)) != 1 or any(
            part.heads is None or part.heads.start != stops[i] for i, part in enumerate(parts)
        ):
            raise ValueError(
                f"parts of heads {[part.heads for part in parts]} before blocks {blocks}: accepted are "
                "those that follow one another, before one block"
            )
        memory = {name: torch.cat([part.memory[name] for part in parts], dim=-2) for name in parts[0].memory}
        return dataclasses.replace(parts[0], memory=memory, heads=None)

    def export(self) -> bytes:
        """One safetensors blob with versioned header and checksum (see `blob`): the same bytes for the same value.

        Raises `ValueError` for a part of a session.
        """
        if self.heads is not None or self.step is not None:
            raise ValueError(
                f"heads {self.heads}, step {self.step}: exported is a whole session, see `joined` and `of_steps`"
            )
        header: dict[str, Any] = {name: getattr(self, name) for name in _SCALARS}
        header["sampling"] = dataclasses.asdict(self.sampling)
        tensors = {
            **self._conditions(),
            **{_MEMORY + name: tensor for name, tensor in self.memory.items()},
            **{_DECODER + name: tensor for name, tensor in self.decoder.items()},
            **{_VOICE + name: tensor for name, tensor in self.voice.items()},
        }
        return blob.pack(header, tensors)

    @classmethod
    def adopt(cls, exported: bytes, config: ModelConfig) -> SessionState:
        """The session of an export, on the CPU, its tensors bit for bit those exported and of the same types.

        Raises `StateError` with the reason STATE_FORMAT (no session export), STATE_TRUNCATED, STATE_VERSION,
        STATE_CHECKSUM, STATE_MODEL_MISMATCH (another model's) or STATE_TENSOR (one missing, unexpected or misshapen).
        """
        header, tensors = blob.unpack(exported)
        if header.get("fingerprint") != config.fingerprint():
            raise StateError(
                "STATE_MODEL_MISMATCH",
                f"the session is of model {header.get('preset')} ({header.get('fingerprint')}); "
                f"accepted is {config.name} ({config.fingerprint()})",
            )
        missing = [name for name in _CONDITION if name not in tensors]
        if missing:
            raise StateError("STATE_TENSOR", f"tensor {missing[0]} is missing")
        conditions: dict[str, Any] = {name: tensors.pop(name) for name in _CONDITION}
        memory = _take(tensors, _MEMORY)
        decoder = _take(tensors, _DECODER)
        voice = _take(tensors, _VOICE)
        if tensors:
            raise StateError("STATE_TENSOR", f"tensor {min(tensors)} is unexpected")
        try:
            scalars, sampling = _read_scalars(header), _read_sampling(header["sampling"])
            check_size(config, scalars["width"], scalars["height"])
            check_seed(scalars["seed"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise StateError(
                "STATE_FORMAT", f"the header is not a session's ({type(error).__name__}: {error})"
            ) from None
        state = cls(**scalars, sampling=sampling, **conditions, memory=memory, decoder=decoder, voice=voice)
        misfit = state.misfit(config)
        if misfit:
            raise StateError("STATE_TENSOR", misfit)
        return state


def _read_scalars(header: dict[str, Any]) -> dict[str, Any]:
    scalars = {name: header[name] for name in _SCALARS}
    for name, value in scalars.items():
        fits = isinstance(value, str) if _SCALARS[name] is str else type(value) is int and value >= 0
        if not fits:
            raise ValueError(
                f"{name} is {value!r}; accepted is {'text' if _SCALARS[name] is str else 'a number from 0'}"
            )
    return scalars


def _read_sampling(fields: dict[str, Any]) -> SamplingConfig:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    return SamplingConfig(**values)


def _take(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Remove and return the tensors whose names begin with the prefix, under the rest of their names."""
    return {name.removeprefix(prefix): tensors.pop(name) for name in sorted(tensors) if name.startswith(prefix)}
