"""The bare pipeline: a performance is a value, alone or beside others, and hears the same however it is fed."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from liveact_models import blob
from liveact_models.checkpoint import open_checkpoint
from liveact_models.config import DEFAULT_PROMPT, ConfigError, preset
from liveact_models.denoiser import BlockDenoiser
from liveact_models.pipeline import Block, Performance, Pipeline
from liveact_models.portrait import PortraitError
from liveact_models.session import StateError
from liveact_models.timeline import block_frames
from liveact_models.vae import to_rgb
from liveact_models.voice import Voice, VoiceBuffer, block_features

SIZE = 32
RATE = 24000
SECONDS = 4.0
"""Of voice: it ends in block 2, so blocks 0 to 2 speak and the later ones are silent."""
BLOCKS = 8
EXPORTED = (0, 1, 2, 5)
PROMPT_CHANGE = 2
SECOND_VOICE = 6
"""Before this block somebody speaks again."""
PROMPT = "The person laughs."
PORTRAIT = np.linspace(-1, 1, 3 * SIZE * SIZE, dtype=np.float32).reshape(3, SIZE, SIZE)

CONTINUE = """
import sys
from pathlib import Path
import numpy as np
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from test_pipeline import BLOCKS, make_pipeline, play
pipeline = make_pipeline()
for path in sys.argv[2:]:
    performance = pipeline.adopt(Path(path).read_bytes())
    blocks = play(performance, BLOCKS)
    np.savez(path, **{f"{b.index}.{name}": getattr(b, name) for b in blocks for name in ("frames", "latents", "sound")})
