"""What the values must lie between and tend to: exact transport, epsilon -> 0, debiasing."""

from __future__ import annotations

import ot
import pytest
import torch
from problems import SIZE, random_problems, special_problems, supply_of
from test_semidual import COSTS

from posematch.transport import (
    SOLVERS,
    Cost,
    TransportProblem,
    demand_self_value,
    self_transport,
    subpixel_demand,
)


def solve(problem, name="semidual", tolerance=1e-12):
    return SOLVERS[name](problem, tolerance, 20_000)


def transport_cost(solution):
    """<C, P>."""
    return (solution.plan() * solution.problem.cost_matrix()).sum((1, 2))


def exact_values(problem):
    """W(s, d) by POT's network simplex."""
    return torch.tensor(
        [
            ot.emd2(supply.flatten().numpy(), demand.numpy(), cost.T.contiguous().numpy())
            for supply, demand, cost in zip(
                problem.supply, problem.demand, problem.cost_matrix(), strict=True
            )
        ],
        dtype=torch.float64,
    )


def entropy(mass):
    return -torch.special.xlogy(mass, mass).flatten(1).sum(1)


@pytest.mark.parametrize("epsilon", [3.0, 1.0, 0.3, 0.1, 0.03, 0.01])
def test_between_exact_distance_and_entropy(epsilon):
    """W <= E <= W + epsilon min(H(s), H(d))."""
    for problem in (special_problems(epsilon), random_problems(50, epsilon, seed=2)):
        value, exact = solve(problem).value, exact_values(problem)
        most = torch.minimum(entropy(problem.supply), entropy(problem.demand))
        # The simplex is exact but for rounding, at costs of up to 30 px.
        assert float((exact - value).max()) <= 1e-10
        assert float((value - exact - epsilon * most).max()) <= 1e-10


def test_transport_cost_tends_to_the_exact_distance():
    """W <= <C, P> <= W + epsilon min(H(s), H(d)): P is feasible, and E >= <C, P>."""
    problem = random_problems(20, 0.3, seed=4)
    exact = exact_values(problem)
    for epsilon in (0.3, 0.1, 0.03, 0.01):
        part = random_problems(20, epsilon, seed=4)
        excess = transport_cost(solve(part)) - exact
        most = torch.minimum(entropy(problem.supply), entropy(problem.demand))
        assert float(excess.min()) >= -1e-9
        assert float((excess - epsilon * most).max()) <= 1e-9


def test_exact_solver_is_emd():
    for problem in (special_problems(0.1), random_problems(30, 0.1, seed=6)):
        ours = solve(problem, "exact")
        torch.testing.assert_close(ours.value, exact_values(problem), rtol=1e-10, atol=1e-12)
        # Dual feasible (a is the c-transform of b) with the same value: optimal.
        dual = (ours.supply_potential * problem.supply).sum((1, 2)) + (
            ours.demand_potential * problem.demand
        ).sum(1)
        torch.testing.assert_close(dual, ours.value, rtol=1e-10, atol=1e-10)
        assert ours.converged.all()


def test_exact_solver_of_one_demand_is_the_formula():
    dots_hm = torch.tensor([[4.0, 6.0]], dtype=torch.float64)
    problem = TransportProblem(supply_of("noise")[None], *subpixel_demand(dots_hm, SIZE))
    expected = (problem.supply.flatten() * problem.cost_matrix()[0, 0]).sum()
    torch.testing.assert_close(solve(problem, "exact").value[0], expected, rtol=1e-12, atol=0)


