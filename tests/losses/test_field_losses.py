"""The field's losses against plain restatements of their published formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from posematch.decoding import SoftArgmax
from posematch.errors import PosematchError
from posematch.losses import (
    DSNT,
    OHKM,
    AdaptiveWing,
    GaussianMSE,
    JSDivergence,
    KLDivergence,
    SpatialCrossEntropy,
    gaussian_log_mass,
    gaussian_targets,
    to_mass,
)

SIZE = (9, 7)
SUPPLIES = ("relu", "softplus", "softmax")


def batch(seed=0, people=2, joints=3):
    generator = torch.Generator().manual_seed(seed)
    heatmaps = 2 * torch.randn(people, joints, *SIZE, generator=generator, dtype=torch.float64)
    joints_hm = torch.rand(people, joints, 2, generator=generator, dtype=torch.float64)
    return heatmaps, joints_hm * torch.tensor([6.0, 8.0]), torch.ones(people, joints)


def gaussian(dot, sigma):
    """exp(-|n - x|^2 / 2 sigma^2) over the grid, by pixel."""
    g = np.zeros(SIZE)
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            g[y, x] = math.exp(-((x - dot[0]) ** 2 + (y - dot[1]) ** 2) / (2 * sigma**2))
    return g


def each(formula, heatmaps, joints_hm):
    """``formula(map, dot)`` of each joint, in numpy."""
    values = [
        [formula(one.numpy(), dot.numpy()) for one, dot in zip(*person, strict=True)]
        for person in zip(heatmaps, joints_hm, strict=True)
    ]
    return torch.tensor(values, dtype=torch.float64)


def mass_of(heatmap, supply):
    positive = {
        "relu": lambda h: np.maximum(h, 0),
        "softplus": lambda h: np.log(1 + np.exp(h)),
        "softmax": np.exp,
    }[supply](heatmap)
    return positive / positive.sum()


def kl(p, q):
    keep = p > 0
    return float((p[keep] * np.log(p[keep] / q[keep])).sum())


def js(p, q):
    return 0.5 * kl(p, (p + q) / 2) + 0.5 * kl(q, (p + q) / 2)


class TestDivergences:
    @pytest.mark.parametrize("supply", SUPPLIES)
    @pytest.mark.parametrize(("loss", "formula"), [(KLDivergence, kl), (JSDivergence, js)])
    def test_definition(self, loss, formula, supply):
        """Nibali et al. 2018: D(p || g) with D KL or Jensen-Shannon, in nats."""

        def one(heatmap, dot):
            g = gaussian(dot, 1.3)
            return formula(mass_of(heatmap, supply), g / g.sum())

        heatmaps, joints_hm, visible = batch()
        torch.testing.assert_close(
            loss(1.3, supply).per_joint(heatmaps, joints_hm, visible),
            each(one, heatmaps, joints_hm),
        )

    @pytest.mark.parametrize("supply", SUPPLIES)
    @pytest.mark.parametrize("loss", [KLDivergence, JSDivergence])
    def test_zero_at_the_gaussian_and_nowhere_else(self, loss, supply):
        heatmaps, joints_hm, visible = batch()
        log_target = gaussian_log_mass(joints_hm, SIZE, 1.0)
        ideal = {
            "relu": 3 * log_target.exp(),
            "softplus": torch.expm1(1e-3 * log_target.exp()).log(),  # softplus's inverse
            "softmax": log_target + 5,
        }[supply]
        ideal.requires_grad_()
        value = loss(1.0, supply)(ideal, joints_hm, visible)
        assert float(value.detach()) == pytest.approx(0, abs=1e-9)
        value.backward()
        assert float(ideal.grad.abs().max()) < 1e-5
        assert (loss(1.0, supply).per_joint(heatmaps, joints_hm, visible) > 0.01).all()

    def test_jensen_shannon_of_strangers_is_log_2(self):
        heatmaps = torch.zeros(1, 1, 60, 60)
        heatmaps[..., 59, 59] = 1.0
        value = JSDivergence(0.5, "relu")(heatmaps, torch.zeros(1, 1, 2), torch.ones(1, 1))
        assert float(value) == pytest.approx(math.log(2))


class TestSpatialCrossEntropy:
    def test_whole_pixel_is_mask_r_cnns_one_hot(self):
        """He et al. 2017: softmax cross-entropy over the m^2 places; torch's own as the judge."""
        heatmaps, joints_hm, visible = batch()
        dots = joints_hm.round()
        places = (dots[..., 1] * SIZE[1] + dots[..., 0]).long()
        expected = torch.nn.functional.cross_entropy(
            heatmaps.flatten(0, 1).flatten(1), places.flatten()
        )
        torch.testing.assert_close(SpatialCrossEntropy()(heatmaps, dots, visible), expected)

    def test_subpixel_dot_is_the_mean_of_its_pixels(self):
        """Linear in the target, whose masses are bilinear; renormalised at the border."""
        heatmaps, _, _ = batch(joints=2)
        dots = torch.tensor([[[2.25, 3.5], [6.3, 0.0]], [[2.25, 3.5], [-0.4, 8.4]]]).double()
        values = SpatialCrossEntropy().per_joint(heatmaps, dots, torch.ones(2, 2))
        log_mass = heatmaps.flatten(-2).log_softmax(-1).reshape(heatmaps.shape)
        for person in range(2):
            four = log_mass[person, 0, 3:5, 2:4]
            by_hand = 0.5 * (0.75 * four[:, 0] + 0.25 * four[:, 1]).sum()
            assert float(values[person, 0]) == pytest.approx(-float(by_hand))
        assert float(values[0, 1]) == pytest.approx(-float(log_mass[0, 1, 0, 6]))
        assert float(values[1, 1]) == pytest.approx(-float(log_mass[1, 1, 8, 0]))

    def test_gaussian_is_kl_to_it_and_its_entropy(self):
        def one(heatmap, dot):
            g = gaussian(dot, 1.3)
            g /= g.sum()
            return kl(g, mass_of(heatmap, "softmax")) - float((g * np.log(g)).sum())

        heatmaps, joints_hm, visible = batch()
        loss = SpatialCrossEntropy("gaussian", 1.3)
        torch.testing.assert_close(
            loss.per_joint(heatmaps, joints_hm, visible), each(one, heatmaps, joints_hm)
        )
        best = gaussian_log_mass(joints_hm, SIZE, 1.3).requires_grad_()
        loss(best, joints_hm, visible).backward()
        assert float(best.grad.abs().max()) < 1e-12


