"""Sessions that come from another Vault: found by way of Redis, fenced there, fetched as needed, and never out of date."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest
import torch

from liveact.vault.v1 import vault_pb2 as pb
from liveact.vault.v1 import vault_pb2_grpc as pb_grpc
from liveact_models import blob
from liveact_services.conductor.archive import Writing, first_attempt
from liveact_services.conductor.parts import Part
from liveact_services.config import ServiceConfig
from liveact_services.placement.pins import Superseded
from liveact_services.sessions import Database
from liveact_services.vault.deployment import Vault
from liveact_services.vault.registry import LAPSE_S, Registry
from liveact_services.vault.shelf import ExportMissing

DENOISER, DECODER = Part.DENOISER, Part.DECODER
pytest_plugins = ["session_fixtures"]

HOST = "127.0.0.1"
OF_A, OF_B, OF_C = (first_attempt(token) for token in (1, 2, 3))


def export(block: int, floats: int = 100) -> bytes:
    return blob.pack({"block": block}, {"memory": torch.arange(floats, dtype=torch.float32) + block})


def page(number: int, owner: str = "") -> bytes:
    return blob.pack({"page": number, "owner": owner}, {})


def pages(numbers: range, owner: str = "") -> dict[str, bytes]:
    return {str(number): page(number, owner) for number in numbers}


@asynccontextmanager
async def vaults(database: Database, *names: str) -> AsyncIterator[list[Vault]]:
    """That many, which know each other."""
    made = [Vault(ServiceConfig(checkpoint="untrained")) for _ in names]
    registry = Registry(database)
    async with AsyncExitStack() as stack:
        for name, vault in zip(names, made, strict=True):
            meeting = asyncio.create_task(vault.meet(registry, name, HOST))
            stack.callback(meeting.cancel)
        async with asyncio.timeout(5):
            while len(await registry.others("nobody")) < len(names):
                await asyncio.sleep(0.01)
        yield made
    await asyncio.sleep(0.05)


async def begun(vault: Vault, attempt: int = OF_A, blocks: range = range(6), owner: str = "a") -> None:
    """A session of that owner, with a journal and two exports of each part."""
    named = pages(blocks, owner)
    await vault.write("s", attempt, Writing(named, tuple(named)))
    for part in Part:
        for block in (blocks.start + 2, blocks.start + 4):
            assert await vault.put("s", part, block, export(block), attempt)


async def test_a_session_goes_on_from_what_another_vault_holds(database: Database) -> None:
    async with vaults(database, "a", "b") as (a, b):
        await begun(a)
        assert await b.read("s", OF_B) == pages(range(6), "a")
        assert await b.blocks("s", DENOISER) == await b.blocks("s", DECODER) == [4, 2]
        assert await b.get("s", DENOISER, 4) == export(4)
        # What was fetched is held here from then on.
        assert b._shelf.blocks("s", DENOISER) == [4]
        with pytest.raises(ExportMissing, match="before block 3"):
            await b.get("s", DECODER, 3)


async def test_whoever_had_it_writes_no_more_where_it_came_from(database: Database) -> None:
    async with vaults(database, "a", "b") as (a, b):
        await begun(a)
        await b.read("s", OF_B)
        with pytest.raises(Superseded):
            await a.write("s", OF_A, Writing(pages(range(7)), ("0",)))
        with pytest.raises(Superseded):
            await a.put("s", DENOISER, 8, export(8), OF_A)
        # And an owner that is late is told so where it asks.
        with pytest.raises(Superseded):
            await b.read("s", OF_A)


async def test_looking_takes_nothing(database: Database) -> None:
    async with vaults(database, "a", "b") as (a, b):
        await begun(a)
        assert await b.read("s") == pages(range(6), "a")
        await a.put("s", DENOISER, 6, export(6), OF_A)
        assert await a.read("s", OF_A) == pages(range(6), "a")


async def test_exports_of_blocks_that_are_planned_anew_are_not_used(database: Database) -> None:
    async with vaults(database, "a", "b") as (a, b):
        await begun(a)
        await b.read("s", OF_B)
        await b.write("s", OF_B, Writing(pages(range(4)), tuple(pages(range(4))), cut=3))
        assert await b.blocks("s", DENOISER) == [2]


async def test_one_that_comes_back_goes_on_from_where_it_was_last(database: Database) -> None:
    async with vaults(database, "a", "b", "c") as (a, b, c):
        await begun(a)
        await b.read("s", OF_B)
        await begun(b, OF_B, range(6, 12), "b")
        # The first still has its own, and knows that they are old.
        for vault in (a, c):
            assert await vault.read("s") == pages(range(6, 12), "b")
        assert await a.read("s", OF_C) == pages(range(6, 12), "b")
        assert await a.blocks("s", DENOISER) == [10, 8]
        assert await a.get("s", DENOISER, 10) == export(10)
        await a.write("s", OF_C, Writing(pages(range(12, 13), "a again"), ("12",)))
        assert await b.read("s") == pages(range(12, 13), "a again")


async def test_a_replaced_vault_of_the_same_cluster_is_asked_too(database: Database) -> None:
    async with vaults(database, "before", "after") as (before, after):
        await begun(before)
        # Its owner is the same: nobody reads, a lost part is to be adopted.
        assert await after.blocks("s", DENOISER) == [4, 2]
        assert await after.get("s", DENOISER, 4) == export(4)
        await before.put("s", DENOISER, 6, export(6), OF_A)


async def test_a_successor_takes_what_it_has_not(database: Database) -> None:
    async with vaults(database, "before", "after") as (before, after):
        await begun(before)
        # The decoder has exported to the successor already, and its owner has written there.
        await after.put("s", DECODER, 6, export(6), OF_A)
        await after.bring("s")
        await after.bring("unknown")
        assert after._shelf.blocks("s", DENOISER)[0] == 4
        assert after._shelf.blocks("s", DECODER)[0] == 6
        assert after._shelf.read("s", None) == pages(range(6), "a")
        await after.write("s", OF_A, Writing(pages(range(6, 7)), ("6",)))
        await after.bring("s")
        assert after._shelf.read("s", None) == pages(range(6, 7))


async def test_damaged_things_do_not_travel(database: Database) -> None:
    async with vaults(database, "a", "b") as (a, b):
        await begun(a)
        held = a._shelf._sessions["s"]
        held.pages["3"] = held.pages["3"][:-1] + b"x"
        held.parts[DENOISER][4] = held.parts[DENOISER][4][:-1] + b"x"
        assert set(await b.read("s", OF_B)) == {"0", "1", "2", "4", "5"}
        with pytest.raises(ExportMissing, match="checksum"):
            await b.get("s", DENOISER, 4)
        assert await b.get("s", DENOISER, 2) == export(2)


async def test_an_export_larger_than_a_message_comes_whole(database: Database) -> None:
    async with vaults(database, "a", "b") as (a, b):
        large = export(4, 3_000_000)
        await a.put("s", DENOISER, 4, large, OF_A)
        assert await b.get("s", DENOISER, (await b.blocks("s", DENOISER))[0]) == large


async def test_a_vault_that_has_died_has_nothing_and_delays_little(database: Database) -> None:
    async with vaults(database, "a") as (a,):
        registry = Registry(database)
        (known,) = await registry.others("nobody")
        await registry.renew(dataclasses.replace(known, id="dead", target=f"{HOST}:1"))
        async with asyncio.timeout(5):
            assert await a.read("s", OF_A) == {}


async def test_the_secret_is_asked_for(database: Database) -> None:
    async with vaults(database, "a") as (a,):
        await begun(a)
        (known,) = await Registry(database).others("nobody")
        assert known.secret not in repr(known)
        async with grpc.aio.insecure_channel(known.target) as channel:
            stub = pb_grpc.VaultServiceStub(channel)
            for metadata in ((), (("authorization", "Bearer wrong"),)):
                for call in (
                    stub.ReadSession(pb.ReadSessionRequest(session="s"), metadata=metadata),
                    stub.ReadExport(pb.ReadExportRequest(session="s", part="denoiser", block=4), metadata=metadata),
                ):
                    with pytest.raises(grpc.aio.AioRpcError, match="secret in the registry"):
                        assert [_ async for _ in call] == []


async def test_an_entry_that_is_not_renewed_lapses(database: Database) -> None:
    now = 1000.0
    registry = Registry(database, lambda: now)
    async with vaults(database, "a"):
        (known,) = await Registry(database).others("nobody")
    await registry.renew(dataclasses.replace(known, id="b"))
    assert [one.id for one in await registry.others("a")] == ["b"]
    now += LAPSE_S + 1
    assert await registry.others("a") == []


async def test_without_a_redis_there_are_no_others() -> None:
    vault = Vault(ServiceConfig(checkpoint="untrained"))
    assert await vault.read("s", OF_A) == {}
    assert await vault.blocks("s", DENOISER) == []
