"""The matching loss: its gradient, its symmetries, and where it leads a heatmap."""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posematch.errors import PosematchError
from posematch.losses import Matching
from posematch.transport import SOLVERS

HEIGHT, WIDTH = 16, 12
COSTS = {
    "l2": {},
    "squared_l2": {},
    "l1": {},
    "power": {"scale_px": 2.0, "power": 0.5},
    "oks": {"scale_px": 3.0},
    "log1p": {"scale_px": 2.0},
    "truncated": {"scale_px": 2.5},
}
SUPPLIES = ("relu", "softplus", "softmax")
DEMANDS = ("subpixel", "nearest", "point")


def maps_and_dots(people=2, joints=3, seed=0, height=HEIGHT, width=WIDTH):
    generator = torch.Generator().manual_seed(seed)
    heatmaps = torch.randn(people, joints, height, width, generator=generator)
    size = torch.tensor([width - 1.0, height - 1.0])
    return heatmaps, torch.rand(people, joints, 2, generator=generator) * size


def values(loss, heatmaps, joints_hm):
    return loss.per_joint(heatmaps, joints_hm, torch.ones(joints_hm.shape[:2]))


def check_gradient(loss, seed=0):
    """Central differences in float64 through supply, normalisation and solve."""
    loss.distance = replace(loss.distance, tolerance=1e-12)
    heatmaps, joints_hm = maps_and_dots(1, 2, seed, 5, 4)
    # Away from ReLU's kink, which finite differences would straddle.
    heatmaps = (heatmaps.sign() * (heatmaps.abs() + 0.1)).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda maps: values(loss, maps, joints_hm.double()), heatmaps, eps=1e-6, atol=1e-6
    )


KINDS = [list(COSTS), list(SUPPLIES), list(DEMANDS), [math.inf, 1.5]]
CHOICES = [
    # Every two choices of different kinds meet in one that is not slow.
    one
    if one[0] == "l2" or sum(map(list.index, KINDS, one)) % 3 == 0
    else pytest.param(*one, marks=pytest.mark.slow)
    for one in itertools.product(*KINDS)
]


class TestGradient:
    @pytest.mark.parametrize(("cost", "supply", "demand", "relaxation"), CHOICES)
    def test_every_choice(self, cost, supply, demand, relaxation):
        check_gradient(
            Matching(cost=cost, supply=supply, demand=demand, relaxation=relaxation, **COSTS[cost])
        )

    @pytest.mark.parametrize("demand", ["subpixel", "nearest"])
    @pytest.mark.parametrize("supply", SUPPLIES)
    @pytest.mark.parametrize("cost", ["l2", "squared_l2", "l1"])
    def test_debiased(self, cost, supply, demand):
        check_gradient(Matching(cost=cost, supply=supply, demand=demand, debiased=True))

    @pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.03])
    def test_small_and_large_epsilon(self, epsilon):
        check_gradient(Matching(epsilon=epsilon))

    @pytest.mark.parametrize("supply", ["softplus", "softmax"])
    def test_temperature(self, supply):
        check_gradient(Matching(supply=supply, temperature=0.3))

    def test_pot_gives_the_same(self):
        """Both to 1e-12, so the loss and its gradient agree far better than float32."""
        found = []
        for solver in ("semidual", "pot"):
            heatmaps, joints_hm = maps_and_dots()
            heatmaps = heatmaps.double().requires_grad_()
            loss = Matching(solver=solver, tolerance=1e-12, max_iterations=100_000)
            value = values(loss, heatmaps, joints_hm.double())
            value.sum().backward()
            found.append((value.detach(), heatmaps.grad))
        torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-9, atol=0)
        torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-7, atol=1e-9)

    def test_is_the_centred_potential_over_the_mass(self):
        """Equation 3 and the quotient rule: dE/dh_n = a_n / Z where h_n > 0, else 0."""
        heatmaps, joints_hm = maps_and_dots(1, 1)
        heatmaps = heatmaps.double().requires_grad_()
        loss = Matching(tolerance=1e-12)
        values(loss, heatmaps, joints_hm.double()).sum().backward()
        mass = heatmaps.detach().relu()[0]
        problem = loss.problem(mass / mass.sum(), joints_hm[0].double())
        potential = loss.distance.solver(problem, 1e-12, 1000).supply_potential
        expected = torch.where(mass > 0, potential / mass.sum(), 0.0)
        torch.testing.assert_close(heatmaps.grad[0], expected, rtol=1e-9, atol=1e-12)


