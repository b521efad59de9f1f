"""The stages as deployment handles: one stream's calls into the cluster, each pinned where its state is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from liveact_services.conductor.stages import BlockPlan, SessionSpec, VideoPart
from liveact_services.errors import fail
from liveact_services.placement.pins import NoReplica, Pin, ReplicaFull, ReplicaGone

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

RETRY_FULL_S = 5.0


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
        """Condition the session and place it. Raises `ServiceError` CAPACITY when no replica takes it."""
        self._spec = spec
        text = self._handles.conditioner.text.remote(spec.prompt)
        clip = self._handles.conditioner.image.remote(portrait)
        reference = self._handles.vae_encoder.reference.remote(portrait)
        denoiser, decoder = self._handles.denoiser, self._handles.vae_decoder
        self._decoder = await _place(spec.session, lambda key: decoder.options(session_id=key).open.remote(spec))
        self._denoiser = await _place(
            spec.session, lambda key: denoiser.options(session_id=key).open.remote(spec, text, clip, reference)
        )

    def submit(self, plan: BlockPlan) -> AsyncIterator[VideoPart]:
        """Send the block through all its stages now; its parts arrive as they are decoded."""
        assert self._spec is not None
        session = self._spec.session
        features = self._handles.audio_encoder.encode.remote(plan.voice, plan.block)
        text = None if plan.prompt is None else self._handles.conditioner.text.remote(plan.prompt)
        denoiser = self._handles.denoiser.options(session_id=str(Pin(session, self._denoiser)))
        decoder = self._handles.vae_decoder.options(session_id=str(Pin(session, self._decoder)), stream=True)
        denoised = denoiser.denoise.remote(session, plan.block, features, text)
        return _translated(decoder.decode.remote(session, plan.block, denoised))

    async def close(self) -> None:
        """Forget the session on its replicas; one that is gone has forgotten it already."""
        if self._spec is None:
            return
        for handle, replica in (
            (self._handles.denoiser, self._denoiser),
            (self._handles.vae_decoder, self._decoder),
        ):
            if replica is not None:
                try:
                    pin = str(Pin(self._spec.session, replica))
                    await asyncio.wait_for(handle.options(session_id=pin).close.remote(self._spec.session), 10)
                except (ReplicaGone, TimeoutError):
                    pass
                except Exception as error:
                    if not _is_replica_loss(error):
                        raise


async def _place(session: str, call: Callable[[str], Awaitable[str]]) -> str:
    """Ask one replica after the other until one takes the session; gives that replica's id."""
    refused: tuple[str, ...] = ()
    while True:
        try:
            return await call(str(Pin(session, None, refused)))
        except ReplicaFull as full:
            # Ray raises a class made of both errors; what the replica said is in the cause.
            refused = (*refused, getattr(full, "cause", full).args[0])
        except NoReplica:
            raise _no_capacity() from None


def _no_capacity() -> Exception:
    return fail("CAPACITY", "every replica holds as many sessions as it can", retry_after_s=RETRY_FULL_S)


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
        if isinstance(error, ReplicaGone) or _is_replica_loss(error):
            raise fail("SESSION_LOST", "the replica that held this session has gone", retry_after_s=1.0) from error
        raise


def _is_replica_loss(error: BaseException) -> bool:
    from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

    known: tuple[Any, ...] = (ActorDiedError, ActorUnavailableError)
    cause = error.cause if isinstance(error, RayTaskError) else error
    return isinstance(cause, known)
