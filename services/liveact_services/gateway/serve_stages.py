"""The stages as deployment handles: sessions' calls into the cluster, each pinned where its state is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from liveact_models.blob import StateError
from liveact_services.conductor.archive import Kept, Writing, is_first
from liveact_services.conductor.parts import ExportRefused, Latents, NoPlace, Part, PartLost
from liveact_services.conductor.patience import Patience
from liveact_services.conductor.stages import BlockPlan, Boundary, SessionSpec, VideoPart
from liveact_services.conductor.succession import SucceedingStages
from liveact_services.errors import fail
from liveact_services.observability.tracing import TRACING
from liveact_services.placement.departing import BOARD, key
from liveact_services.placement.gathering import GATHER_FROM_S, makers
from liveact_services.placement.pins import ASK_AGAIN_S, NoReplica, Pin, ReplicaFull, ReplicaGone, Superseded
from liveact_services.vault.shelf import ExportMissing

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from liveact_services.config import SessionLimits


@dataclass(frozen=True)
class StageHandles:
    """What stands behind a Gateway; of Denoisers, one deployment a pool."""

    conditioner: DeploymentHandle
    audio_encoder: DeploymentHandle
    vae_encoder: DeploymentHandle
    denoisers: Mapping[str, DeploymentHandle]
    vae_decoder: DeploymentHandle
    vault: DeploymentHandle

    def room(self) -> dict[str, float]:
        """How many small sessions each pool has room for, as far as this process has heard."""

        def of(handle: DeploymentHandle) -> float:
            return BOARD.listing(key(handle.app_name, handle.deployment_name)).room

        return {pool: min(of(denoiser), of(self.vae_decoder)) for pool, denoiser in self.denoisers.items()}


def serve_stages(
    handles: StageHandles,
    limits: SessionLimits,
    attempt: int = 0,
    make_sure: Callable[[], Awaitable[None]] | None = None,
) -> SucceedingStages:
    """A session's way through the graph, for the owner whose attempts begin with that one."""
    patience = Patience(limits.stage_timeout_s, limits.failover_timeout_s)
    graph = ServeGraph(handles, limits.make_room)
    return SucceedingStages(
        graph, patience, limits.export_blocks, limits.park_after_s, attempt=attempt, make_sure=make_sure
    )


