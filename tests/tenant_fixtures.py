"""A directory of tenants to write to, and the Gateway in this process: its own RPCs on a real port, its stages scripted."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
import redis.asyncio
import yaml
from PIL import Image

from liveact.v1 import avatar_pb2 as pb
from liveact.v1 import avatar_pb2_grpc as pb_grpc
from liveact_models.config import PRESETS
from liveact_services.client import AvatarClient
from liveact_services.config import load_config
from liveact_services.gateway import deployment
from liveact_services.gateway.deployment import Gateway
from liveact_services.sessions import EmbeddedValkey
from liveact_services.tenants.api_key import NewKey, new_api_key
from stage_fixtures import ScriptedStages


class Tenants:
    """A directory in a file: tenants of one key each unless said otherwise."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, dict[str, Any]] = {}
        self.issuers: list[dict[str, Any]] = []

    def add(self, tenant: str, **fields: Any) -> str:
        """A tenant; gives its key."""
        key = new_api_key()
        self.entries[tenant] = {"id": tenant, "keys": [stored(key)], **fields}
        return key.text

    def add_key(self, tenant: str, **fields: Any) -> str:
        key = new_api_key()
        self.entries[tenant]["keys"].append({**stored(key), **fields})
        return key.text

    def change(self, tenant: str, **fields: Any) -> None:
        self.entries[tenant].update(fields)

    def write(self) -> Path:
        """Exchange the file as an operator should: at once."""
        text = yaml.safe_dump({"tenants": list(self.entries.values()), "issuers": self.issuers})
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.rename(self.path)
        return self.path


def stored(key: NewKey) -> dict[str, Any]:
    return {"id": key.stored.id, "sha256": key.stored.sha256}


@pytest.fixture
def tenants(tmp_path: Path) -> Tenants:
    return Tenants(tmp_path / "tenants.yaml")


class Serving:
    """The Gateway and where it listens."""

    def __init__(self, gateway: Gateway, address: str) -> None:
        self.gateway, self.address = gateway, address

    def client(self, token: str | None = None, **options: Any) -> AvatarClient:
        return AvatarClient(self.address, token=token, **options)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a Gateway takes from Ray stands here by itself; directories and callers are looked at ten times as often."""
    monkeypatch.setattr(deployment, "serve_stages", lambda *_: ScriptedStages(0.01, 0.001))
    monkeypatch.setattr(deployment, "replica_id", lambda: "gateway-1")
    monkeypatch.setattr(deployment, "join_serve_log", lambda: None)
    monkeypatch.setattr(deployment, "CHECK_S", 0.2)
    monkeypatch.setattr("liveact_services.tenants.watch.POLL_S", 0.2)
    monkeypatch.delenv("LIVEACT_TOKEN", raising=False)


@pytest_asyncio.fixture
async def redis_url(valkey: EmbeddedValkey) -> AsyncIterator[str]:
    """A database of the tests' Valkey that holds nothing."""
    url = valkey.url.removesuffix("/0") + "/1"
    async with redis.asyncio.Redis.from_url(url) as client:
        await client.flushdb()
    yield url


@asynccontextmanager
async def serving(redis_url: str, **fields: Any) -> AsyncIterator[Serving]:
    """A Gateway configured so, on a free port."""
    config = load_config(**fields)
    handles: Any = dict.fromkeys(("conditioner", "audio_encoder", "vae_encoder", "vae_decoder", "vault"))
    denoisers: Any = dict.fromkeys(config.denoisers)
    gateway = Gateway(config, PRESETS["tiny"], "untrained", redis_url, denoisers=denoisers, **handles)
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 32 * 1024 * 1024)])
    pb_grpc.add_AvatarServiceServicer_to_server(gateway, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield Serving(gateway, f"127.0.0.1:{port}")
    finally:
        await asyncio.gather(*(live.close() for live in list(gateway._live.values())))
        for task in gateway._tasks:
            task.cancel()
        await server.stop(grace=None)


def picture() -> bytes:
    """A portrait, as a PNG file."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 150, 120)).save(file, "PNG")
    return file.getvalue()


def session(**fields: Any) -> pb.SessionConfig:
    """Raw frames at the smallest size and the fastest pace, unless said otherwise."""
    values: dict[str, Any] = {
        "image": picture(), "width": 32, "height": 32, "codec": pb.VIDEO_CODEC_RGB, "pacing": pb.PACING_FASTEST,
    }  # fmt: skip
    return pb.SessionConfig(**{**values, **fields})
