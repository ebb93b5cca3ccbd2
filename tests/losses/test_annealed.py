"""Ways of training by the matching loss that end at its own optimum."""

from __future__ import annotations

import math

import pytest
import torch

from posematch.errors import PosematchError
from posematch.losses import Annealed, GaussianMSE, Matching, SpatialCrossEntropy
from posematch.losses.gradients import relu_reviving, softmax_evenly
from posematch.transport import subpixel_demand


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 9, 13, generator=generator, dtype=torch.float64)


DOTS_HM = torch.tensor(
    [[[3.3, 4.7], [0.0, 0.0], [11.9, 7.2]], [[5.5, 5.5], [2.0, 8.0], [7.1, 1.4]]]
)
VISIBLE = torch.ones(2, 3)


class TestAnnealed:
    @pytest.mark.parametrize(
        ("key", "start", "end", "middle"),
        [
            ("relaxation", 0.25, math.inf, 0.5),  # its inverse half way to 0
            ("relaxation", 0.25, 4.0, 1.0),  # geometrically
            ("epsilon", 1.6, 0.1, 0.4),
            ("temperature", 4.0, 1.0, 2.0),
            ("scale_px", 2.0, 128.0, 16.0),
        ],
    )
    def test_half_way(self, key, start, end, middle, maps):
        loss = Annealed(Matching(supply="softmax", cost="truncated", **{key: end}), {key: start}, 4)
        assert loss.loss.values[key] == start
        loss.start_epoch(2)
        assert loss.loss.values[key] == pytest.approx(middle, rel=1e-12)
        if key == "temperature":
            assert loss.meaning.temperature == pytest.approx(middle, rel=1e-12)
        by_hand = Matching(supply="softmax", cost="truncated", **{key: loss.loss.values[key]})
        assert loss(maps, DOTS_HM, VISIBLE) == by_hand(maps, DOTS_HM, VISIBLE)
        for epoch in (4, 5, 100):
            loss.start_epoch(epoch)
            assert loss.loss.values[key] == end

    def test_maps_are_read_as_the_end_has_them(self):
        widths = {"demand": "point", "cost": "oks", "widths": "metric"}
        end = Matching(supply="softmax", scale_px=2.0, **widths).decoder_config()
        loss = Annealed(Matching(supply="softmax", scale_px=2.0, **widths), {"scale_px": 12.0}, 4)
        assert loss.decoder_config() == end

    def test_nothing_said_is_nothing_annealed(self):
        loss = Annealed(Matching(), {"relaxation": None, "epsilon": 1.0}, 2)
        assert loss.loss.values == Matching().values | {"epsilon": 1.0}

    @pytest.mark.parametrize(
        ("start", "epochs", "words"),
        [
            ({}, 2, "must name values"),
            ({"relaxation": None}, 2, "names no value but null"),
            ({"scale_px": 2.0}, 2, "scale_px changes nothing of cost=l2"),
            ({"temperature": 2.0}, 2, "temperature changes nothing of supply=relu"),
            ({"power": 1.0}, 2, r"loss\.start\.power must be one of epsilon"),
            ({"epsilon": 0.0}, 2, r"loss\.start\.epsilon=0.0 must be a positive"),
            ({"epsilon": math.inf}, 2, r"loss\.start\.epsilon=inf must be a positive"),
            ({"epsilon": "1"}, 2, "must be a positive"),
            ({"epsilon": 1.0}, 0, r"anneal_epochs=0 must be at least 1"),
        ],
    )
    def test_bad_values(self, start, epochs, words):
        with pytest.raises(PosematchError, match=words):
            Annealed(Matching(), start, epochs)

    def test_another_loss(self):
        with pytest.raises(PosematchError, match=r"loss\.loss must be a matching loss"):
            Annealed(GaussianMSE(1.0), {"epsilon": 1.0}, 2)


@pytest.mark.parametrize("supply", ["relu", "softmax", "softplus", "sparsemax"])
def test_only_a_relus_joints_can_be_dead(supply, maps):
    loss = Matching(supply=supply)
    loss(-maps.abs() - 0.1, DOTS_HM, VISIBLE)
    assert loss.health.get("dead_share") == (1 if supply == "relu" else None)


def test_a_block_as_large_as_the_map(maps):
    with pytest.raises(PosematchError, match="pool=13 makes one block of a map of 13 x 9"):
        SpatialCrossEntropy(pool=13)(maps, DOTS_HM, VISIBLE)


