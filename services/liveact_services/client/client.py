"""The client of the public API over grpc.aio: sessions, avatars, records."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, Self, TypeVar, overload

import grpc

from liveact.v1 import avatar_pb2 as pb2
from liveact.v1 import avatar_pb2_grpc as pb2_grpc
from liveact_services.client.resuming import Outage, ResumePolicy
from liveact_services.client.session import AvatarSession
from liveact_services.client.stream import AvatarStream
from liveact_services.errors import ClientError, from_rpc_error

TOKEN_VARIABLE = "LIVEACT_TOKEN"

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    # A server that comes back is found within seconds; gRPC alone would wait for up to two minutes between attempts.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
)
"""No keepalive: the proxy answers client pings on an idle stream with GOAWAY."""

Answer = TypeVar("Answer")


class AvatarClient:
    """One channel to a service. Use it as an async context manager.

    `target` is "host:port"; `credentials` turn TLS on; `metadata` goes with every call. `token`, an API key or JWT, says who
    calls; without one, and without credentials in `metadata`, it is the environment's LIVEACT_TOKEN, if there is one.
    """

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        token: str | None = None,
    ) -> None:
        self.target = target
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(target, credentials, options=CHANNEL_OPTIONS)
        self._stub = pb2_grpc.AvatarServiceStub(self._channel)
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
        await self._channel.close()

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

    async def create_avatar(self, image: bytes, display_name: str = "") -> pb2.Avatar:
        """Prepare a portrait (PNG, JPEG or WebP) once, to be named in later configs. Raises `ClientError`."""
        request = pb2.CreateAvatarRequest(image=image, display_name=display_name)
        return (await self._call(self._stub.CreateAvatar, request)).avatar

    async def list_avatars(self) -> list[pb2.Avatar]:
        """The caller's avatars, newest first. Raises `ClientError`."""
        return list((await self._call(self._stub.ListAvatars, pb2.ListAvatarsRequest())).avatars)

    async def delete_avatar(self, name: str) -> None:
        """Forget "avatars/{id}". Raises `ClientError`."""
        await self._call(self._stub.DeleteAvatar, pb2.DeleteAvatarRequest(name=name))

    async def get_session(self, name: str) -> pb2.Session:
        """The record of "sessions/{id}". Raises `ClientError`."""
        return (await self._call(self._stub.GetSession, pb2.GetSessionRequest(name=name))).session

    async def list_sessions(self) -> list[pb2.Session]:
        """The caller's sessions, newest first. Raises `ClientError`."""
        return list((await self._call(self._stub.ListSessions, pb2.ListSessionsRequest())).sessions)

    async def delete_session(self, name: str) -> None:
        """Close "sessions/{id}", streaming or detached. Raises `ClientError`."""
        await self._call(self._stub.DeleteSession, pb2.DeleteSessionRequest(name=name))

    async def server_info(self) -> pb2.GetServerInfoResponse:
        """What the server runs and accepts. Raises `ClientError`."""
        return await self._call(self._stub.GetServerInfo, pb2.GetServerInfoRequest())

    def _open(self, config: pb2.SessionConfig, auto_ack: bool) -> AvatarStream:
        if self._closed:
            raise ClientError(grpc.StatusCode.FAILED_PRECONDITION, "the client was closed: open another one")
        return AvatarStream(self._stub.StreamAvatar(metadata=self._metadata), config, auto_ack=auto_ack)

    async def _call(self, method: Callable[..., Awaitable[Answer]], request: object) -> Answer:
        try:
            return await method(request, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error


def _authorization(token: str | None, metadata: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    if token is None and not any(name in ("authorization", "x-api-key") for name, _ in metadata):
        token = os.environ.get(TOKEN_VARIABLE, "")
    # A file's or secret's last newline is no part of a token, and gRPC would quote the whole of it in its complaint.
    token = (token or "").strip()
    return (("authorization", f"Bearer {token}"),) if token else ()
