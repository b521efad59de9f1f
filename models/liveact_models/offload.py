"""Layers of the transformer whose matrices stay in host memory: a card that is too small for them computes with them still.

Applied to the model from outside. An offloaded layer's matrices go to one of two buffers on the device while the layer before it
computes, the first one's for the next pass during the last. So the device holds two layers' matrices in place of all the
offloaded ones', and waits only where a layer takes longer to come than to compute. Norms, biases, modulation and ConvKV weights
are small and stay on the device. What depends on the prompt alone (keys and values of text and image) is computed once a
prompt, and its matrices are fetched then.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from liveact_models.config import ConfigError
from liveact_models.transformer.layers import TransformerLayer
from liveact_models.transformer.model import LiveActTransformer

BUFFERS = 2
_PROMPT = tuple(f"cross_attn.{part}." for part in ("k", "v", "k_img", "v_img"))


def offloaded_layers(layers: int, count: int) -> list[int]:
    """Which of the layers are offloaded: spread evenly, so that each has those before it to come in.

    Raises `ConfigError` for a number that saves nothing or is more than there are.
    """
    if count == 0:
        return []
    if not BUFFERS < count <= layers:
        raise ConfigError(
            f"offload_blocks {count}: the device keeps room for {BUFFERS} of them, and there are {layers} layers; accepted "
            f"are 0 (none) and {BUFFERS + 1} to {layers}"
        )
    return [(2 * index + 1) * layers // (2 * count) for index in range(count)]


def host_tensors(transformer: LiveActTransformer, count: int) -> set[str]:
    """The names of the tensors that stay in host memory: the matrices of the offloaded layers."""
    layers = transformer.layers
    return {
        f"blocks.{index}.{name}"
        for index in offloaded_layers(len(layers), count)
        for name in _matrices(layers[index])
    }  # fmt: skip


def host_bytes(transformer: LiveActTransformer, count: int) -> int:
    """Bytes that offloading so many layers frees on the device, before it is done; from shapes and types alone."""
    layers = transformer.layers
    sizes = [{name: t.nbytes for name, t in _matrices(layers[i]).items()} for i in offloaded_layers(len(layers), count)]
    buffers = sum(size for name, size in sizes[0].items() if not name.startswith(_PROMPT)) * BUFFERS if sizes else 0
    return sum(sum(size.values()) for size in sizes) - buffers


def offload(transformer: LiveActTransformer, count: int, device: torch.device) -> None:
    """Let `count` layers' matrices stay in host memory, pinned where `device` is a GPU, and stream them from now on.

    Wherever they are now, they are taken from there. The model's outputs stay the same. Raises `ConfigError` as
    `offloaded_layers` does.
    """
    indices = offloaded_layers(len(transformer.layers), count)
    if indices:
        _Stream([transformer.layers[index] for index in indices], device)


class _Stream:
    """The offloaded layers in their order, the two buffers, and which layer's matrices each holds."""

    def __init__(self, layers: list[TransformerLayer], device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._host = [self._host_copies(layer) for layer in layers]
        self._slots = [_Slot(layers[0], device) for _ in range(BUFFERS)]
        self._copies = torch.cuda.Stream(device) if self._cuda else None
        for index, layer in enumerate(layers):
            for name in self._host[index]:
                _put(layer, name, self._slots[0].tensors[name])
            layer.register_forward_pre_hook(lambda module, args, index=index: self._enter(index, module))
            layer.register_forward_hook(lambda module, args, output, index=index: self._leave(index))
            for name in _PROMPT:
                _FetchedOnUse(layer.get_submodule(name.rstrip(".")), device)

    def _host_copies(self, layer: TransformerLayer) -> dict[str, Tensor]:
        streamed = {name: tensor for name, tensor in _matrices(layer).items() if not name.startswith(_PROMPT)}
        return {name: _to_host(tensor, self._cuda) for name, tensor in streamed.items()}

    def _enter(self, index: int, layer: nn.Module) -> None:
        """Before a layer computes: its matrices have come, and the next layer's are sent for."""
        slot = self._holding(index) or self._fetch(index, self._slots[0])
        slot.await_copy()
        for name, tensor in slot.tensors.items():
            _put(layer, name, tensor)
        following = (index + 1) % len(self._host)
        if self._holding(following) is None:
            self._fetch(following, self._slots[1 - self._slots.index(slot)])

    def _leave(self, index: int) -> None:
        """After a layer has computed, or on a GPU has been given all its work."""
        if (slot := self._holding(index)) is not None:
            slot.mark_used()

    def _holding(self, index: int) -> _Slot | None:
        return next((slot for slot in self._slots if slot.layer == index), None)

    def _fetch(self, index: int, slot: _Slot) -> _Slot:
        slot.fill(index, self._host[index], self._copies)
        return slot


class _Slot:
    """One layer's matrices on the device."""

    def __init__(self, like: TransformerLayer, device: torch.device) -> None:
        shapes = {name: tensor for name, tensor in _matrices(like).items() if not name.startswith(_PROMPT)}
        # Parameters where the layer has parameters: they are put in their places.
        self.tensors = {name: _like(tensor, torch.empty_like(tensor, device=device)) for name, tensor in shapes.items()}
        self.layer: int | None = None
        cuda = device.type == "cuda"
        self._copied = torch.cuda.Event() if cuda else None
        self._used = torch.cuda.Event() if cuda else None

    def fill(self, layer: int, host: dict[str, Tensor], copies: torch.cuda.Stream | None) -> None:
        """Begin to copy a layer's matrices here, once who used the buffer before is done with it."""
        self.layer = layer
        if copies is None or self._used is None or self._copied is None:
            self._copy(host)
            return
        copies.wait_event(self._used)
        with torch.cuda.stream(copies):
            self._copy(host)
            self._copied.record(copies)

    def await_copy(self) -> None:
        """Have the device compute no further before the copy is there."""
        if self._copied is not None:
            torch.cuda.current_stream().wait_event(self._copied)

    def mark_used(self) -> None:
        if self._used is not None:
            self._used.record(torch.cuda.current_stream())

    @torch.no_grad()
    def _copy(self, host: dict[str, Tensor]) -> None:
        for name, tensor in host.items():
            self.tensors[name].copy_(tensor, non_blocking=True)


class _FetchedOnUse:
    """A linear map whose matrix is on the device only while it is computed."""

    def __init__(self, linear: nn.Module, device: torch.device) -> None:
        self._device = device
        self._host = {name: _to_host(t, device.type == "cuda") for name, t in _named(linear) if _is_matrix(t)}
        self._put_back(linear)
        linear.register_forward_pre_hook(lambda module, args: self._bring(module))
        linear.register_forward_hook(lambda module, args, output: self._put_back(module))

    def _bring(self, linear: nn.Module) -> None:
        for name, tensor in self._host.items():
            _put(linear, name, _like(tensor, tensor.detach().to(self._device)))

    def _put_back(self, linear: nn.Module) -> None:
        for name, tensor in self._host.items():
            _put(linear, name, tensor)


def _matrices(layer: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in _named(layer) if _is_matrix(tensor)}


def _is_matrix(tensor: Tensor) -> bool:
    """Scales of eight-bit matrices are [out, 1], and stay."""
    return tensor.dim() == 2 and tensor.shape[1] > 1


def _named(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _to_host(tensor: Tensor, pinned: bool) -> Tensor:
    host = tensor.detach().cpu()
    return _like(tensor, host.pin_memory() if pinned else host)


def _like(original: Tensor, tensor: Tensor) -> Tensor:
    return nn.Parameter(tensor, requires_grad=False) if isinstance(original, nn.Parameter) else tensor


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace a parameter or buffer by another tensor of its shape."""
    path, _, leaf = name.rpartition(".")
    owner: Any = module.get_submodule(path)
    table = owner._parameters if leaf in owner._parameters else owner._buffers
    table[leaf] = tensor