class TestSoftmaxEvenly:
    def test_share_0_is_the_softmax(self, maps):
        maps.requires_grad_()
        weights = torch.randn(maps.shape, dtype=maps.dtype)
        mass = softmax_evenly(maps, 0.0, 2.0)
        (own,) = torch.autograd.grad((mass * weights).sum(), maps)
        (its,) = torch.autograd.grad(
            ((maps / 2).flatten(-2).softmax(-1) * weights.flatten(-2)).sum(), maps
        )
        torch.testing.assert_close(own, its, rtol=1e-12, atol=1e-15)

    def test_it_descends(self, maps):
        """The exact gradient's inner product with the even one is the variance of g under s / N."""
        maps.requires_grad_()
        weights = torch.randn(maps.shape, dtype=maps.dtype)

        def gradient(share):
            mass = softmax_evenly(maps, share)
            return torch.autograd.grad((mass * weights).sum(), maps)[0]

        mass = maps.detach().flatten(-2).softmax(-1)
        g = weights.flatten(-2)
        variance = (mass * g.square()).sum(-1) - (mass * g).sum(-1).square()
        product = (gradient(0.0) * gradient(1.0)).sum((-2, -1))
        torch.testing.assert_close(product, variance / g.shape[-1], rtol=1e-10, atol=1e-14)
        assert (variance > 0).all()

    def test_it_reaches_a_dot_without_mass(self):
        """All mass far away: the exact gradient at the dot is that of e^-200 of the mass, 0."""
        maps = torch.zeros(1, 1, 8, 8)
        maps[..., 0, 0] = 200
        dot = torch.tensor([[[6.0, 5.0]]])
        pulls = []
        for share in (0.0, 0.5):
            maps = maps.detach().requires_grad_()
            Matching(supply="softmax", even_share=share)(maps, dot, torch.ones(1, 1)).backward()
            pulls.append(float(maps.grad[0, 0, 5, 6]))
        assert pulls[0] == 0
        assert pulls[1] < 0
        assert maps.grad[0, 0].argmin() == 5 * 8 + 6

    def test_bad_values(self):
        with pytest.raises(PosematchError, match=r"even_share=1.5 must be between"):
            Matching(supply="softmax", even_share=1.5)
        with pytest.raises(PosematchError, match=r"set loss\.supply=softmax"):
            Matching(even_share=0.5)


class TestReviving:
    def test_values_are_the_same(self, maps):
        for revive in (False, True):
            maps = maps.detach().requires_grad_()
            loss = Matching(revive=revive)(maps, DOTS_HM, VISIBLE)
            loss.backward()
            if not revive:
                before, gradient = loss.detach(), maps.grad
        assert loss == before
        alive = maps > 0
        torch.testing.assert_close(maps.grad[alive], gradient[alive])
        assert (maps.grad[~alive] <= 0).all()
        assert (maps.grad[~alive] < 0).any()
        assert (gradient[~alive] == 0).all()

    def test_it_is_relus_where_all_is_positive(self, maps):
        maps = (maps.abs() + 0.1).requires_grad_()
        weights = torch.randn(maps.shape, dtype=maps.dtype)
        (own,) = torch.autograd.grad((relu_reviving(maps) * weights).sum(), maps)
        plain = maps / maps.sum((-2, -1), keepdim=True)
        (its,) = torch.autograd.grad((plain * weights).sum(), maps)
        torch.testing.assert_close(own, its)

    def test_a_dead_map_falls_back_as_ever(self):
        maps = -torch.ones(1, 3, 9, 13)
        dots = DOTS_HM[:1]
        losses = [Matching(revive=revive).per_joint(maps, dots, VISIBLE[:1]) for revive in (0, 1)]
        torch.testing.assert_close(*losses)

    def test_another_supply(self):
        with pytest.raises(PosematchError, match=r"loss\.revive=true is about loss\.supply=relu"):
            Matching(supply="softmax", revive=True)


class TestBlocks:
    @pytest.mark.parametrize("pool", [2, 3, 4, 12])
    @pytest.mark.parametrize("target", ["dot", "gaussian"])
    def test_by_plain_sums(self, pool, target, maps):
        """Cross-entropy of the block sums of mass and demand, in plain loops."""
        loss = SpatialCrossEntropy(target, 1.0, pool).per_joint(maps, DOTS_HM, VISIBLE)
        height, width = maps.shape[-2:]
        mass = maps.flatten(-2).softmax(-1).view_as(maps)
        dots = DOTS_HM.double()
        if target == "gaussian":
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            grid = torch.stack([x, y], -1)
            squared = (grid - dots[:, :, None, None]).square().sum(-1)
            demand = (-squared / 2).exp()
            demand /= demand.sum((-2, -1), keepdim=True)
        else:
            demand = torch.zeros_like(maps)
            for b in range(2):
                for k in range(3):
                    pixels, masses = subpixel_demand(dots[b, k][None], (height, width))
                    for (px, py), one in zip(pixels[0].long(), masses[0], strict=True):
                        if one > 0:
                            demand[b, k, py, px] += one
        expected = torch.zeros(2, 3, dtype=maps.dtype)
        for top in range(0, height, pool):
            for left in range(0, width, pool):
                block = (..., slice(top, top + pool), slice(left, left + pool))
                expected -= demand[block].sum((-2, -1)) * mass[block].sum((-2, -1)).log()
        torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)

    def test_bad_side(self):
        with pytest.raises(PosematchError, match=r"loss\.pool=0 must be at least 1"):
            SpatialCrossEntropy(pool=0)
