"""The Pipecat adapter with the real `pipecat-ai`: its pipeline, worker and output transport; the Gateway of this process."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import numpy as np
import pytest
import pytest_asyncio

pytest.importorskip("pipecat", reason="needs the extra pipecat: pip install 'liveact-serve[pipecat]'")

from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    InterruptionFrame,
    OutputImageRawFrame,
    TextFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner

from avatar_fixtures import RATE, SIDE, PaintingStages, counting
from conftest import EXAMPLES
from liveact.v1 import avatar_pb2 as pb
from liveact_services.adapters.pipecat import LiveActVideoService
from liveact_services.gateway import deployment
from resume_fixtures import until
from tenant_fixtures import Serving, picture, serving

sys.path.insert(0, str(EXAMPLES))
from pipecat_bot import Screen

pytest_plugins = ["session_fixtures", "tenant_fixtures"]
pytestmark = pytest.mark.slow

OPTIONS = {"size": (SIDE, SIDE), "codec": pb.VIDEO_CODEC_RGB, "sample_rate_hz": RATE}


@pytest_asyncio.fixture
async def gateway(in_process: None, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> AsyncIterator[Serving]:
    monkeypatch.setattr(deployment, "serve_stages", lambda *_: PaintingStages())
    async with serving(redis_url) as gateway:
        yield gateway


class Tap(FrameProcessor):
    """Notes what passes, and passes it on."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[Frame] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if direction == FrameDirection.DOWNSTREAM:
            self.frames.append(frame)
        await self.push_frame(frame, direction)

    def of(self, kind: type[Frame], start: int = 0) -> list[Frame]:
        return [frame for frame in self.frames[start:] if isinstance(frame, kind)]


@dataclass
class Running:
    """A pipeline of the adapter that runs."""

    worker: PipelineWorker
    tap: Tap
    task: asyncio.Task[None]
    errors: list[ErrorFrame] = field(default_factory=list)

    async def say(self, seconds: float, first: int = 1) -> None:
        pcm = counting(seconds, first=first).pcm
        await self.worker.queue_frame(TTSStartedFrame())
        for at in range(0, len(pcm), 9600):
            await self.worker.queue_frame(TTSAudioRawFrame(audio=pcm[at : at + 9600], sample_rate=RATE, num_channels=1))
        await self.worker.queue_frame(TTSStoppedFrame())

    async def end(self) -> None:
        await self.worker.queue_frame(EndFrame())
        await asyncio.wait_for(self.task, 60)


def run(address: str, *more: FrameProcessor, image: bytes | None = None) -> Running:
    tap = Tap()
    service = LiveActVideoService(image or picture(), target=address, options=OPTIONS)
    worker = PipelineWorker(
        Pipeline([service, tap, *more]), params=PipelineParams(audio_out_sample_rate=RATE), cancel_on_idle_timeout=False
    )

    async def work() -> None:
        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(worker)
        await runner.run()

    running = Running(worker, tap, asyncio.create_task(work()))

    @worker.event_handler("on_pipeline_error")
    async def failed(worker: PipelineWorker, frame: ErrorFrame) -> None:
        running.errors.append(frame)

    return running


def sound(frames: list[Frame]) -> np.ndarray:
    pieces = [np.frombuffer(frame.audio, "<i2") for frame in frames if isinstance(frame, TTSAudioRawFrame)]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int16)


async def test_speech_comes_back_whole_behind_its_pictures_and_before_its_stop(gateway: Serving) -> None:
    running = run(gateway.address)
    await running.say(2.0)
    await running.worker.queue_frame(TextFrame("passes"))
    await until(lambda: bool(running.tap.of(TTSStoppedFrame)), 60)
    await running.end()
    frames = running.tap.frames
    stop = next(i for i, f in enumerate(frames) if isinstance(f, TTSStoppedFrame))
    voice = np.frombuffer(counting(2.0).pcm, "<i2")
    heard = sound(frames[:stop])
    start = int(np.flatnonzero(heard)[0])
    np.testing.assert_allclose(heard[start : start + len(voice)], voice, atol=1)
    assert not sound(frames[stop:]).any()
    spoken = [i for i, f in enumerate(frames) if isinstance(f, TTSAudioRawFrame)]
    for i in spoken:
        before = frames[i - 1]
        assert isinstance(before, OutputImageRawFrame)
        assert before.sync_with_audio
        assert (before.size, before.format, len(before.image)) == ((SIDE, SIDE), "RGB", SIDE * SIDE * 3)
    assert any(not f.sync_with_audio for f in running.tap.of(OutputImageRawFrame)), "pictures while nobody speaks"
    assert [f.text for f in running.tap.of(TextFrame)] == ["passes"]
    assert frames.index(running.tap.of(TTSStartedFrame)[0]) < spoken[0]
    assert running.errors == []


async def test_an_interruption_stops_old_sound_and_its_stop_frame(gateway: Serving) -> None:
    running = run(gateway.address)
    await running.say(8.0)
    await until(lambda: bool(running.tap.of(TTSAudioRawFrame)), 60)
    await running.worker.queue_frame(InterruptionFrame())
    await until(lambda: bool(running.tap.of(InterruptionFrame)), 20)
    passed = next(i for i, f in enumerate(running.tap.frames) if isinstance(f, InterruptionFrame))
    await running.say(1.0, first=20000)
    await until(lambda: bool(running.tap.of(TTSStoppedFrame)), 60)
    await running.end()
    after = sound(running.tap.frames[passed:])
    assert after[after != 0].min() >= 20000 - 1, "old sound behind the interruption"
    assert len(running.tap.of(TTSStoppedFrame)) == 1, "only the second speech ends"
    assert running.errors == []


async def test_the_real_transport_shows_and_plays_it_and_goes_quiet_when_interrupted(gateway: Serving) -> None:
    screen = Screen(fps=20)
    running = run(gateway.address, screen)
    await running.say(6.0)
    await asyncio.wait_for(screen.started.wait(), 60)
    await until(lambda: sum(s.any() for _, s in screen.sounds) > 10, 60)
    await running.worker.queue_frame(InterruptionFrame())
    await asyncio.wait_for(screen.stopped.wait(), 20)
    await asyncio.sleep(0.3)
    quiet = len(screen.sounds)
    await asyncio.sleep(2.0)
    assert not any(s.any() for _, s in screen.sounds[quiet:])
    assert len(screen.pictures) > 20
    await running.end()
    assert [speaks for _, speaks in screen.speaking] == [True, False]


async def test_the_end_of_the_pipeline_waits_for_the_last_words_and_closes_the_session(gateway: Serving) -> None:
    running = run(gateway.address)
    await running.say(1.5)
    await running.end()
    assert np.count_nonzero(sound(running.tap.frames)) == round(1.5 * RATE)
    async with gateway.client() as client:
        (session,) = await client.list_sessions()
    assert session.state == pb.SESSION_STATE_CLOSED


async def test_a_session_that_cannot_be_opened_is_an_error_with_its_reason(gateway: Serving) -> None:
    running = run(gateway.address, image=b"no picture")
    await until(lambda: bool(running.errors), 30)
    assert "IMAGE_FORMAT_UNSUPPORTED" in running.errors[0].error
    await running.worker.cancel()
    await asyncio.wait_for(running.task, 30)
