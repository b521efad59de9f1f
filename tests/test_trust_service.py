"""Trust on the real service: marks by its VaeDecoder, and the trail that its Gateway keeps."""

from __future__ import annotations

import hashlib
import time

import numpy as np

from conftest import Service, pcm16, tone
from liveact.v1 import avatar_pb2 as pb
from liveact_services.cli.audit import _from_service
from liveact_services.client import AvatarClient
from liveact_services.watermark.label import Label
from liveact_services.watermark.mark import votes
from liveact_services.watermark.payload import digits

SIDE = 128


async def test_a_session_is_marked_and_stands_in_the_trail(
    service: Service, client: AvatarClient, portrait: bytes
) -> None:
    began = time.time()
    config = pb.SessionConfig(
        image=portrait, width=SIDE, height=SIDE, codec=pb.VIDEO_CODEC_RGB, pacing=pb.PACING_FASTEST, consent="REF-1",
        watermark=pb.Watermark(visible=True, invisible=True),
    )  # fmt: skip
    frames = []
    async with client.stream(config) as stream:
        await stream.ready()
        await stream.send_audio(pcm16(tone(1.5)), "a")
        await stream.end_utterance("a")
        await stream.close()
        async for message in stream:
            if isinstance(message, pb.VideoChunk):
                frames += [np.frombuffer(f.data, np.uint8).reshape(SIDE, SIDE, 3) for f in message.frames]
    session = stream.session.name.removeprefix("sessions/")
    assert digits(np.mean([votes(rgb) for rgb in frames], axis=0)) == session[:8]
    label = Label("AI-generated", SIDE, SIDE)
    drawn = np.stack(frames)[:, label.rows, label.columns].astype(int)
    steady = drawn.min(0).min(-1) > 200
    assert steady.sum() > 20, "white letters in every frame"
    told: list[dict[str, object]] = []
    while len(told) < 2 and time.time() < began + 60:
        (trail,) = await _from_service("default", began)
        told = [e for e in trail["events"] if e.get("session") == session]
    opened, closed = told
    assert (opened["action"], opened["consent"]) == ("session.opened", "REF-1")
    assert (opened["watermark"], closed["action"]) == ("visible invisible", "session.closed")
    assert opened["portrait_sha256"] == hashlib.sha256(portrait).hexdigest()
    assert closed["frames"] == len(frames)
    assert str(opened["peer"]).startswith(("ipv4:127.0.0.1", "ipv6:"))
