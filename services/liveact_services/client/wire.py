"""Writing to a grpc.aio stream that the server may end at any moment."""

from __future__ import annotations

import asyncio

import grpc
from grpc._cython import cygrpc

from liveact.v1 import avatar_pb2 as pb2


async def write(call: grpc.aio.StreamStreamCall, request: pb2.StreamAvatarRequest) -> bool:
    """Send one message; False when the server has ended the stream, which its status then explains.

    `call.write` would do, but for grpc/grpc#36066: a write that fails because the stream has ended replaces the server's
    status by INTERNAL and makes the messages not yet read unreadable, so a late acknowledgement could cost frames.
    Raises `grpc.aio.AioRpcError` when the connection fails. One write at a time.
    """
    if call.done():
        return False
    await call.wait_for_connection()
    try:
        await call._cython_call.send_serialized_message(request.SerializeToString())
    except cygrpc.InternalError:
        return False
    except asyncio.CancelledError:
        # The message may be half out: nothing can follow it.
        call.cancel()
        raise
    return True
