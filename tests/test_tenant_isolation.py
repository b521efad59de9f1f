"""One tenant against another over real gRPC: every RPC, with the other's names, tokens and credentials."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
import pytest_asyncio

from liveact.v1 import avatar_pb2 as pb
from liveact.v1 import avatar_pb2_grpc as pb_grpc
from liveact_services.client import AvatarClient, AvatarStream
from liveact_services.errors import ClientError, from_rpc_error
from tenant_fixtures import Serving, Tenants, picture, serving, session

pytest_plugins = ["session_fixtures", "tenant_fixtures"]
pytestmark = pytest.mark.usefixtures("in_process")

SERVICE = pb.DESCRIPTOR.services_by_name["AvatarService"]
OPEN = {"GetServerInfo"}
VOICE = b"\x01\x23" * 16000


class Two:
    """A service with two tenants, one of which has a session that runs, one that is detached, and an avatar."""

    def __init__(self, at: Serving, keys: dict[str, str]) -> None:
        self.at, self.keys = at, keys
        self.victim, self.other = at.client(keys["victim"]), at.client(keys["other"])
        self.avatar = ""
        self.stream: AvatarStream | None = None

    @property
    def running(self) -> pb.Session:
        assert self.stream is not None
        return self.stream.session


@pytest_asyncio.fixture
async def two(redis_url: str, tenants: Tenants) -> AsyncIterator[Two]:
    keys = {name: tenants.add(name) for name in ("victim", "other")}
    async with serving(redis_url, tenants=str(tenants.write())) as at:
        two = Two(at, keys)
        async with two.victim, two.other:
            two.avatar = (await two.victim.create_avatar(picture(), "mine")).name
            async with two.victim.stream(session()) as two.stream:
                await two.stream.ready()
                yield two


async def refused(call: Awaitable[Any]) -> ClientError:
    with pytest.raises(ClientError) as caught:
        await call
    return caught.value


async def opened(client: AvatarClient, config: pb.SessionConfig) -> AvatarStream:
    async with client.stream(config) as stream:
        return stream


async def resumed(client: AvatarClient, token: str) -> AvatarStream:
    async with client.resume(token, 0) as stream:
        return stream


UNKNOWN = "0123456789abcdef"
ATTACKS: dict[str, Callable[[Two, AvatarClient, bool], Awaitable[Any]]] = {
    "GetSession": lambda two, client, real: client.get_session(two.running.name if real else f"sessions/{UNKNOWN}"),
    "DeleteSession": lambda two, client, real: client.delete_session(
        two.running.name if real else f"sessions/{UNKNOWN}"
    ),
    "DeleteAvatar": lambda two, client, real: client.delete_avatar(two.avatar if real else f"avatars/{UNKNOWN}"),
    "StreamAvatar.avatar": lambda two, client, real: opened(
        client, session(image=None, avatar=two.avatar if real else f"avatars/{UNKNOWN}")
    ),
    "StreamAvatar.resume": lambda two, client, real: resumed(
        client, two.running.resume_token if real else f"{UNKNOWN}.{two.running.resume_token.partition('.')[2]}"
    ),
}


@pytest.mark.parametrize("attack", sorted(ATTACKS))
async def test_what_is_anothers_is_answered_as_what_does_not_exist(two: Two, attack: str) -> None:
    real = await refused(ATTACKS[attack](two, two.other, True))
    unknown = await refused(ATTACKS[attack](two, two.other, False))
    assert (real.code, real.reason, real.field, real.metadata) == (
        unknown.code, unknown.reason, unknown.field, unknown.metadata,
    )  # fmt: skip
    told = real.message.replace(two.running.name.partition("/")[2], UNKNOWN).replace(two.avatar, f"avatars/{UNKNOWN}")
    assert told == unknown.message
    # Nothing came of it: the victim's session goes on and its avatar is there.
    assert (await two.victim.get_session(two.running.name)).state == pb.SESSION_STATE_READY
    assert [avatar.name for avatar in await two.victim.list_avatars()] == [two.avatar]
    assert two.stream is not None
    await two.stream.send_audio(VOICE, "u")
    await two.stream.close()
    assert (await ended(two.stream))[-1].type == pb.EVENT_TYPE_CLOSED


async def test_the_owner_may_do_what_the_other_may_not(two: Two) -> None:
    for attack, call in ATTACKS.items():
        if attack != "DeleteSession":
            await call(two, two.victim, True)
            two.avatar = (await two.victim.create_avatar(picture(), "again")).name
    assert await two.victim.list_sessions()
    await ATTACKS["DeleteSession"](two, two.victim, True)


async def test_lists_and_counts_show_only_the_callers_own(two: Two) -> None:
    assert await two.other.list_sessions() == []
    assert await two.other.list_avatars() == []
    mine = await two.other.create_avatar(picture(), "theirs")
    assert [avatar.name for avatar in await two.other.list_avatars()] == [mine.name]
    assert (await two.other.server_info()).sessions == 0
    assert (await two.victim.server_info()).sessions == 1
    async with two.at.client() as nobody:
        assert (await nobody.server_info()).sessions == 0


def test_every_rpc_that_takes_a_name_is_attacked() -> None:
    """A new RPC with a name or token in its request must come into the table above."""
    named = {
        method.name
        for method in SERVICE.methods
        if "name" in method.input_type.fields_by_name or method.name == "StreamAvatar"
    }
    assert named == {attack.partition(".")[0] for attack in ATTACKS}


@pytest.mark.parametrize("name", [method.name for method in SERVICE.methods if method.name not in OPEN])
async def test_every_rpc_asks_for_credentials(two: Two, name: str) -> None:
    attempts = {
        "CREDENTIALS_MISSING": [()],
        "CREDENTIALS_INVALID": [
            (("authorization", "Bearer la_000000000000_" + "x" * 43),),
            (("authorization", f"Bearer {two.keys['victim'][:-1]}x"),),
            (("authorization", "Basic dXNlcjpwYXNz"),),
            (("authorization", "Bearer"),),
            (("x-api-key", ""),),
            (("x-api-key", two.keys["victim"]), ("authorization", f"Bearer {two.keys['other']}")),
        ],
    }
    for reason, metadatas in attempts.items():
        for metadata in metadatas:
            error = await call(two.at.address, name, metadata)
            assert (error.reason, error.code) == (reason, grpc.StatusCode.UNAUTHENTICATED)


async def call(address: str, name: str, metadata: tuple[tuple[str, str], ...]) -> ClientError:
    """The RPC of that name with an empty request: how it failed."""
    method = SERVICE.methods_by_name[name]
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = pb_grpc.AvatarServiceStub(channel)  # type: ignore[no-untyped-call]
        request = getattr(pb, method.input_type.name)()
        if not method.client_streaming:
            answer: Any = getattr(stub, name)(request, metadata=metadata)
        else:
            answer = ended(stub.StreamAvatar(iter([request]), metadata=metadata))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await answer
        return from_rpc_error(caught.value)


async def ended(stream: AsyncIterator[Any]) -> list[Any]:
    """All it says until it ends."""
    return [message async for message in stream]


async def test_both_headers_and_the_environment_carry_a_key(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    async with two.at.client(metadata=(("x-api-key", two.keys["victim"]),)) as client:
        assert await client.list_avatars()
    monkeypatch.setenv("LIVEACT_TOKEN", two.keys["victim"] + "\n")
    async with two.at.client() as client:
        assert await client.list_avatars()
    async with two.at.client(two.keys["other"]) as client:
        assert not await client.list_avatars()


async def test_neither_keys_nor_tokens_nor_voices_are_logged(two: Two, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = VOICE[:8]
    for attack in ATTACKS.values():
        await refused(attack(two, two.other, True))
    for metadata in ((("authorization", two.keys["victim"]),), (("x-api-key", two.keys["victim"][:-1]),)):
        await call(two.at.address, "ListAvatars", metadata)
    assert two.stream is not None
    await two.stream.send_audio(VOICE, "u")
    await two.stream.update("a prompt")
    await two.stream.send_audio(VOICE[:-1], "u")
    error = await refused(ended(two.stream))
    hidden = [*two.keys.values(), two.running.resume_token, str(secret)[2:-1], *(key[20:] for key in two.keys.values())]
    told = caplog.text + str(error)
    assert [text for text in hidden if text in told] == []


async def test_without_a_directory_nobody_is_asked_for_anything(redis_url: str) -> None:
    async with serving(redis_url) as at, at.client("whatever") as client:
        await client.create_avatar(picture(), "a")
        async with client.stream(session()) as stream:
            await stream.ready()
            record = at.gateway._live[stream.session.name.partition("/")[2]].ledger.record
            assert (record.tenant, record.weight, record.pool) == ("default", 1.0, "default")
            assert (await client.server_info()).sessions == 1
