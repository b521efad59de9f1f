"""The stages of one process compute what the deployments compute, and overlap as those do."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from liveact_models.timeline import block_frames
from liveact_services.conductor.local import LocalModels, LocalStages
from liveact_services.conductor.stages import BlockPlan, Codec, EncodedFrame, VideoPart
from liveact_services.config import ServiceConfig
from liveact_services.denoiser import deployment as denoiser
from liveact_services.placement.pins import ReplicaGone
from liveact_services.vae_decoder import deployment as vae_decoder
from stage_fixtures import hummed_plans, noise_portrait, session_spec

BLOCKS = 4


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    return noise_portrait()


@pytest.fixture(scope="module")
def plans() -> list[BlockPlan]:
    return hummed_plans(BLOCKS, {2: "She laughs."})


async def made(stages: LocalStages, plans: list[BlockPlan]) -> list[EncodedFrame]:
    frames: list[EncodedFrame] = []
    for plan in plans:
        async for part in stages.submit(plan):
            assert part.times.decode_s > 0
            assert (part.times.denoise_s > 0) == (part.frames[0].index == block_frames(plan.block).start)
            frames += part.frames
    return frames


@pytest.mark.parametrize("codec", [Codec.RGB, Codec.H264])
async def test_they_compute_what_the_deployments_compute(
    models: LocalModels, portrait: np.ndarray, plans: list[BlockPlan], codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    from liveact_services.audio_encoder.deployment import AudioEncoder
    from liveact_services.conditioner.deployment import Conditioner
    from liveact_services.vae_encoder.deployment import VaeEncoder

    spec, config = session_spec(codec=codec), ServiceConfig(checkpoint="untrained")
    stages = LocalStages(models)
    await stages.open(spec, portrait)
    frames = await made(stages, plans)
    await stages.close()
    assert [frame.index for frame in frames] == list(range(block_frames(BLOCKS).start))

    for module in (denoiser, vae_decoder):
        monkeypatch.setattr(module, "replica_id", lambda: "replica-1")
    conditioner, hear, look = Conditioner(config), AudioEncoder(config), VaeEncoder(config)
    denoise, decode = denoiser.Denoiser(config), vae_decoder.VaeDecoder(config)
    text, clip = await conditioner.text(spec.prompt), await conditioner.image(portrait)
    assert (
        await decode.open(spec) == await denoise.open(spec, text, clip, await look.reference(portrait)) == "replica-1"
    )

    async def parts(plan: BlockPlan) -> list[VideoPart]:
        prompt = None if plan.prompt is None else await conditioner.text(plan.prompt)
        features = await hear.encode(plan.voice, plan.block)
        latents = await denoise.denoise("s", plan.block, features, prompt)
        return [part async for part in decode.decode("s", plan.block, latents)]

    # All at once: calls may overtake each other on their way, and blocks are denoised while others are decoded.
    blocks = await asyncio.gather(*(parts(plan) for plan in plans))
    assert [frame for block in blocks for part in block for frame in part.frames] == frames
    await denoise.close("s")
    with pytest.raises(ReplicaGone):
        await denoise.denoise("s", BLOCKS, await hear.encode(plans[0].voice, 0), None)


async def test_the_next_block_is_denoised_while_one_decodes(
    models: LocalModels, portrait: np.ndarray, plans: list[BlockPlan]
) -> None:
    stages = LocalStages(models)
    await stages.open(session_spec(), portrait)
    first, second = stages.submit(plans[0]), stages.submit(plans[1])
    await anext(first)
    await asyncio.wait(stages._blocks)
    # Block 1 was denoised though block 0 is in the middle of its decoding, and waits for it to end.
    waiting = asyncio.create_task(anext(second))  # type: ignore[arg-type]
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert [part.frames[-1].index async for part in first] == [4, 8, 12, 16, 20]
    assert (await waiting).frames[0].index == 21
    await stages.close()


async def test_sessions_side_by_side_do_not_disturb_each_other(
    models: LocalModels, portrait: np.ndarray, plans: list[BlockPlan]
) -> None:
    async def frames(name: str, **changes: Any) -> list[EncodedFrame]:
        stages = LocalStages(models)
        await stages.open(session_spec(session=name, **changes), portrait)
        try:
            return await made(stages, plans[:3])
        finally:
            await stages.close()

    alone = await frames("alone")
    together = await asyncio.gather(frames("a"), frames("b", seed=8), frames("c"))
    assert together[0] == together[2] == alone
    assert together[1] != alone


async def test_a_closed_session_is_forgotten_and_its_blocks_are_given_up(
    models: LocalModels, portrait: np.ndarray, plans: list[BlockPlan]
) -> None:
    stages = LocalStages(models)
    await stages.open(session_spec(session="gone"), portrait)
    before = asyncio.all_tasks()
    parts = stages.submit(plans[0])
    stages.submit(plans[1])
    await stages.close()
    await stages.close()
    assert asyncio.all_tasks() == before
    with pytest.raises((ReplicaGone, asyncio.CancelledError)):
        await anext(parts)
    with pytest.raises(ReplicaGone):
        models.rank.export("gone")
