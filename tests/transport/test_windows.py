"""Kernels as windows of a table, and the supply on cells, against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from problems import random_problems

from posematch.transport import Cost, TransportProblem, subpixel_demand
from posematch.transport import semidual as module
from posematch.transport.windows import (
    NEAR,
    NEAR_BEFORE,
    POOL,
    pooled,
    pooled_supply,
    pooled_windows,
    windows,
)

SIZES = ((24, 20), (13, 18), (9, 30), (16, 16))


def problems(size, cost="l2", epsilon=0.3):
    """Noise, and dots inside, at corners (where the square leaves the grid) and on a pixel."""
    height, width = size
    generator = torch.Generator().manual_seed(height)
    dots_hm = torch.tensor(
        [
            [width / 3, height / 2.3],
            [-0.5, -0.5],
            [width - 0.6, height - 0.6],
            [width - 0.6, 0.2],
            [4.0, 5.0],
        ],
        dtype=torch.float64,
    )
    mass = torch.rand(len(dots_hm), height, width, generator=generator, dtype=torch.float64)
    mass = mass / mass.sum((1, 2), keepdim=True)
    return TransportProblem(mass, *subpixel_demand(dots_hm, size), Cost(cost), epsilon)


def kernel_at(problem, row, dx, dy):
    """K of one place for the four demands, from its offset from the square's first pixel."""
    costs = [
        float(problem.cost(torch.tensor(dx - x).double(), torch.tensor(dy - y).double()))
        for x, y in ((0, 0), (1, 0), (0, 1), (1, 1))
    ]
    return [math.exp((min(costs) - cost) / problem.epsilon) for cost in costs]


@pytest.mark.parametrize("size", SIZES)
def test_cells_and_the_pixels_near_the_dot(size):
    problem = problems(size)
    height, width = size
    high, wide = -(-height // POOL), -(-width // POOL)
    expected = torch.zeros(len(problem), high * wide + NEAR**2, dtype=torch.float64)
    for row in range(len(problem)):
        left, top = (int(one) - NEAR_BEFORE for one in problem.places_hm[row, 0])
        for y in range(height):
            for x in range(width):
                near = 0 <= x - left < NEAR and 0 <= y - top < NEAR
                at = (
                    high * wide + (y - top) * NEAR + x - left
                    if near
                    else y // POOL * wide + x // POOL
                )
                expected[row, at] += problem.supply[row, y, x]
    # A difference of sums: off by their rounding.
    torch.testing.assert_close(pooled_supply(problem, torch.float64), expected, rtol=0, atol=1e-16)
    assert (pooled_supply(problem, torch.float32) >= 0).all()


@pytest.mark.parametrize("cost", ["l2", "l1", "oks"])
@pytest.mark.parametrize("size", SIZES)
def test_kernels_are_those_of_the_places(size, cost):
    problem = problems(size, cost)
    height, width = size
    wide = -(-width // POOL)
    ours, _ = windows(problem, None, torch.float64, False)
    cells = pooled_windows(problem, torch.float64, False)
    for row in range(len(problem)):
        x0, y0 = (int(one) for one in problem.places_hm[row, 0])
        for y, x in ((0, 0), (height - 1, width - 1), (height // 2, 1)):
            expected = torch.tensor(kernel_at(problem, row, x - x0, y - y0))
            torch.testing.assert_close(ours[row, :, y * width + x].float(), expected)
        middle = (POOL - 1) / 2
        for cell in (0, wide + 1, cells.shape[2] - NEAR**2 - 1):
            y, x = cell // wide * POOL + middle, cell % wide * POOL + middle
            expected = torch.tensor(kernel_at(problem, row, x - x0, y - y0))
            torch.testing.assert_close(cells[row, :, cell].float(), expected)
        for y, x in ((0, 0), (2, 5), (NEAR - 1, NEAR - 1)):
            expected = torch.tensor(kernel_at(problem, row, x - NEAR_BEFORE, y - NEAR_BEFORE))
            found = cells[row, :, cells.shape[2] - NEAR**2 + y * NEAR + x]
            torch.testing.assert_close(found.float(), expected)


def test_where_cells_are_a_start():
    assert pooled(problems((24, 20)))
    few, flat = problems((8, 8)), problems((4, 60))
    assert not pooled(few)
    assert not pooled(flat)
    one = problems((24, 20))
    relaxed = TransportProblem(one.supply, one.places_hm, one.demand, relaxation=2.0)
    assert not pooled(relaxed)


@pytest.mark.parametrize("epsilon", [0.3, 0.1, 0.03])
def test_the_start_saves_iterations_and_changes_no_answer(epsilon, monkeypatch):
    problem = random_problems(40, epsilon, seed=5)
    ours = module.solve_semidual(problem, 1e-11, 1000)
    monkeypatch.setattr(module, "pooled", lambda problem: False)
    without = module.solve_semidual(problem, 1e-11, 1000)
    assert float(ours.iterations.double().mean()) < 0.75 * float(without.iterations.double().mean())
    torch.testing.assert_close(ours.value, without.value, rtol=1e-10, atol=0)


def test_no_problem_s_answer_depends_on_the_others():
    problem = random_problems(12, 0.1, seed=6)
    together = module.solve_semidual(problem, 1e-9, 1000)
    alone = [
        module.solve_semidual(problem.part(slice(row, row + 1)), 1e-9, 1000) for row in range(12)
    ]
    assert torch.equal(together.iterations, torch.cat([one.iterations for one in alone]))
    value = torch.cat([one.value for one in alone])
    # What matrix products of another size round differently.
    torch.testing.assert_close(together.value, value, rtol=1e-13, atol=0)
