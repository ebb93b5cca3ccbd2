"""Losses on marginals against scipy's transport on a line, formulas and the map's transport."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.stats import wasserstein_distance

from posematch.errors import PosematchError
from posematch.losses import MarginalCrossEntropy, MarginalTransport, Matching, to_mass
from posematch.losses.marginal import linear_weights
from posematch.transport import subpixel_demand

HEIGHT, WIDTH = 9, 7
# Inside, on a pixel, on a column, nearest to the first and the last pixel from outside.
DOTS = [[2.25, 3.5], [4.0, 6.0], [3.0, 7.9], [-0.4, 0.0], [6.3, 8.4]]


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    heatmaps = torch.randn(1, len(DOTS), HEIGHT, WIDTH, generator=generator).double()
    return 2 * heatmaps, torch.tensor([DOTS], dtype=torch.float64), torch.ones(1, len(DOTS))


def softmax(heatmap):
    mass = np.exp(heatmap - heatmap.max())
    return mass / mass.sum()


def demand(place, length):
    """Linear weights on the two nearest pixels, by np.interp's hats; outside all on the last."""
    return np.array([np.interp(place, np.arange(length), row) for row in np.eye(length)])


def cheapest(mass, target, power):
    """Transport on a line as a linear programme: variables are the plan's entries."""
    length = len(mass)
    pixels = np.arange(length)
    cost = np.abs(pixels[:, None] - pixels) ** power
    rows = np.kron(np.eye(length), np.ones(length))
    columns = np.kron(np.ones(length), np.eye(length))
    found = linprog(
        cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([mass, target])
    )
    return found.fun


class TestCrossEntropy:
    @pytest.mark.parametrize("target", ["gaussian", "dot"])
    def test_definition(self, target):
        """SimCC, equation 2 of its text: cross-entropy of x and of y, added; on a map's sums."""
        heatmaps, dots, visible = batch()
        values = MarginalCrossEntropy(target, 0.75).per_joint(heatmaps, dots, visible)[0]

        def label(place, length):
            if target == "dot":
                return demand(place, length)
            g = np.exp(-((np.arange(length) - place) ** 2) / (2 * 0.75**2))
            return g / g.sum()

        for value, heatmap, (x, y) in zip(values, heatmaps[0].numpy(), DOTS, strict=True):
            mass = softmax(heatmap)
            of_x = -(label(x, WIDTH) * np.log(mass.sum(0))).sum()
            of_y = -(label(y, HEIGHT) * np.log(mass.sum(1))).sum()
            assert float(value) == pytest.approx(of_x + of_y, rel=1e-12)

    def test_smallest_where_the_marginals_are_the_target(self):
        """Gradient 0 at the product of the labels; the value is then the labels' entropy."""
        _, dots, visible = batch()
        x, y = dots.unbind(-1)
        columns, rows = linear_weights(x, WIDTH), linear_weights(y, HEIGHT)
        best = (rows[..., :, None] * columns[..., None, :]).clamp_min(1e-30).log()
        best.requires_grad_()
        value = MarginalCrossEntropy("dot")(best, dots, visible)
        value.backward()
        entropy = -sum(torch.special.xlogy(one, one).sum(-1) for one in (columns, rows)).mean()
        assert float(value.detach()) == pytest.approx(float(entropy), abs=1e-12)
        assert float(best.grad.abs().max()) < 1e-12

    def test_pulls_where_the_softmax_has_underflowed(self):
        """Float32 mass of exactly 0 on the dot's lines: sums of masses would have no logarithm."""
        heatmaps = torch.zeros(1, 1, HEIGHT, WIDTH)
        heatmaps[..., 8, 6] = 1e3
        assert to_mass(heatmaps, "softmax")[0, 0, 2, 1] == 0
        heatmaps.requires_grad_()
        value = MarginalCrossEntropy("dot")(
            heatmaps, torch.tensor([[[1.0, 2.0]]]), torch.ones(1, 1)
        )
        value.backward()
        assert float(value.detach()) == pytest.approx(2e3, rel=1e-2)
        assert heatmaps.grad[0, 0, 2, 1] < -0.1
        assert heatmaps.grad[0, 0, 8, 6] > 1


