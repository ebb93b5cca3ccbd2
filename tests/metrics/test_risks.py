"""Theorem 1 (supplement, equation 4): the identity, its condition, and what is summed."""

from __future__ import annotations

import copy

import pytest
import torch

from posematch.losses import DotMSE, GaussianMSE, gaussian_targets
from posematch.metrics.columns import TERMS
from posematch.metrics.risks import Risks


@pytest.fixture
def batch():
    """Heatmaps, dots (some off the grid), visibility (some not labelled)."""
    generator = torch.Generator().manual_seed(0)
    heatmaps = torch.randn(6, 5, 24, 32, generator=generator)
    joints_hm = torch.rand(6, 5, 2, generator=generator) * torch.tensor([36.0, 28.0]) - 2
    visible = (torch.rand(6, 5, generator=generator) < 0.8).float()
    return heatmaps, joints_hm, visible


def risks_of(*batches, centre="quantised"):
    risks = Risks(sigma=2.0, centre=centre)
    for one in batches:
        risks.update(*one)
    return risks.compute()


def test_identity_holds_to_rounding(batch):
    found = risks_of(batch)
    right = (
        found["gaussian_risk"] + 2 * found["gaussian_product"]
        - 2 * found["dot_product"] - found["constant"]
    )  # fmt: skip
    assert found["dot_risk"] == pytest.approx(right, rel=1e-9)
    assert found["residual"] < 1e-9


def test_identity_breaks_with_its_condition(batch):
    """A sub-pixel centre: <g, d> is the Gaussian's value next to its peak, not |d|^2 = 1."""
    heatmaps, joints_hm, visible = batch
    found = risks_of(batch, centre="subpixel")
    inside = ((joints_hm >= -0.5) & (joints_hm < torch.tensor([31.5, 23.5]))).all(-1)
    dots = joints_hm[inside & (visible > 0)].double()
    distance2 = ((dots + 0.5).trunc() - dots).square().sum(-1)
    missing = 2 * (1 - torch.exp(-distance2 / 8)).sum().item() / len(heatmaps)
    assert missing > 0.1
    largest = max(found["gaussian_risk"], found["dot_risk"])
    assert found["residual"] == pytest.approx(missing / largest, rel=1e-9)
    assert found["residual"] > 1e-6


def test_terms_are_the_losses_of_the_platform(batch):
    """Risks are `GaussianMSE` and `DotMSE` times the pixels, summed over joints."""
    heatmaps, joints_hm, visible = (one.double() for one in batch)
    found = risks_of((heatmaps, joints_hm, visible))
    for name, loss in {"gaussian_risk": GaussianMSE(2.0), "dot_risk": DotMSE()}.items():
        total = loss.per_joint(heatmaps, joints_hm, visible).sum() * 24 * 32
        assert found[name] == pytest.approx(float(total) / 6, rel=1e-12)


def test_one_joint_by_hand():
    """A map of 3 at the dot and 1 beside it: |h - d|^2 = 5, <h, d> = 3."""
    heatmaps = torch.zeros(1, 1, 8, 8)
    heatmaps[0, 0, 4, 3], heatmaps[0, 0, 4, 4] = 3, 1
    found = risks_of((heatmaps, torch.tensor([[[3.2, 3.9]]]), torch.ones(1, 1)))
    gaussian = gaussian_targets(torch.tensor([3.0, 4.0]).double(), (8, 8), 2.0, "quantised")
    beside = torch.exp(torch.tensor(-1 / 8).double()).item()
    assert found["dot_risk"] == 5
    assert found["dot_product"] == 3
    assert found["gaussian_product"] == pytest.approx(3 + beside, rel=1e-14)
    assert found["constant"] == pytest.approx(gaussian.square().sum().item() - 1, rel=1e-14)


def test_batches_and_processes_make_no_difference(batch):
    whole = risks_of(batch)
    parts = [tuple(one[:2] for one in batch), tuple(one[2:] for one in batch)]
    assert risks_of(*parts) == pytest.approx(whole, rel=1e-14)
    # What a gather over two processes leaves: their states stacked.
    first, second = Risks(2.0), Risks(2.0)
    first.update(*parts[0])
    second.update(*parts[1])
    both = copy.deepcopy(first)
    both.bits = torch.stack([first.bits, second.bits])
    assert both.compute() == pytest.approx(whole, rel=1e-14)


def test_without_a_joint_there_is_nothing(batch):
    heatmaps, joints_hm, visible = batch
    assert risks_of((heatmaps, joints_hm, torch.zeros_like(visible))) == {}
    assert set(risks_of(batch)) == {*TERMS, "residual"}
