"""Sums and schedules of losses against their members, added by hand."""

from __future__ import annotations

import math

import pytest
import torch

from posematch.errors import PosematchError
from posematch.losses import (
    OHKM,
    DotMSE,
    GaussianMSE,
    KLDivergence,
    Matching,
    Scheduled,
    WeightedSum,
)


def batch(people=3, joints=5):
    generator = torch.Generator().manual_seed(0)
    heatmaps = torch.randn(people, joints, 16, 12, generator=generator, dtype=torch.float64)
    joints_hm = torch.rand(people, joints, 2, generator=generator) * torch.tensor([11.0, 15.0])
    visible = torch.ones(people, joints)
    visible[0, 1:4] = 0
    return heatmaps, joints_hm, visible


def value_and_gradient(loss, heatmaps, joints_hm, visible):
    heatmaps = heatmaps.clone().requires_grad_()
    value = loss(heatmaps, joints_hm, visible)
    value.backward()
    return value.detach(), heatmaps.grad


def assert_is_sum(loss, parts):
    """Value and gradient are those of ``(factor, loss)``, added."""
    value, gradient = value_and_gradient(loss, *batch())
    alone = [(factor, value_and_gradient(one, *batch())) for factor, one in parts]
    torch.testing.assert_close(value, sum(factor * one for factor, (one, _) in alone))
    torch.testing.assert_close(gradient, sum(factor * one for factor, (_, one) in alone))


class TestWeightedSum:
    def test_value_and_gradient_are_the_members_times_their_weights(self):
        matching, mse, kl = Matching(), GaussianMSE(2.0), KLDivergence(1.0)
        loss = WeightedSum({"matching": matching, "mse": mse, "kl": kl}, {"mse": 100.0, "kl": 0.3})
        assert_is_sum(loss, [(1.0, matching), (100.0, mse), (0.3, kl)])
        each = [one.per_joint(*batch()) for one in (matching, mse, kl)]
        torch.testing.assert_close(
            loss.per_joint(*batch()), each[0] + 100.0 * each[1] + 0.3 * each[2]
        )

    def test_members_keep_their_own_reduction(self):
        """Two joints a person of the hardest, HRNet's denominator: not the mean of a sum."""
        ohkm, hrnet = OHKM(2.0, top_k=2), GaussianMSE(2.0, reduction="hrnet")
        loss = WeightedSum({"ohkm": ohkm, "hrnet": hrnet}, {"hrnet": 3.0})
        assert_is_sum(loss, [(1.0, ohkm), (3.0, hrnet)])
        plain = loss.per_joint(*batch()).sum() / batch()[2].sum()
        assert abs(float(loss(*batch()) - plain)) > 0.1

    def test_a_weight_of_zero_is_not_computed(self, monkeypatch):
        mse, matching = GaussianMSE(2.0), Matching()
        monkeypatch.setattr(matching, "joint_losses", None)
        assert_is_sum(WeightedSum({"matching": matching, "mse": mse}, {"matching": 0}), [(1, mse)])

    def test_the_first_says_what_the_maps_mean(self):
        heatmaps = batch()[0]
        matching = Matching(supply="softplus", temperature=2.0)
        for first, second in ((matching, GaussianMSE(2.0)), (GaussianMSE(2.0), matching)):
            loss = WeightedSum({"first": first, "second": second})
            assert torch.equal(loss.mass(heatmaps), first.mass(heatmaps))
            assert (loss.supply, loss.temperature) == (first.supply, first.temperature)
            assert loss.decoder_config() == first.decoder_config()
        assert WeightedSum({"relu": Matching(), "mse": GaussianMSE(2.0)}).initial_bias == 1

    def test_health_is_the_members(self):
        loss = WeightedSum({"transport": Matching(), "mse": GaussianMSE(2.0)})
        loss(*batch())
        assert "transport/marginal_error" in loss.health

    @pytest.mark.parametrize(
        ("losses", "weights", "words"),
        [
            ({}, None, r"loss\.losses must be a mapping"),
            ({"a": 1}, None, r"loss\.losses\.a must be a mapping"),
            ({"a": DotMSE()}, {"b": 1}, r"loss\.weights\.b: there is no such loss, only a\."),
            ({"a": DotMSE()}, {"a": -1}, r"loss\.weights\.a=-1 must be"),
            ({"a": DotMSE()}, {"a": math.nan}, r"loss\.weights\.a=nan must be"),
            ({"a": DotMSE()}, {"a": math.inf}, r"loss\.weights\.a=inf must be"),
            ({"a": DotMSE()}, {"a": True}, r"loss\.weights\.a=True must be"),
            ({"a": DotMSE()}, {"a": 0}, "at least one must be positive"),
            (
                {"a": DotMSE(), "b": GaussianMSE(2.0, mask="hrnet")},
                None,
                "b counts other joints than a",
            ),
            (
                {"a": GaussianMSE(1.0, mask="hrnet"), "b": GaussianMSE(2.0, mask="hrnet")},
                None,
                "b counts other joints than a",
            ),
        ],
    )
    def test_bad_values_are_a_sentence(self, losses, weights, words):
        with pytest.raises(PosematchError, match=words) as raised:
            WeightedSum(losses, weights)
        assert str(raised.value).endswith(".")