"""


def make_pipeline() -> Pipeline:
    return Pipeline(open_checkpoint("untrained", "tiny"))


def voice(rate: int = RATE, seconds: float = SECONDS, hertz: float = 150.0) -> Voice:
    at = np.arange(round(rate * seconds)) / rate
    return Voice((0.3 * np.sin(2 * np.pi * hertz * at) * np.sin(2 * np.pi * 2 * at)).astype(np.float32), rate)


def play(performance: Performance, stop: int) -> list[Block]:
    """Go on to block `stop`: another prompt from `PROMPT_CHANGE` on, another utterance from `SECOND_VOICE` on."""
    blocks = []
    for block in range(performance.state.block, stop):
        if block == PROMPT_CHANGE:
            performance.update(PROMPT)
        if block == SECOND_VOICE:
            second = voice(seconds=1.0, hertz=220)
            performance.hear(second.samples, second.rate)
        blocks.append(performance.next_block())
    return blocks


def opened(pipeline: Pipeline, seed: int = 3) -> Performance:
    performance = pipeline.start(PORTRAIT, seed=seed)
    performance.hear(voice().samples, RATE)
    return performance


def same(ours: Block, other: Block) -> bool:
    return ours.index == other.index and all(
        np.array_equal(getattr(ours, name), getattr(other, name)) for name in ("frames", "latents", "sound")
    )


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums are split by thread: the same bits need the same number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return make_pipeline()


@pytest.fixture(scope="module")
def whole(pipeline: Pipeline) -> list[Block]:
    return play(opened(pipeline), BLOCKS)


@pytest.fixture(scope="module")
def exports(pipeline: Pipeline) -> dict[int, bytes]:
    """The performance after each block of `EXPORTED`."""
    performance = opened(pipeline)
    found = {}
    for block in range(max(EXPORTED) + 1):
        play(performance, block + 1)
        if block in EXPORTED:
            found[block] = performance.export()
    return found


# Blocks


def test_blocks_have_their_frames_and_their_sound(whole):
    assert [block.index for block in whole] == list(range(BLOCKS))
    for block in whole:
        count = 21 if block.index == 0 else 32
        assert block.frames.shape == (count, SIZE, SIZE, 3)
        assert block.frames.dtype == np.uint8
        assert block.latents.shape == (16, 6 if block.index == 0 else 8, SIZE // 8, SIZE // 8)
        assert len(block.sound) == count * RATE // 20
        times = block.times
        assert min(times.audio_s, times.denoise_s, times.decode_s) > 0
        assert times.total_s == times.audio_s + times.denoise_s + times.decode_s
        assert times.audio_s + times.denoise_s < times.first_frame_s < times.total_s
    sound = np.concatenate([block.sound for block in whole])
    assert np.array_equal(sound[: round(SECONDS * RATE)], voice().samples)
    assert not sound[round(SECONDS * RATE) : block_frames(SECOND_VOICE).start * RATE // 20].any()
    assert whole[SECOND_VOICE].sound.any()


def test_frames_are_those_of_the_service_s_stages(pipeline, whole):
    """Encoder, denoiser and decoder, called one by one as the service calls them, arrays between them."""
    denoiser = BlockDenoiser(pipeline.denoiser.transformer, pipeline.config)
    picture = torch.tensor(PORTRAIT)
    text = pipeline.text_encoder.encode(DEFAULT_PROMPT, pipeline.config.transformer.text_len).float()
    state = denoiser.open(
        width=SIZE, height=SIZE, fps=20, seed=3, text=text, clip=pipeline.image_encoder.encode(picture).float(),
        reference=pipeline.vae.encode_reference(picture).float(),
    )  # fmt: skip
    sound, cache = VoiceBuffer(RATE, 20), pipeline.vae.new_cache()
    sound.append(voice().samples)
    for block in range(PROMPT_CHANGE):
        features = block_features(
            pipeline.audio_encoder, sound.window(block), block, pipeline.config.trained_fps
        ).float()
        latents = denoiser.denoise(state, block, torch.tensor(features.numpy())).float()
        parts = [to_rgb(part).numpy() for part in pipeline.vae.decode_stream(torch.tensor(latents.numpy()), cache)]
        assert np.array_equal(np.concatenate(parts), whole[block].frames)


def test_the_seed_decides_and_nothing_else_does(pipeline, whole):
    again = play(opened(pipeline), 3)
    assert all(map(same, again, whole))
    other = play(opened(pipeline, seed=4), 2)
    assert not np.array_equal(other[0].frames, whole[0].frames)


def test_voice_and_prompt_are_seen(pipeline, whole):
    silent = pipeline.start(PORTRAIT, seed=3, rate=RATE)
    assert not np.array_equal(silent.next_block().latents, whole[0].latents)
    prompted = pipeline.start(PORTRAIT, seed=3, prompt=PROMPT)
    prompted.hear(voice().samples, RATE)
    assert not np.array_equal(prompted.next_block().latents, whole[0].latents)


def test_two_performances_in_turn_are_each_as_alone(pipeline, whole):
    other_alone = play(opened(pipeline, seed=4), 4)
    first, second = opened(pipeline), opened(pipeline, seed=4)
    for stop in range(1, 5):
        assert same(play(first, stop)[0], whole[stop - 1])
        assert same(play(second, stop)[0], other_alone[stop - 1])


# Going on after an export


def test_a_new_process_goes_on_bit_for_bit(whole, exports, tmp_path):
    """After block 0 and 1 in the middle of the utterance, after 2 with a new prompt, after 5 in a silence."""
    paths = [tmp_path / f"after{block}" for block in exports]
    for path, exported in zip(paths, exports.values(), strict=True):
        path.write_bytes(exported)
    arguments = [sys.executable, "-c", CONTINUE, str(Path(__file__).parent), *map(str, paths)]
    subprocess.run(arguments, check=True, timeout=120)
    for finished, path in zip(exports, paths, strict=True):
        with np.load(f"{path}.npz") as arrays:
            assert {int(name.split(".")[0]) for name in arrays} == set(range(finished + 1, BLOCKS))
            for name, array in arrays.items():
                block, what = name.split(".")
                assert np.array_equal(array, getattr(whole[int(block)], what)), (finished, name)


def test_voice_that_comes_after_the_adoption_goes_where_it_belongs(pipeline, whole):
    samples, cut = voice().samples, round(1.7 * RATE)
    performance = pipeline.start(PORTRAIT, seed=3)
    performance.hear(samples[:cut], RATE)
    performance.next_block()
    adopted = pipeline.adopt(performance.export())
    assert (adopted.heard, adopted.rate) == (cut, RATE)
    adopted.hear(samples[adopted.heard :], RATE)
    assert all(map(same, play(adopted, 4), whole[1:4]))


def test_an_export_before_the_first_block_is_the_same_performance(pipeline, whole):
    performance = pipeline.adopt(pipeline.start(PORTRAIT, seed=3).export())
    assert (performance.heard, performance.rate) == (0, None)
    performance.hear(voice().samples, RATE)
    assert same(performance.next_block(), whole[0])


def test_an_export_neither_moves_nor_shares(pipeline, exports, whole):
    first, second = (pipeline.adopt(exports[1]) for _ in range(2))
    assert first.export() == exports[1]
    assert same(play(first, 3)[0], whole[2])
    assert second.export() == exports[1]
    assert not first.state.decoder
    assert not first.state.voice


def without(*prefixes: str):
    return lambda header, tensors: [tensors.pop(name) for name in list(tensors) if name.startswith(prefixes)]


def put(name: str, tensor: torch.Tensor):
    return lambda header, tensors: tensors.__setitem__(name, tensor)


def unstarted(header, tensors):
    without("decoder.")(header, tensors)
    tensors["decoder.kinds"] = torch.empty(0, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("kinds", without("decoder.")),
        ("does not belong", unstarted),
        ("voice is missing", without("voice.")),
        ("'sums' is missing", without("voice.sums")),
        ("'more' is unknown", put("voice.more", torch.zeros(1))),
        ("'voiced' is", put("voice.voiced", torch.zeros(3, dtype=torch.bool))),
        ("'clock' is", put("voice.clock", torch.zeros(3))),
        ("fps", put("voice.clock", torch.tensor([RATE, 25, 0], dtype=torch.float64))),
        ("must be positive", put("voice.clock", torch.zeros(3, dtype=torch.float64))),
    ],
)  # fmt: skip
def test_an_export_that_is_not_a_whole_performance_is_refused(pipeline, exports, words, change):
    header, tensors = blob.unpack(exports[1])
    change(header, tensors)
    with pytest.raises(StateError, match=words) as error:
        pipeline.adopt(blob.pack(header, tensors))
    assert error.value.reason == "STATE_TENSOR"


# The voice


def test_the_running_loudness_goes_on_through_a_snapshot():
    loud = voice(seconds=12.0).samples * np.linspace(0.1, 1, 12 * RATE, dtype=np.float32)
    plain = VoiceBuffer(RATE, 20)
    plain.append(loud[: 7 * RATE])
    plain.append(np.zeros(RATE // 3, np.float32), voiced=False)
    for block in range(3):
        plain.window(block)
        plain.release(block)
    other = VoiceBuffer.restore(plain.snapshot())
    for buffer in (plain, other):
        buffer.append(loud[7 * RATE :])
    for block in range(3, 6):
        ours, expected = other.window(block), plain.window(block)
        assert np.array_equal(ours.samples, expected.samples)
        assert (ours.mean, ours.std, ours.rate, ours.fps) == (expected.mean, expected.std, RATE, 20)
        assert np.array_equal(other.played(block), plain.played(block))
        other.release(block)
        plain.release(block)
    assert {name: array.tobytes() for name, array in other.snapshot().items()} == {
        name: array.tobytes() for name, array in plain.snapshot().items()
    }


def test_a_snapshot_holds_what_is_needed_and_no_more():
    buffer = VoiceBuffer(RATE, 20)
    for block in range(40):
        buffer.append(np.ones(2 * RATE, np.float32))
        buffer.release(block)
    held = buffer.snapshot()["samples"]
    assert len(held) == 80 * RATE - (block_frames(40).start - 21 - 2) * RATE // 20
    held[:] = 7
    assert (buffer.snapshot()["samples"] == 1).all()


@pytest.mark.parametrize("rate", [24000, 48000])
def test_chunks_of_voice_never_show(pipeline, rate):
    samples = voice(rate).samples
    at_once = pipeline.start(PORTRAIT, seed=1)
    at_once.hear(samples, rate)
    expected = [at_once.next_block() for _ in range(2)]
    assert len(expected[1].sound) == 32 * rate // 20
    piecewise, ours = pipeline.start(PORTRAIT, seed=1), []
    for start, stop in itertools.pairwise([*range(0, len(samples), 7919), len(samples)]):
        piecewise.hear(samples[start:stop], rate)
        if not piecewise.missing() and len(ours) < 2:
            ours.append(piecewise.next_block())
    assert all(map(same, ours, expected))


def test_what_is_missing_of_a_block_is_silence(pipeline):
    """Written by the caller or not: both are no voice, and count for no loudness."""
    performance, explicit = (pipeline.start(PORTRAIT, seed=1, rate=RATE) for _ in range(2))
    assert performance.missing() == 23 * RATE // 20
    explicit.silence(3.0)
    assert explicit.heard == 3 * RATE
    assert explicit.missing() == 0
    first, expected = performance.next_block(), explicit.next_block()
    assert same(first, expected)
    assert performance.heard == 23 * RATE // 20


def test_another_rate_than_before_is_refused(pipeline):
    performance = opened(pipeline)
    with pytest.raises(ValueError, match="48000 Hz: accepted is the session's rate, 24000"):
        performance.hear(voice(48000).samples, 48000)


# Rendering


def test_a_rendered_voice_is_whole_blocks_of_the_same_frames(pipeline, whole):
    blocks = list(pipeline.render(PORTRAIT, voice(), seed=3))
    assert len(blocks) == 3  # 80 frames: 21, then 32, then 27 of 32
    assert all(map(same, blocks[:PROMPT_CHANGE], whole))
    sound = np.concatenate([block.sound for block in blocks])
    assert len(sound) == 85 * RATE // 20
    assert np.array_equal(sound[: round(SECONDS * RATE)], voice().samples)
    assert not sound[round(SECONDS * RATE) :].any()


def test_a_clip_heard_whole_is_the_released_form(pipeline, monkeypatch):
    lengths = []
    encode = pipeline.audio_encoder.encode
    monkeypatch.setattr(pipeline.audio_encoder, "encode", lambda *a: (lengths.append(a[1]), encode(*a))[1])
    clip = list(pipeline.render(PORTRAIT, voice(48000), seed=3, audio="clip"))
    assert lengths == [80]  # one call, a row a frame of the clip; the last block's rows are clamped to it
    stream = list(pipeline.render(PORTRAIT, voice(48000), seed=3))
    assert len(lengths) == 4
    assert [block.frames.shape for block in clip] == [block.frames.shape for block in stream]
    assert np.array_equal(clip[2].sound, stream[2].sound)
    assert not np.array_equal(clip[1].latents, stream[1].latents)  # loudness of all against loudness so far


def test_a_portrait_s_file_is_scaled_to_the_size_asked_for(pipeline):
    portrait = (Path(__file__).parent.parent / "examples" / "portrait.jpg").read_bytes()
    blocks = pipeline.render(portrait, voice(seconds=0.5), width=48, height=32)
    assert [block.frames.shape for block in blocks] == [(21, 32, 48, 3)]
    state = pipeline.start(portrait).state
    assert (state.width, state.height, state.fps) == (128, 128, 20)


# What does not fit


def test_what_does_not_fit_is_named(pipeline):
    sound = voice(seconds=0.5)
    for error, words, call in [
        (ValueError, "audio 'whole'", lambda: pipeline.render(PORTRAIT, sound, audio="whole")),
        (ValueError, "no sample", lambda: pipeline.render(PORTRAIT, Voice(np.empty(0, np.float32), RATE))),
        (ValueError, "64x32 was asked for", lambda: pipeline.start(PORTRAIT, width=64)),
        (ValueError, "float64", lambda: pipeline.start(PORTRAIT.astype(np.float64))),
        (ValueError, "fps 0", lambda: pipeline.start(PORTRAIT, fps=0)),
        (ValueError, "seed", lambda: pipeline.start(PORTRAIT, seed=-1)),
        (ConfigError, "multiples of 16", lambda: pipeline.start(PORTRAIT[:, :, :30])),
        (PortraitError, "no known image", lambda: pipeline.start(b"not an image")),
    ]:
        with pytest.raises(error, match=words):
            call()


def test_sampling_is_the_pipeline_s_and_stays_with_the_session(pipeline):
    euler = dataclasses.replace(preset("tiny").sampling, sampler="euler")
    other = Pipeline(open_checkpoint("untrained", "tiny"), sampling=euler)
    performance = opened(other)
    first = performance.next_block()
    assert not np.array_equal(first.latents, opened(pipeline).next_block().latents)
    adopted = pipeline.adopt(performance.export())
    assert adopted.state.sampling.sampler == "euler"
    assert same(adopted.next_block(), performance.next_block())
