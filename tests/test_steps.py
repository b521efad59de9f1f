"""A device a diffusion step: the latents of one device, bit for bit, with several blocks under way at once."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from itertools import islice

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from liveact_models.config import ConfigError, preset
from liveact_models.denoiser import BlockDenoiser
from liveact_models.parallel import StepPipeline
from liveact_models.pipeline import Pipeline
from liveact_models.session import SessionState
from liveact_models.timeline import AUDIO_REACH, block_frames
from test_pipeline import BLOCKS, PORTRAIT, make_pipeline, voice

SIZE = 32
CONFIG = preset("tiny")
PROMPT_FROM = 3


@pytest.fixture(scope="module")
def transformer() -> torch.nn.Module:
    return make_pipeline().denoiser.transformer


def denoiser(transformer: torch.nn.Module, cache: str = "exact", **sampling: object) -> BlockDenoiser:
    chosen = dataclasses.replace(CONFIG.sampling, **sampling)  # type: ignore[arg-type]
    return BlockDenoiser(transformer, CONFIG, chosen, cache=cache)  # type: ignore[arg-type]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def opened(one: BlockDenoiser) -> SessionState:
    model = CONFIG.transformer
    return one.open(
        width=SIZE, height=SIZE, fps=20, seed=5, text=random(7, model.text_dim),
        clip=random(model.clip_tokens, model.clip_dim), reference=random(16, 14, SIZE // 8, SIZE // 8),
    )  # fmt: skip


def audio(block: int) -> Tensor:
    model = CONFIG.transformer
    return random(
        len(block_frames(block)) + 2 * AUDIO_REACH, model.audio_blocks, model.audio_channels, seed=100 + block
    )


def heard(one: BlockDenoiser, session: SessionState, blocks: range) -> Iterator[Tensor]:
    """Audio of these blocks, with another prompt from one of them on."""
    for block in blocks:
        if block == PROMPT_FROM:
            one.set_prompt(session, random(5, CONFIG.transformer.text_dim, seed=9), 1)
        yield audio(block)


def one_by_one(one: BlockDenoiser, session: SessionState, blocks: range) -> list[Tensor]:
    return [one.denoise(session, block, told) for block, told in zip(blocks, heard(one, session, blocks), strict=True)]


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("cache", "sampling"),
    [
        ("exact", {}), ("fp8", {}), ("exact", {"audio_guidance": 2.0}), ("exact", {"memory": "none"}),
        ("exact", {"sampler": "euler"}),
    ],
    ids=["renoise", "fp8 memory", "guided", "no memory", "euler"],
)  # fmt: skip
def test_a_pipeline_of_steps_makes_what_one_device_makes_and_leaves_the_same_session(
    transformer: torch.nn.Module, cache: str, sampling: dict[str, object]
) -> None:
    one = denoiser(transformer, cache, **sampling)
    alone, piped = opened(one), opened(one)
    expected = one_by_one(one, alone, range(BLOCKS))
    # Some blocks one by one, then by the pipeline, which also begins where a session begins, then one by one again.
    found = list(StepPipeline([one] * 3).denoise(piped, heard(one, piped, range(5))))
    found += one_by_one(one, piped, range(5, 6))
    found += list(StepPipeline([one] * 3).denoise(piped, heard(one, piped, range(6, BLOCKS))))
    assert same(found, expected)
    assert piped.export() == alone.export()


def test_who_stops_early_finds_the_session_behind_the_last_block_given(transformer: torch.nn.Module) -> None:
    one = denoiser(transformer)
    alone, piped = opened(one), opened(one)
    expected = one_by_one(one, alone, range(4))
    latents = StepPipeline([one] * 3).denoise(piped, (audio(block) for block in range(20)))
    found = list(islice(latents, 2))
    latents.close()  # type: ignore[attr-defined]
    assert piped.block == 2
    assert same(found + one_by_one(one, piped, range(2, 4)), expected)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("step ")]


def test_the_steps_of_three_blocks_are_made_at_once(transformer: torch.nn.Module) -> None:
    """Each step waits until all three are being made: one after the other they would wait for ever."""
    one = denoiser(transformer)
    session, meeting, met = opened(one), threading.Barrier(3, timeout=20), []

    def wait(*_: object) -> None:
        if len(met) < 3:
            met.append(meeting.wait())

    stages = [one] * 3
    audio_of = [audio(block) for block in range(6)]
    pipeline = StepPipeline(stages)
    # The first two blocks fill the pipeline, whose later steps have nothing to do until then.
    calls = threading.local()

    def hook(*_: object) -> None:
        calls.count = getattr(calls, "count", 0) + 1
        step = int(threading.current_thread().name.split()[-1])
        if calls.count == 3 - step:
            wait()

    handle = transformer.register_forward_pre_hook(hook)
    try:
        assert len(list(pipeline.denoise(session, audio_of))) == 6
    finally:
        handle.remove()
    assert sorted(met) == [0, 1, 2]


def test_an_error_in_a_step_reaches_the_caller_and_the_session_stays_behind_the_last_block(
    transformer: torch.nn.Module,
) -> None:
    one = denoiser(transformer)
    session = opened(one)

    def torn() -> Iterator[Tensor]:
        yield from (audio(0), audio(1))
        yield torch.full_like(audio(2), float("nan"))[:-1]

    pipeline = StepPipeline([one] * 3)
    with pytest.raises(ValueError, match="block 2 takes"):
        list(pipeline.denoise(session, torn()))
    handle = transformer.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("the device is lost")))
    try:
        with pytest.raises(RuntimeError, match="the device is lost"):
            list(pipeline.denoise(session, [audio(session.block)]))
    finally:
        handle.remove()
    assert session.block == 0
    assert len(list(pipeline.denoise(session, [audio(0), audio(1)]))) == session.block == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("step ")]


def test_devices_that_are_not_one_a_step_are_refused(transformer: torch.nn.Module) -> None:
    one = denoiser(transformer)
    with pytest.raises(ConfigError, match="2 step devices for 3 diffusion steps: accepted is one a step"):
        StepPipeline([one] * 2)
    with pytest.raises(ConfigError, match="accepted with a device a step is 'same-step'"):
        StepPipeline([denoiser(transformer, context="clean")] * 3)
    session = opened(denoiser(transformer, context="clean"))
    with pytest.raises(ConfigError, match="same-step"):
        next(StepPipeline([one] * 3).denoise(session, [audio(0)]))


def test_a_rendered_clip_is_the_same_with_a_device_a_step() -> None:
    plain, piped = make_pipeline(), Pipeline(make_pipeline().checkpoint, step_devices=["cpu"] * 3)
    expected = list(plain.render(PORTRAIT, voice(), seed=3))
    found = list(piped.render(PORTRAIT, voice(), seed=3))
    assert [block.index for block in found] == [block.index for block in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.frames == theirs.frames).all()
        assert (ours.sound == theirs.sound).all()
        assert (ours.latents == theirs.latents).all()
    assert all(block.times.total_s > 0 for block in found)


def test_the_command_says_what_is_wrong_with_the_devices(tmp_path) -> None:
    from liveact_services.cli.demo import EXAMPLES
    from liveact_services.cli.main import app

    begin = ["render", str(EXAMPLES / "portrait.jpg"), str(EXAMPLES / "voice.wav"), "--out", str(tmp_path / "a.mp4")]
    for devices, words in (("cpu,cpu", "2 step devices for 3"), ("cpu,gpu,cpu", "device 'gpu'")):
        run = CliRunner().invoke(app, [*begin, "--step-devices", devices])
        assert run.exit_code != 0
        assert words in str(run.exception) + run.output
