"""A session goes on at another Gateway: every frame once, with its bytes, wherever it was when the first was lost.

Two Gateways share a graph by script, in virtual time; each has a Conductor, and what is between them is a journal.
"""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest

from graph_fixtures import ScriptedGraph, until
from liveact_models.timeline import block_frames
from liveact_services.conductor.journal import MAX_PAGES
from liveact_services.conductor.parts import Part
from liveact_services.conductor.points import Page
from liveact_services.conductor.stages import Idle, Pacing, SessionSpec
from liveact_services.conductor.succession import Remains
from liveact_services.errors import ServiceError
from liveact_services.vault.shelf import Shelf
from stage_fixtures import RATE, in_virtual_time, session_spec
from takeover_fixtures import Client, fenced, perform, script, some_losses

# ---- anywhere, any time


@pytest.mark.parametrize("seed", range(40))
def test_at_the_fastest_pacing_frames_and_sound_are_those_of_an_undisturbed_run(seed: int) -> None:
    said = script(seed, pieces=False, interrupts=False)
    spec = session_spec(Pacing.FASTEST)
    expected = in_virtual_time(perform(spec, said))
    expected.check()
    client = in_virtual_time(perform(spec, said, some_losses(seed, 4.0)))
    assert len(client.owners) > 1
    client.check()
    assert client.frames == expected.frames
    assert np.array_equal(client.sound, expected.sound)
    assert client.spoken == expected.spoken
    fenced(client)


@pytest.mark.parametrize("seed", range(40))
def test_in_real_time_every_sample_is_spoken_once_and_every_frame_shown_once(seed: int) -> None:
    pieces, interrupts = seed % 4 != 0, seed % 2 == 1
    said = script(seed, pieces=pieces, interrupts=interrupts)
    idle = Idle.HOLD if seed % 3 == 0 else Idle.ANIMATE
    client = in_virtual_time(perform(session_spec(Pacing.REALTIME, idle), said, some_losses(seed, 12.0)))
    client.check(interrupted=interrupts)
    fenced(client)


# ---- with other losses


LONG = [(0.0, ("hear", "u", np.arange(1, 24 * RATE + 1, dtype=np.float32))), (0.0, ("end", "u"))]


async def told(graph: ScriptedGraph, block: int, spec: SessionSpec = session_spec()) -> Client:
    """A session that has given out this block's first frames."""
    client = Client(graph, spec)
    await client.begin()
    asyncio.create_task(client.watch())  # noqa: RUF006
    for _, request in LONG:
        client.say(*request)
    client.close()
    await until(lambda: len(client.frames) > block_frames(block).start)
    return client


@pytest.mark.parametrize("parts", [(Part.DENOISER,), (Part.DECODER,), tuple(Part)])
@pytest.mark.parametrize("block", [0, 1, 3, 6, 11])
def test_a_gateway_lost_together_with_replicas_costs_no_frame(parts: tuple[Part, ...], block: int) -> None:
    async def main() -> Client:
        client = await told(ScriptedGraph(objects_die=True), block)
        for part in parts:
            client.graph.kill(part)
        await client.move(back=3)
        await client.end()
        return client

    client = in_virtual_time(main())
    client.check()
    assert len(client.owners) == 2


def test_a_lost_vault_is_filled_again_and_both_parts_exported_at_once() -> None:
    async def main() -> tuple[Client, list[int], float]:
        client = await told(ScriptedGraph(denoise_s=1.0, export_blocks=8), 9)
        graph, loop = client.graph, asyncio.get_running_loop()
        assert graph.shelf is not None
        shelf = graph.shelf = Shelf(1 << 26, 1e9)
        lost_at = loop.time()
        await until(lambda: all(shelf.blocks("s", part) for part in Part))
        took = loop.time() - lost_at
        exported = [shelf.blocks("s", part)[0] for part in Part]
        await until(lambda: client.acked >= block_frames(max(exported)).start)
        await asyncio.sleep(1.0)
        assert set(shelf.read("s", None)) >= {"opening", *map(str, client.owner.journal._pages)}  # type: ignore[union-attr]
        await client.move(back=2)
        await client.end()
        return client, exported, took

    client, exported, took = in_virtual_time(main())
    client.check()
    assert took < 3.0, "the next boundary, whichever it is"
    assert any(block % 8 for block in exported)


def test_a_vault_that_is_away_delays_one_block_and_then_nothing() -> None:
    async def main(away: bool) -> tuple[float, float]:
        graph = ScriptedGraph()
        client = Client(graph, session_spec())
        client_began = asyncio.get_running_loop().time()
        await client.begin()
        watching = asyncio.create_task(client.watch())
        for _, request in LONG:
            client.say(*request)
        await until(lambda: len(client.frames) > block_frames(3).start)
        shelf = graph.shelf
        if away:
            graph.shelf = None
        await until(lambda: len(client.frames) > block_frames(8).start)
        unprotected = client.forgettable
        if away:
            with pytest.raises(AssertionError):
                assert unprotected == client.forgettable + 1
            graph.shelf = shelf
        client.close()
        await client.end()
        client.check()
        watching.cancel()
        return asyncio.get_running_loop().time() - client_began, len(client.frames)

    undisturbed, disturbed = in_virtual_time(main(False)), in_virtual_time(main(True))
    assert undisturbed[1] == disturbed[1]
    assert disturbed[0] - undisturbed[0] < 2.5


