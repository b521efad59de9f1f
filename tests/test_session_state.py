"""A session is a value: exported, adopted, interleaved or cut short, its later latents are the same bits."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file

from liveact_models import blob
from liveact_models.config import ConfigError, ModelConfig, preset
from liveact_models.denoiser import BlockDenoiser
from liveact_models.memory import cache_names, memory_bytes
from liveact_models.parity.dit import GoldenSession
from liveact_models.session import SessionState, StateError

GOLDEN = Path(__file__).parent / "golden"
BLOCKS = 7
PROMPT_CHANGE = 2

CONTINUE = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from liveact_models.denoiser import BlockDenoiser
from liveact_models.parity.dit import GoldenSession

torch.set_num_threads(1)
golden = GoldenSession(Path(sys.argv[1]))
denoiser = BlockDenoiser(golden.transformer, golden.config)
for path in sys.argv[2:]:
    state = denoiser.adopt(Path(path).read_bytes())
    latents = {}
    while state.block < BLOCKS:
        if state.block == PROMPT_CHANGE and state.prompt_version == 0:
            denoiser.set_prompt(state, golden.inputs["text_edit"], version=1)
        block = state.block
        latents[str(block)] = denoiser.denoise(state, block, golden.audio(block))
    save_file(latents, path + ".latents")
""".replace("BLOCKS", str(BLOCKS)).replace("PROMPT_CHANGE", str(PROMPT_CHANGE))


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Sums are split by thread: the same bits need the same number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def golden() -> GoldenSession:
    return GoldenSession(GOLDEN)


@pytest.fixture
def denoiser(golden: GoldenSession) -> BlockDenoiser:
    return BlockDenoiser(golden.transformer, golden.config)


def run(golden: GoldenSession, denoiser: BlockDenoiser, state: SessionState, stop: int) -> dict[int, torch.Tensor]:
    """Denoise up to block `stop`, with the prompt changed at `PROMPT_CHANGE`."""
    latents = {}
    for block in range(state.block, stop):
        if block == PROMPT_CHANGE and state.prompt_version == 0:
            denoiser.set_prompt(state, golden.inputs["text_edit"], version=1)
        latents[block] = denoiser.denoise(state, block, golden.audio(block))
    return latents


def same(ours: dict[int, torch.Tensor], other: dict[int, torch.Tensor]) -> bool:
    return ours.keys() == other.keys() and all(torch.equal(ours[key], other[key]) for key in ours)


@pytest.fixture
def exported(golden: GoldenSession, denoiser: BlockDenoiser) -> bytes:
    state = golden.open(denoiser, seed=5)
    run(golden, denoiser, state, 2)
    state.decoder = {"slot0": torch.arange(6.0).view(2, 3), "started": torch.tensor(True), "empty": torch.empty(0, 3)}
    return state.export()


# Going on after an export


def test_a_new_process_goes_on_bit_for_bit(golden, denoiser, tmp_path):
    whole = run(golden, denoiser, golden.open(denoiser, seed=11), BLOCKS)
    paths = []
    for finished in (0, 1, 2, 5):  # the last two after the prompt change
        state = golden.open(denoiser, seed=11)
        run(golden, denoiser, state, finished + 1)
        paths.append(tmp_path / f"after{finished}")
        paths[-1].write_bytes(state.export())
    arguments = [sys.executable, "-c", CONTINUE, str(GOLDEN), *map(str, paths)]
    subprocess.run(arguments, check=True, timeout=120)
    for finished, path in zip((0, 1, 2, 5), paths, strict=True):
        latents = {int(block): tensor for block, tensor in load_file(f"{path}.latents").items()}
        assert same(latents, {block: whole[block] for block in range(finished + 1, BLOCKS)}), finished