class TestScheduled:
    @pytest.mark.parametrize(
        ("switch", "blend", "shares"),
        [
            (0, 0, [1, 1, 1, 1, 1, 1]),
            (2, 0, [0, 0, 1, 1, 1, 1]),
            (2, 1, [0, 0, 1 / 2, 1, 1, 1]),
            (1, 3, [0, 1 / 4, 2 / 4, 3 / 4, 1, 1]),
            (0, 2, [1 / 3, 2 / 3, 1, 1, 1, 1]),
        ],
    )
    def test_value_and_gradient_by_epoch(self, switch, blend, shares):
        """Before the switch the first alone; the blend's epochs in equal steps up to 1."""
        first, then = GaussianMSE(2.0), KLDivergence(1.0)
        loss = Scheduled(first, then, switch, blend)
        assert_is_sum(loss, [(1 - shares[0], first), (shares[0], then)])  # before any epoch is told
        for epoch, share in enumerate(shares):
            loss.start_epoch(epoch)
            assert_is_sum(loss, [(1 - share, first), (share, then)])
            leader = then if share >= 0.5 else first
            assert torch.equal(loss.mass(batch()[0]), leader.mass(batch()[0]))
            assert loss.supply == leader.supply
        loss.start_epoch(0)  # a training resumed from an earlier epoch
        assert_is_sum(loss, [(1 - shares[0], first), (shares[0], then)])

    def test_decoder_is_the_last_ones_and_bias_the_first_ones(self):
        loss = Scheduled(GaussianMSE(2.0), Matching(), switch_epoch=3)
        assert loss.decoder_config() == Matching().decoder_config()
        assert loss.initial_bias == 0

    def test_selection_is_that_of_the_only_active_member(self):
        """Validation averages what a training step would, but for a blend."""
        heatmaps, joints_hm, visible = batch()
        ohkm = OHKM(2.0, top_k=2)
        loss = Scheduled(ohkm, GaussianMSE(2.0), switch_epoch=1, blend_epochs=1)
        losses = loss.per_joint(heatmaps, joints_hm, visible)
        assert torch.equal(loss.selection(losses, visible), ohkm.selection(losses, visible))
        for epoch in (1, 2):
            loss.start_epoch(epoch)
            assert torch.equal(loss.selection(losses, visible), visible)

    def test_inside_a_sum_it_hears_of_the_epochs(self):
        first, then, other = GaussianMSE(2.0), KLDivergence(1.0), DotMSE()
        loss = WeightedSum({"schedule": Scheduled(first, then, 1), "other": other})
        assert_is_sum(loss, [(1, first), (1, other)])
        loss.start_epoch(1)
        assert_is_sum(loss, [(1, then), (1, other)])
        assert torch.equal(loss.mass(batch()[0]), then.mass(batch()[0]))
        assert loss.supply == then.supply

    @pytest.mark.parametrize("key", ["switch_epoch", "blend_epochs"])
    def test_bad_values_are_a_sentence(self, key):
        with pytest.raises(PosematchError, match=rf"loss\.{key}=-1 must be at least 0\."):
            Scheduled(DotMSE(), Matching(), **{"switch_epoch": 1, key: -1})
