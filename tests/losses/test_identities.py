"""The family of docs/theory.md: which losses are members or limits of which, with its bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from posematch.losses import GaussianMSE, Matching, SpatialCrossEntropy, to_mass
from posematch.transport import subpixel_demand

HEIGHT, WIDTH = 8, 9
DIAGONAL = math.hypot(HEIGHT - 1, WIDTH - 1)
ROUNDING = 1e-8


def batch(pixels=False):
    """(1, 4, H, W) maps in float64, dots between pixels or on them, and visible."""
    generator = torch.Generator().manual_seed(0)
    heatmaps = torch.randn(1, 4, HEIGHT, WIDTH, generator=generator).double()
    dots = torch.tensor([[[2.25, 3.5], [6.1, 5.8], [4.0, 2.3], [0.4, 0.7]]], dtype=torch.float64)
    return heatmaps, dots.round() if pixels else dots, torch.ones(1, 4)


def squares(dots):
    """(1, K, H, W) squared distances of every pixel from each dot."""
    x, y = torch.arange(WIDTH).double(), torch.arange(HEIGHT).double()
    return (y[:, None] - dots[..., 1, None, None]) ** 2 + (x - dots[..., 0, None, None]) ** 2


def values_and_gradients(loss, heatmaps, dots, visible):
    heatmaps = heatmaps.clone().requires_grad_()
    values = loss.per_joint(heatmaps, dots, visible)
    (gradients,) = torch.autograd.grad(values.sum(), heatmaps)
    return values.detach(), gradients


def relaxed(tau, epsilon, **choices):
    return Matching(epsilon=epsilon, relaxation=tau, supply="softmax", tolerance=1e-11, **choices)


class TestSmallTauIsCrossEntropy:
    """docs/theory.md, Small tau: w = tau + epsilon, delta = e^(-1/w) <d, 1/s - 1>."""

    @pytest.mark.parametrize("epsilon_share", [0.1, 0.5])
    @pytest.mark.parametrize("tau", [0.4, 0.2, 0.1, 0.05])
    def test_four_pixels(self, tau, epsilon_share):
        heatmaps, dots, visible = batch()
        width = tau * (1 + epsilon_share)
        value, gradient = values_and_gradients(
            relaxed(tau, tau * epsilon_share), heatmaps, dots, visible
        )
        likelihood, slope = values_and_gradients(SpatialCrossEntropy(), heatmaps, dots, visible)
        pixels, demand = subpixel_demand(dots[0], (HEIGHT, WIDTH))
        index = pixels.long()
        at_dot = to_mass(heatmaps, "softmax")[0][
            torch.arange(4)[:, None], index[..., 1], index[..., 0]
        ]
        entropy = torch.special.entr(demand).sum(1)
        delta = math.exp(-1 / width) * (demand * (1 / at_dot - 1)).sum(1)
        short = likelihood[0] - (value[0] + tau * entropy) / width
        assert (short >= -ROUNDING / width).all()
        assert (short <= delta + ROUNDING / width).all()
        away = (gradient / width - slope)[0].abs().sum((1, 2))
        assert (away <= (2 * delta).sqrt() + 1e-6).all()

    @pytest.mark.parametrize("demand", ["nearest", "point"])
    @pytest.mark.parametrize("tau", [0.4, 0.1])
    def test_one_pixel(self, tau, demand):
        heatmaps, dots, visible = batch(pixels=True)
        epsilon = tau / 10
        width = tau + epsilon
        value, gradient = values_and_gradients(
            relaxed(tau, epsilon, demand=demand), heatmaps, dots, visible
        )
        likelihood, slope = values_and_gradients(SpatialCrossEntropy(), heatmaps, dots, visible)
        delta = math.exp(-1 / width) * (likelihood.exp() - 1)
        short = likelihood - value / width
        assert (short >= -1e-12).all()
        assert (short <= delta.log1p() + 1e-12).all()
        away = (gradient / width - slope).abs().sum((-2, -1))
        assert (away <= 2 * delta + 1e-12).all()

    def test_a_point_between_pixels_is_its_nearest_pixel(self):
        """But for the cost of that pixel, and with the next one's in place of 1 px."""
        heatmaps, dots, visible = batch()
        width = 0.02 * 1.1
        heatmaps, dots, visible = heatmaps[:, 1:], dots[:, 1:], visible[:, 1:]
        value, gradient = values_and_gradients(
            relaxed(0.02, 0.002, demand="point"), heatmaps, dots, visible
        )
        likelihood, slope = values_and_gradients(
            SpatialCrossEntropy(), heatmaps, dots.round(), visible
        )
        costs = squares(dots).sqrt().flatten(-2).sort(-1).values
        delta = (-(costs[..., 1] - costs[..., 0]) / width).exp() * (likelihood.exp() - 1)
        short = likelihood - (value - costs[..., 0]) / width
        assert (short >= -1e-10).all()
        assert (short <= delta.log1p() + 1e-10).all()
        assert ((gradient / width - slope).abs().sum((-2, -1)) <= 2 * delta + 1e-10).all()


