"""torch.compile where a C++ compiler is at hand, and plain execution, said once, where none is."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast

import torch

_log = logging.getLogger(__name__)
Callee = TypeVar("Callee", bound=Callable[..., Any])


def compiled(callee: Callee, enabled: bool, *, dynamic: bool | None = None) -> Callee:
    """`torch.compile(callee)` where `enabled` and it can work here; else the callee itself.

    In training, keep the module itself in `Stage.modules`: a compiled module names its weights differently.
    """
    return cast(Callee, torch.compile(callee, dynamic=dynamic)) if enabled and _can_compile() else callee


@cache
def _can_compile() -> bool:
    # CUDA kernels come from Triton, but their launchers and all CPU kernels are C++.
    compilers = [os.environ.get("CXX"), "g++", "clang++", "c++"]
    if any(name and shutil.which(name) for name in compilers):
        return True
    _log.warning("torch.compile is left out: no C++ compiler (g++ or clang++) was found; it is slower without")
    return False