class TestDebiased:
    """S(s, d) = E(s, d) - E(s, s) / 2 - E(d, d) / 2 (Feydy et al. 2019)."""

    @staticmethod
    def divergence(supply, dots_hm, epsilon, cost):
        places, demand = subpixel_demand(dots_hm, SIZE)
        problem = TransportProblem(supply, places, demand, cost, epsilon)
        own, _ = self_transport(supply, cost, epsilon, 1e-12, 10_000)
        others = demand_self_value(places, demand, cost, epsilon, 1e-12, 10_000)
        return solve(problem).value - (own + others) / 2

    @staticmethod
    def at_the_dots(dots_hm):
        """The demands as maps."""
        places, demand = subpixel_demand(dots_hm, SIZE)
        maps = torch.zeros(len(dots_hm), *SIZE, dtype=torch.float64)
        x, y = places.long().unbind(-1)
        rows = torch.arange(len(dots_hm))[:, None].expand_as(x)
        x, y = x.clamp(0, SIZE[1] - 1), y.clamp(0, SIZE[0] - 1)
        return maps.index_put((rows, y, x), demand, accumulate=True)

    @pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.03])
    @pytest.mark.parametrize("name", ["l2", "squared_l2", "l1"])
    def test_zero_if_and_only_if_equal(self, epsilon, name):
        cost = Cost(name)
        dots_hm = torch.tensor([[4.3, 6.8], [4.0, 6.0], [0.2, 22.9]], dtype=torch.float64)
        there = self.at_the_dots(dots_hm)
        zero = self.divergence(there, dots_hm, epsilon, cost)
        torch.testing.assert_close(zero, torch.zeros_like(zero), rtol=0, atol=1e-10)
        # A percent of the mass moved by one pixel, or spread over everything: positive.
        moved = 0.99 * there + 0.01 * there.roll(1, 2)
        spread = 0.99 * there + 0.01 / there[0].numel()
        for other in (moved, spread):
            assert float(self.divergence(other, dots_hm, epsilon, cost).min()) > 1e-6
        everything = special_problems(epsilon)
        values = self.divergence(
            everything.supply, everything.places_hm[:, 0] + 0.25, epsilon, cost
        )
        assert float(values.min()) > 1e-6

    def test_biased_value_is_smallest_elsewhere(self):
        """Why one debiases: at s = d the gradient differs within d's pixels, S's does not."""
        dots_hm = torch.tensor([[4.3, 6.8]], dtype=torch.float64)
        there = self.at_the_dots(dots_hm)
        used = there > 0
        at_dot = solve(TransportProblem(there, *subpixel_demand(dots_hm, SIZE), epsilon=0.5))
        biased = at_dot.supply_gradient[used]
        assert float(biased.max() - biased.min()) > 0.1
        _, own = self_transport(there, Cost("l2"), 0.5, 1e-12, 10_000)
        debiased = biased - own[used]
        assert float(debiased.max() - debiased.min()) < 1e-9

    def test_self_transport_against_pot(self):
        """E(s, s) by Sinkhorn over all pixels, its gradient 2 a."""
        epsilon = 3.0  # where the plain iteration converges, too
        supply = torch.stack([supply_of(kind) for kind in ("noise", "uniform", "border")])
        value, potential = self_transport(supply, Cost("l2"), epsilon, 1e-13, 10_000)
        height, width = SIZE
        y, x = (
            one.flatten()
            for one in torch.meshgrid(
                torch.arange(height).double(), torch.arange(width).double(), indexing="ij"
            )
        )
        cost = (x[:, None] - x).hypot(y[:, None] - y).numpy()
        for row, mass in enumerate(supply.flatten(1).numpy()):
            used = mass > 0
            part = mass[used]
            _, log = ot.bregman.sinkhorn_log(
                part, part, cost[used][:, used], epsilon, stopThr=1e-11, numItermax=20_000, log=True
            )
            # POT's potentials carry the masses' logarithms.
            a = epsilon * log["log_u"] - epsilon * torch.tensor(part).log().numpy()
            b = epsilon * log["log_v"] - epsilon * torch.tensor(part).log().numpy()
            expected = float((a + b) @ part)
            assert float(value[row]) == pytest.approx(expected, rel=1e-8, abs=1e-10)
            ours = potential[row].flatten().numpy()[used]
            assert abs(ours - (a + b) / 2).max() < 1e-7


@pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS)
def test_costs_by_hand(cost):
    """The way (3, 4), of length 5."""
    expected = {
        "l2": 5.0,
        "squared_l2": 12.5,
        "l1": 7.0,
        "power": (5 / 2) ** 0.5,
        "oks": 1 - 2.718281828459045 ** (-25 / 18),
        "log1p": 1.252762968495368,  # log(3.5)
        "truncated": 4.0,
    }[cost.name]
    way = torch.tensor([[3.0, -4.0]], dtype=torch.float64)
    assert float(cost(way[:, 0], way[:, 1])) == pytest.approx(expected, rel=1e-12)
    assert float(cost(way[:, 0] * 0, way[:, 1] * 0)) == 0