class TestSymmetry:
    """In float32: bounds are a few roundings of values of up to 20 px."""

    @given(exponent=st.floats(-8, 8), seed=st.integers(0, 10))
    @settings(max_examples=30, deadline=None)
    def test_scaling_the_heatmap(self, exponent, seed):
        heatmaps, joints_hm = maps_and_dots(seed=seed)
        torch.testing.assert_close(
            values(Matching(), heatmaps * 10**exponent, joints_hm),
            values(Matching(), heatmaps, joints_hm),
            rtol=1e-5,
            atol=1e-5,
        )

    @given(dx=st.integers(-3, 3), dy=st.integers(-3, 3), seed=st.integers(0, 10))
    @settings(max_examples=30, deadline=None)
    def test_translating_mass_and_dot_together(self, dx, dy, seed):
        heatmaps, joints_hm = maps_and_dots(seed=seed, height=HEIGHT - 6, width=WIDTH - 6)
        frames = [torch.zeros(2, 3, HEIGHT, WIDTH) for _ in range(2)]
        for frame, x, y in zip(frames, (3, 3 + dx), (3, 3 + dy), strict=True):
            frame[..., y : y + HEIGHT - 6, x : x + WIDTH - 6] = heatmaps.relu()
        moved = joints_hm + 3 + torch.tensor([dx, dy])
        torch.testing.assert_close(
            values(Matching(), frames[1], moved),
            values(Matching(), frames[0], joints_hm + 3),
            rtol=1e-5,
            atol=1e-5,
        )

    @pytest.mark.parametrize("axis", [2, 3])
    @pytest.mark.parametrize("supply", SUPPLIES)
    def test_flipping(self, axis, supply):
        heatmaps, joints_hm = maps_and_dots()
        flipped = joints_hm.clone()
        coordinate = 3 - axis  # axis 3 is x
        flipped[..., coordinate] = heatmaps.shape[axis] - 1 - joints_hm[..., coordinate]
        torch.testing.assert_close(
            values(Matching(supply=supply), heatmaps.flip(axis), flipped),
            values(Matching(supply=supply), heatmaps, joints_hm),
            rtol=1e-5,
            atol=1e-5,
        )

    def test_permuting_batch_and_joints(self):
        heatmaps, joints_hm = maps_and_dots(3, 4)
        people, joints = [2, 0, 1], [3, 1, 0, 2]
        torch.testing.assert_close(
            values(Matching(), heatmaps[people][:, joints], joints_hm[people][:, joints]),
            values(Matching(), heatmaps, joints_hm)[people][:, joints],
            rtol=1e-6,
            atol=1e-6,
        )


def test_joints_that_do_not_count_are_not_solved():
    heatmaps, joints_hm = maps_and_dots(2, 3)
    visible = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    joints_hm[0, 2] = -7.0  # off the grid
    joints_hm[1, 0] = math.nan
    solved = []
    loss = Matching()
    solver = loss.distance.solver

    def counting(problem, *arguments, **more):
        solved.append(len(problem))
        return solver(problem, *arguments, **more)

    loss.distance = replace(loss.distance, solver=counting)
    found = loss.per_joint(heatmaps, joints_hm, visible)
    assert solved == [1]
    assert found.count_nonzero() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0}, "loss.epsilon=0 must be positive"),
        ({"cost": "l3"}, "loss.cost=l3 must be one of l2, squared_l2"),
        ({"cost": "oks", "scale_px": 0}, "loss.scale_px=0 must be positive"),
        ({"supply": "none"}, "loss.supply=none must be one of relu"),
        ({"demand": "four"}, "loss.demand=four must be one of subpixel"),
        ({"temperature": -1.0}, "loss.temperature=-1.0 must be positive"),
        ({"relaxation": 0.0}, "loss.relaxation=0.0 must be positive"),
        ({"relaxation": 1.0, "debiased": True}, "goes with loss.relaxation=inf only"),
        ({"relaxation": 1.0, "solver": "pot"}, "use semidual"),
        ({"demand": "point", "debiased": True}, "loss.demand=subpixel or nearest"),
        ({"solver": "exact", "debiased": True}, "has no bias"),
        ({"solver": "lp"}, "loss.solver=lp must be one of semidual, semidual_torch, pot, exact"),
    ],
)
def test_wrong_values_are_one_sentence(options, message):
    with pytest.raises(PosematchError, match=message):
        Matching(**options)


class TestReferee:
    def test_pot_agrees(self):
        """Within float32's rounding of values of up to 15 px, and sees a wrong solver."""
        heatmaps, joints_hm = maps_and_dots(8, 5)
        loss, visible = Matching(), torch.ones(8, 5)
        (difference,) = loss.second_opinion(heatmaps, joints_hm, visible).values()
        assert 0 <= difference < 1e-5

    def test_pot_sees_a_wrong_solver(self, monkeypatch):
        def wrong(problem, *arguments, **more):
            solution = SOLVERS["pot"](problem, 1e-6, 1000)
            return replace(solution, value=solution.value + 0.01)

        heatmaps, joints_hm = maps_and_dots(8, 5)
        monkeypatch.setitem(SOLVERS, "semidual", wrong)
        (difference,) = Matching().second_opinion(heatmaps, joints_hm, torch.ones(8, 5)).values()
        assert difference == pytest.approx(0.01, abs=1e-4)

    @pytest.mark.parametrize(
        "options", [{"relaxation": 2.0}, {"demand": "point"}, {"solver": "exact"}]
    )
    def test_silent_where_pot_does_not_apply(self, options):
        heatmaps, joints_hm = maps_and_dots()
        assert Matching(**options).second_opinion(heatmaps, joints_hm, torch.ones(2, 3)) == {}

    def test_nothing_counts(self):
        heatmaps, joints_hm = maps_and_dots()
        assert Matching().second_opinion(heatmaps, joints_hm, torch.zeros(2, 3)) == {}