class ServeGraph:
    """The `Graph` of a cluster. References are passed on, never awaited here: the bytes skip the Gateway."""

    def __init__(self, handles: StageHandles, make_room: bool = True) -> None:
        """`make_room`: whether sessions may be asked to leave a replica for one that finds no place."""
        self._handles, self._make_room = handles, make_room

    async def open(self, part: Part, spec: SessionSpec, portrait: np.ndarray, attempt: int, avoid: str) -> str:
        """Place the part anew; gives the replica's id. Raises `NoPlace` and `PartLost`."""
        handle, arguments = self._handle(part, spec), ()
        with TRACING.span("place", spec.trace, part=part.value) as trace, _fenced(), _losses():
            if part is Part.DENOISER:
                text = self._handles.conditioner.text.remote(spec.prompt, trace)
                clip = self._handles.conditioner.image.remote(portrait, trace)
                arguments = (text, clip, self._handles.vae_encoder.reference.remote(portrait, trace))  # type: ignore[assignment]
            try:
                return await _place(
                    part,
                    spec,
                    avoid,
                    lambda key: handle.options(session_id=key).open.remote(spec, *arguments, attempt=attempt),
                )
            except NoRoom as full:
                # A session that lost its replica asks again by itself, and soon: only a client is told a time.
                if is_first(attempt) and part is Part.DENOISER:
                    raise await self._told(spec, full) from None
                raise

    async def adopt(
        self, part: Part, spec: SessionSpec, block: int, attempt: int, *, replica: str | None, avoid: str
    ) -> str:
        """Have a replica go on from an export. Raises `NoPlace`, `ExportRefused` and `PartLost`."""
        export = self._vault(spec.session).get.remote(spec.session, part, block)
        with TRACING.span("adopt", spec.trace, part=part.value, before_block=block), _fenced(), _losses():
            if replica is not None:
                return await self._pinned(part, replica, spec).adopt.remote(spec, export, attempt)
            handle = self._handle(part, spec)
            return await _place(
                part, spec, avoid, lambda key: handle.options(session_id=key).adopt.remote(spec, export, attempt)
            )

    async def settle(self, part: Part, replica: str, spec: SessionSpec, attempt: int) -> int:
        """Begin an attempt; gives the block before which the part stands. Raises `PartLost`."""
        with _fenced(), _losses():
            return await self._pinned(part, replica, spec).settle.remote(spec.session, attempt)

    def denoise(self, replica: str, spec: SessionSpec, plan: BlockPlan, attempt: int) -> Latents:
        """Start a block: its sound to the AudioEncoder, what comes of it to the Denoiser."""
        features = self._handles.audio_encoder.encode.remote(plan.voice, plan.block, plan.trace)
        text = None if plan.prompt is None else self._handles.conditioner.text.remote(plan.prompt, plan.trace)
        pinned = self._pinned(Part.DENOISER, replica, spec)
        return pinned.denoise.remote(spec.session, plan.block, features, text, attempt, plan.due_s, plan.trace)

    async def made(self, latents: Latents) -> None:
        """Wait for latents. Raises `PartLost`."""
        with _losses():
            await latents

    def decode(
        self, replica: str, spec: SessionSpec, plan: BlockPlan, latents: Latents, first_frame: int, attempt: int
    ) -> AsyncIterator[VideoPart]:
        """Start a block's video; its parts arrive as they are decoded. Iterating raises `PartLost`."""
        pinned = self._pinned(Part.DECODER, replica, spec).options(stream=True)
        return _parts(
            pinned.decode.remote(spec.session, plan.block, latents, first_frame, attempt, plan.backward, plan.trace)
        )

    async def exports(self, part: Part, session: str) -> list[int]:
        """The blocks before which exports are held, the newest first. Raises `PartLost`."""
        with _losses():
            return await self._vault(session).blocks.remote(session, part)

    def leaving(self, part: Part, replica: str) -> bool:
        """Whether the replica drains or Serve stops it, as far as this process has heard."""
        return BOARD.leaving(replica)

    def turn(self, replica: str) -> AbstractAsyncContextManager[object]:
        """Wait until few others of this Gateway's sessions are leaving the replica."""
        return BOARD.turn(replica)

    async def hand_over(self, part: Part, replica: str, spec: SessionSpec, attempt: int) -> Boundary:
        """Have the replica put the session's value into the Vault, at the next boundary. Raises `PartLost`."""
        with TRACING.span("hand_over", spec.trace, part=part.value), _fenced(), _losses():
            return await self._pinned(part, replica, spec).hand_over.remote(spec.session, attempt)

    async def hold(self, part: Part, replica: str, spec: SessionSpec) -> AsyncIterator[None]:
        """Have the replica stay for the session; an item when it wants it to leave. Iterating raises `PartLost`."""
        beats = self._pinned(part, replica, spec).options(stream=True).hold.remote(spec.session)
        try:
            with _losses():
                async for leave in beats:
                    if leave:
                        yield None
        finally:
            beats.cancel()

    async def keep(self, part: Part, replica: str, spec: SessionSpec) -> None:
        """Have the replica go on holding the session. Raises `PartLost`."""
        with _losses():
            await self._pinned(part, replica, spec).keep.remote(spec.session)

    async def protect(self, part: Part, replica: str, spec: SessionSpec, attempt: int) -> None:
        """Have the replica export the session soon. Raises `PartLost`."""
        with _losses():
            await self._pinned(part, replica, spec).protect.remote(spec.session, attempt)

    async def close(self, part: Part, replica: str, spec: SessionSpec, attempt: int) -> None:
        """Have the replica forget the session. Raises `PartLost`."""
        with _losses():
            await self._pinned(part, replica, spec).close.remote(spec.session, attempt)

    async def forget(self, session: str, attempt: int) -> None:
        """Have the session's exports forgotten, and its journal. Raises `PartLost`."""
        with _losses():
            await self._vault(session).forget.remote(session, attempt)

    async def _told(self, spec: SessionSpec, full: NoRoom) -> NoRoom:
        """What the client is told, and a replica knows that it is: of room that is made for it, or of the first there will be."""
        if self._make_room and not (full.first and full.retry_after_s <= GATHER_FROM_S):
            handle = self._handle(Part.DENOISER, spec)
            heard = BOARD.listing(key(handle.app_name, handle.deployment_name)).free
            for replica, elsewhere in makers(spec.size, heard):
                with suppress(PartLost), _losses():
                    wait = await self._pinned(Part.DENOISER, replica, spec).make_room.remote(spec, elsewhere)
                    if wait is not None:
                        return NoRoom({replica: wait})
        if full.first:
            with suppress(PartLost), _losses():
                await self._pinned(Part.DENOISER, full.first, spec).expect.remote(spec, full.retry_after_s)
        return full

    def _handle(self, part: Part, spec: SessionSpec) -> DeploymentHandle:
        return self._handles.denoisers[spec.pool] if part is Part.DENOISER else self._handles.vae_decoder

    def _pinned(self, part: Part, replica: str, spec: SessionSpec) -> Any:
        return self._handle(part, spec).options(session_id=str(Pin(spec.session, replica)))

    def _vault(self, session: str) -> Any:
        return self._handles.vault.options(session_id=session)


