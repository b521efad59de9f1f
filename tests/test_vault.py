"""The Vault: whole exports only, the two newest, in bounded memory; and the way there, beside the computing."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Callable

import pytest
import torch

from liveact_models import blob
from liveact_models.blob import StateError
from liveact_models.disk import GIB
from liveact_services.conductor.parts import Part
from liveact_services.config import ServiceConfig
from liveact_services.vault import exporter as exporter_module
from liveact_services.vault.deployment import Vault
from liveact_services.vault.exporter import Exported, Exporter
from liveact_services.vault.shelf import REMEMBERED, ExportMissing, Shelf, VaultFull, check

DENOISER, DECODER = Part.DENOISER, Part.DECODER
IDLE_S = 100.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def export(block: int, floats: int = 100) -> bytes:
    return blob.pack({"block": block}, {"memory": torch.arange(floats, dtype=torch.float32) + block})


# ---- the shelf


def test_the_two_newest_exports_of_each_part_are_held(clock: Clock) -> None:
    shelf = Shelf(10_000, IDLE_S, clock)
    for block in (4, 8, 12):
        shelf.put("s", DENOISER, block, b"denoiser %d" % block)
    shelf.put("s", DECODER, 8, b"decoder")
    shelf.put("s", DENOISER, 4, b"came late")
    assert shelf.blocks("s", DENOISER) == [12, 8]
    assert shelf.blocks("s", DECODER) == [8]
    assert shelf.get("s", DENOISER, 8) == b"denoiser 8"
    assert shelf.nbytes == len(b"denoiser 12denoiser 8decoder")
    with pytest.raises(ExportMissing, match="no export of the denoiser before block 4"):
        shelf.get("s", DENOISER, 4)
    shelf.put("s", DENOISER, 12, b"made again")
    assert shelf.blocks("s", DENOISER) == [12, 8]
    assert shelf.get("s", DENOISER, 12) == b"made again"


def test_a_closed_session_is_forgotten(clock: Clock) -> None:
    shelf = Shelf(10_000, IDLE_S, clock)
    shelf.put("s", DENOISER, 4, b"x")
    shelf.forget("s")
    shelf.forget("s")
    assert (shelf.nbytes, shelf.sessions, shelf.blocks("s", DENOISER)) == (0, [], [])
    # This one was on its way.
    shelf.put("s", DENOISER, 8, b"x")
    assert shelf.nbytes == 0
    for number in range(REMEMBERED):
        shelf.forget(f"other {number}")
    assert len(shelf._forgotten) == REMEMBERED


def test_idle_sessions_make_room_the_oldest_first(clock: Clock) -> None:
    shelf = Shelf(100, IDLE_S, clock)
    for at, session in enumerate(("old", "older than asked about", "young")):
        clock.now = float(at)
        shelf.put(session, DENOISER, 4, bytes(30))
    clock.now = IDLE_S
    shelf.blocks("old", DENOISER)
    clock.now = IDLE_S + 5
    shelf.put("new", DENOISER, 4, bytes(30))
    assert shelf.sessions == ["old", "young", "new"]
    shelf.put("new", DENOISER, 8, bytes(10))
    assert shelf.sessions == ["old", "young", "new"], "no more goes than must"


def test_what_does_not_fit_beside_sessions_in_use_is_refused_and_changes_nothing(clock: Clock) -> None:
    shelf = Shelf(100, IDLE_S, clock)
    shelf.put("a", DENOISER, 4, bytes(40))
    shelf.put("b", DENOISER, 4, bytes(40))
    with pytest.raises(VaultFull, match=r"session b: 120 bytes would be held; accepted are 100 \(vault.max_gib\)"):
        shelf.put("b", DENOISER, 8, bytes(40))
    with pytest.raises(VaultFull):
        shelf.put("c", DENOISER, 4, bytes(40))
    assert shelf.sessions == ["a", "b"]
    assert shelf.blocks("b", DENOISER) == [4]
    # In place of the older of two it takes no more room.
    shelf.put("b", DENOISER, 6, bytes(20))
    shelf.put("b", DENOISER, 8, bytes(40))
    assert shelf.blocks("b", DENOISER) == [8, 6]
    assert shelf.nbytes == 100


@pytest.mark.parametrize(
    ("made", "kept"),
    [([4], [4]), ([4, 8], [8, 4]), ([4, 8, 12], [12, 8]), ([4, 8, 9], [9, 8, 4]), ([8, 9, 10, 11], [11, 10, 9])],
)
def test_one_export_is_always_as_old_as_what_was_shown(clock: Clock, made: list[int], kept: list[int]) -> None:
    """A part is two blocks ahead of the client at most, at whatever boundaries its value is kept."""
    shelf = Shelf(1000, IDLE_S, clock)
    for block in made:
        shelf.put("a", DENOISER, block, bytes(1))
    assert shelf.blocks("a", DENOISER) == kept


# ---- what is whole


@pytest.mark.parametrize("at", [20, 60, -1])
def test_a_changed_byte_is_found(at: int) -> None:
    damaged = bytearray(export(4))
    damaged[at] ^= 1
    with pytest.raises(StateError):
        check(bytes(damaged), 4)


def test_an_export_of_another_boundary_or_version_is_refused() -> None:
    with pytest.raises(StateError, match="made before block 4; 8 was said"):
        check(export(4), 8)
    other = export(4).replace(b'"version": "1"', b'"version": "2"')
    with pytest.raises(StateError) as raised:
        check(other, 4)
    assert raised.value.reason == "STATE_VERSION"
    with pytest.raises(StateError) as raised:
        check(export(4)[:-1], 4)
    assert raised.value.reason == "STATE_TRUNCATED"
    assert blob.verify(export(4)) == {"block": 4}


def test_a_refusal_keeps_its_reason_between_processes() -> None:
    error = pickle.loads(pickle.dumps(StateError("STATE_CHECKSUM", "it does not match")))
    assert (error.reason, str(error)) == ("STATE_CHECKSUM", "it does not match")


# ---- the deployment


async def test_a_vault_gives_back_what_it_was_given_and_refuses_what_is_damaged() -> None:
    vault = Vault(ServiceConfig(checkpoint="untrained"))
    await vault.put("s", DENOISER, 4, export(4))
    await vault.put("s", DENOISER, 8, export(8))
    with pytest.raises(StateError):
        await vault.put("s", DENOISER, 12, export(12)[:-3] + b"abc")
    assert await vault.blocks("s", DENOISER) == [8, 4]
    assert await vault.get("s", DENOISER, 8) == export(8)

    # Damage in memory is found when the export is fetched, and the older one is what is left.
    vault._shelf.put("s", DENOISER, 8, export(8)[:-3] + b"abc")
    with pytest.raises(StateError):
        await vault.get("s", DENOISER, 8)
    assert await vault.blocks("s", DENOISER) == [4]
    assert await vault.get("s", DENOISER, 4) == export(4)
    await vault.forget("s")
    assert await vault.sessions() == []


async def test_a_vaults_memory_is_bounded_by_the_configuration() -> None:
    vault = Vault(ServiceConfig(checkpoint="untrained", vault={"max_gib": 5000 / GIB}))  # type: ignore[arg-type]
    await vault.put("s", DENOISER, 4, export(4, 1000))
    with pytest.raises(VaultFull):
        await vault.put("t", DENOISER, 4, export(4, 1000))


# ---- the way there


class Sent:
    """Takes exports, as slowly as told."""

    def __init__(self) -> None:
        self.got: list[tuple[str, int, bytes]] = []
        self.free = asyncio.Event()
        self.free.set()

    async def put(self, session: str, block: int, export: bytes, attempt: int, trace: str) -> None:
        await self.free.wait()
        self.got.append((session, block, export))

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.got) < count:
                await asyncio.sleep(0.01)


def value(data: bytes) -> Callable[[], Callable[[], bytes]]:
    return lambda: lambda: data


async def test_every_so_manieth_boundary_is_sent() -> None:
    sent = Sent()
    exporter = Exporter(sent.put, 4)
    for block in range(10):
        exporter.offer("s", block, value(b"%d" % block))
        await asyncio.sleep(0.02)
    await sent.until(2)
    assert sent.got == [("s", 4, b"4"), ("s", 8, b"8")]


async def test_the_value_is_taken_at_once_and_serialised_on_another_thread() -> None:
    sent = Sent()
    exporter = Exporter(sent.put, 2)
    state, began = [b"before"], time.monotonic()

    def snapshot() -> Callable[[], bytes]:
        kept = state[0]

        def serialise() -> bytes:
            time.sleep(0.3)
            return kept + threading.current_thread().name.encode()

        return serialise

    exporter.offer("s", 2, snapshot)
    state[0] = b"after"
    assert time.monotonic() - began < 0.2
    await sent.until(1)
    assert sent.got[0][2].startswith(b"beforeExporter")


async def test_a_slow_vault_costs_exports_and_holds_up_nothing() -> None:
    sent = Sent()
    sent.free.clear()
    exporter = Exporter(sent.put, 2)
    for block in (2, 4, 6):
        exporter.offer("s", block, value(b"%d" % block))
        await asyncio.sleep(0.02)
    exporter.offer("other", 2, value(b"its own"))
    sent.free.set()
    await sent.until(2)
    assert sent.got == [("s", 2, b"2"), ("other", 2, b"its own")]
    exporter.offer("s", 8, value(b"8"))
    await sent.until(3)


async def test_a_vault_that_refuses_is_logged_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(exporter_module.log, "warning", lambda text, *rest, **_: said.append(text % rest))

    async def refuse(session: str, block: int, export: bytes, attempt: int, trace: str) -> None:
        raise VaultFull("no room")

    exporter = Exporter(refuse, 2)
    exporter.offer("s", 2, value(b"x"))
    async with asyncio.timeout(10):
        while not said:
            await asyncio.sleep(0.01)
    assert said == ["no export before block 2: no room"]


async def test_what_was_sent_is_counted_and_what_was_refused_is_not() -> None:
    sent = Sent()
    exporter = Exporter(sent.put, 2)

    def slowly() -> bytes:
        time.sleep(0.05)
        return b"four"

    exporter.offer("s", 2, lambda: slowly)
    exporter.offer("t", 2, value(b"sixsix"))
    await sent.until(2)
    await asyncio.sleep(0)
    assert (exporter.exported.count, exporter.exported.nbytes) == (2, 10)
    assert 0.05 <= exporter.exported.serialised_s < 1.0

    async def refuse(session: str, block: int, export: bytes) -> None:
        raise VaultFull("no room")

    refused = Exporter(refuse, 2)
    refused.offer("s", 2, value(b"x"))
    await asyncio.sleep(0.2)
    assert refused.exported == Exported()


async def test_where_nothing_is_to_be_exported_no_value_is_even_taken() -> None:
    exporter = Exporter(Sent().put, 0)
    for block in range(9):
        exporter.offer("s", block, lambda: pytest.fail("the value was taken"))


async def test_without_a_vault_no_value_is_even_taken() -> None:
    Exporter(None, 2).offer("s", 2, lambda: pytest.fail("the value was taken"))