def test_a_frame_the_journal_does_not_tell_of_is_refused_and_without_one_the_session_is_lost() -> None:
    async def main() -> None:
        client = await told(ScriptedGraph(), 11)
        shelf = client.graph.shelf
        assert shelf is not None
        pages = shelf.read("s", None)
        assert client.acked > block_frames(5).stop
        for frame, reason in [
            (-1, "RESUME_FRAME_UNAVAILABLE"),
            (0, "RESUME_FRAME_UNAVAILABLE"),
            (10_000, "RESUME_FRAME_UNAVAILABLE"),
        ]:
            with pytest.raises(ServiceError) as raised:
                Remains.of(pages, frame)
            assert raised.value.reason == reason
        with pytest.raises(ServiceError) as raised:
            Remains.of({}, 0)
        assert raised.value.reason == "SESSION_LOST"
        assert client.owner is not None
        await client.owner.die()

    in_virtual_time(main())


@pytest.mark.parametrize("which", ["newest", "wanted", "before the wanted"])
def test_a_damaged_page_is_never_taken_for_what_it_was(which: str) -> None:
    """The newest is planned anew where nothing of it was shown; one that is needed costs the session, and not a wrong frame."""

    async def main() -> None:
        client = await told(ScriptedGraph(export_blocks=3), 7)
        shelf = client.graph.shelf
        assert client.owner is not None
        assert shelf is not None
        await client.owner.die()
        pages = shelf.read("s", None)
        newest = max(int(name) for name in pages if name.isdigit())
        frame = block_frames(7).start if which == "newest" else block_frames(7).start + 1
        for name in {"newest": range(8, newest + 1), "wanted": [7], "before the wanted": [6]}[which]:
            if str(name) in pages:
                pages[str(name)] = pages[str(name)][:-20] + bytes(20)
        if which == "wanted":
            with pytest.raises(ServiceError, match="RESUME_FRAME_UNAVAILABLE"):
                Remains.of(pages, frame)
            return
        remains = Remains.of(pages, frame)
        assert max(remains.pages) == (7 if which == "newest" else newest)
        assert min(remains.pages) == (min(int(n) for n in pages if n.isdigit()) if which == "newest" else 7)

    in_virtual_time(main())


def test_what_is_kept_of_a_session_is_bounded_here_and_in_the_vault() -> None:
    async def main(exporting: bool) -> tuple[int, int, int]:
        graph = ScriptedGraph(denoise_s=0.01, part_s=0.001)
        if not exporting:
            graph._export = lambda *_, **__: None  # type: ignore[method-assign]
        client = Client(graph, session_spec())
        await client.begin()
        watching = asyncio.create_task(client.watch())
        most, held = 0, 0
        for piece in range(24):
            client.say("hear", "u", np.arange(1 + piece * 5 * RATE, 1 + (piece + 1) * 5 * RATE, dtype=np.float32))
            await asyncio.sleep(1.0)
            assert client.owner is not None
            assert graph.shelf is not None
            most = max(most, len(client.owner.journal._pages))
            held = max(held, len(graph.shelf.read("s", None)))
            assert graph.shelf.nbytes == sum(h.nbytes for h in graph.shelf._sessions.values())
        client.close()
        await client.end()
        watching.cancel()
        return most, held, len(client.frames)

    most, held, frames = in_virtual_time(main(True))
    assert frames > block_frames(70).start
    # Five blocks of credit, two on their way, and as many as lie between two exports and one that is still to come.
    assert max(most, held) <= 5 + 2 + 2 * 4 + 2
    most, held, _ = in_virtual_time(main(False))
    assert max(most, held) <= MAX_PAGES + 3


@pytest.mark.parametrize("seed", range(8))
def test_a_looping_session_shows_the_rest_of_its_block_as_it_was_and_makes_another_clip(seed: int) -> None:
    rng = random.Random(seed)

    async def main() -> Client:
        client = Client(ScriptedGraph(), session_spec(Pacing.REALTIME, Idle.LOOP))
        await client.begin()
        watching = asyncio.create_task(client.watch(2.5))
        client.say("hear", "u", np.arange(1, 2 * RATE, dtype=np.float32))
        client.say("end", "u")
        await asyncio.sleep(rng.uniform(1.0, 16.0))
        shown = dict(client.frames)
        lost = rng.choice([3, 20, 45])
        await client.move(back=lost)
        await asyncio.sleep(14.0)
        for index, data in client.frames:
            assert shown.get(index, data) == data, "what was shown stays what it was"
        client.say("hear", "v", np.arange(100_000, 100_000 + 3 * RATE, dtype=np.float32))
        await asyncio.sleep(8.0)
        client.close()
        await client.end()
        watching.cancel()
        return client

    client = in_virtual_time(main())
    plans: dict[int, Page] = {p.made: p for owner in client.owners for p in owner.journal.noted.values() if p.plan}
    assert any(page.plan is None for page in client.owners[-1].journal.noted.values()), "a clip is played again"
    assert set(range(len(plans))) == set(plans)
    assert (client.sound > 0).sum() == 5 * RATE - 1
