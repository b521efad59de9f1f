"""What this machine has and lacks: every check says what was found, or why not and what to do."""

from __future__ import annotations

import importlib
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from liveact_models.disk import GIB, free_bytes
from liveact_services.cli.check import Check, Found
from liveact_services.cli.fit import weights
from liveact_services.cli.options import hide_password

if TYPE_CHECKING:
    from liveact_services.config import ServiceConfig

MIN_MEMORY_GIB = 6
"""What the whole service takes with the tiny model."""
MIN_FREE_GIB = 1
"""Of the disk that the embedded Valkey writes to."""


def diagnose(config: ServiceConfig) -> Iterator[Check]:
    """Every check, in the order a reader wants them; the slow ones (torch, Valkey) take a few seconds together."""
    yield from hardware()
    yield from torch_and_backends()
    yield from media()
    yield from sessions(config)
    yield from weights(config)
    yield from engines(config)
    yield from ranks(config)
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


def sessions(config: ServiceConfig) -> Iterator[Check]:
    """The configured Redis; or an embedded Valkey, started and stopped, and the disk and data of the service's own."""
    if config.redis_url is not None:
        yield _redis(config.redis_url)
        return
    from liveact_services.sessions import EmbeddedValkey, EmbeddedValkeyError
    from liveact_services.sessions.server import RedisServer

    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder, EmbeddedValkey(Path(folder)) as valkey:
            took = time.monotonic() - started
            name = RedisServer.at(valkey.url).name
            yield Check("sessions", "Valkey", Found.OK, f"embedded: {name}, up in {took:.1f} s")
    except EmbeddedValkeyError as error:
        fix = "name another server with redis_url"
        yield Check("sessions", "Valkey", Found.FAILED, f"embedded: {str(error).splitlines()[0]}", fix)
    yield disk(config.data_dir)
    yield from _data(config.data_dir / "valkey")


def _redis(url: str) -> Check:
    import redis

    from liveact_services.sessions.server import RedisServer, UnsuitableRedis

    shown = hide_password(url)
    try:
        server = RedisServer.at(url)
        server.require_suitable()
    except UnsuitableRedis as error:
        return Check("sessions", "Redis", Found.FAILED, f"{shown}: {error}", "name another server with redis_url")
    except (redis.RedisError, ValueError) as error:
        return Check("sessions", "Redis", Found.FAILED, f"{shown}: {error}", "start it, or correct redis_url")
    if server.trouble:
        fix = "until then running sessions go on, and no new ones begin"
        return Check("sessions", "Redis", Found.FAILED, f"{shown}: {server.name}: {server.trouble}", fix)
    if server.danger:
        return Check("sessions", "Redis", Found.WARNING, f"{shown}: {server.name}: {server.danger}", "set noeviction")
    return Check("sessions", "Redis", Found.OK, f"{shown}: {server.name}")


def disk(data_dir: Path) -> Check:
    """Room for the embedded Valkey's append-only file."""
    from liveact_services.sessions.embedded import MIN_FREE_BYTES

    free = free_bytes(data_dir)
    detail = f"{free / GIB:.2f} GiB free for {data_dir}"
    if free < MIN_FREE_BYTES:
        fix = "free some: until then running sessions go on, and no new ones begin"
        return Check("sessions", "disk", Found.FAILED, f"the disk of {data_dir} is full: {free} bytes are free", fix)
    if free < MIN_FREE_GIB * GIB:
        return Check(
            "sessions", "disk", Found.WARNING, detail, f"free up to {MIN_FREE_GIB} GiB, or choose another data_dir"
        )
    return Check("sessions", "disk", Found.OK, detail)


def _data(folder: Path) -> Iterator[Check]:
    from liveact_services.sessions.embedded import damaged_data

    if kept := damaged_data(folder):
        detail = f"found damaged {len(kept)} times and kept aside, last in {kept[-1]}"
        yield Check("sessions", "data", Found.WARNING, detail, "check the disk; then they can be deleted")


def engines(config: ServiceConfig) -> Iterator[Check]:
    """How the Denoisers of every pool would compute on this machine: what is chosen, and why nothing faster."""
    import torch

    from liveact_models.config import ConfigError, preset
    from liveact_models.engine import choose
    from liveact_services.replica import pick_device

    for pool, stage in config.denoisers.items():
        try:
            device = pick_device(config.device, stage.num_gpus or torch.cuda.device_count())
            detail = choose(stage.engine, preset(config.preset), device).describe()
        except ConfigError as error:
            yield Check("model", "denoiser", Found.FAILED, f"{pool}: {error}")
        else:
            yield Check("model", "denoiser", Found.OK, f"{pool}: {detail}")


def ranks(config: ServiceConfig) -> Iterator[Check]:
    """Of every pool whose Denoisers have several ranks: who has which share of a block, and whether there is a GPU for each."""
    import torch

    from liveact_models.config import preset
    from liveact_models.parallel import heads_of

    heads = preset(config.preset).transformer.num_heads
    for pool, stage in config.denoisers.items():
        if not stage.coordinates:
            continue
        devices = "a GPU each" if stage.num_gpus else "no GPU"
        if stage.shares_steps:
            parts = " + ".join(str(len(part)) for part in heads_of(heads, stage.ranks))
            way = f"{'NCCL' if stage.num_gpus else 'gloo'}, {devices}"
            detail = f"{pool}: {stage.ranks} a Denoiser ({way}), which share {heads} heads as {parts}"
        else:
            detail = f"{pool}: {stage.ranks} a Denoiser ({devices}), one a diffusion step, for as many sessions at once"
        if stage.num_gpus and torch.cuda.device_count() < stage.ranks:
            detail += f"; torch finds {torch.cuda.device_count()} GPUs, and all ranks of a replica are on one node"
            yield Check("model", "ranks", Found.FAILED, detail, f"a node of {stage.ranks} GPUs, or fewer ranks")
        else:
            yield Check("model", "ranks", Found.OK, detail)


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
