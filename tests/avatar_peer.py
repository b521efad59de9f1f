"""A small AvatarService for tests of the client: it speaks the protocol and shows a moving bar instead of a face."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from fractions import Fraction

import av
import grpc
import numpy as np
from PIL import Image

from liveact.v1 import avatar_pb2 as pb2
from liveact.v1 import avatar_pb2_grpc as pb2_grpc
from liveact_services.errors import ServiceError, fail

BLOCK = 32


def session(
    codec: pb2.VideoCodec = pb2.VIDEO_CODEC_H264, *, width: int = 64, height: int = 48, fps: int = 20, rate: int = 16000
) -> pb2.Session:
    message = pb2.Session(
        name="sessions/one", state=pb2.SESSION_STATE_ADMITTED, width=width, height=height, fps=fps, codec=codec,
        resume_token="token-of-one", credit_frames=64, checkpoint="untrained",
        audio_format=pb2.AudioFormat(sample_rate_hz=rate, channels=1),
    )  # fmt: skip
    message.playout_delay.FromMilliseconds(700)
    return message


def picture(index: int, width: int, height: int) -> np.ndarray:
    """A white bar on blue that moves four pixels a frame; uint8 [height, width, 3]."""
    pixels = np.full((height, width, 3), (20, 40, 120), np.uint8)
    left = 4 * index % (width - 8)
    pixels[:, left : left + 8] = 235
    return pixels


def frames(agreed: pb2.Session, count: int, *, first: int = 0, utterance: str = "speech") -> list[pb2.VideoFrame]:
    """Encoded frames with a key frame every `BLOCK`, as the session's codec says."""
    pixels = [picture(first + i, agreed.width, agreed.height) for i in range(count)]
    if agreed.codec == pb2.VIDEO_CODEC_H264:
        encoded = list(_h264(pixels, agreed.fps))
    elif agreed.codec == pb2.VIDEO_CODEC_JPEG:
        encoded = [(True, _jpeg(image)) for image in pixels]
    else:
        encoded = [(True, image.tobytes()) for image in pixels]
    return [
        pb2.VideoFrame(
            index=first + i, pts_us=round((first + i) * 1e6 / agreed.fps), key_frame=key, codec=agreed.codec, data=data,
            utterance_id=utterance,
        )
        for i, (key, data) in enumerate(encoded)
    ]  # fmt: skip


def tone(seconds: float, rate: int, hertz: float = 440.0) -> bytes:
    """Mono PCM16."""
    time = np.arange(round(seconds * rate)) / rate
    return (np.sin(2 * np.pi * hertz * time) * 12000).astype("<i2").tobytes()


def _h264(pixels: list[np.ndarray], fps: int) -> Iterator[tuple[bool, bytes]]:
    height, width, _ = pixels[0].shape
    encoder = av.VideoCodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate, encoder.gop_size = Fraction(1, fps), Fraction(fps), BLOCK
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "bf": "0", "crf": "12"}
    for i, image in enumerate([*pixels, None]):
        if image is None:
            packets = encoder.encode(None)
        else:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = i
            packets = encoder.encode(frame)
        for packet in packets:
            yield packet.is_keyframe, bytes(packet)


def _jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=95)
    return file.getvalue()


