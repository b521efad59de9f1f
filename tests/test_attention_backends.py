"""The attention backend is chosen once, by what runs; what was asked for and does not run is an error that says what does."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from liveact_models.checkpoint import open_checkpoint
from liveact_models.config import ConfigError
from liveact_models.engine import Engine, choose, load_transformer
from liveact_models.parity import relative_error
from liveact_models.transformer import BACKENDS, attend, choose_attention
from liveact_models.transformer.backends import Backend, attend_math, attend_sdpa

CPU = torch.device("cpu")


def test_auto_takes_the_first_that_runs_and_says_why_not_those_before() -> None:
    choice = choose_attention("auto", CPU, torch.float32, 64)
    assert choice.backend.name == "sdpa"
    assert list(choice.passed_over) == list(BACKENDS)[: list(BACKENDS).index("sdpa")]
    assert "flash-attn-2: needs a CUDA device" in choice.describe()


def test_a_configured_backend_is_taken_and_said_to_be_configured() -> None:
    choice = choose_attention("math", CPU, torch.bfloat16, 22)
    assert choice.describe() == "math (configured)"
    assert choice.backend.attend is attend_math


@pytest.mark.parametrize("name", ["flash-attn-2", "flash-attn-3", "flash-attn-4", "cudnn"])
def test_a_backend_that_does_not_run_here_is_refused_naming_those_that_do(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' needs a CUDA device: accepted here are auto, sdpa, math"):
        choose_attention(name, CPU, torch.bfloat16, 64)


def test_an_unknown_backend_is_refused_naming_all() -> None:
    with pytest.raises(ConfigError, match="'xformers' is unknown: accepted are auto, flash-attn-4"):
        choose_attention("xformers", CPU, torch.float32, 64)


def test_a_backend_whose_module_is_missing_or_that_computes_something_else_is_found_out() -> None:
    missing = Backend("missing", attend_sdpa, module="no_such_module", install="pip install it")
    assert missing.problem(CPU, torch.float32, 8) == "not installed: pip install it"
    half = Backend("half", attend_sdpa, half=True)
    assert half.problem(CPU, torch.float32, 8) == "takes bfloat16, not float32"
    assert half.problem(CPU, torch.bfloat16, 8) is None
    wrong = Backend("wrong", lambda q, k, v: attend_sdpa(q, k, 2 * v))
    assert "is off by 1.0e+00 in a trial" in str(wrong.problem(CPU, torch.float32, 8))
    mistaken = Backend("mistaken", lambda q, k, v: attend_sdpa(q, k[..., :-1], v))
    assert "does not run here" in str(mistaken.problem(CPU, torch.float32, 8))


@pytest.mark.parametrize("shape", [(1, 5, 7, 2, 8), (3, 17, 33, 5, 22)])
def test_real_backends_agree(shape: tuple[int, ...]) -> None:
    batch, queries, keys, heads, head_dim = shape
    q, k, v = (torch.randn(batch, n, heads, head_dim) for n in (queries, keys, keys))
    assert relative_error(attend_sdpa(q, k, v), attend_math(q, k, v)) < 1e-6
    assert torch.equal(attend(q[0], k[0], v[0], attend_math), attend_math(q[:1], k[:1], v[:1])[0])


def test_the_chosen_backend_computes_every_attention_of_the_model() -> None:
    transformer, choices = load_transformer(open_checkpoint("untrained"), Engine(attention="math"), CPU)
    kernels = [module.kernel for module in transformer.modules() if hasattr(module, "kernel")]
    assert kernels == [attend_math] * 3 * len(transformer.layers)
    assert choices.describe() == "fp32; memory as computed; attention math (configured)"


def test_a_choice_before_any_weights_is_that_with_them() -> None:
    checkpoint = open_checkpoint("untrained")
    _, loaded = load_transformer(checkpoint, Engine(), CPU)
    assert dataclasses.replace(loaded, fp8_layers=0) == choose(Engine(), checkpoint.config, CPU)
