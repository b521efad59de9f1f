"""Muon's steps are orthogonal, and each parameter goes to the optimiser it belongs to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from liveact_models import compiling
from liveact_models.compiling import compiled
from liveact_models.training.optim import Muon, optimizers_for, orthogonalised


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 24, 96), (2, 96, 24)])
def test_orthogonalised_keeps_the_directions_and_evens_the_sizes(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    out = orthogonalised(matrices).float()
    sizes = torch.linalg.svdvals(out)
    assert out.shape == shape
    # Five iterations lift singular values from about 1/100 of the largest; a square matrix has smaller ones.
    assert sizes.max() < 1.3
    assert sizes[:, :-2].min() > 0.6
    along = (u.mT @ out @ v.mT).diagonal(dim1=1, dim2=2)
    assert along[:, :-2].min() > 0.6


def test_orthogonalised_does_not_depend_on_the_size_of_the_gradient() -> None:
    matrices = torch.randn(2, 16, 16)
    small, large = orthogonalised(matrices * 2**-20), orthogonalised(matrices * 2**20)
    assert torch.equal(small, large)
    assert torch.equal(orthogonalised(torch.zeros(1, 16, 16)), torch.zeros(1, 16, 16, dtype=torch.bfloat16))


def test_muon_steps_as_written_down() -> None:
    weight = nn.Parameter(torch.randn(24, 12))
    start, momentum = weight.detach().clone(), torch.zeros(24, 12)
    optimizer = Muon([weight], lr=0.02, weight_decay=0.1)
    expected = start.clone()
    for _ in range(3):
        weight.grad = torch.randn(24, 12)
        momentum = 0.95 * momentum + 0.05 * weight.grad
        ahead = 0.05 * weight.grad + 0.95 * momentum
        step = orthogonalised(ahead[None])[0].float() * 2**0.5  # twice as many rows as columns
        expected = expected * (1 - 0.02 * 0.1) - 0.02 * step
        optimizer.step()
    # Newton-Schulz in bfloat16 turns another order of summing into its last digit.
    torch.testing.assert_close(weight.detach(), expected, atol=2e-3, rtol=0)
    assert (weight - start).abs().max() > 0.02


def test_matrices_of_one_shape_step_together_as_they_would_alone() -> None:
    together = [
        nn.Parameter(torch.randn(16, 8, 3, 3)),
        nn.Parameter(torch.randn(16, 72)),
        nn.Parameter(torch.randn(9, 16)),
    ]
    alone = [nn.Parameter(p.detach().clone()) for p in together]
    for first, second in zip(together, alone, strict=True):
        first.grad = torch.randn_like(first)
        second.grad = first.grad.clone()
    Muon(together, lr=0.1).step()
    for parameter in alone:
        Muon([parameter], lr=0.1).step()
    for first, second in zip(together, alone, strict=True):
        torch.testing.assert_close(first, second, atol=2e-3, rtol=0)


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    still, moved = nn.Parameter(torch.ones(8, 8)), nn.Parameter(torch.ones(8, 8))
    moved.grad = torch.randn(8, 8)
    Muon([still, moved], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(still, torch.ones(8, 8))
    assert not torch.equal(moved, torch.ones(8, 8))


def test_muon_refuses_a_vector() -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\) is no matrix"):
        Muon([nn.Parameter(torch.ones(3))])


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(32, 16)
        self.inner = nn.Linear(16, 24)
        self.conv = nn.Conv1d(16, 16, 3)
        self.depthwise = nn.Conv1d(16, 16, 3, groups=16)
        self.narrow = nn.Linear(16, 3)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv1d(16, 16, 3))
        self.table = nn.Parameter(torch.zeros(16, 16))
        self.head = nn.Linear(16, 16)
        self.frozen = nn.Linear(16, 16).requires_grad_(False)


def owners(module: nn.Module, optimizers: dict[str, torch.optim.Optimizer]) -> dict[str, str]:
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    groups = [(name, group) for name, optimizer in optimizers.items() for group in optimizer.param_groups]
    return {names[id(parameter)]: name for name, group in groups for parameter in group["params"]}


def test_muon_takes_inner_matrices_and_adamw_everything_else() -> None:
    module = Mixed()
    optimizers = optimizers_for(module, 0.01, 0.1, adamw=("head",), adamw_lr=0.003, prefix="mixed.")
    owned = owners(module, optimizers)
    assert {name for name, owner in owned.items() if owner == "mixed.muon"} == {"inner.weight", "conv.weight"}
    assert owned.keys() == {name for name, p in module.named_parameters() if p.requires_grad}
    assert optimizers["mixed.muon"].param_groups[0]["lr"] == 0.01
    matrices, vectors = optimizers["mixed.adamw"].param_groups
    assert {matrices["lr"], vectors["lr"]} == {0.003}
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert all(p.ndim < 2 for p in vectors["params"])


def test_an_optimizer_with_nothing_to_do_is_left_out() -> None:
    assert set(optimizers_for(nn.LayerNorm(8), 0.01)) == {"adamw"}
    assert set(optimizers_for(nn.Linear(8, 8, bias=False), 0.01)) == {"muon"}


def test_both_together_fit_a_small_network() -> None:
    network = nn.Sequential(nn.Linear(8, 32), nn.SiLU(), nn.Linear(32, 8))
    target = torch.linalg.qr(torch.randn(8, 8))[0]
    x = torch.randn(256, 8)
    optimizers = optimizers_for(network, 0.02)
    losses = []
    for _ in range(60):
        loss = (network(x) - x @ target).square().mean()
        network.zero_grad()
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_without_a_compiler_nothing_is_compiled_and_it_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    monkeypatch.setattr(compiling._log, "warning", said.append)
    compiling._can_compile.cache_clear()
    layer = nn.Linear(2, 2)
    assert compiled(layer, True) is layer
    assert compiled(layer.forward, True) == layer.forward
    compiling._can_compile.cache_clear()
    assert said == ["torch.compile is left out: no C++ compiler (g++ or clang++) was found; it is slower without"]
    monkeypatch.undo()
    assert compiled(layer, False) is layer
