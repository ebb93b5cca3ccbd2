"""Solvers against each other, against exact transport, and against the definitions."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posematch.transport import (
    SOLVERS,
    TransportProblem,
    dot_demand,
    pixel_distances,
    solution_from_demand_potentials,
)

HEIGHT, WIDTH = 12, 10
SIZE = (HEIGHT, WIDTH)


def supplies(kind: str, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """(1, N) masses of the kinds met in practice."""
    generator = torch.Generator().manual_seed(3)
    flat = HEIGHT * WIDTH
    mass = torch.zeros(flat, dtype=torch.float64)  # cast at the end: randn depends on the dtype
    if kind == "uniform":
        mass[:] = 1
    elif kind == "noise":
        mass = torch.randn(flat, generator=generator, dtype=torch.float64).relu()
    elif kind == "one_hot":
        mass[37] = 1
    elif kind == "two_peaks":
        mass[3], mass[flat - 5] = 2, 1
    elif kind == "border":
        mass.view(SIZE)[0] = 1
        mass.view(SIZE)[:, -1] = 0.5
    return (mass / mass.sum())[None].to(dtype)


KINDS = ("uniform", "noise", "one_hot", "two_peaks", "border")
DOTS = {"inside": (4.3, 6.8), "on_pixel": (4.0, 6.0), "on_edge": (4.5, 6.0), "corner": (-0.3, 11.2)}


def problem(kind, dot, epsilon, dtype=torch.float64):
    dots = torch.tensor([dot], dtype=dtype)
    pixels, demand = dot_demand(dots, SIZE)
    cost = pixel_distances(pixels, SIZE)
    return TransportProblem(supplies(kind, dtype), demand, cost, epsilon)


def solve(name, one, tolerance):
    potential, iterations = SOLVERS[name](one, tolerance, 20_000)
    return solution_from_demand_potentials(one, potential, iterations)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dot", DOTS.values(), ids=DOTS)
@pytest.mark.parametrize("epsilon", [1.0, 0.3, 0.1])
class TestSolution:
    def test_solvers_agree(self, kind, dot, epsilon):
        one = problem(kind, dot, epsilon)
        newton, sinkhorn = solve("semidual", one, 1e-11), solve("pot", one, 1e-11)
        # The value is flat at the optimum: an L1 error e of the marginal moves it by O(e) px.
        torch.testing.assert_close(newton.value, sinkhorn.value, rtol=1e-9, atol=1e-9)
        assert float(newton.marginal_error.max()) <= 1e-10
        assert float(sinkhorn.marginal_error.max()) <= 1e-10

    def test_float32_is_as_good_as_its_rounding(self, kind, dot, epsilon):
        double = solve("semidual", problem(kind, dot, epsilon), 1e-11)
        single = solve("semidual", problem(kind, dot, epsilon, torch.float32), 1e-6)
        torch.testing.assert_close(single.value.double(), double.value, rtol=1e-5, atol=1e-6)

    def test_between_exact_distance_and_entropy(self, kind, dot, epsilon):
        """DESIGN: W <= E <= W + epsilon min(H(s), H(d))."""
        one = problem(kind, dot, epsilon)
        value = float(solve("semidual", one, 1e-11).value)
        exact = ot.emd2(
            one.supply[0].numpy(), one.demand[0].numpy(), one.cost[0].T.contiguous().numpy()
        )
        entropy = min(float(-torch.special.xlogy(m, m).sum()) for m in (one.supply, one.demand))
        assert exact - 1e-9 <= value <= exact + epsilon * entropy + 1e-9

    def test_primal_and_dual_value_meet(self, kind, dot, epsilon):
        """<C, P> + epsilon KL(P || s x d), from the plan's definition, is <a, s> + <b, d>."""
        one = problem(kind, dot, epsilon)
        solution = solve("semidual", one, 1e-11)
        a, b = solution.supply_potential, solution.demand_potential
        log_ratio = (a[:, None] + b[:, :, None] - one.cost) / epsilon
        product = one.supply[:, None] * one.demand[:, :, None]
        plan = product * log_ratio.exp()
        primal = (plan * (one.cost + epsilon * log_ratio)).sum()
        torch.testing.assert_close(primal, solution.value[0], rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(plan.sum(1), one.supply, rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(plan.sum(2), one.demand, rtol=1e-8, atol=1e-9)

    def test_potential_is_finite_everywhere_and_centred(self, kind, dot, epsilon):
        """Also where there is no mass: the soft transform, never -inf (DESIGN)."""
        one = problem(kind, dot, epsilon)
        solution = solve("pot", one, 1e-9)
        assert solution.supply_potential.isfinite().all()
        assert solution.demand_potential.isfinite().all()
        assert abs(float((solution.supply_potential * one.supply).sum())) < 1e-12


@pytest.mark.parametrize("epsilon", [0.03, 0.02])
def test_float32_at_the_smallest_epsilons(epsilon):
    """Sparse supplies, dots near pixels: exp(-1.4 / epsilon) comes near the end of float32."""
    generator = torch.Generator().manual_seed(0)
    supply = (torch.randn(300, HEIGHT * WIDTH, generator=generator) - 1.5).relu()
    supply[:, 0] += 1e-3  # nobody is empty
    supply = supply / supply.sum(1, keepdim=True)
    dots = torch.rand(300, 2, generator=generator) * 6 + 2
    dots[:100] = dots[:100].round() + 1e-3
    pixels, demand = dot_demand(dots, SIZE)
    cost = pixel_distances(pixels, SIZE)
    single = solve("semidual", TransportProblem(supply, demand, cost, epsilon), 1e-5)
    assert single.value.isfinite().all()
    assert float(single.marginal_error.max()) <= 1e-4
    double = solve(
        "semidual",
        TransportProblem(supply.double(), demand.double(), cost.double(), epsilon),
        1e-10,
    )
    torch.testing.assert_close(single.value.double(), double.value, rtol=1e-5, atol=1e-5)


def test_one_demand_pixel_is_the_expected_distance():
    """PROTOCOLS 2.12: transport onto one pixel has the closed form sum_n s_n C_n."""
    one = problem("noise", (4.0, 6.0), 0.5)
    solution = solve("semidual", one, 1e-12)
    expected = (one.supply * one.cost[:, 0]).sum()
    torch.testing.assert_close(solution.value[0], expected, rtol=1e-12, atol=0)


def test_one_hard_problem_does_not_change_the_others():
    """Batched answers are those of each problem alone (POT's batch stops together, ours must not
    differ by more than the tolerance)."""
    easy, hard = problem("noise", (4.3, 6.8), 0.1), problem("two_peaks", (4.5, 6.5), 0.1)
    both = TransportProblem(
        torch.cat([easy.supply, hard.supply]),
        torch.cat([easy.demand, hard.demand]),
        torch.cat([easy.cost, hard.cost]),
        0.1,
    )
    for name in SOLVERS:
        alone = torch.cat([solve(name, one, 1e-10).value for one in (easy, hard)])
        torch.testing.assert_close(solve(name, both, 1e-10).value, alone, rtol=1e-9, atol=1e-9)


@given(
    x=st.floats(-0.49, WIDTH - 0.51),
    y=st.floats(-0.49, HEIGHT - 0.51),
)
@settings(max_examples=200)
def test_demand_has_its_barycentre_on_the_dot(x, y):
    pixels, mass = dot_demand(torch.tensor([[x, y]], dtype=torch.float64), SIZE)
    assert float(mass.sum()) == pytest.approx(1, abs=1e-12)
    assert (mass >= 0).all()
    used = mass[0] > 0
    inside = (pixels[0][used] >= 0) & (pixels[0][used] < torch.tensor([WIDTH, HEIGHT]))
    assert inside.all()
    # Off the grid's edge the pixels beyond it drop out: the dot is drawn onto the grid.
    expected = np.clip([x, y], 0, [WIDTH - 1, HEIGHT - 1])
    np.testing.assert_allclose((mass[0, :, None] * pixels[0]).sum(0), expected, atol=1e-9)


def test_translating_mass_and_dot_together_changes_nothing():
    mass = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.float64)
    mass[0, 3:5, 2:5] = torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.25, 1.0]])
    values = []
    for shift in (0, 3):
        moved = mass.roll((shift, shift), (1, 2)).flatten(1)
        pixels, demand = dot_demand(torch.tensor([[4.2 + shift, 5.7 + shift]]).double(), SIZE)
        one = TransportProblem(moved / moved.sum(), demand, pixel_distances(pixels, SIZE), 0.1)
        values.append(solve("semidual", one, 1e-12).value)
    torch.testing.assert_close(values[0], values[1], rtol=1e-9, atol=0)