class ServeArchive:
    """The `Archive` of a cluster: its Vault."""

    def __init__(self, handles: StageHandles) -> None:
        self._vault = handles.vault

    async def write(self, session: str, attempt: int, writing: Writing) -> Kept:
        """Keep pages of the session's journal. Raises `PartLost`, and SESSION_TAKEN_OVER."""
        with _fenced(), _losses():
            return await self._vault.options(session_id=session).write.remote(session, attempt, writing)

    async def read(self, session: str, attempt: int | None) -> dict[str, bytes]:
        """The pages that are held whole. Raises `PartLost`, and SESSION_TAKEN_OVER."""
        with _fenced(), _losses():
            return await self._vault.options(session_id=session).read.remote(session, attempt)


class NoRoom(NoPlace):
    """Every replica has refused a session."""

    def __init__(self, waits: Mapping[str, float | None]) -> None:
        """`waits`: in how many seconds each replica that refused expects to have room."""
        known = {replica: wait for replica, wait in waits.items() if wait is not None}
        self.first = min(known, key=lambda replica: known[replica]) if known else ""
        """The replica that has room first, where one knows."""
        super().__init__(retry_after_s=known[self.first] if known else ASK_AGAIN_S)


async def _place(part: Part, spec: SessionSpec, avoid: str, call: Callable[[str], Awaitable[str]]) -> str:
    """Ask one replica after the other until one takes the session; gives that replica's id. Raises `NoRoom`."""
    refused: dict[str, float | None] = {avoid: None} if avoid else {}
    # Decoders count sessions.
    size = spec.size if part is Part.DENOISER else 1.0
    while True:
        try:
            return await call(str(Pin(spec.session, None, tuple(refused), size)))
        except ReplicaFull as full:
            # Ray raises a class made of both errors; what the replica said is in the cause.
            replica, *wait = getattr(full, "cause", full).args
            refused[replica] = wait[0] if wait else None
        except NoReplica:
            raise NoRoom(refused) from None


async def _parts(parts: AsyncIterator[VideoPart]) -> AsyncIterator[VideoPart]:
    with _losses():
        async for part in parts:
            yield part


@contextmanager
def _losses() -> Iterator[None]:
    """Turn what Ray says of replicas and objects that have gone into `PartLost`, and of exports into `ExportRefused`."""
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Not this task was cancelled but the call, and it must not look as if the session had been.
        raise PartLost("the call was cancelled where it was answered") from None
    except Exception as error:
        # The innermost first: it says in its own words what the others wrap.
        for cause in reversed(list(_causes(error))):
            if isinstance(cause, StateError | ExportMissing):
                raise ExportRefused(str(cause)) from error
            if isinstance(cause, _loss_types()):
                raise PartLost(f"{type(cause).__name__}: {(str(cause).splitlines() or [''])[0]}") from error
        raise


@contextmanager
def _fenced() -> Iterator[None]:
    """Turn the word of a replica or Vault that a later owner of the session has come into SESSION_TAKEN_OVER."""
    try:
        yield
    except Exception as error:
        if any(isinstance(cause, Superseded) for cause in _causes(error)):
            raise fail("SESSION_TAKEN_OVER", "the session went on at another server") from error
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what is wrapped in it: a failed argument arrives as the failure of the call it was for, and the router
    adds an error of its own around that."""
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__


def _loss_types() -> tuple[type[BaseException], ...]:
    from ray import exceptions as ray
    from ray.serve import exceptions as serve

    return (
        ReplicaGone, Superseded, ray.RayActorError, ray.NodeDiedError, ray.WorkerCrashedError, ray.LocalRayletDiedError,
        ray.ObjectLostError, ray.TaskCancelledError, serve.BackPressureError, serve.DeploymentUnavailableError,
        serve.ReplicaUnavailableError,
    )  # fmt: skip
