"""Decoders that search against plain loops of scipy's, those that benchmarks/decoding.py times."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loops import over_joints
from searching_loops import SEARCHES

from posematch.decoding import ExpectedMetric, Mode
from posematch.losses import gaussian_targets

DECODERS = {"mode": Mode(1.0), "expected_metric": ExpectedMetric(width_px=3.2)}


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_of_gaussians(name, noise):
    """One place is by far the best, so both end there; dots reach half a pixel off the grid."""
    drawn = torch.Generator().manual_seed(0)
    dots = torch.rand(4, 6, 2, generator=drawn, dtype=torch.float64) * torch.tensor([20, 24]) - 0.5
    maps = gaussian_targets(dots, (24, 20), 2.0, "subpixel")
    maps = maps + noise * torch.randn(maps.shape, generator=drawn, dtype=torch.float64)
    joints_hm, scores = DECODERS[name](maps)
    wanted_hm, wanted = over_joints(SEARCHES[name], maps.numpy())
    np.testing.assert_allclose(joints_hm, wanted_hm, rtol=0, atol=1e-3)
    np.testing.assert_allclose(scores, wanted, rtol=0, atol=1e-6)
