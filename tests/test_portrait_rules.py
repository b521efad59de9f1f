"""Which portraits a tenant may use, and the consent that it has to name: over the Gateway's own RPCs."""

from __future__ import annotations

import json
from asyncio import to_thread

import pytest
import redis.asyncio
from typer.testing import CliRunner

from liveact_services.cli.main import app
from liveact_services.client import AvatarClient
from liveact_services.errors import ClientError
from liveact_services.tenants.rules import Rules, TrustConfig
from liveact_services.tenants.tenant import Tenant
from tenant_fixtures import Tenants, picture, serving, session
from test_audit import events_of

pytest_plugins = ["session_fixtures", "tenant_fixtures"]
pytestmark = pytest.mark.usefixtures("in_process")


async def refusal(client: AvatarClient, **fields: object) -> ClientError:
    with pytest.raises(ClientError) as caught:
        async with client.stream(session(**fields)) as stream:
            await stream.ready()
    return caught.value


async def opens(client: AvatarClient, **fields: object) -> None:
    async with client.stream(session(**fields)) as stream:
        await stream.ready()


async def test_a_tenant_of_registered_portraits_uses_its_avatars_only(redis_url: str, tenants: Tenants) -> None:
    key, free = tenants.add("acme", portraits="registered"), tenants.add("free")
    async with serving(redis_url, tenants=str(tenants.write())) as at, at.client(key) as client:
        error = await refusal(client)
        assert (error.code.name, error.reason, error.field) == (
            "PERMISSION_DENIED",
            "PORTRAIT_NOT_ALLOWED",
            "config.image",
        )
        avatar = (await client.create_avatar(picture())).name
        await opens(client, image=None, avatar=avatar)
        async with at.client(free) as other:
            await opens(other)


async def test_a_tenant_of_no_new_portraits_keeps_what_it_has(redis_url: str, tenants: Tenants) -> None:
    key = tenants.add("acme")
    async with serving(redis_url, tenants=str(tenants.write())) as at, at.client(key) as client:
        avatar = (await client.create_avatar(picture())).name
        tenants.change("acme", portraits="none")
        tenants.write()
        while (await refusal(client, image=b"")).reason != "PORTRAIT_NOT_ALLOWED":
            pass
        with pytest.raises(ClientError) as caught:
            await client.create_avatar(picture())
        assert (caught.value.reason, caught.value.field) == ("PORTRAIT_NOT_ALLOWED", "image")
        await opens(client, image=None, avatar=avatar)


async def test_a_consent_that_is_required_stands_in_the_trail(redis_url: str, tenants: Tenants) -> None:
    key = tenants.add("acme", consent="required")
    async with serving(redis_url, tenants=str(tenants.write())) as at, at.client(key) as client:
        error = await refusal(client)
        assert (error.code.name, error.reason, error.field) == ("INVALID_ARGUMENT", "CONSENT_MISSING", "config.consent")
        assert (await refusal(client, consent="  ")).reason == "CONSENT_MISSING"
        with pytest.raises(ClientError) as caught:
            await client.create_avatar(picture())
        assert (caught.value.reason, caught.value.field) == ("CONSENT_MISSING", "consent")
        await opens(client, consent=" REF-1 ")
        avatar = await client.create_avatar(picture(), consent="REF-2")
        assert [a.consent for a in await client.list_avatars()] == ["REF-2"]
        await opens(client, image=None, avatar=avatar.name)
        told = await events_of(redis_url, "acme")
    opened = [(e["action"], e["consent"]) for e in told if e["action"] in ("session.opened", "avatar.created")]
    assert opened == [("session.opened", "REF-1"), ("avatar.created", "REF-2"), ("session.opened", "REF-2")]


async def test_an_avatar_made_without_consent_opens_no_session_that_needs_one(redis_url: str, tenants: Tenants) -> None:
    key = tenants.add("acme")
    async with serving(redis_url, tenants=str(tenants.write())) as at, at.client(key) as client:
        avatar = (await client.create_avatar(picture())).name
    async with (
        serving(redis_url, tenants=str(tenants.path), trust={"consent": "required"}) as at,
        at.client(key) as client,
    ):
        assert (await refusal(client, image=None, avatar=avatar)).reason == "CONSENT_MISSING"
        await opens(client, image=None, avatar=avatar, consent="REF-3")


async def test_without_a_directory_the_services_rules_hold(redis_url: str) -> None:
    async with serving(redis_url, trust={"portraits": "registered"}) as at, at.client() as client:
        assert (await refusal(client)).reason == "PORTRAIT_NOT_ALLOWED"


def test_a_tenant_can_only_be_stricter_than_the_service() -> None:
    strict, lax = TrustConfig(portraits="none", consent="required"), TrustConfig()
    assert Rules.of(strict, Tenant(id="a")) == Rules("none", "required")
    assert Rules.of(lax, Tenant(id="a", portraits="registered", consent="required")) == Rules("registered", "required")
    assert Rules.of(TrustConfig(portraits="registered"), Tenant(id="a", portraits="none")).portraits == "none"
    assert Rules.of(lax, Tenant(id="a")) == Rules()


async def test_the_audit_command_lists_a_session_and_finds_a_changed_trail(redis_url: str) -> None:
    async with serving(redis_url) as at, at.client() as client:
        await opens(client, consent="REF-9")
        told = await events_of(redis_url, "default")
    name = told[0]["session"]
    command = ["audit", "--redis-url", redis_url, "--since", "1h", "--json"]
    listed = await to_thread(CliRunner().invoke, app, [*command, "--session", name[:6]])
    assert listed.exit_code == 0, listed.output
    events = json.loads(listed.stdout.splitlines()[-1])["events"]
    assert (events[0]["session"], events[0].get("consent")) == (name, "REF-9")
    async with redis.asyncio.Redis.from_url(redis_url) as database:
        key = "liveact:tenant:default:audit"
        (first, fields), *_ = await database.xrange(key)
        await database.xdel(key, first)
        await database.xadd(key, {**fields, b"event": fields[b"event"].replace(b"REF-9", b"REF-8")})
    found = await to_thread(CliRunner().invoke, app, command)
    assert found.exit_code == 1
    assert json.loads(found.stdout.splitlines()[-1])["faults"]["default"]
