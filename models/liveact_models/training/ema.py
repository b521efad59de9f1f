"""The running mean of the weights: what a stage ships, since it is steadier than the weights of any one step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Ema:
    """Exponential means, in float32, of the floating-point parameters and buffers of some modules."""

    def __init__(self, modules: Mapping[str, nn.Module], decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._modules = dict(modules)
        self._means = {
            name: {key: tensor.detach().float().clone() for key, tensor in _floats(module).items()}
            for name, module in modules.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        self.updates += 1
        # The first weights are forgotten as fast as a mean over all updates so far would forget them.
        decay = min(self.decay, self.updates / (self.updates + 9))
        for name, module in self._modules.items():
            means = self._means[name]
            now = _floats(module)
            torch._foreach_lerp_(list(means.values()), [now[key].float() for key in means], 1.0 - decay)

    def module_state(self, name: str) -> dict[str, Tensor]:
        """The state dict of one module with the means in it, in the module's own dtypes."""
        state = self._modules[name].state_dict()
        return {key: self._means[name][key].to(t.dtype) if key in self._means[name] else t for key, t in state.items()}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the context the modules compute with the means."""
        kept = {name: {k: t.clone() for k, t in _floats(module).items()} for name, module in self._modules.items()}
        try:
            self._put(self._means)
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Mapping[str, Tensor]]) -> None:
        for name, module in self._modules.items():
            for key, tensor in _floats(module).items():
                tensor.copy_(values[name][key])

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "means": self._means}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for name, means in self._means.items():
            for key, tensor in means.items():
                tensor.copy_(state["means"][name][key])


def _floats(module: nn.Module) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in module.state_dict().items() if tensor.is_floating_point()}
