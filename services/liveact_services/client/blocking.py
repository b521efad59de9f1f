"""The SDK for programs without an event loop: the same client and sessions, run in a thread of their own."""

from __future__ import annotations

import concurrent.futures
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from liveact.v1 import avatar_pb2 as pb2
from liveact_services.client.client import AvatarClient
from liveact_services.client.conversation import Payload
from liveact_services.client.playback import Moment, play
from liveact_services.client.resuming import Outage
from liveact_services.client.session import AvatarSession
from liveact_services.client.voice import Pace, Voice

T = TypeVar("T")


class BlockingClient:
    """`AvatarClient` with calls that block, from any thread. A context manager; takes what `AvatarClient` takes.

    Everything raises what the asynchronous call raises.
    """

    def __init__(self, target: str, **options: Any) -> None:
        self._target, self._options = target, options
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None
        self._client: AvatarClient | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())
            # A channel belongs to the loop that makes it.
            client = self._portal.call(partial(_made, AvatarClient, self._target, **self._options))
            self._client = stack.enter_context(self._portal.wrap_async_context_manager(client))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def session(self, portrait: bytes | Path | str, **options: Any) -> BlockingSession:
        """A new session, to be entered; takes what `AvatarClient.session` takes."""
        client, portal = self._opened
        return BlockingSession(portal, portal.call(partial(_made, client.session, portrait, **options)))

    def stream(self, config: pb2.SessionConfig, **options: Any) -> BlockingSession:
        """A new session of this config, to be entered; takes what `AvatarClient.stream` takes."""
        client, portal = self._opened
        session = portal.call(partial(_made, client.stream, config, **options))
        if not isinstance(session, AvatarSession):
            raise ValueError(
                "resume=False gives a single call, which this client does not have: use AvatarClient.stream"
            )
        return BlockingSession(portal, session)

    def create_avatar(self, image: bytes, display_name: str = "", *, consent: str = "") -> pb2.Avatar:
        """Prepare a portrait once, to be named in later sessions."""
        return self._call(lambda client: client.create_avatar(image, display_name, consent=consent))

    def list_avatars(self) -> list[pb2.Avatar]:
        """The caller's avatars, newest first."""
        return self._call(lambda client: client.list_avatars())

    def delete_avatar(self, name: str) -> None:
        """Forget "avatars/{id}"."""
        self._call(lambda client: client.delete_avatar(name))

    def get_session(self, name: str) -> pb2.Session:
        """The record of "sessions/{id}"."""
        return self._call(lambda client: client.get_session(name))

    def list_sessions(self) -> list[pb2.Session]:
        """The caller's sessions, newest first."""
        return self._call(lambda client: client.list_sessions())

    def delete_session(self, name: str) -> None:
        """Close "sessions/{id}"."""
        self._call(lambda client: client.delete_session(name))

    def server_info(self) -> pb2.GetServerInfoResponse:
        """What the server runs and accepts."""
        return self._call(lambda client: client.server_info())

    @property
    def _opened(self) -> tuple[AvatarClient, BlockingPortal]:
        if self._client is None or self._portal is None:
            raise RuntimeError("the client is not open: enter it with `with`")
        return self._client, self._portal

    def _call(self, method: Callable[[AvatarClient], Awaitable[T]]) -> T:
        client, portal = self._opened
        return portal.call(method, client)


class BlockingSession:
    """`AvatarSession` with calls that block: enter it, speak, and iterate over `VideoChunk`, `AudioSpan` and `Event`, or `play`.

    One thread may iterate while another speaks. A voice of more than 30 s needs that, or `speak_soon`.
    """

    def __init__(self, portal: BlockingPortal, session: AvatarSession) -> None:
        self._portal, self._session = portal, session
        self._entered: AbstractContextManager[AvatarSession] | None = None

    def __enter__(self) -> Self:
        self._entered = self._portal.wrap_async_context_manager(self._session)
        self._entered.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._entered is not None
        self._entered.__exit__(kind, error, trace)

    @property
    def session(self) -> pb2.Session:
        """What was agreed at the start."""
        return self._session.session

    @property
    def outages(self) -> list[Outage]:
        """Every time the connection was lost and the session went on."""
        return self._session.outages

    def ready(self) -> None:
        """Wait until voice counts."""
        self._portal.call(self._session.ready)

    def speak(self, voice: Voice | Path | str, utterance_id: str | None = None, *, pace: Pace = "fastest") -> str:
        """Say one utterance, and wait until all of it is sent; see `AvatarSession.speak`."""
        return self.speak_soon(voice, utterance_id, pace=pace).result()

    def speak_soon(
        self, voice: Voice | Path | str, utterance_id: str | None = None, *, pace: Pace = "fastest"
    ) -> concurrent.futures.Future[str]:
        """Say one utterance while this thread goes on; the future gives its id once all of it is sent."""
        return self._portal.start_task_soon(partial(self._session.speak, voice, utterance_id, pace=pace))

    def interrupt(self) -> None:
        """Stop speaking at the next block."""
        self._portal.call(self._session.interrupt)

    def update(self, prompt: str, from_pts_us: int = 0) -> None:
        """Another prompt from the first block at or after this media time, in microseconds."""
        self._portal.call(self._session.update, prompt, from_pts_us)

    def close(self) -> None:
        """Ask the server to finish what was sent and end the session; go on iterating until it has."""
        self._portal.call(self._session.close)

    def __iter__(self) -> Iterator[Payload]:
        return self._each(self._session)

    def play(self, *, pace: Pace = "realtime", delay_s: float | None = None) -> Iterator[Moment | pb2.Event]:
        """Decoded frames with their sound, when they are due; see `liveact_services.client.play`."""
        return self._each(play(self._session, pace=pace, delay_s=delay_s))

    def _each(self, items: AsyncIterator[T]) -> Iterator[T]:
        while (item := self._portal.call(partial(_next, items))) is not None:
            yield item


async def _made(make: Callable[..., T], *args: Any, **options: Any) -> T:
    """Call it on the loop's thread."""
    return make(*args, **options)


async def _next(items: AsyncIterator[T]) -> T | None:
    return await anext(items, None)
