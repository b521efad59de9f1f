"""One real service for every test that needs it: Ray Serve, gRPC and the embedded Valkey, started once a session."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from liveact_models.checkpoint import open_checkpoint
from liveact_models.engine import Engine
from liveact_services.client import AvatarClient
from liveact_services.conductor.local import LocalModels
from liveact_services.config import ServiceConfig, load_config
from liveact_services.service import RunningService, start_service

# Those of which tests also import something: pytest would find them imported before it could look after their assertions.
pytest.register_assert_rewrite("kube_fixtures", "session_fixtures", "store_fixtures", "tenant_fixtures")

ROOT = Path(__file__).parent.parent
# Replicas import the stages that tests deploy in the place of real ones.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT / "tests"), os.environ.get("PYTHONPATH"))))
EXAMPLES = ROOT / "examples"


@dataclass(frozen=True)
class Service:
    """A running service, and what its start took."""

    address: str
    running: RunningService
    config: ServiceConfig
    startup_s: float


@contextmanager
def serving(config: ServiceConfig) -> Iterator[Service]:
    """A service of that configuration, for as long as it is needed."""
    began = time.monotonic()
    running = start_service(config)
    try:
        yield Service(running.address, running, config, time.monotonic() - began)
    finally:
        running.stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests of the one service come last: it stays until the end, and beside it a process can start no other."""

    def shares(item: pytest.Item) -> bool:
        if not isinstance(item, pytest.Function) or item.get_closest_marker("slow") is None:
            return False
        return any(one.scope == "session" for one in item._fixtureinfo.name2fixturedefs.get("service", ())[-1:])

    items.sort(key=shares)


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """Random tensors are the same in every run, whichever tests run before."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _same_loggers() -> None:
    """Our loggers are a new process's: an earlier test's deployment, made in this process, has joined them to Serve's."""
    for name in ("liveact_services", "liveact_models"):
        ours = logging.getLogger(name)
        ours.handlers, ours.propagate = [], True
        ours.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The whole service with the tiny model, its timers shortened so that timing out can be tested."""
    config = load_config(
        port=0,
        http_port=0,
        data_dir=tmp_path_factory.mktemp("service"),
        checkpoint="untrained",
        denoiser={"replicas": 2},
        vae_decoder={"replicas": 2},
        sessions={
            "max_sessions": 4, "ack_timeout_s": 3, "config_timeout_s": 2, "detached_timeout_s": 3,
            "max_pending_voice_s": 60,
            # Sessions are counted here: how many a slow machine could show in time is not what these tests are about.
            "max_utilisation": 1000,
        },
    )  # fmt: skip
    with serving(config) as service:
        yield service


@pytest.fixture(scope="module")
async def client(service: Service) -> AsyncIterator[AvatarClient]:
    """A client of the service, which may be the module's own."""
    async with AvatarClient(service.address) as client:
        yield client


@pytest.fixture(scope="session")
def portrait() -> bytes:
    """A drawn portrait, as a JPEG file."""
    return (EXAMPLES / "portrait.jpg").read_bytes()


@pytest.fixture(scope="module")
def models() -> Iterator[LocalModels]:
    """The stages' models in this process, untrained, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    checkpoint = open_checkpoint("untrained", "tiny")
    yield LocalModels(checkpoint, checkpoint.config.sampling, torch.device("cpu"), Engine())
    torch.set_num_threads(threads)


def tone(seconds: float, rate: int = 16000, hertz: float = 220.0, level: float = 0.3) -> np.ndarray:
    """A sine: float32 [seconds * rate]."""
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def pcm16(samples: np.ndarray) -> bytes:
    """float32 in [-1, 1] -> PCM_S16LE."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2").tobytes()
