"""The connection that a client's calls go over, and another one where the server at its end is to be left."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc

from liveact.v1 import avatar_pb2_grpc as pb2_grpc

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    # A server that comes back is found within seconds; gRPC alone would wait for up to two minutes between attempts.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    # Another channel is another connection: by default channels to one address share it.
    ("grpc.use_local_subchannel_pool", 1),
)
"""No keepalive: the proxy answers client pings on an idle stream with GOAWAY."""

Metadata = Sequence[tuple[str, str]]


class Line:
    """A channel to the target, exchanged for a new one on request.

    A connection leads to the server that it led to when it was opened, also when the address in front has long been another's.
    """

    def __init__(self, target: str, credentials: grpc.ChannelCredentials | None) -> None:
        self._target, self._credentials = target, credentials
        self._channel = self._dial()
        self._left: dict[grpc.aio.Channel, set[grpc.aio.Call]] = {}
        """Channels of before, with the calls that go on over them."""
        self._calls: set[grpc.aio.Call] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self.number = 0
        """Of the present channel."""
        self.stub = pb2_grpc.AvatarServiceStub(self._channel)

    def stream(self, metadata: Metadata) -> grpc.aio.StreamStreamCall:
        """A call of the stream over the present channel."""
        call = self.stub.StreamAvatar(metadata=metadata)
        channel, calls = self._channel, self._calls
        calls.add(call)
        call.add_done_callback(lambda done: self._ended(channel, calls, done))
        return call

    def redial(self, number: int) -> None:
        """Have new calls go over another connection than that channel's; nothing if they do already."""
        if number != self.number:
            return
        self._left[self._channel] = self._calls
        self._channel, self._calls, self.number = self._dial(), set(), self.number + 1
        self.stub = pb2_grpc.AvatarServiceStub(self._channel)

    async def close(self) -> None:
        """Close every channel; calls end."""
        await asyncio.gather(*(channel.close() for channel in (*self._left, self._channel)), *self._closing)

    def _ended(self, channel: grpc.aio.Channel, calls: set[grpc.aio.Call], call: grpc.aio.Call) -> None:
        calls.discard(call)
        if not calls and self._left.pop(channel, None) is not None:
            closing = asyncio.ensure_future(channel.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _dial(self) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(self._target, options=OPTIONS)
        return grpc.aio.secure_channel(self._target, self._credentials, options=OPTIONS)
