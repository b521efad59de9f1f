"""The idle policy LOOP: what is made, what is shown again, and how voice comes back; by script, then through the models."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import av
import numpy as np
import pytest

from liveact_models.timeline import block_frames
from liveact_services.conductor.conductor import Conductor
from liveact_services.conductor.local import LocalModels, LocalStages
from liveact_services.conductor.outputs import Happening, Output, Sound, Video
from liveact_services.conductor.stages import BlockPlan, Codec, Idle, Pacing, SessionSpec, VideoPart
from stage_fixtures import (
    FPS,
    RATE,
    Performance,
    ScriptedStages,
    counted,
    in_virtual_time,
    noise_portrait,
    session_spec,
)

CLIP = (1, 2)
"""The blocks of the first clip: block 0 is shorter, and the first in which nobody speaks is not kept."""


def loop_spec(**changes: object) -> SessionSpec:
    return session_spec(Pacing.REALTIME, Idle.LOOP, **changes)  # type: ignore[arg-type]


def shown(performance: Performance) -> dict[int, list[int]]:
    """By block, the numbers that the script wrote on its frames: the frames they were made as."""
    blocks: dict[int, list[int]] = {}
    for _, output in performance.outputs:
        if isinstance(output, Video):
            blocks.setdefault(output.part.block, []).extend(int(f.data) for f in output.part.frames)
    return blocks


def forward(block: int) -> list[int]:
    return list(block_frames(block))


def backward(block: int) -> list[int]:
    return forward(block)[::-1]


def test_three_blocks_are_made_and_two_of_them_played_back_and_forth_on_the_clock() -> None:
    async def main() -> None:
        performance = Performance(loop_spec(), ScriptedStages(denoise_s=0.5))
        await asyncio.sleep(60)
        assert [(plan.block, plan.backward) for plan in performance.stages.plans] == [(0, False), (1, True), (2, True)]
        blocks = shown(performance)
        made = [forward(block) for block in (0, *CLIP)]
        round_trip = [backward(2), backward(1), forward(1), forward(2)]
        assert list(blocks.values()) == (made + 10 * round_trip)[: len(blocks)]
        assert len(blocks) > 30
        # The media clock goes on: frames are counted without a gap, there is sound for all of them, and nothing is late.
        assert performance.frames == list(range(len(performance.frames)))
        assert 60 * FPS * 0.9 < len(performance.shown_at) <= 60 * FPS
        assert performance.stalled_s == 0
        assert not performance.sound.any()
        await performance.end()

    in_virtual_time(main())


def test_every_block_shown_again_starts_with_a_key_frame_and_costs_nothing() -> None:
    async def main() -> None:
        performance = Performance(loop_spec())
        await asyncio.sleep(20)
        parts = [
            output.part for _, output in performance.outputs if isinstance(output, Video) and output.part.block > 2
        ]
        assert {part.block for part in parts} >= {3, 4, 5, 6}
        for part in parts:
            assert [frame.key for frame in part.frames] == [
                frame.index == block_frames(part.block).start for frame in part.frames
            ]
            assert part.times == type(part.times)()
            assert len(part.frames) == 4
        await performance.end()

    in_virtual_time(main())


@pytest.mark.parametrize("at", [20.0, 20.9, 22.3, 25.0])
def test_voice_is_spoken_in_the_next_block_by_the_model_as_it_was(at: float) -> None:
    async def main() -> None:
        performance = Performance(loop_spec(), ScriptedStages(denoise_s=0.5))
        await asyncio.sleep(at)
        planned = performance.conductor.planned_blocks
        performance.conductor.hear("u", counted(3.0))
        performance.conductor.end_utterance("u")
        await asyncio.sleep(12)
        made = performance.stages.plans[3:]
        # The model knows of no block that it did not make.
        assert [plan.block for plan in made] == list(range(3, 3 + len(made)))
        blocks = shown(performance)
        assert blocks[planned] == forward(3), "the seam: the first block not on its way yet"
        assert np.array_equal(made[0].voice.samples[made[0].voice.samples != 0][:100], counted(3.0)[:100])
        assert np.array_equal(performance.sound[performance.sound != 0], counted(3.0))
        assert performance.place(1) >= block_frames(planned).start * RATE // FPS
        spoken = [output for _, output in performance.outputs if isinstance(output, Video) and any(output.utterances)]
        assert 3.0 * FPS <= sum(sum(map(bool, video.utterances)) for video in spoken) <= 3.0 * FPS + 1
        assert performance.stalled_s == 0
        assert performance.frames == list(range(len(performance.frames)))
        # One quiet block is made, for the mouth to close; then the same clip goes on.
        assert not made[-1].backward
        assert max(blocks) - planned >= len(made) + 2
        assert [blocks[planned + len(made) + n] for n in (0, 1)] == [backward(2), backward(1)]
        await performance.end()

    in_virtual_time(main())


def test_half_a_clip_is_none_and_is_made_again() -> None:
    async def main() -> None:
        performance = Performance(loop_spec())
        while performance.conductor.planned_blocks < 2:
            await asyncio.sleep(0.05)
        performance.conductor.hear("u", counted(2.0))
        performance.conductor.end_utterance("u")
        await asyncio.sleep(30)
        kept = [plan.block for plan in performance.stages.plans if plan.backward]
        assert kept[0] == 1
        assert kept[1:] == [kept[1], kept[1] + 1], "two in a row, after the voice"
        assert kept[1] == performance.stages.plans[-2].block
        await performance.end()

    in_virtual_time(main())


def test_another_prompt_is_acted_on_and_gets_a_clip_of_its_own() -> None:
    async def main() -> None:
        performance = Performance(loop_spec())
        await asyncio.sleep(20)
        performance.conductor.update("She smiles.", 0.0)
        await asyncio.sleep(20)
        assert [plan.prompt for plan in performance.stages.plans] == [None, None, None, "She smiles.", None, None]
        (applied,) = performance.events(Happening.PROMPT_APPLIED)
        blocks = shown(performance)
        assert [blocks[applied.block + n] for n in range(4)] == [forward(3), forward(4), forward(5), backward(5)]
        await performance.end()

    in_virtual_time(main())


def test_fastest_pacing_has_no_idle_frames_to_loop() -> None:
    async def main() -> None:
        performance = Performance(session_spec(Pacing.FASTEST, Idle.LOOP), shows=False)
        performance.conductor.hear("u", counted(2.0))
        await performance.end()
        assert len(performance.frames) == block_frames(1).stop
        assert [plan.block for plan in performance.stages.plans] == [0, 1]

    in_virtual_time(main())


# ---- through the models


class Recorded:
    """The stages of this process; what was asked of them is kept."""

    replicas = ("", "")

    def __init__(self, models: LocalModels) -> None:
        self._stages = LocalStages(models)
        self.plans: list[BlockPlan] = []
        self.open, self.keep, self.close = self._stages.open, self._stages.keep, self._stages.close

    def submit(self, plan: BlockPlan) -> AsyncIterator[VideoPart]:
        self.plans.append(plan)
        return self._stages.submit(plan)


async def looped(models: LocalModels, codec: Codec) -> tuple[list[BlockPlan], list[Output]]:
    """Idle for nine blocks, then a second of voice; the viewer is in a hurry, and shows everything at once."""
    portrait = noise_portrait()
    spec, stages = loop_spec(codec=codec), Recorded(models)
    await stages.open(spec, portrait)
    outputs: list[Output] = []
    clock = Hurried()
    conductor = Conductor(spec, stages, outputs.append, credit_frames=10_000, now=clock)
    run = asyncio.create_task(conductor.run())
    while conductor.planned_blocks < 9:
        await asyncio.sleep(0.01)
    tone = 0.3 * np.sin(2 * np.pi * 220 * np.arange(RATE) / RATE)
    conductor.hear("u", tone.astype(np.float32))
    conductor.finish()
    await run
    await stages.close()
    return stages.plans, outputs


class Hurried:
    """A clock that goes twenty times as fast."""

    def __call__(self) -> float:
        return 20 * asyncio.get_running_loop().time()


def frames_by_block(outputs: list[Output]) -> dict[int, list[bytes]]:
    blocks: dict[int, list[bytes]] = {}
    for output in outputs:
        if isinstance(output, Video):
            blocks.setdefault(output.part.block, []).extend(frame.data for frame in output.part.frames)
    return blocks


async def test_the_models_make_three_blocks_and_go_on_as_if_there_had_been_no_loop(models: LocalModels) -> None:
    plans, outputs = await looped(models, Codec.RGB)
    blocks = frames_by_block(outputs)
    assert [plan.block for plan in plans] == list(range(len(plans)))
    first_spoken = len(blocks) - (len(plans) - 3)
    assert first_spoken >= 9
    assert blocks[3] == blocks[2][::-1]
    assert blocks[4] == blocks[1][::-1]
    assert (blocks[5], blocks[6]) == (blocks[1], blocks[2])
    assert len([output for output in outputs if isinstance(output, Sound)]) == len(blocks)

    # The same blocks, one after the other and nothing between them.
    again = LocalStages(models)
    await again.open(loop_spec(codec=Codec.RGB), noise_portrait())
    made = []
    for plan in plans:
        plain = dataclasses.replace(plan, backward=False)
        made.append([frame.data async for part in again.submit(plain) for frame in part.frames])
    await again.close()
    assert made == [blocks[b] for b in (0, *CLIP, *range(first_spoken, len(blocks)))]


async def test_h264_can_be_decoded_throughout_and_runs_backwards_in_the_loop(models: LocalModels) -> None:
    _, outputs = await looped(models, Codec.H264)
    data = [data for block in frames_by_block(outputs).values() for data in block]
    decoder = av.CodecContext.create("h264", "r")
    pictures: list[np.ndarray] = []
    for packet in [*map(av.Packet, data), None]:
        pictures += [frame.to_ndarray(format="rgb24").astype(int) for frame in decoder.decode(packet)]
    assert len(pictures) == len(data)
    made, reverse = block_frames(2), block_frames(3)
    for n in range(32):
        there, back = pictures[made[n]], pictures[reverse[31 - n]]
        # The same picture, encoded in another order: as alike as lossy coding of an untrained model's noise leaves them.
        assert np.corrcoef(there.ravel(), back.ravel())[0, 1] > 0.9
    assert all(pictures[a].tolist() == pictures[b].tolist() for a, b in zip(made, block_frames(6), strict=True))
