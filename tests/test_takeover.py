"""A session goes on at another Gateway: every frame once, with its bytes, wherever it was when the first was lost.

Two Gateways share a graph by script, in virtual time; each has a Conductor, and what is between them is a journal.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from graph_fixtures import ScriptedGraph, digest, groups, until
from liveact_models.timeline import block_frames
from liveact_models.voice import VoiceBuffer
from liveact_services.conductor.archive import first_attempt
from liveact_services.conductor.conductor import Conductor
from liveact_services.conductor.journal import MAX_PAGES, Journal
from liveact_services.conductor.outputs import Event, Output, Sound, Video
from liveact_services.conductor.parts import Part
from liveact_services.conductor.patience import Patience
from liveact_services.conductor.points import Opening, Page
from liveact_services.conductor.stages import BlockPlan, Idle, Pacing, SessionSpec
from liveact_services.conductor.succession import Remains, SucceedingStages
from liveact_services.errors import ServiceError
from liveact_services.vault.shelf import Shelf
from stage_fixtures import FPS, RATE, in_virtual_time, session_spec

PATIENCE = Patience(stage_s=5.0, place_s=60.0)
PORTRAIT = np.zeros((3, 32, 32), np.float32)
CREDIT = 160

Request = tuple[Any, ...]
"""("hear", utterance, samples), ("end", utterance), ("interrupt",) or ("update", prompt, from_s)."""


class Recording(Journal):
    """A journal whose pages can be looked at."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.noted: dict[int, Page] = {}

    def note(self, page: Page) -> None:
        self.noted[page.block] = page
        super().note(page)


class Owner:
    """What one Gateway has of the session."""

    def __init__(self, graph: ScriptedGraph, spec: SessionSpec, token: int, emit: Callable[[Output], None]) -> None:
        self.graph, self.spec, self.attempt = graph, spec, first_attempt(token)
        now = asyncio.get_running_loop().time
        self.stages = SucceedingStages(graph, PATIENCE, graph.export_blocks, now, self.attempt)
        self.journal = Recording(graph, spec.session, self.attempt, self.stages.protect)
        self._emit, self.dead = emit, False
        self.conductor = Conductor(
            spec, self.stages, self.take, credit_frames=CREDIT, now=now, journal=self.journal
        )  # fmt: skip
        self.running: asyncio.Task[None] | None = None

    def take(self, output: Output) -> None:
        if not self.dead:
            self._emit(output)

    async def begin(self) -> None:
        self.journal.open(Opening(self.spec, {"rate": RATE, "channels": 1, "encoding": "s16le"}), PORTRAIT)
        await self.stages.open(self.spec, PORTRAIT)
        self.running = asyncio.create_task(self.conductor.run())

    async def inherit(self, frame: int) -> Remains:
        """Go on with what another has left, as `gateway.takeover` does."""
        remains = Remains.of(await self.graph.read(self.spec.session, self.attempt), frame)
        held = {part: holder.name for part in Part if (holder := self.graph.holder(part)) is not None}
        self.stages.inherit(remains, held)
        self.journal.go_on(remains.pages, remains.others, remains.state.made, frame)
        self.conductor.restore(remains.state, remains.again(self.stages), frame)
        self.running = asyncio.create_task(self._go_on())
        return remains

    async def _go_on(self) -> None:
        await self.stages.open(self.spec, None)
        await self.conductor.run()

    def do(self, request: Request) -> None:
        kind, *rest = request
        verbs = {
            "hear": self.conductor.hear, "end": self.conductor.end_utterance, "interrupt": self.conductor.interrupt,
            "update": self.conductor.update,
        }  # fmt: skip
        verbs[kind](*rest)

    async def die(self) -> None:
        """The process is killed: nothing it has begun here goes on. What it has sent is under way all the same."""
        self.dead = True
        self.journal.close()
        self.stages.let_go()
        if self.running is not None:
            self.running.cancel()
            await asyncio.gather(self.running, return_exceptions=True)


