"""The stages as deployment handles: one stream's calls into the cluster, each pinned where its state is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from liveact_services.conductor.stages import BlockPlan, SessionSpec, VideoPart
from liveact_services.errors import fail
from liveact_services.placement.pins import NoReplica, Pin, ReplicaFull, ReplicaGone

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

RETRY_FULL_S = 5.0
"""Told where no replica knows when it has room."""
CLOSE_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class StageHandles:
    """The five stages behind a Gateway."""

    conditioner: DeploymentHandle
    audio_encoder: DeploymentHandle
    vae_encoder: DeploymentHandle
    denoiser: DeploymentHandle
    vae_decoder: DeploymentHandle


class ServeStages:
    """One session's way through the graph. References are passed on, never awaited here: the bytes skip the Gateway."""

    def __init__(self, handles: StageHandles) -> None:
        self._handles = handles
        self._spec: SessionSpec | None = None
        self._denoiser: str | None = None
        self._decoder: str | None = None

    @property
    def replicas(self) -> tuple[str, str]:
        """Where the session is held."""
        return self._denoiser or "", self._decoder or ""

    async def open(self, spec: SessionSpec, portrait: np.ndarray) -> None:
        """Condition the session and place it. Raises `ServiceError` CAPACITY, with a retry time, where no replica takes it."""
        self._spec = spec
        text = self._handles.conditioner.text.remote(spec.prompt)
        clip = self._handles.conditioner.image.remote(portrait)
        reference = self._handles.vae_encoder.reference.remote(portrait)
        denoiser, decoder = self._handles.denoiser, self._handles.vae_decoder
        try:
            self._decoder = await _place(spec.session, lambda key: decoder.options(session_id=key).open.remote(spec))
        except NoRoom as full:
            raise full.told() from None
        try:
            self._denoiser = await _place(
                spec.session, lambda key: denoiser.options(session_id=key).open.remote(spec, text, clip, reference)
            )
        except NoRoom as full:
            await self._promise(spec, full)
            raise full.told() from None

    def submit(self, plan: BlockPlan) -> AsyncIterator[VideoPart]:
        """Send the block through all its stages now; its parts arrive as they are decoded."""
        assert self._spec is not None
        session = self._spec.session
        features = self._handles.audio_encoder.encode.remote(plan.voice, plan.block)
        text = None if plan.prompt is None else self._handles.conditioner.text.remote(plan.prompt)
        (_, denoiser), (_, decoder) = self._pinned()
        denoised = denoiser.denoise.remote(session, plan.block, features, text, plan.due_s)
        parts: Any = decoder.options(stream=True).decode.remote(session, plan.block, denoised, plan.backward)
        return _translated(parts)

    async def keep(self) -> None:
        """Have the session's replicas go on holding it. Raises `ServiceError` SESSION_LOST when one has gone."""
        for session, pinned in self._pinned():
            try:
                await pinned.keep.remote(session)
            except Exception as error:
                raise _as_lost(error) from error

    async def close(self) -> None:
        """Forget the session on its replicas; one that is gone has forgotten it already."""
        for session, pinned in self._pinned():
            try:
                await asyncio.wait_for(pinned.close.remote(session), CLOSE_TIMEOUT_S)
            except TimeoutError:
                pass
            except Exception as error:
                if not _is_loss(error):
                    raise

    async def _promise(self, spec: SessionSpec, full: NoRoom) -> None:
        """Tell the replica that has room first that the client was told so."""
        if not full.first:
            return
        pinned = self._handles.denoiser.options(session_id=str(Pin(spec.session, full.first)))
        try:
            await pinned.expect.remote(spec, full.retry_after_s)
        except Exception as error:
            if not _is_loss(error):
                raise

    def _pinned(self) -> Iterator[tuple[str, DeploymentHandle]]:
        """The session and, pinned, the stages that hold it."""
        if self._spec is None:
            return
        held = ((self._handles.denoiser, self._denoiser), (self._handles.vae_decoder, self._decoder))
        for handle, replica in held:
            if replica is not None:
                yield self._spec.session, handle.options(session_id=str(Pin(self._spec.session, replica)))


class NoRoom(Exception):
    """No replica takes a session."""

    def __init__(self, waits: dict[str, float | None]) -> None:
        """`waits`: in how many seconds each replica that refused expects to have room."""
        known = {replica: wait for replica, wait in waits.items() if wait is not None}
        self.first = min(known, key=lambda replica: known[replica]) if known else ""
        """The replica that has room first, where one knows."""
        self.retry_after_s = known[self.first] if known else RETRY_FULL_S
        super().__init__(waits)

    def told(self) -> Exception:
        """As the client is told."""
        return fail("CAPACITY", "every replica holds as many sessions as it can", retry_after_s=self.retry_after_s)


async def _place(session: str, call: Callable[[str], Awaitable[str]]) -> str:
    """Ask one replica after the other until one takes the session; gives that replica's id. Raises `NoRoom`."""
    refused: dict[str, float | None] = {}
    while True:
        try:
            return await call(str(Pin(session, None, tuple(refused))))
        except ReplicaFull as full:
            # Ray raises a class made of both errors; what the replica said is in the cause.
            replica, *wait = getattr(full, "cause", full).args
            refused[replica] = wait[0] if wait else None
        except NoReplica:
            raise NoRoom(refused) from None


async def _translated(parts: AsyncIterator[VideoPart]) -> AsyncIterator[VideoPart]:
    try:
        async for part in parts:
            yield part
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Not this task was cancelled but the call, and it must not look as if the Conductor had been.
        raise fail("SESSION_LOST", "the block was cancelled where it was made", retry_after_s=1.0) from None
    except Exception as error:
        raise _as_lost(error) from error


def _as_lost(error: Exception) -> Exception:
    """SESSION_LOST where the replica has gone, anything else as it is."""
    if _is_loss(error):
        return fail("SESSION_LOST", "the replica that held this session has gone", retry_after_s=1.0)
    return error


def _is_loss(error: Exception) -> bool:
    from ray.exceptions import ActorDiedError, ActorUnavailableError

    return isinstance(getattr(error, "cause", error), ReplicaGone | ActorDiedError | ActorUnavailableError)