class TestTransport:
    @pytest.mark.parametrize("supply", ["softmax", "relu", "softplus"])
    def test_power_1_is_scipys_wasserstein_distance(self, supply):
        heatmaps, dots, visible = batch()
        values = MarginalTransport(1.0, supply).per_joint(heatmaps, dots, visible)[0]
        masses = to_mass(heatmaps, supply)[0].numpy()
        columns, rows = np.arange(WIDTH), np.arange(HEIGHT)
        for value, mass, (x, y) in zip(values, masses, DOTS, strict=True):
            of_x = wasserstein_distance(columns, columns, mass.sum(0), demand(x, WIDTH))
            of_y = wasserstein_distance(rows, rows, mass.sum(1), demand(y, HEIGHT))
            assert float(value) == pytest.approx(of_x + of_y, rel=1e-10)

    @pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 3.0])
    def test_is_the_cheapest_plan(self, power):
        """Against a linear programme, which knows nothing of orders on a line."""
        heatmaps, dots, visible = batch(1)
        values = MarginalTransport(power).per_joint(heatmaps, dots, visible)[0]
        for value, heatmap, (x, y) in zip(values, heatmaps[0].numpy(), DOTS, strict=True):
            mass = softmax(heatmap)
            best = cheapest(mass.sum(0), demand(x, WIDTH), power) + cheapest(
                mass.sum(1), demand(y, HEIGHT), power
            )
            assert float(value) == pytest.approx(best, rel=1e-8)

    def test_is_at_most_the_maps_transport(self):
        """That plan's marginals are plans of the marginals, at the same cost for l1."""
        heatmaps, dots, visible = batch()
        of_map = Matching(supply="softmax", cost="l1", solver="exact")
        whole = of_map.per_joint(heatmaps, dots, visible)
        own = MarginalTransport().per_joint(heatmaps, dots, visible)
        assert (own <= whole + 1e-9).all()
        # Half on each end of a diagonal, a dot between: right by its sums, not by its pixels.
        heatmaps = torch.eye(2).double()[None, None]
        dot, visible = torch.full((1, 1, 2), 0.5).double(), torch.ones(1, 1)
        of_map = Matching(cost="l1", solver="exact")
        assert float(of_map(heatmaps, dot, visible)) == pytest.approx(0.5)
        own = MarginalTransport(supply="relu")(heatmaps, dot, visible)
        assert float(own) == pytest.approx(0, abs=1e-12)

    def test_to_a_pixel_it_is_the_maps_transport(self):
        """One demand: both are the mean of |dx| + |dy|, and for squares of dx^2 + dy^2."""
        heatmaps, dots, visible = batch()
        dots = dots.round()
        for power, cost, factor in ((1.0, "l1", 1.0), (2.0, "squared_l2", 2.0)):
            whole = Matching(supply="softmax", cost=cost, demand="point")
            torch.testing.assert_close(
                MarginalTransport(power).per_joint(heatmaps, dots, visible),
                factor * whole.per_joint(heatmaps, dots, visible),
            )

    def test_zero_at_the_demand(self):
        _, dots, visible = batch()
        x, y = dots.unbind(-1)
        ideal = linear_weights(y, HEIGHT)[..., :, None] * linear_weights(x, WIDTH)[..., None, :]
        for power in (1.0, 2.0):
            value = MarginalTransport(power, "relu")(ideal, dots, visible)
            assert float(value) == pytest.approx(0, abs=1e-12)

    @pytest.mark.parametrize("power", [1.0, 2.0])
    def test_float32_on_64_pixels(self, power):
        """Softmax and cumulative sums round: 2.1e-6 of the value were seen."""
        generator = torch.Generator().manual_seed(0)
        heatmaps = 5 * torch.randn(4, 16, 64, 64, generator=generator)
        dots, visible = 63 * torch.rand(4, 16, 2, generator=generator), torch.ones(4, 16)
        loss = MarginalTransport(power)
        torch.testing.assert_close(
            loss.per_joint(heatmaps, dots, visible).double(),
            loss.per_joint(heatmaps.double(), dots, visible),
            rtol=5e-6,
            atol=1e-6,
        )


def test_target_is_the_marginals_of_the_four_pixels():
    """`subpixel_demand`, renormalised at the border as the lines are."""
    dots = torch.tensor(DOTS, dtype=torch.float64)
    places, masses = subpixel_demand(dots, (HEIGHT, WIDTH))
    for axis, length in ((0, WIDTH), (1, HEIGHT)):
        of_four = torch.zeros(len(DOTS), length).double()
        pixels = places[..., axis].long().clamp(0, length - 1)  # off the grid the mass is 0
        of_four.scatter_add_(1, pixels, masses)
        torch.testing.assert_close(linear_weights(dots[:, axis], length), of_four)


def test_a_line_of_one_pixel():
    """Nothing to tell: log 1, and no way to carry."""
    heatmaps, dots = torch.randn(1, 1, 1, 1), torch.tensor([[[0.3, -0.2]]])
    for loss in (MarginalCrossEntropy("dot"), MarginalCrossEntropy(), MarginalTransport(2.0)):
        assert float(loss(heatmaps, dots, torch.ones(1, 1))) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MarginalCrossEntropy("point"), r"loss\.target=point"),
        (lambda: MarginalCrossEntropy(sigma=0), r"loss\.sigma=0"),
        (lambda: MarginalTransport(0.5), r"loss\.power=0\.5"),
        (lambda: MarginalTransport(math.inf), r"loss\.power=inf"),
        (lambda: MarginalTransport(supply="none"), r"loss\.supply=none"),
        (lambda: MarginalTransport(temperature=0), r"loss\.temperature=0"),
    ],
)
def test_bad_values_are_a_sentence(make, message):
    with pytest.raises(PosematchError, match=message):
        make()