@dataclass
class Client:
    """A viewer that keeps what it may be asked for again, and goes on at another Gateway when one is lost."""

    graph: ScriptedGraph
    spec: SessionSpec
    frames: list[tuple[int, bytes]] = field(default_factory=list)
    spoken: list[str] = field(default_factory=list)
    sounds: dict[int, np.ndarray] = field(default_factory=dict)
    said: list[Request] = field(default_factory=list)
    """All requests so far, by their number."""
    forgettable: int = 0
    events: list[Event] = field(default_factory=list)
    closed: bool = False
    acked: int = 0
    resumed: int = 0
    owner: Owner | None = None
    owners: list[Owner] = field(default_factory=list)
    tokens: int = 0
    asked_again: list[int] = field(default_factory=list)
    pages: dict[int, Page] = field(default_factory=dict)
    """Of every block, as the owner planned it from whom the client has it."""

    def take(self, output: Output) -> None:
        if isinstance(output, Video):
            for frame, utterance in zip(output.part.frames, output.utterances, strict=True):
                assert frame.index == len(self.frames), "every frame once, in order"
                assert output.part.block in self.sounds, "sound precedes its frames"
                self.frames.append((frame.index, frame.data))
                self.spoken.append(utterance)
        elif isinstance(output, Sound):
            known = self.sounds.setdefault(output.block, output.samples)
            assert np.array_equal(known, output.samples), "sound that comes again is the same"
            assert output.next_request >= self.forgettable
            self.forgettable = output.next_request
        else:
            self.events.append(output)

    async def begin(self) -> None:
        self.owner = Owner(self.graph, self.spec, 1, self.take)
        self.owners.append(self.owner)
        self.tokens = 1
        await self.owner.begin()

    def say(self, *request: Any) -> None:
        self.said.append(request)
        assert self.owner is not None
        self.owner.do(request)

    def ack(self, frame: int) -> None:
        assert self.owner is not None
        self.acked = frame
        self.owner.conductor.ack(frame)

    def close(self) -> None:
        assert self.owner is not None
        self.closed = True
        self.owner.conductor.finish()

    async def move(self, *, back: int = 0, kill: bool = True) -> None:
        """Lose the Gateway and the last `back` frames that are not acknowledged, and go on at another."""
        assert self.owner is not None
        before = self.owner
        if kill:
            await before.die()
        else:
            before.dead = True
        # What it once went on from it has, acknowledged or not.
        keep = self.resumed = max(self.acked, self.resumed, len(self.frames) - back)
        del self.frames[keep:], self.spoken[keep:]
        self.tokens += 1
        self.owner = Owner(self.graph, self.spec, self.tokens, self.take)
        self.owners.append(self.owner)
        remains = await self.owner.inherit(keep)
        self._collect(before, remains.state.planned)
        first = self.owner.conductor.requests
        assert first >= self.forgettable, "what may be forgotten is never asked for"
        self.asked_again.append(len(self.said) - first)
        for request in self.said[first:]:
            self.owner.do(request)
        if self.closed:
            self.owner.conductor.finish()

    async def watch(self, lag_s: float = 0.3) -> None:
        """Acknowledge what has come, a while later."""
        while True:
            seen = len(self.frames)
            await asyncio.sleep(lag_s)
            if self.owner is not None and min(seen, len(self.frames)) > self.acked:
                self.ack(min(seen, len(self.frames)))

    async def end(self) -> None:
        assert self.owner is not None
        assert self.owner.running is not None
        await self.owner.running

    @property
    def sound(self) -> np.ndarray:
        return np.concatenate([self.sounds[block] for block in sorted(self.sounds)])

    def _collect(self, owner: Owner, until: int) -> None:
        self.pages |= {block: page for block, page in owner.journal.noted.items() if block < until}

    def check(self, *, interrupted: bool = False) -> None:
        """Every frame is what the model makes of the plans, and the plans are those of all the voice, each sample once."""
        assert self.owner is not None
        self._collect(self.owner, 1 << 30)
        pages = [self.pages[block] for block in range(len(self.pages))]
        assert len(self.frames) == block_frames(len(pages) - 1).stop
        assert self.frames == rendered(self.spec, [page.plan for page in pages if page.plan is not None])
        assert np.array_equal(self.sound, np.concatenate([page.sound.samples for page in pages]))
        spoken = self.sound[self.sound > 0]
        said = np.concatenate([request[2] for request in self.said if request[0] == "hear"])
        if interrupted:
            assert (np.diff(spoken) > 0).all()
            assert np.isin(spoken, said).all()
            return
        assert np.array_equal(spoken, said)
        whole = VoiceBuffer(RATE, FPS)
        silent = np.flatnonzero(np.diff(self.sound > 0)) + 1
        for run in np.split(self.sound, silent):
            whole.append(run, voiced=bool(len(run) and run[0] > 0))
        whole.append(np.zeros(RATE, np.float32), voiced=False)
        for page in pages:
            expected = whole.window(page.block)
            assert page.plan is not None
            heard = page.plan.voice
            assert np.array_equal(heard.samples, expected.samples)
            assert (heard.mean, heard.std) == (expected.mean, expected.std)


