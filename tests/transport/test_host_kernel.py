"""What a CPU runs by default, compiled by numba, against the torch version and against float64."""

from __future__ import annotations

import dataclasses
import multiprocessing
import subprocess
import sys

import pytest
import torch
from problems import random_problems, special_problems
from test_fused import ALL, LOSSES, TOLERANCE, check, loss_case
from test_semidual import COSTS, semidual

from posematch.losses import Matching
from posematch.transport import (
    SOLVERS,
    Cost,
    TransportProblem,
    fused,
    nearest_demand,
    subpixel_demand,
)

BALANCED = {name: problem for name, problem in ALL.items() if problem.balanced}
EVIDENCE = (
    "supply_potential",
    "demand_potential",
    "value",
    "marginal_error",
    "iterations",
    "converged",
)


def solve(problem, **more):
    assert fused.applies(problem)
    return SOLVERS["semidual"](problem, TOLERANCE, more.pop("max_iterations", 1000), **more)


def same(one, other):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in EVIDENCE)


@pytest.mark.parametrize("name", BALANCED)
def test_is_the_torch_version(name):
    """Every kind of supply with every kind of dot, all costs, random ones, maps of many tiles."""
    check(BALANCED[name], {key: getattr(solve(BALANCED[name]), key) for key in EVIDENCE})


@pytest.mark.parametrize("name", COSTS)
def test_every_cost_balanced(name):
    epsilon = 3.0 if name == "squared_l2" else 0.3
    problem = special_problems(epsilon, torch.float32, cost=COSTS[name])
    check(problem, {key: getattr(solve(problem), key) for key in EVIDENCE})


def test_pixels_without_mass_change_nothing_and_get_nothing():
    problem = special_problems(0.1, torch.float32)
    used = problem.supply > 0
    everywhere, sparse = solve(problem), solve(problem, mass_only=True)
    # Zero terms of a sum leave it as it is, but not its order: rounding of 480 terms, and what
    # the last step makes of it.
    torch.testing.assert_close(
        sparse.supply_potential[used], everywhere.supply_potential[used], rtol=1e-5, atol=1e-5
    )
    assert not sparse.supply_potential[~used].any()


def test_rows_without_demand_are_left_out():
    problem = special_problems(0.1, torch.float32)
    rows = torch.arange(len(problem)) % 3 == 1
    ours = solve(dataclasses.replace(problem, demand=problem.demand * ~rows[:, None]))
    expected = solve(problem)
    for name in EVIDENCE[:-1]:
        assert not getattr(ours, name)[rows].any()
        assert torch.equal(getattr(ours, name)[~rows], getattr(expected, name)[~rows])
    assert ours.converged.all()


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "relaxed"])
def test_loss_and_its_gradient(name):
    """Through supply, normalisation and mean; a joint that does not count, one without mass."""
    case, found = loss_case(name), []
    for solver in ("semidual", "semidual_torch"):
        heatmaps = case["heatmaps"].clone().requires_grad_()
        value = Matching(solver=solver, **LOSSES[name])(
            heatmaps, case["joints_hm"], case["visible"]
        )
        found.append((value.detach(), *torch.autograd.grad(value, heatmaps)))
    (value, gradient), (expected, reference) = found
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    scale = float(reference.abs().max())
    torch.testing.assert_close(gradient, reference, rtol=1e-5, atol=2e-6 * scale)
    assert not gradient[0, 1].any()


@pytest.mark.parametrize("pixels", [1, 2, 3])
def test_one_pixel_and_few(pixels):
    """All mass on one pixel costs its way there: the mean of its distances to the demands."""
    mass = torch.zeros(1, 24, 20)
    mass[0, 3, 2 : 2 + pixels] = 1 / pixels
    dots_hm = torch.tensor([[10.25, 16.5]])
    problem = TransportProblem(mass, *subpixel_demand(dots_hm, (24, 20)))
    found = solve(problem, mass_only=True)
    if pixels == 1:
        way = (problem.places_hm[0] - torch.tensor([2.0, 3.0])).norm(dim=1)
        expected = (way * problem.demand[0]).sum()
        torch.testing.assert_close(found.value[0], expected.float(), rtol=2e-7, atol=0)
    torch.testing.assert_close(found.value, semidual(problem).value, rtol=1e-6, atol=0)


def test_threads_share_the_joints(monkeypatch):
    """Bit for bit what one thread finds, as no joint depends on another."""
    problem = random_problems(41, 0.1, seed=5, dtype=torch.float32)
    expected, before = solve(problem), torch.get_num_threads()
    from posematch.transport import host_kernel

    monkeypatch.setattr(host_kernel, "_PIXELS_A_THREAD", 1)
    try:
        torch.set_num_threads(3)
        assert same(solve(problem), expected)
        # The threads of this process do not live in one that it forks.
        child = multiprocessing.get_context("fork").Process(target=solve, args=(problem,))
        child.start()
        child.join(60)
        assert child.exitcode == 0
    finally:
        torch.set_num_threads(before)


def test_what_it_cannot_solve_the_torch_version_does(monkeypatch):
    from posematch.transport import host_kernel

    problem = random_problems(20, 0.1, seed=2, dtype=torch.float32)
    monkeypatch.setattr(host_kernel, "KERNEL_ITERATIONS", 6)
    solved = host_kernel.launch(problem, TOLERANCE, 1000, False).converged
    assert solved.any()
    assert not solved.all()
    ours, expected = solve(problem), semidual(problem)
    assert ours.converged.all()
    torch.testing.assert_close(ours.value, expected.value, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.supply_potential, expected.supply_potential, rtol=0, atol=2e-5)


def test_iterations_that_run_out_are_reported():
    ours = solve(random_problems(10, 0.03, dtype=torch.float32), max_iterations=1)
    assert not ours.converged.all()
    assert ours.value.isfinite().all()


def test_what_it_does_not_take():
    problem = special_problems(0.1, torch.float32)
    dots_hm = torch.tensor([[4.3, 6.8]])
    assert fused.applies(problem)
    assert not fused.applies(special_problems(0.01, torch.float32))
    assert not fused.applies(special_problems(0.1))
    assert not fused.applies(special_problems(0.1, torch.float32, relaxation=2.0))
    assert not fused.applies(
        TransportProblem(problem.supply[:1], *nearest_demand(dots_hm, (24, 20)))
    )
    assert not fused.applies(problem.part(slice(0, 0)))
    assert not fused.takes(problem.supply, Cost("squared_l2"), 0.1, relaxed=False)


def test_without_numba_the_torch_version_solves(monkeypatch):
    """Once told."""
    name = "posematch.transport.host_kernel"
    monkeypatch.setattr(fused, "_numba", fused._Compiler("numba", "CPU"))
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr(name, raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    problem = special_problems(0.1, torch.float32)
    with pytest.warns(UserWarning, match="numba cannot run here.*on the CPU take many times"):
        first = SOLVERS["semidual"](problem, TOLERANCE, 1000)
    assert same(first, semidual(problem))
    assert same(SOLVERS["semidual"](problem, TOLERANCE, 1000), first)


def test_numba_is_imported_only_when_it_solves():
    program = (
        "import sys, posematch, posematch.losses, posematch.transport;"
        "sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