class TestOHKM:
    def test_is_the_published_one_where_everybody_has_enough_joints(self):
        """CPN's code: the k highest per-joint MSEs of each person, summed over k, mean of people.

        Without its factor of one half.
        """
        heatmaps, joints_hm, visible = batch(people=4, joints=6)
        mse = GaussianMSE(1.0).per_joint(heatmaps, joints_hm, visible).numpy()
        expected = np.mean([sorted(person)[-3:] for person in mse])
        value = OHKM(1.0, top_k=3)(heatmaps, joints_hm, visible)
        assert float(value) == pytest.approx(float(expected))

    def test_fewer_counted_joints_all_come(self):
        heatmaps, joints_hm, visible = batch(people=3, joints=5)
        visible[0, 1:] = 0  # one joint
        visible[1] = 0  # none
        mse = GaussianMSE(1.0).per_joint(heatmaps, joints_hm, visible).numpy()
        chosen = [mse[0, 0], *sorted(mse[2])[-3:]]
        value = OHKM(1.0, top_k=3)(heatmaps, joints_hm, visible)
        assert float(value) == pytest.approx(np.mean(chosen))

    def test_only_the_chosen_get_a_gradient(self):
        heatmaps, joints_hm, visible = batch(people=1, joints=5)
        heatmaps.requires_grad_()
        OHKM(1.0, top_k=2)(heatmaps, joints_hm, visible).backward()
        mse = GaussianMSE(1.0).per_joint(heatmaps.detach(), joints_hm, visible)[0]
        moved = heatmaps.grad[0].flatten(1).any(1)
        assert set(moved.nonzero()[:, 0].tolist()) == set(mse.topk(2).indices.tolist())


class TestAdaptiveWing:
    @pytest.mark.parametrize("weight", [0.0, 10.0])
    def test_definition(self, weight):
        """Wang et al. 2019, by pixel; weighted map: 3 x 3 dilation >= 0.2 weighs W + 1."""
        omega, theta, epsilon, alpha = 14.0, 0.5, 1.0, 2.1

        def one(heatmap, dot):
            y = gaussian(dot, 1.3)
            total = 0.0
            for r in range(SIZE[0]):
                for c in range(SIZE[1]):
                    d, power = abs(heatmap[r, c] - y[r, c]), alpha - y[r, c]
                    a = (omega * (1 / (1 + (theta / epsilon) ** power)) * power
                         * (theta / epsilon) ** (power - 1) / epsilon)  # fmt: skip
                    b = theta * a - omega * math.log(1 + (theta / epsilon) ** power)
                    value = omega * math.log(1 + (d / epsilon) ** power) if d < theta else a * d - b
                    dilated = y[max(r - 1, 0) : r + 2, max(c - 1, 0) : c + 2].max()
                    total += value * (1 + weight * (dilated >= 0.2))
            return total / (SIZE[0] * SIZE[1])

        heatmaps, joints_hm, visible = batch()
        loss = AdaptiveWing(1.3, weight=weight, centre="subpixel")
        torch.testing.assert_close(
            loss.per_joint(heatmaps, joints_hm, visible), each(one, heatmaps, joints_hm)
        )

    def test_zero_at_its_target(self):
        _, joints_hm, visible = batch()
        ideal = gaussian_targets(joints_hm, SIZE, 1.3, "subpixel").requires_grad_()
        value = AdaptiveWing(1.3, centre="subpixel")(ideal, joints_hm, visible)
        value.backward()
        assert float(value.detach()) == pytest.approx(0, abs=1e-12)
        assert float(ideal.grad.abs().max()) < 1e-9

    @pytest.mark.parametrize("key", ["omega", "theta", "epsilon", "alpha", "weight", "sigma"])
    def test_bad_values_are_a_sentence(self, key):
        with pytest.raises(PosematchError, match=rf"loss\.{key}=-1"):
            AdaptiveWing(**{"sigma": 1.0, key: -1.0})


