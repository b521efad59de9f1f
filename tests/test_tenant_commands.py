"""`liveact tenants`, `liveact stream --token`, and the token of the SDK."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from typer.testing import CliRunner, Result

from avatar_peer import AvatarPeer, serving
from liveact.v1 import avatar_pb2 as pb
from liveact_services.cli.main import app
from liveact_services.client import AvatarClient
from liveact_services.tenants.api_key import key_hash, key_id
from tenant_fixtures import Tenants

pytest_plugins = ["tenant_fixtures"]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LIVEACT_")]:
        monkeypatch.delenv(name)


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


# ---- new-key


def test_a_new_key_is_shown_once_with_the_line_that_admits_it(tenants: Tenants) -> None:
    result = run("tenants", "new-key", "acme")
    assert result.exit_code == 0
    key, line = result.stdout.splitlines()
    (entry,) = yaml.safe_load(line)
    assert entry == {"id": key_id(key), "sha256": key_hash(key)}
    tenants.entries["acme"] = {"id": "acme", "keys": [entry]}
    assert run("tenants", "check", tenants.write()).exit_code == 0


def test_a_new_key_as_json() -> None:
    result = run("tenants", "new-key", "acme", "--json")
    made = json.loads(result.stdout.splitlines()[-1])
    assert key_id(made["key"]) == made["id"]
    assert made["key"] not in made["yaml"]
    assert made["tenant"] == "acme"


def test_a_key_for_what_is_no_tenant_is_refused() -> None:
    result = run("tenants", "new-key", "Acme Inc.")
    assert result.exit_code == 3
    assert "'Acme Inc.': accepted are 1 to 63 lower-case letters" in result.stderr


# ---- check


def test_a_directory_is_told_without_its_secrets(tenants: Tenants) -> None:
    key = tenants.add("acme", name="Acme", quotas={"sessions": 3}, weight=2)
    tenants.add_key("acme", revoked=True)
    tenants.add_key("acme", expires="2001-01-01T00:00:00Z")
    tenants.add("globex", disabled=True)
    path = tenants.write()
    result = run("tenants", "check", path, "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["tenants"][0] == {
        "id": "acme", "name": "Acme", "disabled": False, "weight": 2.0, "pool": "default", "quotas": {"sessions": 3},
        "rules": {"portraits": "any", "consent": "optional", "visible_watermark": False, "invisible_watermark": False},
        "keys": {"valid": 1, "expired": 1, "revoked": 1},
    }  # fmt: skip
    assert [tenant["disabled"] for tenant in told["tenants"]] == [False, True]
    output = result.output + run("tenants", "check", path).output
    assert "acme" in output
    assert key_hash(key) not in output
    assert key_hash(key)[:12] not in output


def test_a_wrong_directory_is_bad_input_naming_the_place(tenants: Tenants, tmp_path: Path) -> None:
    tenants.add("acme", pool="gold")
    result = run("tenants", "check", tenants.write())
    assert result.exit_code == 3
    assert "tenants.0.pool: 'gold' is not configured; accepted are default" in result.stderr
    assert run("tenants", "check", tenants.path, "--set", "pools.gold.replicas=1").exit_code == 0
    assert run("tenants", "check", tmp_path / "none.yaml").exit_code == 3


def test_an_issuers_file_without_keys_is_found(tenants: Tenants) -> None:
    tenants.add("acme")
    tenants.issuers = [{"issuer": "i", "audience": "a", "algorithms": ["RS256"], "jwks": "keys.json"}]
    result = run("tenants", "check", tenants.write())
    assert result.exit_code == 3
    assert "issuer i:" in result.stderr
    assert "keys.json: cannot be read" in result.stderr


# ---- tokens


class Listener(AvatarPeer):
    """Remembers the credentials of every call."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[list[tuple[str, str]]] = []

    def listen(self, context: grpc.aio.ServicerContext) -> None:
        sent: Any = context.invocation_metadata()
        self.heard.append([(name, value) for name, value in sent if name in ("authorization", "x-api-key")])

    async def GetServerInfo(self, request: Any, context: Any) -> pb.GetServerInfoResponse:
        self.listen(context)
        return await super().GetServerInfo(request, context)

    async def StreamAvatar(self, request_iterator: Any, context: Any) -> Any:
        self.listen(context)
        async for response in super().StreamAvatar(request_iterator, context):
            yield response


@pytest.mark.parametrize(
    ("options", "environment", "sent"),
    [
        ({"token": "secret"}, None, [("authorization", "Bearer secret")]),
        ({"token": "secret\n"}, "other", [("authorization", "Bearer secret")]),
        ({}, "from-env\n", [("authorization", "Bearer from-env")]),
        ({}, "", []),
        ({}, None, []),
        ({"token": ""}, "from-env", []),
        ({"metadata": (("x-api-key", "mine"),)}, "from-env", [("x-api-key", "mine")]),
    ],
)
async def test_a_token_goes_with_every_call(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], environment: str | None, sent: list[tuple[str, str]]
) -> None:
    if environment is not None:
        monkeypatch.setenv("LIVEACT_TOKEN", environment)
    peer = Listener()
    async with serving(peer) as target, AvatarClient(target, **options) as client:
        await client.server_info()
        async with client.stream(pb.SessionConfig()):
            pass
        async with client.resume("token", 0):
            pass
    assert peer.heard == [sent] * 3


def test_the_command_line_takes_a_token_as_option_or_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEACT_TOKEN", "la_secret")
    shown = run("stream", "--help").stdout
    assert "--token" in shown
    assert "LIVEACT_TOKEN" in shown
    assert "la_secret" not in shown