@pytest.mark.parametrize("settings", [{"sampler": "euler"}, {"memory": "mean"}, {"audio_guidance": 1.7}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_variant_goes_on_bit_for_bit(settings, dtype):
    golden = GoldenSession(GOLDEN)
    golden.transformer.to(dtype)
    opening = BlockDenoiser(golden.transformer, golden.config, golden.sampling(**settings))
    adopting = BlockDenoiser(golden.transformer, golden.config)  # the session keeps its own sampling
    whole = run(golden, opening, golden.open(opening), 4)
    state = golden.open(opening)
    run(golden, opening, state, 2)
    adopted = adopting.adopt(state.export())
    assert {tensor.dtype for tensor in adopted.memory.values()} == {dtype}
    assert same(run(golden, adopting, adopted, 4), {block: whole[block] for block in (2, 3)})


def test_a_session_exported_before_its_first_block_is_the_same_session(golden, denoiser):
    state = golden.open(denoiser, seed=3)
    adopted = denoiser.adopt(state.export())
    assert same(run(golden, denoiser, adopted, 3), run(golden, denoiser, state, 3))


def test_adopting_and_exporting_again_gives_the_same_bytes(golden, exported):
    assert SessionState.adopt(exported, golden.config).export() == exported


def test_an_export_is_a_safetensors_file(golden, exported):
    tensors = load(exported)
    adopted = SessionState.adopt(exported, golden.config)
    assert {f"memory.{name}" for name in adopted.memory} | {f"decoder.{name}" for name in adopted.decoder} | {
        "text", "clip", "reference",
    } == set(tensors)  # fmt: skip
    assert torch.equal(tensors["memory.step1"], adopted.memory["step1"])
    assert torch.equal(tensors["decoder.slot0"], torch.arange(6.0).view(2, 3))


def test_adopted_tensors_are_aligned_and_own_their_memory(golden, exported):
    buffer = bytearray(exported)
    adopted = SessionState.adopt(buffer, golden.config)
    before = {name: tensor.clone() for name, tensor in adopted.memory.items()}
    buffer[:] = bytes(len(buffer))
    for name, tensor in adopted.memory.items():
        assert tensor.data_ptr() % 64 == 0
        assert torch.equal(tensor, before[name])


def test_header_values_survive(golden, denoiser):
    state = golden.open(denoiser, seed=2**64 - 1)
    run(golden, denoiser, state, 3)
    adopted = SessionState.adopt(state.export(), golden.config)
    for name in ("block", "seed", "width", "height", "fps", "prompt_version", "preset", "fingerprint", "sampling"):
        assert getattr(adopted, name) == getattr(state, name), name
    assert adopted.prompt_version == 1


# The size of a session


@pytest.mark.parametrize(("guidance", "caches"), [(1.0, 3), (1.7, 5)])
def test_memory_is_constant_and_equal_to_the_formula(golden, guidance, caches):
    denoiser = BlockDenoiser(golden.transformer, golden.config, golden.sampling(audio_guidance=guidance))
    state = golden.open(denoiser)
    sizes, exports = [], []
    for block in range(5):
        run(golden, denoiser, state, block + 1)
        sizes.append(state.memory_bytes)
        exports.append(len(state.export()))
        storage = sum(tensor.untyped_storage().nbytes() for tensor in state.memory.values())
        assert storage == state.memory_bytes
    width, height = golden.size
    assert set(sizes) == {memory_bytes(golden.config, width, height, torch.float32, guided=guidance > 1)}
    assert sizes[0] == caches * 3 * 2 * 6 * 16 * 64 * 4
    assert max(exports[2:]) - min(exports[2:]) <= 64
    assert set(state.memory) == set(cache_names(state.sampling))


def test_released_size_needs_the_bytes_of_the_facts():
    config = preset("soulx-liveact-18b")
    assert memory_bytes(config, 512, 512, torch.bfloat16) == pytest.approx(15.1e9, rel=0.005)
    # The facts count the numbers alone; a float32 scale a token and head of 128 is a 32nd more.
    assert memory_bytes(config, 512, 512, torch.float8_e4m3fn) == pytest.approx(7.55e9 * 33 / 32, rel=0.005)
    assert (
        memory_bytes(config, 720, 416, torch.bfloat16) == memory_bytes(config, 512, 512, torch.bfloat16) * 1170 // 1024
    )


# Exports that cannot be adopted


def repacked(exported: bytes, change) -> bytes:
    """The export with header or tensors changed and a valid checksum."""
    header, tensors = blob.unpack(exported)
    change(header, tensors)
    return blob.pack(header, tensors)


def with_metadata(exported: bytes, **values: str) -> bytes:
    size = int.from_bytes(exported[:8], "little")
    table = json.loads(exported[8 : 8 + size])
    table["__metadata__"] |= values
    text = json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text + exported[8 + size :]


def flipped(exported: bytes, position: int) -> bytes:
    changed = bytearray(exported)
    changed[position] ^= 1
    return bytes(changed)


def lose(name):
    return lambda header, tensors: tensors.pop(name)


def put(name, tensor):
    return lambda header, tensors: tensors.__setitem__(name, tensor)


def halve(name):
    return lambda header, tensors: tensors.__setitem__(name, tensors[name].half())


def set_header(name, value):
    return lambda header, tensors: header.__setitem__(name, value)


DAMAGES = {
    "empty": ("STATE_TRUNCATED", "0 bytes", lambda e: b""),
    "cut in the header": ("STATE_TRUNCATED", "header", lambda e: e[:100]),
    "cut in the tensors": ("STATE_TRUNCATED", "cut short", lambda e: e[:-1]),
    "longer": ("STATE_FORMAT", "follow", lambda e: e + b"\0"),
    "not an export": ("STATE_FORMAT", "no session export", lambda e: b"\x89PNG\r\n\x1a\n" * 100),
    "another safetensors file": ("STATE_FORMAT", "format", lambda e: with_metadata(e, format="pt")),
    "a tensor's bit": ("STATE_CHECKSUM", "checksum", lambda e: flipped(e, len(e) - 100)),
    "the header": ("STATE_CHECKSUM", "checksum", lambda e: e.replace(b'\\"seed\\": 5', b'\\"seed\\": 6')),
    "a later version": ("STATE_VERSION", "accepted is 1", lambda e: with_metadata(e, version="2")),
    "no version": ("STATE_VERSION", "accepted is 1", lambda e: with_metadata(e, version="")),
    "another model": ("STATE_MODEL_MISMATCH", "golden", lambda e: repacked(e, set_header("fingerprint", "0" * 16))),
    "memory missing": ("STATE_TENSOR", "memory.step1 is missing", lambda e: repacked(e, lose("memory.step1"))),
    "text missing": ("STATE_TENSOR", "text is missing", lambda e: repacked(e, lose("text"))),
    "an extra cache": ("STATE_TENSOR", "memory.step9 is unexpected", lambda e: repacked(e, put("memory.step9", torch.zeros(1)))),
    "an unknown tensor": ("STATE_TENSOR", "more is unexpected", lambda e: repacked(e, put("more", torch.zeros(1)))),
    "misshapen memory": ("STATE_TENSOR", "memory.step0 is", lambda e: repacked(e, put("memory.step0", torch.zeros(3, 2, 5)))),
    "misshapen clip": ("STATE_TENSOR", "clip is", lambda e: repacked(e, put("clip", torch.zeros(1, 40)))),
    "whole numbers": ("STATE_TENSOR", "text is", lambda e: repacked(e, put("text", torch.zeros(11, 24, dtype=torch.int64)))),
    "mixed types": ("STATE_TENSOR", "different types", lambda e: repacked(e, halve("memory.step0"))),
    "memory before block 0": ("STATE_TENSOR", "unexpected", lambda e: repacked(e, set_header("block", 0))),
    "another size": ("STATE_TENSOR", "accepted is", lambda e: repacked(e, set_header("width", 96))),
    "a size not rendered": ("STATE_FORMAT", "multiples of 16", lambda e: repacked(e, set_header("width", 65))),
    "a negative block": ("STATE_FORMAT", "block", lambda e: repacked(e, set_header("block", -1))),
    "a seed that is text": ("STATE_FORMAT", "seed", lambda e: repacked(e, set_header("seed", "5"))),
    "a field missing": ("STATE_FORMAT", "fps", lambda e: repacked(e, lambda h, t: h.pop("fps"))),
    "an unknown sampler": ("STATE_FORMAT", "sampler", lambda e: repacked(e, set_header("sampling", {"sampler": "x"}))),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_export_is_refused_with_its_reason(golden, exported, damage):
    reason, words, change = DAMAGES[damage]
    damaged = change(exported)
    assert damaged != exported
    with pytest.raises(StateError) as error:
        SessionState.adopt(damaged, golden.config)
    assert error.value.reason == reason
    assert words in str(error.value)


@pytest.mark.parametrize("fraction", [0.001, 0.05, 0.3, 0.6, 0.9, 0.999])
def test_any_cut_is_truncation(golden, exported, fraction):
    with pytest.raises(StateError) as error:
        SessionState.adopt(exported[: int(len(exported) * fraction)], golden.config)
    assert error.value.reason == "STATE_TRUNCATED"


def test_no_flipped_bit_of_the_table_goes_unnoticed(golden, exported):
    size = int.from_bytes(exported[:8], "little")
    for position in range(0, 8 + size, 37):
        damaged = flipped(exported, position)
        try:
            adopted = SessionState.adopt(damaged, golden.config)
        except StateError:
            continue
        assert adopted.export() == exported, position


def test_memory_of_another_type_is_refused_by_a_model_that_would_round_it(golden, exported):
    config: ModelConfig = golden.config
    other = GoldenSession(GOLDEN)
    other.transformer.to(torch.bfloat16)
    with pytest.raises(StateError, match="bfloat16") as error:
        BlockDenoiser(other.transformer, config).adopt(exported)
    assert error.value.reason == "STATE_TENSOR"


# Steps


def test_two_sessions_step_by_step_are_each_as_alone(golden, denoiser):
    seeds = (1, 2)
    alone = {seed: run(golden, denoiser, golden.open(denoiser, seed=seed), 3) for seed in seeds}
    states = {seed: golden.open(denoiser, seed=seed) for seed in seeds}
    together: dict[int, dict[int, torch.Tensor]] = {seed: {} for seed in seeds}
    for block in range(3):
        if block == PROMPT_CHANGE:
            for state in states.values():
                denoiser.set_prompt(state, golden.inputs["text_edit"], version=1)
        turns = {seed: denoiser.steps(state, block, golden.audio(block)) for seed, state in states.items()}
        for step in range(3):
            assert [next(steps) for steps in turns.values()] == [step, step]
        for seed, steps in turns.items():
            with pytest.raises(StopIteration) as done:
                next(steps)
            together[seed][block] = done.value.value
    assert all(same(together[seed], alone[seed]) for seed in seeds)
    assert not torch.equal(together[1][0], together[2][0])


@pytest.mark.parametrize("block", [0, 1, 3])
def test_an_error_within_a_block_leaves_the_state_as_it_was(golden, denoiser, block):
    expected = run(golden, denoiser, golden.open(denoiser), block + 1)
    state = golden.open(denoiser)
    run(golden, denoiser, state, block)
    before = state.export()

    def failing(block: int, step: int, shape: tuple[int, ...]) -> torch.Tensor:
        if step == 2:
            raise RuntimeError("the generator failed")
        return torch.zeros(shape)

    if block == PROMPT_CHANGE:
        denoiser.set_prompt(state, golden.inputs["text_edit"], version=1)
    with pytest.raises(RuntimeError, match="generator failed"):
        denoiser.denoise(state, block, golden.audio(block), failing)
    assert state.export() == before
    assert torch.equal(run(golden, denoiser, state, block + 1)[block], expected[block])


def test_a_block_given_up_leaves_the_state_as_it_was(golden, denoiser):
    state = golden.open(denoiser)
    before = state.export()
    steps = denoiser.steps(state, 0, golden.audio(0))
    for _ in range(3):
        next(steps)
    steps.close()
    assert state.export() == before


def test_a_block_denoised_twice_at_once_is_committed_once(golden, denoiser):
    state = golden.open(denoiser)
    first, second = (denoiser.steps(state, 0, golden.audio(0)) for _ in range(2))
    list(first)
    after = state.export()
    with pytest.raises(RuntimeError, match="already 1"):
        list(second)
    assert state.export() == after


def test_a_prompt_set_within_a_block_applies_from_the_next(golden, denoiser):
    changed_between = golden.open(denoiser)
    expected = run(golden, denoiser, changed_between, 4)
    state = golden.open(denoiser)
    run(golden, denoiser, state, 1)
    steps = denoiser.steps(state, 1, golden.audio(1))
    next(steps)
    denoiser.set_prompt(state, golden.inputs["text_edit"], version=1)
    list(steps)
    assert same(run(golden, denoiser, state, 4), {block: expected[block] for block in (2, 3)})
    assert state.export() == changed_between.export()


def test_inference_mode_does_not_leak_out_of_a_block_under_way(golden, denoiser):
    steps = denoiser.steps(golden.open(denoiser), 0, golden.audio(0))
    next(steps)
    assert not torch.is_inference_mode_enabled()


# Inputs that do not fit


def test_another_block_than_the_next_is_refused(golden, denoiser):
    with pytest.raises(ValueError, match="next block is 0"):
        denoiser.denoise(golden.open(denoiser), 1, golden.audio(1))


def test_audio_of_another_length_is_refused_before_any_work(golden, denoiser):
    with pytest.raises(ValueError, match="block 0 takes"):
        denoiser.steps(golden.open(denoiser), 0, golden.audio(0)[1:])


@pytest.mark.parametrize("tokens", [0, 17])
def test_a_prompt_of_no_or_too_many_tokens_is_refused(golden, denoiser, tokens):
    state = golden.open(denoiser)
    before = state.export()
    with pytest.raises(ValueError, match="tensor text"):
        denoiser.set_prompt(state, torch.zeros(tokens, 24), version=1)
    assert state.export() == before


def test_opening_names_the_tensor_that_does_not_fit(golden, denoiser):
    inputs = {"text": torch.zeros(3, 24), "clip": torch.zeros(257, 40), "reference": torch.zeros(16, 14, 8, 8)}
    fixed = {"width": 64, "height": 64, "fps": 20, "seed": 0}
    denoiser.open(**fixed, **inputs)
    for name, tensor in inputs.items():
        with pytest.raises(ValueError, match=f"tensor {name} is"):
            denoiser.open(**fixed, **{**inputs, name: tensor[..., :-1]})
    with pytest.raises(ConfigError, match="multiples of 16"):
        denoiser.open(**{**fixed, "width": 63}, **inputs)
    with pytest.raises(ValueError, match="seed"):
        denoiser.open(**{**fixed, "seed": -1}, **inputs)


def test_a_state_of_another_size_is_refused(golden, denoiser):
    state = golden.open(denoiser)
    run(golden, denoiser, state, 1)
    with pytest.raises(ValueError, match="accepted is"):
        denoiser.steps(dataclasses.replace(state, width=96), 1, golden.audio(1))
