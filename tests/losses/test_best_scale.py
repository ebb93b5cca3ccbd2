"""The Gaussian MSE at the heatmap's best scale."""

from __future__ import annotations

import pytest
import torch

from posematch.losses import GaussianMSE, GaussianMSEBestScale, Matching, gaussian_targets

DOT = torch.tensor([[[9.3, 12.8]]], dtype=torch.float64)
SEEN = torch.ones(1, 1)


def best(heatmaps):
    return float(GaussianMSEBestScale(2.0).per_joint(heatmaps, DOT, SEEN))


def target():
    return gaussian_targets(DOT, (24, 24), 2.0, "quantised")


@pytest.mark.parametrize("factor", [1e-6, 0.01, 1.0, 300.0])
def test_a_scaled_target_is_perfect_at_any_scale(factor):
    assert best(factor * target()) < 1e-30


def test_no_other_scale_is_better():
    heatmaps = torch.rand(1, 1, 24, 24, dtype=torch.float64, generator=torch.manual_seed(0))
    loss = GaussianMSE(2.0)
    scales = torch.linspace(0, 1, 1001, dtype=torch.float64)
    tried = [float(loss.per_joint(s * heatmaps, DOT, SEEN)) for s in scales]
    # Between two tried scales the parabola's least value is at most |h|^2 step^2 / 4 lower.
    room = float(heatmaps.square().mean()) * 0.001**2 / 4
    assert min(tried) - room <= best(heatmaps) <= min(tried)
    assert 0 < min(range(1001), key=tried.__getitem__) < 1000


def test_upside_down_and_empty_maps_are_as_bad_as_nothing():
    nothing = float(target().square().mean())
    assert best(-target()) == pytest.approx(nothing, rel=1e-15)
    assert best(torch.zeros(1, 1, 24, 24, dtype=torch.float64)) == pytest.approx(nothing, rel=1e-15)


def test_a_mass_spread_over_the_map_keeps_its_digits_in_float32():
    wide = gaussian_targets(DOT, (24, 24), 30.0, "subpixel")
    mass = Matching().mass(wide.float())
    assert best(mass) == pytest.approx(best(wide), rel=1e-5)
