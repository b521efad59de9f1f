"""A Pipecat bot with a LiveAct face, in one process: text in, a scripted LLM, a local TTS, LiveAct, and a film as the screen.

The pipeline, its worker, the TTS's base and the output transport's base are Pipecat's own; the transport plays at real time
into a film instead of a call.

    pip install 'liveact-serve[pipecat,train]'
    liveact serve                          # in another terminal
    python examples/pipecat_bot.py         # writes out/pipecat.mp4
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import numpy as np
from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    EndFrame,
    Frame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    OutputAudioRawFrame,
    OutputImageRawFrame,
    StartFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TTSService
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from pipecat.workers.runner import WorkerRunner
from stand_ins import RATE, Film, LocalVoice, scripted_llm

from liveact_services.adapters.pipecat import LiveActVideoService

HERE = Path(__file__).parent


class ScriptedLLM(FrameProcessor):
    """Answers what was said, from the script."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if not isinstance(frame, TranscriptionFrame):
            await self.push_frame(frame, direction)
            return
        await self.push_frame(LLMFullResponseStartFrame())
        async for word in scripted_llm(frame.text):
            await self.push_frame(LLMTextFrame(word))
        await self.push_frame(LLMFullResponseEndFrame())


class LocalTTS(TTSService):
    """The examples' voice as Pipecat asks for it."""

    def __init__(self, voice: LocalVoice) -> None:
        settings = TTSSettings(model="hibari", voice="heart", language=None)
        super().__init__(push_start_frame=True, push_stop_frames=True, sample_rate=RATE, settings=settings)
        self._voice = voice

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        audio = await self._voice.say(text)
        yield TTSAudioRawFrame(audio=audio, sample_rate=RATE, num_channels=1, context_id=context_id)


class Screen(BaseOutputTransport):
    """Plays at real time, and notes what was seen and heard when."""

    def __init__(self, fps: int) -> None:
        super().__init__(
            TransportParams(
                audio_out_enabled=True, audio_out_sample_rate=RATE, audio_out_end_silence_secs=0, video_out_enabled=True,
                video_out_framerate=fps,
            )
        )  # fmt: skip
        self.pictures: list[tuple[float, np.ndarray]] = []
        self.sounds: list[tuple[float, np.ndarray]] = []
        self.speaking: list[tuple[float, bool]] = []
        self.started, self.stopped = asyncio.Event(), asyncio.Event()
        self._free_at = 0.0

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        now = time.perf_counter()
        self._free_at = max(now, self._free_at)
        self.sounds.append((self._free_at, np.frombuffer(frame.audio, "<i2")))
        self._free_at += len(frame.audio) / 2 / frame.sample_rate
        await asyncio.sleep(self._free_at - now)
        return True

    async def write_video_frame(self, frame: OutputImageRawFrame) -> bool:
        width, height = frame.size
        self.pictures.append((time.perf_counter(), np.frombuffer(frame.image, np.uint8).reshape(height, width, 3)))
        return True

    async def push_frame(self, frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM) -> None:
        if (
            isinstance(frame, BotStartedSpeakingFrame | BotStoppedSpeakingFrame)
            and direction == FrameDirection.DOWNSTREAM
        ):
            speaks = isinstance(frame, BotStartedSpeakingFrame)
            self.speaking.append((time.perf_counter(), speaks))
            (self.started if speaks else self.stopped).set()
        await super().push_frame(frame, direction)


async def converse(server: str, screen: Screen, voice: Any) -> dict[str, float]:
    """Two answers, the first of which is interrupted after three seconds of it; gives when what happened."""
    face = LiveActVideoService(HERE / "portrait.jpg", target=server)
    pipeline = Pipeline([ScriptedLLM(), LocalTTS(voice), face, screen])
    worker = PipelineWorker(pipeline, params=PipelineParams(audio_out_sample_rate=RATE), cancel_on_idle_timeout=False)
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())

    async def ask(question: str) -> None:
        screen.started.clear()
        screen.stopped.clear()
        await worker.queue_frame(TranscriptionFrame(question, "listener", ""))
        await screen.started.wait()

    await ask("Who are you?")
    await asyncio.sleep(3)
    interrupted_at = time.perf_counter()
    await worker.queue_frame(InterruptionFrame())
    await screen.stopped.wait()
    asked_at = time.perf_counter()
    await ask("How do you work?")
    await worker.queue_frame(EndFrame())
    await running
    return {"interrupted_at": interrupted_at, "asked_at": asked_at}


async def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--server", default="127.0.0.1:9000")
    arguments.add_argument("--out", type=Path, default=Path("out/pipecat.mp4"))
    chosen = arguments.parse_args()
    screen = Screen(fps=20)
    told = await converse(chosen.server, screen, LocalVoice())
    began = min(screen.pictures[0][0], screen.sounds[0][0])
    film = Film(chosen.out, screen.pictures[0][1].shape[1], screen.pictures[0][1].shape[0], fps=20)
    for at, pixels in screen.pictures:
        film.picture(pixels, at - began)
    for at, samples in screen.sounds:
        film.sound(samples, at - began)
    film.close()
    heard_after = [at for at, s in screen.sounds if told["interrupted_at"] < at < told["asked_at"] + 0.3 and s.any()]
    last = max(heard_after, default=told["interrupted_at"]) - told["interrupted_at"]
    print(
        f"last old sound {1000 * last:.0f} ms after the interrupt; {len(screen.pictures)} pictures; written to {chosen.out}"
    )


if __name__ == "__main__":
    asyncio.run(main())