class TestProbPose:
    """Purkrabek & Matas, CVPR 2025: both of its losses of the map, o = exp(-d^2 / (2 S))."""

    @pytest.mark.parametrize("area", [0.55, 3.0])
    @pytest.mark.parametrize("supply", ["sparsemax", "softmax"])
    def test_expected_oks_is_transport_at_that_cost(self, area, supply):
        heatmaps, dots, visible = batch()
        mass = to_mass(heatmaps, supply, 0.5)
        similarity = (-squares(dots) / (2 * area)).exp()
        member = Matching(
            supply=supply, temperature=0.5, cost="oks", scale_px=area**0.5, demand="point"
        )
        torch.testing.assert_close(
            member.per_joint(heatmaps, dots, visible), (mass * (1 - similarity)).sum((-2, -1))
        )

    @pytest.mark.parametrize("area", [0.55, 3.0])
    @pytest.mark.parametrize("supply", ["sparsemax", "softmax"])
    def test_calibration_loss_is_relaxed_transport_of_squares(self, area, supply):
        """tau + epsilon = S; no constant is left over."""
        heatmaps, dots, visible = batch()
        mass = to_mass(heatmaps, supply, 0.5)
        similarity = (-squares(dots) / (2 * area)).exp()
        member = Matching(
            supply=supply, temperature=0.5, cost="squared_l2", demand="point",
            epsilon=0.1, relaxation=area - 0.1,
        )  # fmt: skip
        torch.testing.assert_close(
            member.per_joint(heatmaps, dots, visible) / area,
            -(mass * similarity).sum((-2, -1)).log(),
        )


# Three places of a joint, and how often each is annotated: two on the left, one on the right.
PLACES = torch.tensor([[1.2, 2.0], [2.0, 5.4], [7.6, 3.3]], dtype=torch.float64)
SHARES = torch.tensor([0.4, 0.25, 0.35], dtype=torch.float64)


def expected(loss, heatmap):
    """Mean of the loss over the distribution of dots: each a person, weighted by its share."""
    return loss(heatmap.expand(3, 1, HEIGHT, WIDTH), PLACES[:, None], SHARES[:, None])


@pytest.mark.parametrize("sigma", [0.8, 1.5])
def test_expected_gaussian_mse_is_smallest_at_the_expected_kernel(sigma):
    """So its highest pixel is the decision of largest expected similarity."""
    loss = GaussianMSE(sigma, centre="subpixel")
    kernels = (-squares(PLACES[None]) / (2 * sigma**2)).exp()[0]
    mean = (SHARES[:, None, None] * kernels).sum(0)
    heatmap = torch.zeros(HEIGHT, WIDTH).double().requires_grad_()
    optimizer = torch.optim.SGD([heatmap], lr=HEIGHT * WIDTH / 4)
    for _ in range(60):  # each halves the distance
        optimizer.zero_grad()
        expected(loss, heatmap).backward()
        optimizer.step()
    torch.testing.assert_close(heatmap.detach(), mean, rtol=0, atol=1e-12)

    def similarity(pixel):
        y, x = divmod(pixel, WIDTH)
        return sum(
            share * math.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * sigma**2))
            for share, (a, b) in zip(SHARES.tolist(), PLACES.tolist(), strict=True)
        )

    assert int(heatmap.argmax()) == max(range(HEIGHT * WIDTH), key=similarity)


