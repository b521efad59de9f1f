"""A cluster by script: replicas that die, hang and come back, in virtual time, and frames that depend on all that came before."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from liveact_models.timeline import block_frames
from liveact_services.block_order import BlockOrder
from liveact_services.conductor.archive import Kept, Writing
from liveact_services.conductor.parts import ExportRefused, NoPlace, Part, PartLost
from liveact_services.conductor.stages import BlockPlan, Boundary, EncodedFrame, SessionSpec, StageTimes, VideoPart
from liveact_services.errors import fail
from liveact_services.fencing import Fence
from liveact_services.placement.pins import ReplicaGone, Superseded
from liveact_services.vault.shelf import ExportMissing, Shelf


def digest(*parts: bytes | str | int | None) -> bytes:
    return hashlib.sha256("|".join(p.hex() if isinstance(p, bytes) else str(p) for p in parts).encode()).digest()


@dataclass
class Held:
    """A session's part on one replica: its value and its turns."""

    value: bytes
    order: BlockOrder
    boundary: bytes = b""
    """The value at the last block boundary, for a decoder that gives up in the middle."""


class ScriptedReplica:
    """Answers until it dies; while it hangs, nothing it computes ends."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sessions: dict[str, Held] = {}
        self.died = asyncio.Event()
        self.running = asyncio.Event()
        self.running.set()
        self.fence = Fence()
        self.leaving = False
        """Whether it is to go: it takes no session more and goes on with those it has."""

    def held(self, session: str) -> Held:
        if session not in self.sessions:
            raise ReplicaGone(f"{session} is not held by {self.name}")
        return self.sessions[session]

    async def compute(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.running.wait()

    async def serve(self, call: Coroutine[Any, Any, Any], *, taken: bool = False) -> Any:
        """What the call gives, or `PartLost` when the replica dies first or the call comes too late for it.

        `taken`: too late means that somebody else has the session.
        """
        answer, death = asyncio.ensure_future(call), asyncio.ensure_future(self.died.wait())
        try:
            await asyncio.wait({answer, death}, return_when=asyncio.FIRST_COMPLETED)
            if self.died.is_set():
                raise PartLost(f"{self.name} died")
            return answer.result()
        except Superseded as late:
            if taken:
                raise fail("SESSION_TAKEN_OVER", str(late)) from late
            raise PartLost(str(late)) from late
        except ReplicaGone as gone:
            raise PartLost(str(gone)) from gone
        finally:
            answer.cancel()
            death.cancel()


@dataclass
class Making:
    """Latents in the making, and the replica in whose memory they lie."""

    task: asyncio.Task[bytes]
    replica: ScriptedReplica


@dataclass
class Counts:
    """What was asked for, to tell what a recovery cost."""

    denoised: list[int] = field(default_factory=list)
    due: list[float | None] = field(default_factory=list)
    """Seconds each of them was given when it was sent."""
    decoded: list[int] = field(default_factory=list)
    adopted: list[tuple[Part, int]] = field(default_factory=list)
    opened: list[Part] = field(default_factory=list)
    handed_over: list[tuple[Part, int]] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    """Replicas that are held by an open call."""


class ScriptedGraph:
    """A `Graph` whose frames are hashes of everything they depend on, so that no wrong byte passes for a right one.

    A lost replica is replaced after `restart_s`. With `objects_die`, latents are gone with the replica that made them.
    """

    def __init__(
        self, *, replicas: int = 2, denoise_s: float = 0.2, part_s: float = 0.02, restart_s: float = 3.0,
        hand_over_s: float = 0.05, export_blocks: int = 4, objects_die: bool = False,
    ) -> None:  # fmt: skip
        self.denoise_s, self.part_s, self.restart_s, self.hand_over_s = denoise_s, part_s, restart_s, hand_over_s
        self.export_blocks, self.objects_die = export_blocks, objects_die
        self.counts = Counts()
        self.shelf: Shelf | None = Shelf(1 << 26, 1e9)
        self.vault_s = 0.002
        self._wanted: set[Part] = set()
        self.hearing = asyncio.Event()
        """Whether an AudioEncoder is there."""
        self.hearing.set()
        self.full = False
        """Whether no replica takes a session."""
        self.unsaved = 0
        """How many values that are handed over do not reach the shelf."""
        self._turns = asyncio.Semaphore(2)
        self._names = 0
        self.replicas: dict[Part, list[ScriptedReplica]] = {
            part: [self._new(part) for _ in range(replicas)] for part in Part
        }

    # ---- what goes wrong ---------------------------------------------------------------------------------------------------

    def holder(self, part: Part, session: str = "s") -> ScriptedReplica | None:
        return next((r for r in self.replicas[part] if session in r.sessions), None)

    def holders(self) -> dict[Part, str]:
        return {part: replica.name for part in Part if (replica := self.holder(part)) is not None}

    def kill(self, part: Part) -> None:
        """The replica that holds the session dies, if one does."""
        if (replica := self.holder(part)) is not None:
            self._end(part, replica)

    def hang(self, part: Part, seconds: float = 1e6) -> None:
        """The replica that holds the session computes no more; it is replaced a while later."""
        if (replica := self.holder(part)) is not None and replica.running.is_set():
            replica.running.clear()
            asyncio.get_running_loop().call_later(seconds, replica.running.set)
            asyncio.get_running_loop().call_later(40.0, self._end, part, replica)

    def deafen(self) -> None:
        """No AudioEncoder answers until another is there."""
        self.hearing.clear()
        asyncio.get_running_loop().call_later(self.restart_s, self.hearing.set)

    def damage(self, part: Part) -> None:
        """The newest export of the part is not what was put."""
        if self.shelf is not None and (blocks := self.shelf.blocks("s", part)):
            self.shelf.put("s", part, blocks[0], b"damaged", self.shelf._sessions["s"].attempt)

    def _end(self, part: Part, replica: ScriptedReplica) -> None:
        if replica in self.replicas[part]:
            self.replicas[part].remove(replica)
            replica.died.set()
            if replica.leaving:
                return
            asyncio.get_running_loop().call_later(self.restart_s, lambda: self.replicas[part].append(self._new(part)))

    def _new(self, part: Part) -> ScriptedReplica:
        self._names += 1
        return ScriptedReplica(f"{part}-{self._names}")

    def leave(self, part: Part, session: str = "s", stays_s: float | None = None) -> None:
        """The replica that holds the session is to go, and another is started; it goes `stays_s` later, or never."""
        if (replica := self.holder(part, session)) is not None and not replica.leaving:
            replica.leaving = True
            loop = asyncio.get_running_loop()
            loop.call_later(self.restart_s, lambda: self.replicas[part].append(self._new(part)))
            if stays_s is not None:
                loop.call_later(stays_s, self._end, part, replica)

    def ask_away(self, part: Part, session: str = "s") -> None:
        """The replica that holds the session wants it to go elsewhere, and takes others still."""
        if (replica := self.holder(part, session)) is not None:
            replica.held(session).order.ask_away()

    # ---- the verbs ---------------------------------------------------------------------------------------------------------

    async def open(self, part: Part, spec: SessionSpec, portrait: np.ndarray, attempt: int, avoid: str) -> str:
        self.counts.opened.append(part)
        begin = digest(part, spec.seed, spec.prompt)
        return await self._place(part, spec.session, begin, 0, attempt, avoid)

    async def adopt(
        self, part: Part, spec: SessionSpec, block: int, attempt: int, *, replica: str | None, avoid: str
    ) -> str:
        if self.shelf is None:
            raise PartLost("the vault died")
        try:
            export = self.shelf.get(spec.session, part, block)
        except ExportMissing as missing:
            raise ExportRefused(str(missing)) from missing
        value, checksum = export[:32], export[32:]
        if digest(value, block) != checksum:
            raise ExportRefused("the checksum does not match")
        self.counts.adopted.append((part, block))
        return await self._place(part, spec.session, value, block, attempt, avoid, replica)

    async def settle(self, part: Part, replica: str, spec: SessionSpec, attempt: int) -> int:
        at = self._find(part, replica)

        async def settle() -> int:
            at.fence.enter(spec.session, attempt)
            held = at.held(spec.session)
            held.order.supersede(attempt)
            if part is Part.DENOISER:
                await held.order.idle()
            else:
                await at.compute(0)
                held.value = held.boundary
                held.order.put_at(held.order.next_block)
            return held.order.next_block

        return await at.serve(settle(), taken=True)

    def denoise(self, replica: str, spec: SessionSpec, plan: BlockPlan, attempt: int) -> Making:
        async def denoise(at: ScriptedReplica, features: bytes) -> bytes:
            await asyncio.sleep(0.001 * (plan.block % 3))
            held = at.held(spec.session)
            async with held.order.turn(plan.block, attempt):
                await at.compute(self.denoise_s)
                held.value = digest(held.value, features, plan.prompt)
                self.counts.denoised.append(plan.block)
                self.counts.due.append(plan.due_s)
                self._export(at, Part.DENOISER, spec.session, plan.block + 1, held.value, attempt)
                return digest("latents", held.value)

        async def make() -> bytes:
            if not self.hearing.is_set():
                raise PartLost("the AudioEncoder died")
            await asyncio.sleep(0.01)
            if not self.hearing.is_set():
                raise PartLost("the AudioEncoder died")
            at = self._find(Part.DENOISER, replica)
            return await at.serve(denoise(at, plan.voice.samples.tobytes()))

        return Making(_quiet(make()), self._find(Part.DENOISER, replica, gone=True))

    async def made(self, latents: Making) -> None:
        await latents.task

    def decode(
        self, replica: str, spec: SessionSpec, plan: BlockPlan, latents: Making, first_frame: int, attempt: int
    ) -> AsyncIterator[VideoPart]:
        parts: asyncio.Queue[VideoPart | None] = asyncio.Queue()
        block = plan.block

        async def decode(at: ScriptedReplica, value: bytes) -> None:
            held = at.held(spec.session)
            async with held.order.turn(block, attempt):
                held.boundary = held.value
                pictures: list[bytes] = []
                for group in groups(block):
                    held.order.check_turn(attempt)
                    await at.compute(self.part_s)
                    held.order.check_turn(attempt)
                    held.value = digest(held.value, value)
                    frames = tuple(
                        EncodedFrame(i, i == block_frames(block).start, digest(held.value, i)) for i in group if i >= first_frame
                    )  # fmt: skip
                    if group[-1] == block_frames(block)[-1]:
                        held.boundary = held.value
                    pictures += [digest(held.value, i) for i in group]
                    last = plan.backward and group[-1] == block_frames(block)[-1]
                    backward = [EncodedFrame(i, i == 0, digest("back", p)) for i, p in enumerate(pictures[::-1])]
                    if frames:
                        parts.put_nowait(VideoPart(block, frames, StageTimes(), tuple(backward) if last else ()))
                self.counts.decoded.append(block)
                self._export(at, Part.DECODER, spec.session, block + 1, held.value, attempt)

        async def make() -> bytes:
            try:
                value = await latents.task
                if self.objects_die and latents.replica.died.is_set():
                    raise PartLost("the object is lost")
                at = self._find(Part.DECODER, replica)
                await at.serve(decode(at, value))
            finally:
                parts.put_nowait(None)
            return b""

        return _taken(parts, _quiet(make()))

    async def exports(self, part: Part, session: str) -> list[int]:
        await asyncio.sleep(0.002)
        if self.shelf is None:
            raise PartLost("the vault died")
        return self.shelf.blocks(session, part)

    def leaving(self, part: Part, replica: str) -> bool:
        return any(r.leaving for r in self.replicas[part] if r.name == replica)

    def turn(self, replica: str) -> asyncio.Semaphore:
        return self._turns

    async def hand_over(self, part: Part, replica: str, spec: SessionSpec, attempt: int) -> Boundary:
        at = self._find(part, replica)

        async def hand_over() -> Boundary:
            at.fence.enter(spec.session, attempt)
            held = at.held(spec.session)
            asked = asyncio.get_running_loop().time()
            held.order.supersede(attempt, finish=True)
            await held.order.idle()
            finishing_s = asyncio.get_running_loop().time() - asked
            held.order.put_at(held.order.next_block)
            value, block = held.value if part is Part.DENOISER else held.boundary, held.order.next_block
            held.value = value
            await at.compute(self.hand_over_s)
            self.counts.handed_over.append((part, block))
            self.unsaved -= 1
            if self.shelf is None or self.unsaved >= 0:
                return Boundary(block, False)
            self.shelf.put(spec.session, part, block, value + digest(value, block), attempt)
            return Boundary(block, True, finishing_s)

        return await at.serve(hand_over(), taken=True)

    async def hold(self, part: Part, replica: str, spec: SessionSpec) -> AsyncIterator[None]:
        at = self._find(part, replica)

        async def order() -> BlockOrder:
            return at.held(spec.session).order

        async def asked_away(order: BlockOrder) -> bool:
            while not await order.closed(1.0):
                if order.asked_away():
                    return True
            return False

        mine = await at.serve(order())
        self.counts.held.append(replica)
        try:
            while await at.serve(asked_away(mine)):
                yield None
        finally:
            self.counts.held.remove(replica)

    async def keep(self, part: Part, replica: str, spec: SessionSpec) -> None:
        at = self._find(part, replica)

        async def keep() -> None:
            at.held(spec.session)

        await at.serve(keep())

    async def protect(self, part: Part, replica: str, spec: SessionSpec, attempt: int) -> None:
        at = self._find(part, replica)
        held = at.held(spec.session)
        self._wanted.add(part)
        if not held.order.busy:
            self._export(at, part, spec.session, held.order.next_block, held.value, attempt)

    async def close(self, part: Part, replica: str, spec: SessionSpec, attempt: int) -> None:
        at = self._find(part, replica)
        try:
            at.fence.enter(spec.session, attempt)
        except Superseded as late:
            raise PartLost(str(late)) from late
        if (held := at.sessions.pop(spec.session, None)) is not None:
            held.order.close()

    async def forget(self, session: str, attempt: int) -> None:
        if self.shelf is not None:
            with suppress(Superseded):
                self.shelf.forget(session, attempt)

    async def write(self, session: str, attempt: int, writing: Writing) -> Kept:
        shelf = await self._vault()
        try:
            return shelf.write(session, attempt, writing)
        except Superseded as late:
            raise fail("SESSION_TAKEN_OVER", str(late)) from late

    async def read(self, session: str, attempt: int | None) -> dict[str, bytes]:
        shelf = await self._vault()
        try:
            return shelf.read(session, attempt)
        except Superseded as late:
            raise fail("SESSION_TAKEN_OVER", str(late)) from late

    async def _vault(self) -> Shelf:
        await asyncio.sleep(self.vault_s)
        if self.shelf is None:
            raise PartLost("the vault died")
        return self.shelf

    # ---- how ---------------------------------------------------------------------------------------------------------------

    async def _place(
        self, part: Part, session: str, value: bytes, block: int, attempt: int, avoid: str, replica: str | None = None
    ) -> str:
        if replica is not None:
            at = self._find(part, replica)
        else:
            willing = [r for r in self.replicas[part] if r.name != avoid and not r.leaving and not self.full]
            if not willing:
                raise NoPlace("there is none")
            at = willing[0]

        async def hold() -> str:
            at.fence.enter(session, attempt)
            await at.compute(0.05)
            if (before := at.sessions.get(session)) is not None:
                before.order.close()
            at.sessions[session] = Held(value, BlockOrder(block, attempt), value)
            return at.name

        return await at.serve(hold(), taken=True)

    def _find(self, part: Part, name: str, gone: bool = False) -> ScriptedReplica:
        found = next((r for r in self.replicas[part] if r.name == name), None)
        if found is None:
            if gone:
                found = ScriptedReplica(name)
                found.died.set()
                return found
            raise PartLost(f"{name} has gone")
        return found

    def _export(self, at: ScriptedReplica, part: Part, session: str, block: int, value: bytes, attempt: int) -> None:
        if not self.export_blocks or (block % self.export_blocks and part not in self._wanted):
            return
        self._wanted.discard(part)

        def arrive() -> None:
            if self.shelf is not None and not at.died.is_set():
                with suppress(Superseded):
                    self.shelf.put(session, part, block, value + digest(value, block), attempt)

        asyncio.get_running_loop().call_later(0.03, arrive)


def groups(block: int) -> list[list[int]]:
    """The block's frames, by latent frame."""
    frames = list(block_frames(block))
    first = len(frames) % 4
    return ([frames[:first]] if first else []) + [frames[i : i + 4] for i in range(first, len(frames), 4)]


async def _taken(parts: asyncio.Queue[VideoPart | None], making: asyncio.Task[bytes]) -> AsyncIterator[VideoPart]:
    while (part := await parts.get()) is not None:
        yield part
    await making


def _quiet(work: Coroutine[Any, Any, bytes]) -> asyncio.Task[bytes]:
    """A task whose failure nobody has to fetch."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


async def later(seconds: float, what: Callable[[], object]) -> None:
    await asyncio.sleep(seconds)
    what()


async def until(done: Callable[[], bool], step: float = 0.01) -> None:
    while not done():
        await asyncio.sleep(step)


Script = Callable[[ScriptedGraph], Awaitable[None]]
