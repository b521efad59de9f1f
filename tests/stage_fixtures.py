"""Stages that follow a script, a loop whose time is virtual, and a viewer: what tests of the Conductor are made of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, TypeVar

import numpy as np

from liveact_models.timeline import block_frames, block_sound_frames
from liveact_models.voice import VoiceBuffer
from liveact_services.conductor.clock import PlayClock
from liveact_services.conductor.conductor import Conductor
from liveact_services.conductor.outputs import Event, Happening, Output, Sound, Video
from liveact_services.conductor.parts import Moved
from liveact_services.conductor.stages import (
    BlockPlan,
    Codec,
    EncodedFrame,
    Idle,
    Pacing,
    SessionSpec,
    StageTimes,
    VideoPart,
)

T = TypeVar("T")
FPS, RATE = 20, 16000


def session_spec(
    pacing: Pacing = Pacing.FASTEST, idle: Idle = Idle.ANIMATE, codec: Codec = Codec.RGB, **changes: Any
) -> SessionSpec:
    values: dict[str, Any] = {
        "session": "s", "width": 32, "height": 32, "fps": FPS, "seed": 7, "prompt": "A person speaks.", "rate": RATE,
    }  # fmt: skip
    return SessionSpec(codec=codec, pacing=pacing, idle=idle, **{**values, **changes})


def counted(seconds: float, first: int = 1, rate: int = RATE) -> np.ndarray:
    """Voice in which every sample is another number, so that none is lost, doubled or moved unseen."""
    return np.arange(first, first + round(seconds * rate), dtype=np.float32)


def noise_portrait() -> np.ndarray:
    """A picture float32 [3, 32, 32] that no two pixels of are alike."""
    return np.random.default_rng(1).uniform(-1, 1, (3, 32, 32)).astype(np.float32)


def hummed_plans(blocks: int, prompts: Mapping[int, str]) -> list[BlockPlan]:
    """The first blocks of a session that hears a tone, with another prompt from each of those named on."""
    voice = VoiceBuffer(RATE, FPS)
    seconds = np.arange(voice.boundary(block_sound_frames(blocks - 1).stop)) / RATE
    voice.append((0.3 * np.sin(2 * np.pi * 220 * seconds)).astype(np.float32))
    return [BlockPlan(block, voice.window(block), prompts.get(block)) for block in range(blocks)]


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes when everybody waits, and at once. A wait that nothing could end is an error."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        poll = self._selector.select  # type: ignore[attr-defined]

        def select(timeout: float | None) -> list[Any]:
            events = poll(0)
            if timeout is None and not events:
                raise RuntimeError("everybody waits and nothing will happen")
            # Never quite still: who waits for a moment that is a rounding error away must reach it.
            self._now += max(timeout or 0.0, 1e-7)
            return events

        self._selector.select = select  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._now


def in_virtual_time(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class ScriptedStages:
    """Blocks denoised one after the other in `denoise_s` each, decoded in `part_s` a latent frame; a frame is its number."""

    replicas = ("denoiser-1", "decoder-1")

    def __init__(self, denoise_s: float = 0.2, part_s: float = 0.01, fails_at: int | None = None) -> None:
        self.denoise_s, self.part_s, self.fails_at = denoise_s, part_s, fails_at
        self.plans: list[BlockPlan] = []
        self.submitted: list[float] = []
        self.finished = 0
        self.most_unfinished = 0
        self.closed = False
        self._denoising: asyncio.Task[None] | None = None

    def listen(self, listener: Callable[[Moved], None]) -> None:
        self.moved = listener

    async def open(self, spec: SessionSpec, portrait: np.ndarray | None) -> None:
        await asyncio.sleep(0)

    def submit(self, plan: BlockPlan) -> AsyncIterator[VideoPart]:
        self.plans.append(plan)
        self.submitted.append(asyncio.get_running_loop().time())
        self.most_unfinished = max(self.most_unfinished, len(self.plans) - self.finished)
        self._denoising = asyncio.create_task(self._denoise(plan.block, self._denoising))
        return self._parts(plan, self._denoising)

    async def keep(self) -> None:
        pass

    async def close(self) -> None:
        self.closed = True

    def let_go(self) -> None:
        pass

    async def pack(self) -> None:
        pass

    async def release(self) -> None:
        pass

    def protect(self) -> None:
        pass

    async def _denoise(self, block: int, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        await asyncio.sleep(self.denoise_s)
        if block == self.fails_at:
            raise RuntimeError(f"block {block} failed")

    async def _parts(self, plan: BlockPlan, denoised: asyncio.Task[None]) -> AsyncIterator[VideoPart]:
        await denoised
        block = plan.block
        frames = [EncodedFrame(i, i == block_frames(block).start, b"%d" % i) for i in block_frames(block)]
        first = len(frames) % 4
        backward = tuple(EncodedFrame(i, i == 0, f.data) for i, f in enumerate(reversed(frames)))
        for group in ([frames[:first]] if first else []) + [frames[i : i + 4] for i in range(first, len(frames), 4)]:
            await asyncio.sleep(self.part_s)
            last = plan.backward and group[-1] is frames[-1]
            yield VideoPart(block, tuple(group), StageTimes(), backward if last else ())
        self.finished += 1


class Performance:
    """A Conductor over scripted stages, and all it emitted. `shows`: a viewer plays on time and acknowledges what it showed."""

    def __init__(
        self, spec: SessionSpec, stages: ScriptedStages | None = None, *, credit: int = 160, shows: bool = True
    ) -> None:
        self.stages = stages or ScriptedStages()
        self.outputs: list[tuple[float, Output]] = []
        self.shown_at: list[float] = []
        self.stalled_s = 0.0
        self.most_ahead = 0
        loop = asyncio.get_running_loop()
        self.now = loop.time
        self.conductor = Conductor(spec, self.stages, self._take, credit_frames=credit, now=loop.time)
        self._frames = 0
        self._viewer = asyncio.create_task(self._show(spec.fps)) if shows else None
        self.run = asyncio.create_task(self.conductor.run())

    def _take(self, output: Output) -> None:
        self.outputs.append((self.now(), output))
        if isinstance(output, Video):
            self._frames += len(output.part.frames)
            self.most_ahead = max(self.most_ahead, self._frames - len(self.shown_at))

    async def _show(self, fps: int) -> None:
        while not self._frames:
            await asyncio.sleep(0.005)
        due = self.now() + PlayClock(fps, self.now).playout_delay
        while True:
            await asyncio.sleep(due - self.now())
            late_from = self.now()
            while self._frames <= len(self.shown_at):
                await asyncio.sleep(0.005)
            late = self.now() - late_from
            self.stalled_s += late
            self.shown_at.append(self.now())
            self.conductor.ack(len(self.shown_at))
            due += 1 / fps + late

    async def end(self) -> None:
        """Close, and wait for the end."""
        self.conductor.finish()
        await self.run
        self.stop()

    def stop(self) -> None:
        self.run.cancel()
        if self._viewer is not None:
            self._viewer.cancel()

    @property
    def sound(self) -> np.ndarray:
        sounds = [output for _, output in self.outputs if isinstance(output, Sound)]
        assert [s.block for s in sounds] == list(range(len(sounds)))
        return np.concatenate([s.samples for s in sounds]) if sounds else np.zeros(0, np.float32)

    @property
    def frames(self) -> list[int]:
        return [f.index for _, output in self.outputs if isinstance(output, Video) for f in output.part.frames]

    def events(self, *kinds: Happening) -> list[Event]:
        events = [output for _, output in self.outputs if isinstance(output, Event)]
        return [event for event in events if not kinds or event.kind in kinds]

    def place(self, sample: float) -> int:
        """Where in the sound a counted sample is heard."""
        (at,) = np.flatnonzero(self.sound == sample)
        return int(at)