@pytest.mark.parametrize("cost", ["l2", "squared_l2"])
def test_balanced_transport_to_a_point_is_the_expected_cost(cost):
    """Linear in the mass, so it is smallest with all of it where the expected cost is.

    That is the geometric median, for squares the mean, but for the grid: here its nearest pixel.
    """
    loss = Matching(supply="softmax", cost=cost, demand="point")
    distance = squares(PLACES[None])[0]
    of_pixel = distance.sqrt() if cost == "l2" else distance / 2
    risk = (SHARES[:, None, None] * of_pixel).sum(0)
    heatmaps = batch()[0][0]
    for heatmap in heatmaps:
        mass = to_mass(heatmap, "softmax")
        assert float(expected(loss, heatmap)) == pytest.approx(float((risk * mass).sum()))
    peak = torch.full((HEIGHT, WIDTH), -60.0).double()
    y, x = divmod(int(risk.argmin()), WIDTH)
    peak[y, x] = 60.0
    best = float(expected(loss, peak))
    assert all(best < float(expected(loss, one)) for one in heatmaps)
    places, shares = PLACES.numpy(), SHARES.numpy()
    place = shares @ places
    if cost == "l2":
        for _ in range(500):  # Weiszfeld
            weight = shares / np.hypot(*(places - place).T)
            place = weight @ places / weight.sum()
    assert math.hypot(x - place[0], y - place[1]) <= math.sqrt(0.5)


class TestLargeTauIsBalanced:
    """docs/theory.md, Large tau: 0 <= E_inf - E_tau <= D^2 / 8 w, D the diagonal."""

    @pytest.mark.parametrize("demand", ["subpixel", "nearest", "point"])
    @pytest.mark.parametrize("tau", [10.0, 100.0, 1000.0])
    def test_value(self, tau, demand):
        heatmaps, dots, visible = batch()
        balanced = Matching(supply="softmax", demand=demand, tolerance=1e-11)
        short = balanced.per_joint(heatmaps, dots, visible) - relaxed(
            tau, 0.1, demand=demand
        ).per_joint(heatmaps, dots, visible)
        assert (short >= -ROUNDING).all()
        assert (short <= DIAGONAL**2 / (8 * (tau + 0.1)) + ROUNDING).all()

    def test_gradient(self):
        """Its distance falls by ten with every tenfold tau, as the value's does."""
        heatmaps, dots, visible = batch()
        balanced = Matching(supply="softmax", tolerance=1e-11)
        _, aim = values_and_gradients(balanced, heatmaps, dots, visible)
        away = [
            float((gradient - aim).norm())
            for gradient in (
                values_and_gradients(relaxed(tau, 0.1), heatmaps, dots, visible)[1]
                for tau in (100.0, 1000.0)
            )
        ]
        assert away[1] < 0.11 * away[0]
        assert away[1] < 0.01 * float(aim.norm())


def test_softmax_pulls_only_where_there_is_mass():
    """docs/theory.md, Where the gradient goes: |dE/dh_n| <= s_n D for balanced l2 transport."""
    heatmaps, dots, visible = batch()
    heatmaps = 8 * heatmaps
    mass = to_mass(heatmaps, "softmax")
    _, gradient = values_and_gradients(Matching(supply="softmax"), heatmaps, dots, visible)
    assert (gradient.abs() <= mass * DIAGONAL + 1e-12).all()
    assert float(mass.min()) < 1e-12