class TestDSNT:
    def test_definition(self):
        """Nibali et al. 2018: sum of p times x_n = (2 x + 1) / W - 1, Euclidean, plus lambda JS."""

        def one(heatmap, dot):
            p, g = mass_of(heatmap, "softmax"), gaussian(dot, 1.0)
            x = (2 * np.arange(SIZE[1]) + 1) / SIZE[1] - 1
            y = (2 * np.arange(SIZE[0]) + 1) / SIZE[0] - 1
            mean = np.array([(p * x[None]).sum(), (p * y[:, None]).sum()])
            true = np.array([(2 * dot[0] + 1) / SIZE[1] - 1, (2 * dot[1] + 1) / SIZE[0] - 1])
            return float(np.hypot(*(mean - true))) + 0.7 * js(p, g / g.sum())

        heatmaps, joints_hm, visible = batch()
        torch.testing.assert_close(
            DSNT(regularisation=0.7).per_joint(heatmaps, joints_hm, visible),
            each(one, heatmaps, joints_hm),
        )

    def test_zero_with_a_finite_gradient_at_the_ideal(self):
        """In the grid's middle, where the cut-off Gaussian's mean is the dot itself."""
        dot = torch.tensor([[[3.0, 4.0]]]).double()
        ideal = gaussian_log_mass(dot, SIZE, 1.0).requires_grad_()
        value = DSNT()(ideal, dot, torch.ones(1, 1))
        value.backward()
        assert float(value.detach()) == pytest.approx(0, abs=1e-12)
        assert ideal.grad.isfinite().all()

    def test_decoder_is_the_losses_own_coordinates(self):
        heatmaps, joints_hm, visible = batch()
        mass = to_mass(heatmaps, "softmax")
        decoded, scores = SoftArgmax(radius_px=2)(mass)
        error = 2 * (decoded - joints_hm) / torch.tensor([SIZE[1], SIZE[0]])
        torch.testing.assert_close(
            error.norm(dim=-1), DSNT(regularisation=0).per_joint(heatmaps, joints_hm, visible)
        )
        rows, columns = (torch.arange(n).double() for n in SIZE)
        near = (rows[:, None] - decoded[0, 0, 1]).abs().clamp_min(
            (columns - decoded[0, 0, 0]).abs()
        ) <= 2
        torch.testing.assert_close(scores[0, 0], (mass[0, 0] * near).sum())


EXTREME = {
    "kl": KLDivergence(1.0),
    "kl_relu": KLDivergence(1.0, "relu"),
    "js": JSDivergence(1.0),
    "js_relu": JSDivergence(1.0, "relu"),
    "kl_sparsemax": KLDivergence(1.0, "sparsemax"),
    "js_sparsemax": JSDivergence(1.0, "sparsemax"),
    "js_softplus": JSDivergence(1.0, "softplus"),
    "dot": SpatialCrossEntropy(),
    "gaussian": SpatialCrossEntropy("gaussian"),
    "ohkm": OHKM(1.0, top_k=2),
    "adaptive_wing": AdaptiveWing(1.0),
    "dsnt": DSNT(),
}


@pytest.mark.parametrize("loss", EXTREME.values(), ids=EXTREME)
@pytest.mark.parametrize("fill", [0.0, -1e4, 1e4, -1e-30, 1e-30, "one pixel", "one-sided"])
def test_flat_dead_and_extreme_maps_are_finite(loss, fill):
    """float32, dots at the grid's corners, uncounted ones far away."""
    heatmaps = torch.zeros(1, 5, 40, 30)
    if fill == "one pixel":
        heatmaps[..., 39, 29] = 1e4
    elif fill == "one-sided":
        heatmaps[..., :15] = -1e4
        heatmaps[..., 15:] = 1e-38
    else:
        heatmaps += fill
    heatmaps.requires_grad_()
    dots = torch.tensor([[[0.0, 0.0], [29.4, 39.4], [-0.5, 39.0], [-1e30, 1e30], [7.0, 3.0]]])
    value = loss(heatmaps, dots, torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0]]))
    value.backward()
    assert value.isfinite()
    assert heatmaps.grad.isfinite().all()
    assert (heatmaps.grad[0, 3:] == 0).all()
