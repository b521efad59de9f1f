"""The decoder's causal feature cache: what makes decoding block by block the same as decoding the whole."""

from __future__ import annotations

import torch

_EMPTY, _FEATURES, _REPEAT = 0, 1, 2
_KINDS = "kinds"
REPEAT = "Rep"
"""What the library's temporal upsampler leaves in its slot after the first latent frame, before it has features."""

Slot = torch.Tensor | str | None


class CacheError(ValueError):
    """Tensors that are no decoder cache; the message names the one at fault."""


class DecoderCache:
    """The last features every causal convolution of the decoder saw, in the order the decoder meets them.

    Owned by one stream; `StreamingVae.decode_frame` reads and replaces its slots.
    """

    def __init__(self, slots: list[Slot] | None = None) -> None:
        self.slots: list[Slot] = slots or []

    @property
    def started(self) -> bool:
        """Whether a latent frame was decoded: the first gives one video frame, every later one four."""
        return bool(self.slots)

    @property
    def nbytes(self) -> int:
        return sum(slot.nbytes for slot in self.slots if isinstance(slot, torch.Tensor))

    def tensors(self) -> dict[str, torch.Tensor]:
        """Copies of the whole state, on the CPU: `kinds` [slots] (uint8) and `slot.NNN` for each slot with features."""
        kinds = [_FEATURES if isinstance(s, torch.Tensor) else _REPEAT if s == REPEAT else _EMPTY for s in self.slots]
        features = {
            f"slot.{index:03d}": slot.detach().to("cpu", copy=True).contiguous()
            for index, slot in enumerate(self.slots)
            if isinstance(slot, torch.Tensor)
        }
        return {_KINDS: torch.tensor(kinds, dtype=torch.uint8), **features}

    @classmethod
    def from_tensors(
        cls, tensors: dict[str, torch.Tensor], *, device: torch.device | str | None = None
    ) -> DecoderCache:
        """The cache `tensors()` described, as owned copies on `device`; raises `CacheError` naming what is wrong."""
        if _KINDS not in tensors:
            raise CacheError(f"decoder cache: tensor {_KINDS!r} is missing")
        slots: list[Slot] = []
        used = {_KINDS}
        for index, kind in enumerate(tensors[_KINDS].tolist()):
            name = f"slot.{index:03d}"
            if kind == _FEATURES:
                if name not in tensors:
                    raise CacheError(f"decoder cache: tensor {name!r} is missing")
                slots.append(tensors[name].to(device, copy=True))
                used.add(name)
            elif kind in (_REPEAT, _EMPTY):
                slots.append(REPEAT if kind == _REPEAT else None)
            else:
                raise CacheError(f"decoder cache: slot {index} is of kind {kind}; accepted are 0, 1 and 2")
        if unknown := sorted(set(tensors) - used):
            raise CacheError(f"decoder cache: tensor {unknown[0]!r} belongs to no slot")
        return cls(slots)
