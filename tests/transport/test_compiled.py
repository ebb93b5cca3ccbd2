"""The masked form of the semi-dual, which other devices run, under torch.compile; on the CPU.

Backend ``eager``: what is traced runs without code generation, which would take minutes here.
"""

from __future__ import annotations

import pytest
import torch
from problems import special_problems
from torch._dynamo.utils import counters

from posematch.losses import Matching
from posematch.transport import semidual as module
from posematch.transport.newton import newton_masked
from posematch.transport.shares import Arithmetic, ProductShares
from posematch.transport.windows import windows


@pytest.fixture(autouse=True)
def masked(monkeypatch):
    """The masked form on CPU tensors, of few iterations (each is traced)."""
    monkeypatch.setattr(module, "_MASKED_MOST", 8)
    monkeypatch.setattr(module, "POOLED_MOST", 4)
    monkeypatch.setattr(
        module,
        "solve_on_host",
        lambda problem, tolerance, max_iterations, mass_only: module.solve_on_device(
            problem, tolerance, max_iterations
        ),
    )
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
def test_iterations_are_one_graph():
    """Nothing in them waits for the device or leaves the graph."""
    problem = special_problems(0.3, torch.float32).part(slice(0, 12))
    kernel, _ = windows(problem, None, torch.float32, False)
    kernel *= (problem.demand > 0)[:, :, None]

    def arguments():
        shares = ProductShares(kernel, problem.supply.flatten(1), 0.0)
        return shares, problem.demand, torch.zeros_like(problem.demand), 0.0, 5e-7, 8, 2

    traced = torch.compile(newton_masked, fullgraph=True, backend="eager")
    for ours, expected in zip(traced(*arguments()), newton_masked(*arguments()), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.slow
def test_start():
    problem = special_problems(0.3, torch.float32).part(slice(0, 12))
    arguments = problem, Arithmetic(torch.float32, log=False), module.DEVICE
    traced = torch.compile(module._start_on_cells, backend="eager")
    assert torch.equal(traced(*arguments), module._start_on_cells(*arguments))


@pytest.mark.slow
def test_loss_and_gradient():
    generator = torch.Generator().manual_seed(0)
    heatmaps = torch.randn(2, 2, 12, 10, generator=generator).requires_grad_()
    joints_hm = torch.rand(2, 2, 2, generator=generator) * 9
    visible = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    loss = Matching(epsilon=0.3)
    found = []
    for one in (loss, torch.compile(loss, backend="eager")):
        value = one(heatmaps, joints_hm, visible)
        found.append((value, *torch.autograd.grad(value, heatmaps)))
    assert counters["stats"]["unique_graphs"] > 0
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-8)
