"""The client of the public API over grpc.aio: sessions, avatars, records."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, Self, TypeVar, overload

import grpc

from liveact.v1 import avatar_pb2 as pb2
from liveact_services.client.line import Line
from liveact_services.client.resuming import Outage, ResumePolicy
from liveact_services.client.session import AvatarSession
from liveact_services.client.stream import AvatarStream
from liveact_services.errors import ClientError, from_rpc_error

TOKEN_VARIABLE = "LIVEACT_TOKEN"

Answer = TypeVar("Answer")


class AvatarClient:
    """A connection to a service. Use it as an async context manager.

    `target` is "host:port"; `credentials` turn TLS on; `metadata` goes with every call. `token`, an API key or JWT, says who
    calls; without one, and without credentials in `metadata`, it is the environment's LIVEACT_TOKEN, if there is one.
    `timeout_s` is how long a unary call or the admission of a session may take before it raises `DeadlineExceeded`; None
    waits for ever. What a session does after that waits for the performance: put `asyncio.timeout` around what must not.
    """

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        token: str | None = None,
        timeout_s: float | None = 60.0,
    ) -> None:
        self.target = target
        self._timeout_s = timeout_s
        self._line = Line(target, credentials)
        self._metadata = (*metadata, *_authorization(token, metadata))
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel; open streams end and their sessions wait to be resumed, by another client."""
        # First of all: a session that loses its call by this must not open another.
        self._closed = True
        await self._line.close()

    def session(
        self,
        portrait: bytes | Path | str,
        *,
        prompt: str = "",
        size: tuple[int, int] = (0, 0),
        fps: int = 0,
        sample_rate_hz: int = 24000,
        codec: pb2.VideoCodec = pb2.VIDEO_CODEC_H264,
        pacing: pb2.Pacing = pb2.PACING_REALTIME,
        idle_policy: pb2.IdlePolicy = pb2.IDLE_POLICY_ANIMATE,
        seed: int = 0,
        consent: str = "",
        watermark: pb2.Watermark | None = None,
        auto_ack: bool = True,
        resume: ResumePolicy | None = None,
        on_resume: Callable[[Outage], None] | None = None,
    ) -> AvatarSession:
        """A new session of this portrait; enter it to open it, then `await session.speak("voice.wav")` and iterate.

        `portrait` is an image file, its bytes, or an avatar's name, "avatars/{id}"; `size` is (width, height) in pixels, and
        zeros ask for the server's defaults. Voice and sound are mono PCM16 at `sample_rate_hz`; `speak` resamples to it. It is
        a session as `stream` opens it: it resumes by itself, as `resume` says. `consent` says where the consent of the person
        shown is on file, which a service may require: a number or URI, no name. `watermark` asks for marks beside those that
        the service puts on anyway. Raises `OSError` when the file cannot be read.
        """
        config = pb2.SessionConfig(
            prompt=prompt, width=size[0], height=size[1], fps=fps, codec=codec, pacing=pacing, idle_policy=idle_policy,
            seed=seed, consent=consent, watermark=watermark,
            audio_format=pb2.AudioFormat(sample_rate_hz=sample_rate_hz, channels=1),
        )  # fmt: skip
        if isinstance(portrait, bytes):
            config.image = portrait
        elif isinstance(portrait, str) and portrait.startswith("avatars/"):
            config.avatar = portrait
        else:
            config.image = Path(portrait).read_bytes()
        return self.stream(config, auto_ack=auto_ack, resume=resume or ResumePolicy(), on_resume=on_resume)

    @overload
    def stream(self, config: pb2.SessionConfig, *, auto_ack: bool = True, resume: Literal[False]) -> AvatarStream: ...

    @overload
    def stream(
        self,
        config: pb2.SessionConfig,
        *,
        auto_ack: bool = True,
        resume: Literal[True] | ResumePolicy = True,
        on_resume: Callable[[Outage], None] | None = None,
    ) -> AvatarSession: ...

    def stream(
        self,
        config: pb2.SessionConfig,
        *,
        auto_ack: bool = True,
        resume: bool | ResumePolicy = True,
        on_resume: Callable[[Outage], None] | None = None,
    ) -> AvatarSession | AvatarStream:
        """A new session; enter it to open it.

        It goes on by itself when the connection or the server breaks, as `resume` says; `on_resume` is told every time it
        has. With `resume=False` it is one call, which ends where it breaks.
        """
        if resume is False:
            return self._open(config, auto_ack)
        policy = ResumePolicy() if resume is True else resume
        return AvatarSession(
            config, open_call=self._open, find=self.get_session, auto_ack=auto_ack, policy=policy, on_resume=on_resume
        )

    def resume(self, token: str, next_frame: int, *, auto_ack: bool = True) -> AvatarStream:
        """Go on with a session: `token` is its `resume_token`, `next_frame` the first frame still wanted.

        One call, for a client that lost what it knew; sessions of `stream` go on by themselves. Voice goes on with piece
        `AvatarStream.next_sequence` of the new stream: pieces sent from there on before did not arrive, nor did requests
        from number `Session.next_request` on.
        """
        return self._open(pb2.SessionConfig(resume=pb2.Resume(token=token, next_frame=next_frame)), auto_ack)

    async def create_avatar(self, image: bytes, display_name: str = "", *, consent: str = "") -> pb2.Avatar:
        """Prepare a portrait (PNG, JPEG or WebP) once, to be named in later configs. Raises `ClientError`.

        `consent` says where the consent of the person shown is on file; it counts for all of the avatar's sessions.
        """
        request = pb2.CreateAvatarRequest(image=image, display_name=display_name, consent=consent)
        return (await self._call(self._line.stub.CreateAvatar, request)).avatar

    async def list_avatars(self) -> list[pb2.Avatar]:
        """The caller's avatars, newest first. Raises `ClientError`."""
        return list((await self._call(self._line.stub.ListAvatars, pb2.ListAvatarsRequest())).avatars)

    async def delete_avatar(self, name: str) -> None:
        """Forget "avatars/{id}". Raises `ClientError`."""
        await self._call(self._line.stub.DeleteAvatar, pb2.DeleteAvatarRequest(name=name))

    async def get_session(self, name: str) -> pb2.Session:
        """The record of "sessions/{id}". Raises `ClientError`."""
        return (await self._call(self._line.stub.GetSession, pb2.GetSessionRequest(name=name))).session

    async def list_sessions(self) -> list[pb2.Session]:
        """The caller's sessions, newest first. Raises `ClientError`."""
        return list((await self._call(self._line.stub.ListSessions, pb2.ListSessionsRequest())).sessions)

    async def delete_session(self, name: str) -> None:
        """Close "sessions/{id}", streaming or detached. Raises `ClientError`."""
        await self._call(self._line.stub.DeleteSession, pb2.DeleteSessionRequest(name=name))

    async def server_info(self) -> pb2.GetServerInfoResponse:
        """What the server runs and accepts. Raises `ClientError`."""
        return await self._call(self._line.stub.GetServerInfo, pb2.GetServerInfoRequest())

    def _open(self, config: pb2.SessionConfig, auto_ack: bool) -> AvatarStream:
        if self._closed:
            raise ClientError(grpc.StatusCode.FAILED_PRECONDITION, "the client was closed: open another one")
        line, number = self._line, self._line.number
        call = line.stream(self._metadata)
        # A server that is to be left keeps this connection open, and would be reached over it again.
        leave = partial(line.redial, number)
        return AvatarStream(call, config, auto_ack=auto_ack, admission_s=self._timeout_s, leave=leave)

    async def _call(self, method: Callable[..., Awaitable[Answer]], request: object) -> Answer:
        try:
            return await method(request, metadata=self._metadata, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error


def _authorization(token: str | None, metadata: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    if token is None and not any(name in ("authorization", "x-api-key") for name, _ in metadata):
        token = os.environ.get(TOKEN_VARIABLE, "")
    # A file's or secret's last newline is no part of a token, and gRPC would quote the whole of it in its complaint.
    token = (token or "").strip()
    return (("authorization", f"Bearer {token}"),) if token else ()