def rendered(spec: SessionSpec, plans: list[BlockPlan]) -> list[tuple[int, bytes]]:
    """What `ScriptedGraph` makes of these plans when nothing happens to it."""
    denoiser, decoder = (digest(part, spec.seed, spec.prompt) for part in Part)
    frames = []
    for plan in plans:
        denoiser = digest(denoiser, plan.voice.samples.tobytes(), plan.prompt)
        for group in groups(plan.block):
            decoder = digest(decoder, digest("latents", denoiser))
            frames += [(i, digest(decoder, i)) for i in group]
    return frames


def script(seed: int, *, pieces: bool, interrupts: bool) -> list[tuple[float, Request]]:
    """What a client says, and when: every sample of voice another number."""
    rng = random.Random(seed)
    said: list[tuple[float, Request]] = []
    at, first = 0.0, 1
    for number in range(rng.randint(2, 4)):
        name, left = f"u{number}", round(rng.uniform(1.0, 7.0) * RATE)
        while left > 0:
            size = min(left, round((rng.choice([0.1, 0.4, 1.1]) if pieces else rng.uniform(0.5, 3.0)) * RATE))
            said.append((at, ("hear", name, np.arange(first, first + size, dtype=np.float32))))
            first, left = first + size, left - size
            at += size / RATE if pieces else 0.0
            if rng.random() < 0.15:
                said.append((at, ("update", f"prompt {len(said)}", rng.uniform(0, 12))))
        if interrupts and rng.random() < 0.4:
            at += rng.uniform(0.0, 1.0)
            said.append((at, ("interrupt",)))
        said.append((at, ("end", name)))
        at += rng.uniform(0.0, 2.5) if pieces else 0.0
    return said


async def perform(
    spec: SessionSpec,
    said: list[tuple[float, Request]],
    losses: list[tuple[float, int, bool]] = (),  # type: ignore[assignment]
    **graph: Any,
) -> Client:
    """The script through a session; each loss is (seconds, frames lost with it, whether the old Gateway is killed)."""
    scripted = ScriptedGraph(**graph)
    client = Client(scripted, spec)
    await client.begin()
    watching = asyncio.create_task(client.watch())
    loop = asyncio.get_running_loop()
    began = loop.time()
    todo = sorted(
        [(at, 0, i, request) for i, (at, request) in enumerate(said)]
        + [(at, 1, i, (back, kill)) for i, (at, back, kill) in enumerate(losses)],
        key=lambda item: item[:3],
    )
    for at, kind, _, what in todo:
        await asyncio.sleep(max(0.0, began + at - loop.time()))
        if kind == 0:
            client.say(*what)
        elif client.owner is not None and client.owner.running is not None and not client.owner.running.done():
            await client.move(back=what[0], kill=what[1])
    client.close()
    for at, back, kill in losses:
        # Those that were to come after the last word.
        if began + at > loop.time() and client.owner is not None and client.owner.running is not None:
            await asyncio.wait({client.owner.running}, timeout=began + at - loop.time())
            if not client.owner.running.done():
                await client.move(back=back, kill=kill)
    async with asyncio.timeout(900):
        await client.end()
    watching.cancel()
    for owner in client.owners:
        await owner.die()
    return client


def some_losses(seed: int, until_s: float) -> list[tuple[float, int, bool]]:
    """One to three Gateways lost, anywhere; of each the client may have lost up to its credit of frames too."""
    rng = random.Random(1000 + seed)
    return sorted((rng.uniform(0.05, until_s), rng.choice([0, 0, 1, 7, 40, 200]), rng.random() < 0.7)
                  for _ in range(rng.randint(1, 3)))  # fmt: skip


def fenced(client: Client) -> None:
    """Whoever was not killed has found out that the session is somebody else's, or had nothing to do."""
    for owner in client.owners[:-1]:
        if owner.running is not None and owner.running.done() and not owner.running.cancelled():
            error = owner.running.exception()
            assert isinstance(error, ServiceError), error
            assert error.reason == "SESSION_TAKEN_OVER"


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
        for frame, reason in [(0, "RESUME_FRAME_UNAVAILABLE"), (10_000, "RESUME_FRAME_UNAVAILABLE")]:
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