def test_unconverged_solve_warns_once():
    heatmaps, joints_hm = maps_and_dots()
    loss = Matching(max_iterations=1, epsilon=0.03)
    with pytest.warns(UserWarning, match=r"raise loss.max_iterations") as caught:
        values(loss, heatmaps, joints_hm)
    with warnings.catch_warnings(action="error"):
        values(loss, heatmaps, joints_hm)
    assert len(caught) == 1


STARTS = {
    "normal": lambda noise: noise,
    "positive": torch.abs,
    "negative": lambda noise: -noise.abs(),
    "constant": lambda noise: torch.full_like(noise, -1.0) + 1e-3 * noise,
    "three": lambda noise: 3 * noise,
}


def descend(loss, start, rate, count, steps=1000, size=(24, 20)):
    """Free heatmaps under Adam; how far each ends (px), and whether its argmax is at the dot."""
    height, width = size
    heatmaps, joints_hm = maps_and_dots(count, 1, 0, height, width)
    before = STARTS[start](heatmaps)
    heatmaps = before.clone().requires_grad_()
    adam = torch.optim.Adam([heatmaps], lr=rate)
    for _ in range(steps):
        adam.zero_grad()
        value = values(loss, heatmaps, joints_hm).sum()
        value.backward()
        adam.step()
        assert value.isfinite()
        assert heatmaps.isfinite().all()
    mass = loss.mass(heatmaps.detach())[:, 0]
    dots = joints_hm[:, 0]
    x, y = torch.arange(width), torch.arange(height)
    barycentre = torch.stack([(mass.sum(1) * x).sum(1), (mass.sum(2) * y).sum(1)], -1)
    peak = mass.flatten(1).argmax(1)
    peak = torch.stack([peak % width, peak // width], -1)
    at_dot = ((peak - dots).abs() < 1).all(1)
    return (barycentre - dots).norm(dim=1), at_dot, before[:, 0], dots


# Adam's rate is the test's to choose. Softmax and softplus arrive from 0.1 to 0.5; a softmax start
# three times as steep has pixels without mass in float32, and leaves one of 200 at 0.22 px. From a
# negative start ReLU's first positive pixel stops all gradients (a single pixel is its own
# barycentre), and only Adam's momentum, some ten steps long, carries the others over zero: the
# steps must be of the start's size. docs/transport.md has the shares by rate.
WHERE = ("normal", "positive", "negative", "constant")
ARRIVING = [
    *itertools.product(["softplus", "softmax"], WHERE, [0.3]),
    ("softplus", "three", 0.3),
    *itertools.product(["relu"], ["positive", "negative"], [1.0]),
]


@pytest.mark.parametrize(
    ("supply", "start", "rate"),
    [("softplus", "normal", 0.3), ("relu", "negative", 1.0)],
)
def test_a_few_free_heatmaps_arrive(supply, start, rate):
    # All are there after 200 to 250 of the thousand steps that larger maps take.
    error_px, at_dot, *_ = descend(Matching(supply=supply), start, rate, 10, 300, (14, 12))
    assert at_dot.all()
    assert float(error_px.max()) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("supply", "start", "rate"), ARRIVING)
def test_free_heatmaps_arrive(supply, start, rate):
    error_px, at_dot, *_ = descend(Matching(supply=supply), start, rate, 200)
    assert at_dot.all()
    assert float(error_px.max()) < 0.1


@pytest.mark.slow
def test_relu_from_mixed_starts_gets_stuck_where_pixels_are_dead():
    """A fact about the paper's loss: a pixel that starts at or below 0 never gets a gradient.

    A joint arrives if all demanded pixels start positive (one in sixteen), and otherwise only as
    close as the best positive pixels allow.
    """
    error_px, _, before, dots = descend(Matching(), "normal", 0.3, 200)
    x, y = dots.floor().long().unbind(-1)
    rows = torch.arange(len(dots))
    alive = torch.stack(
        [before[rows, y + dy, x + dx] > 0 for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1))]
    ).all(0)
    arrived = error_px < 0.1
    assert arrived[alive].all()
    assert float(arrived.double().mean()) < 0.5
