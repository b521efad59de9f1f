"""What waits for a client: forgotten once acknowledged, whole for whoever resumes."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liveact.v1 import avatar_pb2 as pb
from liveact_models.config import PRESETS
from liveact_models.timeline import block_frames, block_of_frame
from liveact_services.conductor.outputs import Event, Happening, Output, Sound, Video
from liveact_services.conductor.stages import Codec, EncodedFrame, StageTimes, VideoPart
from liveact_services.errors import ServiceError, fail
from liveact_services.gateway.messages import responses
from liveact_services.gateway.outbox import Outbox
from liveact_services.vae_decoder.encoding import frame_encoder
from stage_fixtures import FPS, session_spec

LIMIT = 1024 * 1024


def put(outbox: Outbox, output: Output) -> None:
    for message in responses(output, session_spec()):
        outbox.put(message)


def put_block(outbox: Outbox, block: int) -> None:
    """An event, the sound, and a part for each latent frame, as the Conductor tells them."""
    frames = list(block_frames(block))
    put(outbox, Event(Happening.PROMPT_APPLIED, block=block))
    put(outbox, Sound(block, frames[0] / FPS, np.zeros(8, np.float32)))
    while frames:
        count = len(frames) % 4 or 4
        part = tuple(EncodedFrame(i, i == block_frames(block).start, b"%d" % i) for i in frames[:count])
        put(outbox, Video(VideoPart(block, part, StageTimes()), ("u",) * count))
        del frames[:count]


async def take(outbox: Outbox, count: int | None = None) -> list[pb.StreamAvatarResponse]:
    taken = []
    reader = outbox.messages()
    while count is None or len(taken) < count:
        try:
            taken.append(await asyncio.wait_for(anext(reader), 0.02 if count is None else 1))
        except (TimeoutError, StopAsyncIteration):
            break
    return taken


def frames_of(messages: list[pb.StreamAvatarResponse]) -> list[int]:
    return [frame.index for message in messages for frame in message.video.frames]


def sounds_of(messages: list[pb.StreamAvatarResponse]) -> list[int]:
    return [message.audio.block for message in messages if message.HasField("audio")]


@settings(max_examples=60, deadline=None)
@given(read=st.integers(0, 28), acked=st.integers(0, 85), beyond=st.integers(0, 85))
async def test_from_any_unacknowledged_frame_on_everything_comes_once_with_its_sound(
    read: int, acked: int, beyond: int
) -> None:
    outbox = Outbox()
    for block in range(3):
        put_block(outbox, block)
    first = await take(outbox, read)
    acked = min(acked, max(frames_of(first), default=-1) + 1)
    outbox.acked(acked)
    wanted = min(acked + beyond, 85)
    outbox.rewind(wanted)
    outbox.finish()
    rest = await take(outbox)
    assert frames_of(rest) == list(range(wanted, 85))
    assert sounds_of(rest) == list(range(block_of_frame(wanted), 3))
    # Sound goes ahead of its frames.
    seen: set[int] = set()
    for message in rest:
        if message.HasField("audio"):
            seen.add(message.audio.block)
        elif message.HasField("video"):
            assert message.video.block in seen
    # No event of what is still to come is lost.
    assert {m.event.block for m in rest if m.HasField("event")} >= {
        b for b in range(3) if block_frames(b).start > wanted
    }


async def test_frames_that_are_gone_or_not_made_cannot_be_resumed_from() -> None:
    outbox = Outbox()
    put_block(outbox, 0)
    await take(outbox)
    outbox.acked(10)
    for frame in (9, 22):
        with pytest.raises(ServiceError, match="RESUME_FRAME_UNAVAILABLE"):
            outbox.rewind(frame)
    outbox.rewind(10)


async def test_an_hour_of_acknowledged_frames_leaves_no_more_than_a_block_or_two() -> None:
    outbox = Outbox()
    reader = outbox.messages()
    most, received = 0, 0
    for block in range(2250):
        put_block(outbox, block)
        put(outbox, Event(Happening.NOTICE))
        while received < block_frames(block).stop:
            message = await anext(reader)
            if message.HasField("video"):
                received = message.video.frames[-1].index + 1
        outbox.acked(received)
        most = max(most, len(outbox._entries))
    assert most <= 13


async def test_a_reader_waits_for_news_and_ends_with_the_last_message() -> None:
    outbox = Outbox()
    taking = asyncio.create_task(take(outbox, 100))
    await asyncio.sleep(0.01)
    put_block(outbox, 0)
    await asyncio.sleep(0.01)
    assert not taking.done()
    assert not outbox.drained
    outbox.finish()
    assert frames_of(await taking) == list(range(21))
    assert outbox.drained


async def test_a_later_reader_takes_over_and_the_earlier_one_takes_nothing_more() -> None:
    outbox = Outbox()
    put_block(outbox, 0)
    earlier = outbox.messages()
    await anext(earlier)
    outbox.rewind(0)
    # Between the resume and the new stream's first message.
    with pytest.raises(ServiceError, match="SESSION_TAKEN_OVER"):
        await anext(earlier)
    outbox.finish()
    assert frames_of(await take(outbox)) == list(range(21))


async def test_an_earlier_reader_that_waits_is_told_at_once() -> None:
    outbox = Outbox()
    waiting = asyncio.create_task(take(outbox, 1))
    await asyncio.sleep(0.01)
    outbox.messages()
    with pytest.raises(ServiceError, match="SESSION_TAKEN_OVER"):
        await asyncio.wait_for(waiting, 1)


async def test_a_failure_is_raised_before_what_still_waits() -> None:
    outbox = Outbox()
    put_block(outbox, 0)
    outbox.fail(fail("ACK_TIMEOUT", "too long"))
    with pytest.raises(ServiceError, match="ACK_TIMEOUT"):
        await take(outbox, 1)


async def test_a_stream_broken_off_ends_alone_and_the_next_goes_on() -> None:
    outbox = Outbox()
    put_block(outbox, 0)
    await take(outbox, 3)
    outbox.break_off(fail("STREAM_NOT_CLOSED", "gone"))
    with pytest.raises(ServiceError, match="STREAM_NOT_CLOSED"):
        await take(outbox, 1)
    outbox.rewind(5)
    assert frames_of(await take(outbox)) == list(range(5, 21))


async def test_a_stream_broken_off_before_its_first_message_is_told_too() -> None:
    outbox = Outbox()
    outbox.rewind(0)
    outbox.break_off(fail("STREAM_NOT_CLOSED", "gone"))
    with pytest.raises(ServiceError, match="STREAM_NOT_CLOSED"):
        await take(outbox, 1)


# ---- messages


SIZES = [(p.limits.minimum, p.limits.minimum) for p in PRESETS.values()] + [
    (256, 256),
    (720, 416),
    (720, 720),
    (1024, 496),
]


CASES = [
    (codec, size)
    for codec in Codec
    for size in SIZES
    # Larger raw frames are refused: see test_requests.
    if codec is not Codec.RGB or size[0] * size[1] * 3 < LIMIT
]


@pytest.mark.parametrize(("codec", "size"), CASES, ids=str)
def test_messages_stay_under_1_mib_and_lose_no_frame(codec: Codec, size: tuple[int, int]) -> None:
    width, height = size
    spec = session_spec(codec=codec, width=width, height=height)
    encoder = frame_encoder(codec, width, height, FPS)
    # Noise: nothing is harder to compress.
    noise = np.random.default_rng(0).integers(0, 256, (4, height, width, 3), np.uint8)
    part = tuple(EncodedFrame(i, i == 0, encoder.encode(rgb, i, i == 0)) for i, rgb in enumerate(noise))
    messages = list(responses(Video(VideoPart(0, part, StageTimes(denoise_s=1.5)), ("u", "u", "", "")), spec))
    assert all(message.ByteSize() < LIMIT for message in messages)
    frames = [frame for message in messages for frame in message.video.frames]
    assert [(frame.index, frame.data) for frame in frames] == [(f.index, f.data) for f in part]
    assert [frame.utterance_id for frame in frames] == ["u", "u", "", ""]
    assert [message.video.times.denoise_us for message in messages] == [1_500_000] + [0] * (len(messages) - 1)


def test_sound_and_events_stay_under_1_mib() -> None:
    spec = session_spec(fps=10, rate=48000)
    (sound,) = responses(Sound(1, 2.1, np.linspace(-1.5, 1.5, 32 * 4800, dtype=np.float32)), spec)
    assert sound.ByteSize() < LIMIT
    samples = np.frombuffer(sound.audio.data, "<i2")
    assert (samples[0], samples[-1], sound.audio.pts_us) == (-32768, 32767, 2_100_000)
    (event,) = responses(Event(Happening.PROMPT_APPLIED, message="ü" * 2048), spec)
    assert event.ByteSize() < LIMIT


def test_an_interrupt_tells_durations() -> None:
    (message,) = responses(
        Event(Happening.INTERRUPTED, 1.5, "u", 3, played_s=1.25, discarded_s=0.000001), session_spec()
    )
    assert message.event.type == pb.EVENT_TYPE_INTERRUPTED
    assert message.event.interrupted.played.ToMicroseconds() == 1_250_000
    assert message.event.interrupted.discarded.ToMicroseconds() == 1
