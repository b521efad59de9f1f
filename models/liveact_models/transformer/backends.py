"""What computes attention: one interface, several backends, one of them chosen for a transformer when it is loaded.

Each is imported only when asked about, and tried once on the device with the model's head size before it is taken, so that what
is chosen runs. A model without a choice computes with `sdpa`, as training does.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from liveact_models.config import ConfigError

AUTO = "auto"
PROBE_TOKENS = (16, 32)
"""Queries and keys of the trial."""
PROBE_ERROR = 0.05
"""Relative, of the trial against plain attention: what half-precision rounding stays far below."""
log = logging.getLogger(__name__)

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""softmax(q k^T / sqrt(head_dim)) v: [batch, queries or keys, heads, head_dim] each, the output like q."""


@dataclass(frozen=True)
class Backend:
    """One way to compute attention."""

    name: str
    attend: Attend
    module: str = ""
    """Imported at the first call; empty: torch alone."""
    capability: tuple[int, int] | None = None
    """Least compute capability of a CUDA device; None: any device."""
    half: bool = False
    """Whether it takes float16 and bfloat16 only."""
    install: str = ""

    def problem(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
        """Why it cannot serve such a model; None where it can, which is tried."""
        if self.capability is not None and device.type != "cuda":
            return "needs a CUDA device"
        if self.half and dtype not in (torch.float16, torch.bfloat16):
            return f"takes bfloat16, not {str(dtype).removeprefix('torch.')}"
        if self.capability is not None and (found := torch.cuda.get_device_capability(device)) < self.capability:
            return f"needs compute capability {_dotted(self.capability)}, the device has {_dotted(found)}"
        if self.module:
            try:
                importlib.import_module(self.module)
            except ModuleNotFoundError as error:
                return f"not installed{self.install and f': {self.install}'}" if error.name else str(error)
            except (ImportError, OSError) as error:
                return f"installed, but does not load: {str(error).splitlines()[0]}"
        return _trial(self, device, dtype, head_dim)


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def _trial(backend: Backend, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """One small attention, compared with the plain form."""
    draw = torch.Generator().manual_seed(0)
    shapes = [(2, tokens, 3, head_dim) for tokens in (PROBE_TOKENS[0], PROBE_TOKENS[1], PROBE_TOKENS[1])]
    q, k, v = (torch.randn(shape, generator=draw).to(device, dtype) for shape in shapes)
    with torch.inference_mode():
        try:
            found = backend.attend(q, k, v).float()
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            return f"does not run here: {str(error).splitlines()[0]}"
        expected = attend_math(q.float(), k.float(), v.float())
    off = float((found - expected).norm() / expected.norm())
    return None if off <= PROBE_ERROR else f"is off by {off:.1e} in a trial"


# The backends


def attend_sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's own, which picks among its kernels by device and type."""
    return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


def attend_math(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Two products and a softmax, with all scores in memory: the plain form to measure others against."""
    with sdpa_kernel(SDPBackend.MATH):
        return attend_sdpa(q, k, v)


def attend_cudnn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return attend_sdpa(q, k, v)


def attend_flash2(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return importlib.import_module("flash_attn").flash_attn_func(q, k, v)


def attend_flash3(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _first(importlib.import_module("flash_attn_interface").flash_attn_func(q, k, v))


def attend_flash4(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _first(importlib.import_module("flash_attn.cute").flash_attn_func(q, k, v))


def _first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    # Releases differ in whether the log-sum-exp comes with the output.
    return output[0] if isinstance(output, tuple) else output


BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend("flash-attn-4", attend_flash4, "flash_attn.cute", (9, 0), True, "pip install flash-attn-4"),
        Backend("flash-attn-3", attend_flash3, "flash_attn_interface", (9, 0), True, "it is built from source"),
        Backend("cudnn", attend_cudnn, "", (8, 0), True),
        Backend("flash-attn-2", attend_flash2, "flash_attn", (8, 0), True, "pip install '.[gpu]'"),
        Backend("sdpa", attend_sdpa),
        Backend("math", attend_math),
    )
}
"""In the order in which "auto" tries them. Not measured on a GPU yet: the order is that of what their authors report."""


@dataclass(frozen=True)
class AttentionChoice:
    """The backend that serves a model, and why none before it."""

    backend: Backend
    wanted: str
    passed_over: dict[str, str]
    """Backends that "auto" tried first, with what is wrong with them."""

    def describe(self) -> str:
        """One line for logs and people."""
        forced = "" if self.wanted == AUTO else " (configured)"
        others = "; ".join(f"{name}: {problem}" for name, problem in self.passed_over.items())
        return f"{self.backend.name}{forced}" + (f" ({others})" if others else "")


def choose_attention(wanted: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> AttentionChoice:
    """The backend of that name, or with "auto" the first that runs.

    Raises `ConfigError` for a name that is unknown or a backend that does not run here, naming those that do.
    """
    if wanted == AUTO:
        problems: dict[str, str] = {}
        for backend in BACKENDS.values():
            problem = backend.problem(device, dtype, head_dim)
            if problem is None:
                return AttentionChoice(backend, wanted, problems)
            problems[backend.name] = problem
        raise ConfigError(f"attention: none runs on {device} ({problems})")
    if wanted not in BACKENDS:
        raise ConfigError(f"attention {wanted!r} is unknown: accepted are {', '.join((AUTO, *BACKENDS))}")
    problem = BACKENDS[wanted].problem(device, dtype, head_dim)
    if problem is not None:
        there = [name for name, backend in BACKENDS.items() if backend.problem(device, dtype, head_dim) is None]
        raise ConfigError(f"attention {wanted!r} {problem}: accepted here are {', '.join((AUTO, *there))}")
    return AttentionChoice(BACKENDS[wanted], wanted, {})
