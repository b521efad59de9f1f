"""A LiveKit agent with a LiveAct face, in one process and without a LiveKit server.

The agent session, avatar runner, synchronizer, sources and tracks are LiveKit's own. Only the room is a stand-in: it takes the
published tracks and watches them, as a participant would. In production the runner gets a connected `rtc.Room` and
`DataStreamAudioReceiver(room)`, and the agent `DataStreamAudioOutput(room, destination_identity=...)`.

    pip install 'liveact-serve[livekit,train]'
    liveact serve                          # in another terminal
    python examples/livekit_agent.py       # writes out/livekit.mp4
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
from livekit import rtc
from livekit.agents import NOT_GIVEN, Agent, AgentSession, llm, tts
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS
from livekit.agents.utils import shortuuid
from livekit.agents.voice.avatar import AvatarRunner, QueueAudioOutput
from stand_ins import RATE, Film, LocalVoice, scripted_llm

from liveact_services.adapters.livekit import LiveActVideoGenerator
from liveact_services.client import AvatarClient

HERE = Path(__file__).parent


class ScriptedLLM(llm.LLM):
    """Answers the last thing said, from the script."""

    def chat(self, *, chat_ctx: llm.ChatContext, tools: Any = None, conn_options: Any = DEFAULT_API_CONNECT_OPTIONS,
             parallel_tool_calls: Any = NOT_GIVEN, tool_choice: Any = NOT_GIVEN, extra_kwargs: Any = NOT_GIVEN,
             ) -> llm.LLMStream:  # fmt: skip
        return ScriptedStream(self, chat_ctx=chat_ctx, tools=tools or [], conn_options=conn_options)


class ScriptedStream(llm.LLMStream):
    async def _run(self) -> None:
        asked = [m for m in self._chat_ctx.items if m.type == "message" and m.role == "user"]
        async for word in scripted_llm((asked[-1].text_content or "") if asked else ""):
            delta = llm.ChoiceDelta(role="assistant", content=word)
            self._event_ch.send_nowait(llm.ChatChunk(id=shortuuid(), delta=delta))


class LocalTTS(tts.TTS):
    """The examples' voice as LiveKit asks for it, sentence by sentence."""

    def __init__(self) -> None:
        super().__init__(capabilities=tts.TTSCapabilities(streaming=False), sample_rate=RATE, num_channels=1)
        self.voice = LocalVoice()

    def synthesize(self, text: str, *, conn_options: Any = DEFAULT_API_CONNECT_OPTIONS) -> tts.ChunkedStream:
        return LocalSpeech(tts=self, input_text=text, conn_options=conn_options)


class LocalSpeech(tts.ChunkedStream):
    async def _run(self, output_emitter: tts.AudioEmitter) -> None:
        output_emitter.initialize(request_id=shortuuid(), sample_rate=RATE, num_channels=1, mime_type="audio/pcm")
        assert isinstance(self._tts, LocalTTS)
        output_emitter.push(await self._tts.voice.say(self._input_text))
        output_emitter.flush()


class LocalRoom:
    """Stands where a connected `rtc.Room` would: whoever publishes here is watched from the next line on."""

    def __init__(self) -> None:
        self.local_participant = self
        self.pictures: list[tuple[float, np.ndarray]] = []
        """Seconds of `time.perf_counter` and uint8 [H, W, 3]."""
        self.sounds: list[tuple[float, np.ndarray]] = []
        self._watching: list[asyncio.Task[None]] = []
        self._streams: list[Any] = []

    def isconnected(self) -> bool:
        return True

    def on(self, event: str, callback: Any) -> None:
        """Nothing ever happens to the connection."""

    def off(self, event: str, callback: Any) -> None:
        """As above."""

    async def publish_track(self, track: Any, options: Any) -> LocalRoom:
        watch = self._listen(track) if isinstance(track, rtc.LocalAudioTrack) else self._look(track)
        self._watching.append(asyncio.create_task(watch))
        return self

    async def wait_for_subscription(self) -> None:
        """The viewer is here already."""

    async def _look(self, track: rtc.LocalVideoTrack) -> None:
        stream = rtc.VideoStream(track, format=rtc.VideoBufferType.RGB24)
        self._streams.append(stream)
        async for event in stream:
            pixels = np.frombuffer(event.frame.data, np.uint8).reshape(event.frame.height, event.frame.width, 3)
            self.pictures.append((time.perf_counter(), pixels.copy()))

    async def _listen(self, track: rtc.LocalAudioTrack) -> None:
        stream = rtc.AudioStream(track, sample_rate=RATE, num_channels=1)
        self._streams.append(stream)
        async for event in stream:
            self.sounds.append((time.perf_counter(), np.frombuffer(event.frame.data, "<i2").copy()))

    async def leave(self) -> None:
        """Watch no more."""
        for stream in self._streams:
            await stream.aclose()
        for task in self._watching:
            task.cancel()


async def converse(server: str, room: LocalRoom, voice: tts.TTS) -> dict[str, Any]:
    """Two answers, the first of which is interrupted after three seconds of it; gives when what happened."""
    async with AvatarClient(server) as client, client.session(HERE / "portrait.jpg") as face:
        generator = LiveActVideoGenerator(face)
        output = QueueAudioOutput(sample_rate=RATE, wait_playback_start=True)
        finished: list[Any] = []
        started = asyncio.Event()
        output.on("playback_finished", finished.append)
        output.on("playback_started", lambda _: started.set())
        runner = AvatarRunner(room, audio_recv=output, video_gen=generator, options=generator.options)  # type: ignore[arg-type]
        await runner.start()
        agent: AgentSession[None] = AgentSession(llm=ScriptedLLM(), tts=voice)
        agent.output.audio = output
        await agent.start(Agent(instructions="Answer in one or two sentences."), record=False)
        first = agent.generate_reply(user_input="Who are you?")
        await started.wait()
        await asyncio.sleep(3)
        interrupted_at = time.perf_counter()
        await agent.interrupt()
        await first
        second = agent.generate_reply(user_input="How do you work?")
        asked_at = time.perf_counter()
        await second
        done_at = time.perf_counter()
        await agent.aclose()
        await runner.aclose()
        await room.leave()
    return {"interrupted_at": interrupted_at, "asked_at": asked_at, "done_at": done_at, "playbacks": finished}


async def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--server", default="127.0.0.1:9000")
    arguments.add_argument("--out", type=Path, default=Path("out/livekit.mp4"))
    chosen = arguments.parse_args()
    room = LocalRoom()
    told = await converse(chosen.server, room, LocalTTS())
    began = min(room.pictures[0][0], room.sounds[0][0])
    film = Film(chosen.out, room.pictures[0][1].shape[1], room.pictures[0][1].shape[0], fps=20)
    for at, pixels in room.pictures:
        film.picture(pixels, at - began)
    for at, samples in room.sounds:
        film.sound(samples, at - began)
    film.close()
    for playback in told["playbacks"]:
        print(f"spoke for {playback.playback_position:.2f} s{', interrupted' if playback.interrupted else ''}")
    heard_after = [at for at, s in room.sounds if told["interrupted_at"] < at < told["asked_at"] + 0.3 and s.any()]
    last = max(heard_after, default=told["interrupted_at"]) - told["interrupted_at"]
    print(
        f"last old sound {1000 * last:.0f} ms after the interrupt; {len(room.pictures)} pictures; written to {chosen.out}"
    )


if __name__ == "__main__":
    asyncio.run(main())
