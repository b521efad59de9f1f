"""What this machine has and lacks: every check says what was found, or why not and what to do."""

from __future__ import annotations

import importlib
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from liveact_services.cli.options import hide_password

if TYPE_CHECKING:
    import redis

    from liveact_services.config import ServiceConfig

GIB = 1024**3
MIN_MEMORY_GIB = 6
"""What the whole service takes with the tiny model."""
WEIGHTS = "hf download Soul-AILab/LiveAct --local-dir checkpoints/liveact"


class Found(StrEnum):
    """What a check came to. Only FAILED keeps the service from running as configured."""

    OK = "ok"
    ABSENT = "absent"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Check:
    """One line of the diagnosis."""

    area: str
    name: str
    found: Found
    detail: str
    fix: str = ""


def diagnose(config: ServiceConfig) -> Iterator[Check]:
    """Every check, in the order a reader wants them; the slow ones (torch, Valkey) take a few seconds together."""
    yield from hardware()
    yield from torch_and_backends()
    yield from media()
    yield sessions(config)
    yield weights(config)
    yield port("gRPC port", config.host, config.port, "--port 0")
    yield port("HTTP port", config.host, config.http_port, "--set http_port=0")


def hardware() -> Iterator[Check]:
    """Cores, memory, GPUs."""
    import psutil

    yield Check("hardware", "cores", Found.OK, f"{len(os.sched_getaffinity(0))} usable of {os.cpu_count()}")
    memory = psutil.virtual_memory()
    detail = f"{memory.available / GIB:.1f} GiB free of {memory.total / GIB:.1f}"
    if memory.available < MIN_MEMORY_GIB * GIB:
        yield Check("hardware", "memory", Found.WARNING, detail, f"free memory up to {MIN_MEMORY_GIB} GiB")
    else:
        yield Check("hardware", "memory", Found.OK, detail)
    import torch

    if not torch.cuda.is_available():
        yield Check(
            "hardware", "GPUs", Found.ABSENT, f"torch {torch.__version__} finds no CUDA device: tiny sizes only"
        )
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        detail = f"{device.name}, {device.total_memory / GIB:.0f} GiB, compute capability {device.major}.{device.minor}"
        yield Check("hardware", f"GPU {index}", Found.OK, detail)


def torch_and_backends() -> Iterator[Check]:
    """torch, and what makes it faster on a GPU."""
    import torch

    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA in this build"
    yield Check("torch", "torch", Found.OK, f"{torch.__version__}, {cuda}, {torch.get_num_threads()} threads")
    cudnn = torch.backends.cudnn
    if torch.cuda.is_available() and cudnn.is_available() and torch.backends.cuda.cudnn_sdp_enabled():
        yield Check("torch", "cuDNN attention", Found.OK, f"cuDNN {cudnn.version()}")
    else:
        why = "no CUDA device" if not torch.cuda.is_available() else "this torch has no cuDNN, or it is switched off"
        yield Check("torch", "cuDNN attention", Found.ABSENT, why)
    extra = "on a machine with CUDA: pip install '.[gpu]'"
    yield module("triton", "fused kernels", "a CUDA build of torch brings it")
    yield module("flash_attn", "attention", extra)
    yield module("transformer_engine", "fp8", extra)


def module(name: str, what: str, fix: str) -> Check:
    """Whether an optional module imports, and why not."""
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = "not installed" if error.name == name else f"installed, but lacks {error.name}"
        return Check("torch", name, Found.ABSENT, f"{missing}; would serve {what}", fix)
    except (ImportError, OSError) as error:
        return Check("torch", name, Found.ABSENT, f"installed, but does not load: {str(error).splitlines()[0]}")
    return Check("torch", name, Found.OK, f"{getattr(found, '__version__', 'found')}, for {what}")


def media() -> Iterator[Check]:
    """Encoders, each opened once: a codec that is compiled in may still lack its device."""
    import av

    for name, fix, required in (
        ("libx264", "install av from PyPI: its wheels hold libx264", True),
        ("aac", "install av from PyPI: its wheels hold aac", True),
        ("h264_nvenc", "", False),
    ):
        problem = encoder_problem(name)
        if problem is None:
            yield Check("media", name, Found.OK, f"PyAV {av.__version__}")
        else:
            yield Check("media", name, Found.FAILED if required else Found.ABSENT, problem, fix)


def encoder_problem(name: str) -> str | None:
    """Why this encoder does not open; None where it does."""
    from fractions import Fraction

    import av

    if name not in av.codecs_available:
        return f"not in this build of PyAV {av.__version__}"
    context = av.CodecContext.create(name, "w")
    context.time_base = Fraction(1, 20)
    if isinstance(context, av.VideoCodecContext):
        context.width, context.height, context.pix_fmt = 256, 256, "yuv420p"
    elif isinstance(context, av.AudioCodecContext):
        context.rate, context.layout, context.format = 16000, "mono", "fltp"
    try:
        context.open()
    except av.FFmpegError as error:
        return f"does not open: {error.strerror}"
    return None


def sessions(config: ServiceConfig) -> Check:
    """The configured Redis, or an embedded Valkey started and stopped."""
    import redis

    from liveact_services.sessions import EmbeddedValkey, EmbeddedValkeyError
    from liveact_services.sessions.address import connect_blocking

    if config.redis_url is not None:
        shown = hide_password(config.redis_url)
        try:
            with connect_blocking(config.redis_url, socket_timeout=2, socket_connect_timeout=2) as client:
                return Check("sessions", "Redis", Found.OK, f"{shown}: {_server(client)}")
        except (redis.RedisError, ValueError) as error:
            return Check("sessions", "Redis", Found.FAILED, f"{shown}: {error}", "start it, or correct redis_url")
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder, EmbeddedValkey(Path(folder)) as valkey:
            took = time.monotonic() - started
            with redis.Redis.from_url(valkey.url) as client:
                return Check("sessions", "Valkey", Found.OK, f"embedded: {_server(client)}, up in {took:.1f} s")
    except EmbeddedValkeyError as error:
        fix = "name another server with redis_url"
        return Check("sessions", "Valkey", Found.FAILED, f"embedded: {str(error).splitlines()[0]}", fix)


def _server(client: redis.Redis) -> str:
    info: dict[str, Any] = client.info("server")  # type: ignore[assignment]
    return f"{info.get('server_name', 'redis')} {info.get('valkey_version', info['redis_version'])}"


def weights(config: ServiceConfig) -> Check:
    """Whether the configured checkpoint opens."""
    from liveact_models.checkpoint import CheckpointError

    try:
        checkpoint = config.open_checkpoint()
    except CheckpointError as error:
        return Check("model", "checkpoint", Found.FAILED, str(error), f"{WEIGHTS}, or name a folder with --checkpoint")
    if not checkpoint.trained:
        fix = f"for the released weights: {WEIGHTS}, then --preset soulx-liveact-18b --checkpoint checkpoints/liveact"
        return Check("model", "checkpoint", Found.WARNING, checkpoint.describe(), fix)
    return Check("model", "checkpoint", Found.OK, checkpoint.describe())


def port(name: str, host: str, number: int, option: str) -> Check:
    """Whether the port can be listened on."""
    if number == 0:
        return Check("network", name, Found.OK, "a free one is taken at start")
    try:
        with socket.create_server((host, number)):
            return Check("network", name, Found.OK, f"{host}:{number} is free")
    except OSError as error:
        detail = f"{host}:{number}: {error.strerror} (the service may be running already)"
        return Check("network", name, Found.WARNING, detail, f"stop what listens there, or {option}")
