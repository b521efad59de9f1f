"""An LLM, a TTS and LiveAct, put together by hand: two questions, the second of which interrupts the first answer.

liveact serve                          # in another terminal
python examples/llm_tts_liveact.py     # writes out/conversation.mp4
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from stand_ins import RATE, Film, LocalVoice, scripted_llm, sentences

from liveact_services.client import AvatarClient, AvatarSession, Moment, RecordedVoice, play

HERE = Path(__file__).parent
ENOUGH_S = 3
"""How much of the first answer the listener waits for."""


async def answer(session: AvatarSession, voice: LocalVoice, question: str) -> None:
    """Speak the answer sentence by sentence, each while the next is thought and voiced."""
    print("asked:", question)
    async for sentence in sentences(scripted_llm(question)):
        spoken = RecordedVoice(await voice.say(sentence), RATE)
        name = await session.speak(spoken)
        print(f"  {name}: {sentence}")


async def talk(session: AvatarSession, voice: LocalVoice, heard_enough: asyncio.Event) -> None:
    await session.ready()
    first = asyncio.create_task(answer(session, voice, "Who are you?"))
    await heard_enough.wait()
    first.cancel()
    await session.interrupt()
    print("interrupted")
    await answer(session, voice, "How do you work?")
    await session.close()


async def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--server", default="127.0.0.1:9000")
    arguments.add_argument("--out", type=Path, default=Path("out/conversation.mp4"))
    chosen = arguments.parse_args()
    voice = LocalVoice()
    async with AvatarClient(chosen.server) as client, client.session(HERE / "portrait.jpg") as session:
        agreed = session.session
        film = Film(chosen.out, agreed.width, agreed.height, agreed.fps)
        heard_enough = asyncio.Event()
        talking = asyncio.create_task(talk(session, voice, heard_enough))
        frames, spoken, stale = 0, 0, 0
        async for item in play(session):
            if isinstance(item, Moment):
                film.picture(item.pixels, item.pts_s)
                film.sound(item.sound, item.pts_s)
                frames, stale = frames + 1, stale + item.stale
                spoken += item.utterance_id != ""
                if spoken == ENOUGH_S * agreed.fps:
                    heard_enough.set()
        await talking
        film.close()
    print(f"{frames} frames, of which {stale} stood still after the interrupt; written to {chosen.out}")


if __name__ == "__main__":
    asyncio.run(main())
