"""A session that moves between Gateways: what each has of it, a client that goes on, and what it then must have."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graph_fixtures import ScriptedGraph, digest, groups
from liveact_models.timeline import block_frames
from liveact_models.voice import VoiceBuffer
from liveact_services.conductor.archive import first_attempt
from liveact_services.conductor.conductor import Conductor
from liveact_services.conductor.journal import Journal
from liveact_services.conductor.outputs import Event, Output, Sound, Video
from liveact_services.conductor.parts import Part
from liveact_services.conductor.patience import Patience
from liveact_services.conductor.points import Opening, Page
from liveact_services.conductor.stages import BlockPlan, SessionSpec
from liveact_services.conductor.succession import Remains, SucceedingStages
from liveact_services.errors import ServiceError
from stage_fixtures import FPS, RATE

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
        self.stages = SucceedingStages(graph, PATIENCE, graph.export_blocks, now=now, attempt=self.attempt)
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
        await self.journal.opened()
        self.running = asyncio.create_task(self.conductor.run())

    async def inherit(self, frame: int) -> Remains:
        """Go on with what another has left, as `gateway.takeover` does."""
        remains = Remains.of(await self.graph.read(self.spec.session, self.attempt), frame)
        self.stages.inherit(remains, self.graph.holders())
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
