"""The stages that keep state, with the real models: what one replica exports another goes on from, to the bit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np
import pytest

from liveact_models.blob import StateError
from liveact_models.timeline import block_frames
from liveact_services import stateful
from liveact_services.conductor.archive import Kept, Writing
from liveact_services.conductor.local import LocalModels
from liveact_services.conductor.moving import MovingStages
from liveact_services.conductor.parts import Moved, Part, PartLost
from liveact_services.conductor.patience import Patience
from liveact_services.conductor.resilient import ResilientStages
from liveact_services.conductor.stages import BlockPlan, Boundary, Codec, Denoised, EncodedFrame, SessionSpec, VideoPart
from liveact_services.config import ServiceConfig
from liveact_services.denoiser import deployment as denoiser
from liveact_services.denoiser.deployment import Denoiser
from liveact_services.placement.pins import ReplicaFull, ReplicaGone, Superseded
from liveact_services.vae_decoder import deployment as vae_decoder
from liveact_services.vae_decoder.decoding import Decoding
from liveact_services.vae_decoder.deployment import VaeDecoder
from liveact_services.vault.deployment import Vault
from stage_fixtures import FPS, RATE, hummed_plans, noise_portrait, session_spec
from takeover_fixtures import Client

BLOCKS = 7
CONFIG = ServiceConfig(checkpoint="untrained", sessions={"export_blocks": 2})  # type: ignore[arg-type]
DENOISER, DECODER = Part.DENOISER, Part.DECODER


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    return noise_portrait()


@pytest.fixture(scope="module")
def plans() -> list[BlockPlan]:
    return hummed_plans(BLOCKS, {2: "She laughs.", 5: "He frowns."})


class VaultHandle:
    """A Vault of this process, called as a deployment handle is."""

    def __init__(self, vault: Vault) -> None:
        self.vault = vault

    def options(self, **_: str) -> VaultHandle:
        return self

    @property
    def put(self) -> VaultHandle:
        return self

    async def remote(self, session: str, part: Part, block: int, export: bytes, attempt: int, trace: str) -> bool:
        return await self.vault.put(session, part, block, export, attempt, trace)


@dataclass
class Cluster:
    """Two replicas of each part and the stateless models, in one process; a `Graph`."""

    models: LocalModels
    vault: Vault
    replicas: dict[Part, dict[str, Denoiser | VaeDecoder]]
    leave: set[str] = field(default_factory=set)
    """Replicas that are to go."""

    export_blocks = CONFIG.sessions.export_blocks

    def kill(self, part: Part) -> None:
        """The replica that holds a session is there no more."""
        held = [name for name, replica in self.replicas[part].items() if self._sessions(replica)]
        del self.replicas[part][held[0]]

    async def open(self, part: Part, spec: SessionSpec, portrait: np.ndarray, attempt: int, avoid: str) -> str:
        name, replica = next((n, r) for n, r in self.replicas[part].items() if n != avoid)
        if isinstance(replica, VaeDecoder):
            await replica.open(spec, attempt)
        else:
            text, clip = self.models.text(spec.prompt), self.models.image(portrait)
            await replica.open(spec, text, clip, self.models.reference(portrait), attempt)
        return name

    async def adopt(
        self, part: Part, spec: SessionSpec, block: int, attempt: int, *, replica: str | None, avoid: str
    ) -> str:
        name = replica or next(n for n in self.replicas[part] if n != avoid)
        await self._at(part, name).adopt(spec, await self.vault.get(spec.session, part, block), attempt)
        return name

    async def settle(self, part: Part, replica: str, spec: SessionSpec, attempt: int) -> int:
        return await self._at(part, replica).settle(spec.session, attempt)

    def denoise(self, replica: str, spec: SessionSpec, plan: BlockPlan, attempt: int) -> asyncio.Task[Denoised]:
        async def denoise() -> Denoised:
            features = await self.models.hear.run(self.models.features, plan.voice, plan.block)
            text = None if plan.prompt is None else self.models.text(plan.prompt)
            at = self._at(DENOISER, replica)
            assert isinstance(at, Denoiser)
            denoised = await at.denoise(spec.session, plan.block, features, text, attempt, plan.due_s)
            self._at(DENOISER, replica)
            return denoised

        return asyncio.create_task(denoise())

    async def made(self, latents: asyncio.Task[Denoised]) -> None:
        await latents

    async def decode(
        self,
        replica: str,
        spec: SessionSpec,
        plan: BlockPlan,
        latents: asyncio.Task[Denoised],
        first_frame: int,
        attempt: int,
    ) -> AsyncIterator[VideoPart]:
        denoised, at = await latents, self._at(DECODER, replica)
        assert isinstance(at, VaeDecoder)
        try:
            async for part in at.decode(spec.session, plan.block, denoised, first_frame, attempt, plan.backward):
                self._at(DECODER, replica)
                yield part
        except (ReplicaGone, Superseded) as gone:
            raise PartLost(str(gone)) from gone

    async def exports(self, part: Part, session: str) -> list[int]:
        return await self.vault.blocks(session, part)

    def leaving(self, part: Part, replica: str) -> bool:
        return replica in self.leave

    def turn(self, replica: str) -> asyncio.Semaphore:
        return asyncio.Semaphore(2)

    async def hand_over(self, part: Part, replica: str, spec: SessionSpec, attempt: int) -> Boundary:
        return await self._at(part, replica).hand_over(spec.session, attempt)

    async def hold(self, part: Part, replica: str, spec: SessionSpec) -> AsyncIterator[None]:
        async for leave in self._at(part, replica).hold(spec.session):
            if leave:
                yield None

    async def keep(self, part: Part, replica: str, spec: SessionSpec) -> None:
        await self._at(part, replica).keep(spec.session)

    async def protect(self, part: Part, replica: str, spec: SessionSpec, attempt: int) -> None:
        await self._at(part, replica).protect(spec.session, attempt)

    async def close(self, part: Part, replica: str, spec: SessionSpec, attempt: int) -> None:
        with suppress(Superseded):
            await self._at(part, replica).close(spec.session, attempt)

    async def write(self, session: str, attempt: int, writing: Writing) -> Kept:
        return await self.vault.write(session, attempt, writing)

    async def read(self, session: str, attempt: int | None) -> dict[str, bytes]:
        return await self.vault.read(session, attempt)

    def holders(self) -> dict[Part, str]:
        """The replica of each part; there is one session at a time."""
        return {
            part: name
            for part, replicas in self.replicas.items()
            for name, replica in replicas.items()
            if self._sessions(replica)
        }

    async def forget(self, session: str, attempt: int) -> None:
        await self.vault.forget(session, attempt)

    def _at(self, part: Part, name: str) -> Denoiser | VaeDecoder:
        if name not in self.replicas[part]:
            raise PartLost(f"{name} has gone")
        return self.replicas[part][name]

    @staticmethod
    def _sessions(replica: Denoiser | VaeDecoder) -> list[str]:
        return list(replica._sessions)


@pytest.fixture
def cluster(models: LocalModels, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    for module in (denoiser, vae_decoder, stateful):
        monkeypatch.setattr(module, "replica_id", lambda: "replica")
    handle = VaultHandle(Vault(CONFIG))
    replicas: dict[Part, dict[str, Denoiser | VaeDecoder]] = {
        DENOISER: {f"denoiser-{n}": Denoiser(CONFIG, vault=handle) for n in range(2)},  # type: ignore[arg-type]
        DECODER: {f"decoder-{n}": VaeDecoder(CONFIG, vault=handle) for n in range(2)},  # type: ignore[arg-type]
    }
    return Cluster(models, handle.vault, replicas)


async def performed(
    cluster: Cluster,
    plans: list[BlockPlan],
    portrait: np.ndarray,
    codec: Codec,
    lost: dict[int, tuple[Part, ...]],
    session: str = "s",
) -> tuple[list[EncodedFrame], list[Moved]]:
    """The frames of all blocks; `lost` says what dies once the first part of a block has come."""
    stages = ResilientStages(cluster, Patience(60.0, 120.0), CONFIG.sessions.export_blocks)
    moves: list[Moved] = []
    stages.listen(moves.append)
    await stages.open(session_spec(codec=codec, session=session), portrait)
    frames: list[EncodedFrame] = []
    coming = {0: stages.submit(plans[0])}
    for block in range(BLOCKS):
        if block + 1 < BLOCKS:
            coming[block + 1] = stages.submit(plans[block + 1])
        async for part in coming[block]:
            frames += part.frames
            for gone in lost.pop(block, ()):
                cluster.kill(gone)
        # Exports are made beside the blocks; here nothing else takes time.
        await asyncio.sleep(0.05)
    await stages.close()
    return frames, moves


CASES: list[dict[int, tuple[Part, ...]]] = [
    {4: (DENOISER,)},
    {4: (DECODER,)},
    {5: (DENOISER, DECODER)},
    {1: (DENOISER, DECODER)},
    {3: (DECODER,), 5: (DENOISER,)},
]


@pytest.mark.parametrize("codec", [pytest.param(Codec.RGB, marks=pytest.mark.slow), Codec.JPEG])
async def test_lost_replicas_change_no_byte_of_any_frame(
    cluster: Cluster, plans: list[BlockPlan], portrait: np.ndarray, codec: Codec
) -> None:
    expected, _ = await performed(cluster, plans, portrait, codec, {})
    everything = {part: dict(replicas) for part, replicas in cluster.replicas.items()}
    for number, case in enumerate(CASES):
        cluster.replicas = {part: dict(replicas) for part, replicas in everything.items()}
        frames, moves = await performed(cluster, plans, portrait, codec, dict(case), f"s{number}")
        assert [(f.index, f.data) for f in frames] == [(f.index, f.data) for f in expected], case
        assert {part for moved in moves for part in moved.parts} == {part for parts in case.values() for part in parts}
        for replicas in everything.values():
            for replica in replicas.values():
                for session in Cluster._sessions(replica):
                    await replica.close(session)


async def test_h264_goes_on_with_a_key_frame_and_every_frame_can_be_decoded(
    cluster: Cluster, plans: list[BlockPlan], portrait: np.ndarray
) -> None:
    frames, moves = await performed(cluster, plans, portrait, Codec.H264, {4: (DECODER,)})
    assert [f.index for f in frames] == list(range(block_frames(BLOCKS).start))
    starts = {block_frames(block).start for block in range(BLOCKS)}
    assert {f.index for f in frames if f.key} == starts | {moves[0].frame - 4}
    decoder = av.CodecContext.create("h264", "r")
    pictures = []
    for frame in frames:
        packet = av.Packet(frame.data)
        packet.pts, packet.time_base = frame.index, Fraction(1, FPS)
        pictures += decoder.decode(packet)
    pictures += decoder.decode(None)
    assert len(pictures) == len(frames)


@pytest.mark.parametrize("codec", [Codec.RGB, Codec.JPEG])
async def test_another_gateway_goes_on_with_the_bytes_of_an_undisturbed_run(cluster: Cluster, codec: Codec) -> None:
    voice = np.concatenate([0.3 * np.sin(np.arange(6 * RATE) * 0.08), np.zeros(RATE // 2)]).astype(np.float32)
    runs = []
    for session, losses in [("calm", []), ("lost", [0, 25, 90, 117])]:
        client = Client(cluster, session_spec(codec=codec, session=session))  # type: ignore[arg-type]
        await client.begin()
        for at in range(0, len(voice), 7777):
            client.say("hear", "u", voice[at : at + 7777])
        client.say("update", "She laughs.", 3.0)
        client.say("end", "u")
        client.close()
        for frame in losses:
            async with asyncio.timeout(60):
                while len(client.frames) < frame:
                    await asyncio.sleep(0.005)
            await client.move(back=5)
        async with asyncio.timeout(60):
            await client.end()
        for owner in client.owners:
            await owner.die()
        await client.owner.stages.close()  # type: ignore[union-attr]
        assert len(client.owners) == 1 + len(losses)
        runs.append(client)
    calm, lost = runs
    assert lost.frames == calm.frames
    assert np.array_equal(lost.sound, calm.sound)


async def test_an_earlier_attempt_is_sent_away_by_a_replica_that_forgot_the_session(
    cluster: Cluster, portrait: np.ndarray
) -> None:
    spec = session_spec()
    for part, name in [(DENOISER, "denoiser-0"), (DECODER, "decoder-0")]:
        at = cluster._at(part, name)
        assert await cluster.open(part, spec, portrait, 5, "") == name
        with pytest.raises(Superseded):
            await at.close("s", 4)
        assert await at.sessions() == ["s"]
        await at.close("s", 6)
        assert await at.sessions() == []
        with pytest.raises(Superseded):
            await cluster.open(part, spec, portrait, 5, "")
        for call in (at.settle("s", 5), at.protect("s", 5), at.adopt(spec, b"", 5)):
            with pytest.raises(Superseded):
                await call
        assert await at.sessions() == []


@pytest.mark.slow
@pytest.mark.parametrize("codec", [Codec.RGB, Codec.JPEG])
async def test_replicas_that_are_left_change_no_byte_of_any_frame(
    cluster: Cluster, plans: list[BlockPlan], portrait: np.ndarray, codec: Codec
) -> None:
    """Both parts leave one replica of each for the other and come back, a while into blocks that are being made."""
    expected, _ = await performed(cluster, plans, portrait, codec, {})
    stages = MovingStages(cluster, Patience(60.0, 120.0), CONFIG.sessions.export_blocks)
    moves: list[Moved] = []
    stages.listen(moves.append)
    # Not the name of one that was closed, and whose exports the Vault turns away.
    await stages.open(session_spec(codec=codec, session="leaves"), portrait)
    frames: list[EncodedFrame] = []
    coming = {0: stages.submit(plans[0])}
    for block in range(BLOCKS):
        if block + 1 < BLOCKS:
            coming[block + 1] = stages.submit(plans[block + 1])
        async for part in coming[block]:
            frames += part.frames
            if block in (1, 4) and len(moves) == 2 * (block == 4):
                cluster.leave = set(stages.replicas)
        if block in (1, 4):
            async with asyncio.timeout(60):
                while len(moves) < (2 if block == 1 else 4):
                    await asyncio.sleep(0.05)
    where = stages.replicas
    await stages.close()
    assert [(f.index, f.data) for f in frames] == [(f.index, f.data) for f in expected]
    assert {part for moved in moves for part in moved.parts} == set(Part)
    assert where == ("denoiser-0", "decoder-0")
    assert not any(
        Cluster._sessions(replica) for replicas in cluster.replicas.values() for replica in replicas.values()
    )


# ---- a decoder's state


@pytest.fixture
def latents() -> list[Denoised]:
    rng = np.random.default_rng(3)
    return [Denoised(rng.normal(size=(16, 6 if b == 0 else 8, 4, 4)).astype(np.float32), 0.0, 0.0) for b in range(3)]


def frames_of(parts: list[VideoPart]) -> list[tuple[int, bytes]]:
    return [(frame.index, frame.data) for part in parts for frame in part.frames]


def test_a_decoder_adopts_what_another_had_at_the_boundary(models: LocalModels, latents: list[Denoised]) -> None:
    vae, spec = models.vae_decoder, session_spec()
    one = Decoding(vae, spec, models.device)
    before = one.snapshot("model")
    list(one.parts(0, latents[0]))
    boundary = one.snapshot("model")
    rest = [frames_of(list(one.parts(b, latents[b]))) for b in (1, 2)]
    other = Decoding.adopt(vae, spec, models.device, boundary(), "model")
    assert other.next_block == 1
    assert [frames_of(list(other.parts(b, latents[b]))) for b in (1, 2)] == rest
    # The snapshot is the value at its time, whenever it is serialised.
    assert Decoding.adopt(vae, spec, models.device, before(), "model").next_block == 0


def test_a_decoder_that_gives_up_a_block_makes_it_again_from_any_frame_on(
    models: LocalModels, latents: list[Denoised]
) -> None:
    one = Decoding(models.vae_decoder, session_spec(), models.device)
    list(one.parts(0, latents[0]))
    parts = one.parts(1, latents[1])
    first = frames_of([next(parts), next(parts)])
    assert one.rewind() == 1
    again = list(one.parts(1, latents[1], first_frame=29))
    assert [f.index for part in again for f in part.frames if f.key] == [29]
    assert frames_of(again)[0][0] == 29
    assert one.rewind() == 2, "a whole block is not given up"
    whole = Decoding(models.vae_decoder, session_spec(), models.device)
    list(whole.parts(0, latents[0]))
    assert first + frames_of(again) == frames_of(list(whole.parts(1, latents[1])))
    assert list(whole.parts(2, latents[2], first_frame=10_000)) == []
    assert whole.next_block == 3


def test_a_decoder_refuses_what_it_cannot_go_on_from(models: LocalModels, latents: list[Denoised]) -> None:
    vae, spec = models.vae_decoder, session_spec()
    one = Decoding(vae, spec, models.device)
    list(one.parts(0, latents[0]))
    export = one.snapshot("model")()

    def reason(exported: bytes, spec: SessionSpec = spec, model: str = "model") -> str:
        with pytest.raises(StateError) as raised:
            Decoding.adopt(vae, spec, models.device, exported, model)
        return raised.value.reason

    assert reason(export[:-1] + bytes([export[-1] ^ 1])) == "STATE_CHECKSUM"
    assert reason(export, session_spec(width=48)) == "STATE_MODEL_MISMATCH"
    assert reason(export, model="another") == "STATE_MODEL_MISMATCH"


async def test_a_denoiser_refuses_the_export_of_another_session(
    cluster: Cluster, plans: list[BlockPlan], portrait: np.ndarray
) -> None:
    await performed(cluster, plans[:], portrait, Codec.RGB, {})
    spec = session_spec()
    at = cluster.replicas[DENOISER]["denoiser-0"]
    assert isinstance(at, Denoiser)
    await cluster.open(DENOISER, spec, portrait, 0, "")
    export = await at.export("s")
    with pytest.raises(StateError, match="the session's are"):
        await at.adopt(session_spec(session="t", seed=8), export, 0)
    assert await at.sessions() == ["s"]
    with pytest.raises(ReplicaGone):
        at._ranks.export("t")


async def test_a_denoisers_call_that_was_cancelled_leaves_a_session_that_goes_on_where_it_says(
    cluster: Cluster, plans: list[BlockPlan], portrait: np.ndarray
) -> None:
    at = cluster.replicas[DENOISER]["denoiser-0"]
    assert isinstance(at, Denoiser)
    await cluster.open(DENOISER, session_spec(), portrait, 0, "")
    features = cluster.models.features(plans[0].voice, 0)
    call = asyncio.create_task(at.denoise("s", 0, features, None))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    # The block was given up between two steps, or was at its last one.
    following = await at.settle("s", 1)
    assert following in (0, 1)
    for block in range(following, 2):
        await at.denoise("s", block, cluster.models.features(plans[block].voice, block), None, 1)
    await cluster.open(DENOISER, session_spec(), portrait, 0, "denoiser-0")
    other = cluster.replicas[DENOISER]["denoiser-1"]
    assert isinstance(other, Denoiser)
    for block in range(2):
        await other.denoise("s", block, cluster.models.features(plans[block].voice, block), None)
    assert await at.export("s") == await other.export("s")


@pytest.mark.parametrize("part", list(Part))
async def test_a_drained_replica_goes_on_with_its_sessions_and_takes_no_others(
    cluster: Cluster, plans: list[BlockPlan], portrait: np.ndarray, part: Part
) -> None:
    spec, other, graph = session_spec(), session_spec(session="t"), cluster
    for at in Part:
        await graph.open(at, spec, portrait, 0, "")
    latents = await graph.denoise("denoiser-0", spec, plans[0], 0)
    async for _ in graph.decode("decoder-0", spec, plans[0], asyncio.create_task(_given(latents)), 0, 0):
        pass
    latents = await graph.denoise("denoiser-0", spec, plans[1], 0)
    async for _ in graph.decode("decoder-0", spec, plans[1], asyncio.create_task(_given(latents)), 0, 0):
        pass
    async with asyncio.timeout(30):
        while not await graph.exports(part, "s"):
            await asyncio.sleep(0.05)
    (block,) = await graph.exports(part, "s")
    name = f"{part}-0"
    await graph._at(part, name).drain(True)
    assert await graph.settle(part, name, spec, 1) == 2
    assert await graph.adopt(part, spec, block, 2, replica=name, avoid="") == name
    with pytest.raises(ReplicaFull):
        await graph.open(part, other, portrait, 0, "")
    await cluster.vault.put("t", part, block, await cluster.vault.get("s", part, block))
    with pytest.raises(ReplicaFull):
        await graph.adopt(part, other, block, 0, replica=name, avoid="")
    assert await graph._at(part, name).sessions() == ["s"]


async def _given(latents: Denoised) -> Denoised:
    return latents


async def test_adopters_at_once_take_no_more_places_than_a_decoder_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (vae_decoder, stateful):
        monkeypatch.setattr(module, "replica_id", lambda: "decoder")
    config = ServiceConfig(checkpoint="untrained", sessions={"max_sessions": 1})  # type: ignore[arg-type]
    replica = VaeDecoder(config)
    vae, device = replica._vae, replica.device
    exported = Decoding(vae, session_spec(), device).snapshot(replica._fingerprint)()
    adopting = [replica.adopt(session_spec(session=name), exported, 0) for name in "abc"]
    outcomes = await asyncio.gather(*adopting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [str, str, ReplicaFull]
    assert sorted(await replica.sessions()) == ["a", "b"]
    assert not replica._adopting
    with pytest.raises(StateError):
        await replica.adopt(session_spec(session="a"), b"damaged", 1)
    assert replica.held() == 2