class AvatarPeer(pb2_grpc.AvatarServiceServicer):
    """Answers a stream as the service would: after `close`, as many frames as the voice is long, within the credit.

    `requests` holds what came on the last stream; `refuse` is raised after the config, `break_after` after that many frames.
    """

    def __init__(self, agreed: pb2.Session | None = None, *, credit: int = 64) -> None:
        self.agreed = agreed or session()
        self.credit = credit
        self.requests: list[pb2.StreamAvatarRequest] = []
        self.refuse: ServiceError | None = None
        self.break_after: int | None = None
        self.becomes_ready = True
        self.sent = 0
        self.delivered: list[pb2.VideoFrame] = []
        self._acked = 0
        self._changed = asyncio.Event()

    def received(self, kind: str) -> list:
        """The payloads of that kind."""
        return [getattr(r, kind) for r in self.requests if r.WhichOneof("payload") == kind]

    async def StreamAvatar(self, request_iterator, context) -> AsyncIterator[pb2.StreamAvatarResponse]:
        self.requests, self.sent, self._acked = [await anext(request_iterator)], 0, 0
        if self.refuse is not None:
            await self._fail(context, self.refuse)
        agreed, config = pb2.Session(), self.requests[0].config
        agreed.CopyFrom(self.agreed)
        if config.HasField("resume"):
            agreed.state = pb2.SESSION_STATE_STREAMING
            agreed.next_sequence = 7
        elif config.audio_format.sample_rate_hz:
            agreed.audio_format.CopyFrom(config.audio_format)
        yield pb2.StreamAvatarResponse(session=agreed)
        if not self.becomes_ready:
            return
        if agreed.state == pb2.SESSION_STATE_ADMITTED:
            yield event(pb2.EVENT_TYPE_READY)
        closed = asyncio.Event()
        reading = asyncio.create_task(self._read(request_iterator, closed))
        try:
            await closed.wait()
            async for response in self._perform(agreed, context):
                yield response
            yield event(pb2.EVENT_TYPE_CLOSED)
        finally:
            reading.cancel()

    async def _read(self, requests, closed: asyncio.Event) -> None:
        async for request in requests:
            self.requests.append(request)
            kind = request.WhichOneof("payload")
            if kind == "close":
                closed.set()
            elif kind == "ack":
                self._acked = request.ack.next_frame
                self._changed.set()

    async def _perform(self, agreed: pb2.Session, context) -> AsyncIterator[pb2.StreamAvatarResponse]:
        pcm = b"".join(chunk.data for chunk in self.received("audio"))
        count = round(len(pcm) / 2 / agreed.audio_format.sample_rate_hz * agreed.fps)
        self.delivered = frames(agreed, count) if count else []
        samples = agreed.audio_format.sample_rate_hz // agreed.fps
        groups = [slice(i, i + 1 if i == 0 else i + 4) for i in (0, *range(1, count, 4)) if i < count]
        for number, part in enumerate(groups):
            chunk = self.delivered[part]
            if number % 8 == 0:
                span = pcm[
                    2 * samples * part.start : 2 * samples * min(count, groups[min(number + 8, len(groups)) - 1].stop)
                ]
                yield pb2.StreamAvatarResponse(audio=pb2.AudioSpan(pts_us=chunk[0].pts_us, data=span))
            while self.sent + len(chunk) > self._acked + self.credit:
                self._changed.clear()
                await self._changed.wait()
            if self.break_after is not None and self.sent >= self.break_after:
                await self._fail(context, fail("SESSION_LOST", "the replica died", retry_after_s=2.5))
            self.sent += len(chunk)
            yield pb2.StreamAvatarResponse(
                video=pb2.VideoChunk(frames=chunk, times=pb2.StageTimes(denoise_us=30_000, decode_us=20_000))
            )

    async def _fail(self, context, error: ServiceError) -> None:
        await context.abort(error.code, error.message, tuple(error.trailing_metadata()))

    async def CreateAvatar(self, request, context) -> pb2.CreateAvatarResponse:
        if not request.image:
            await self._fail(context, fail("IMAGE_EMPTY", "the image has no bytes"))
        return pb2.CreateAvatarResponse(avatar=pb2.Avatar(name="avatars/a", display_name=request.display_name))

    async def ListSessions(self, request, context) -> pb2.ListSessionsResponse:
        return pb2.ListSessionsResponse(sessions=[self.agreed])

    async def GetServerInfo(self, request, context) -> pb2.GetServerInfoResponse:
        return pb2.GetServerInfoResponse(preset="tiny", checkpoint="untrained")


def event(kind: pb2.EventType) -> pb2.StreamAvatarResponse:
    return pb2.StreamAvatarResponse(event=pb2.Event(type=kind))


@asynccontextmanager
async def serving(peer: AvatarPeer) -> AsyncIterator[str]:
    """Serve the peer on a free port: its "host:port"."""
    server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
    pb2_grpc.add_AvatarServiceServicer_to_server(peer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=None)
