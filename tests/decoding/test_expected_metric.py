"""The decision of the largest expected metric, against searches on fine grids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from expected_pckh import by_search, kernel, over_grid
from scipy.integrate import dblquad
from test_mode import SIZE, masses

from posematch.decoding import ExpectedMetric, Mode
from posematch.errors import PosematchError


def agrees_with_search(many, radius):
    joints_hm, scores = ExpectedMetric("pckh", radius)(torch.tensor(many)[:, None])
    found = zip(many, over_grid(many, radius), joints_hm[:, 0], scores[:, 0], strict=True)
    for mass, coarse, joint, score in found:
        place, value = by_search(mass, coarse, radius)
        assert np.abs(joint.numpy() - place).max() < 1e-3
        assert float(score) == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize(("dx", "dy"), [(0.3, -0.2), (1.7, 2.1), (0.5, 3.2)])
def test_the_search_knows_what_pckh_is(dx, dy):
    """Against the mean over thresholds of the chance to be within one, by quadrature."""

    def chance(y, x):
        return max(1 - np.hypot(x, y) / 3.2, 0)

    wanted, _ = dblquad(chance, dx - 0.5, dx + 0.5, dy - 0.5, dy + 0.5, epsabs=1e-8)
    assert kernel(dx, dy, 3.2) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("radius", [1.0, 1.6, 3.2, 6.0])
@pytest.mark.parametrize("kind", ["rough", "sparse", "blobs"])
def test_finds_what_a_search_finds(kind, radius):
    rng = np.random.default_rng(0)
    agrees_with_search(np.stack([masses(kind, rng) for _ in range(8)]), radius)


def test_goes_uphill_where_the_metric_does_not_curve_down():
    """Maps on which the highest place of the grid is a saddle's side, off by half a grid's step."""
    rng = np.random.default_rng(100)
    many = np.stack([masses("blobs", rng) for _ in range(60)])
    agrees_with_search(many[[32, 35, 50]], 1.0)


def test_finds_what_a_search_finds_by_the_border():
    """Dots of four pixels on the border, in the corner, and the same with mass elsewhere."""
    many = np.zeros((3, *SIZE))
    many[0, 10:12, -1] = 0.7, 0.3
    many[1, -2:, -2:] = [[0.1, 0.2], [0.3, 0.4]]
    many[2, :2, :2] = [[0.4, 0.2], [0.1, 0.05]]
    many[2, 1, 3], many[2, 15, 10] = 0.05, 0.2
    agrees_with_search(many, 3.2)


@pytest.mark.parametrize(("x", "y"), [(7, 9), (0, 0), (19, 23)])
def test_a_single_pixel_is_the_place(x, y):
    maps = torch.zeros(1, 1, *SIZE)
    maps[0, 0, y, x] = 0.2
    joints_hm, scores = ExpectedMetric()(maps)
    assert joints_hm[0, 0].tolist() == pytest.approx([x, y], abs=1e-6)
    assert float(scores) == pytest.approx(kernel(0.0, 0.0, 3.2), abs=1e-6)


def test_a_flat_map_is_as_good_anywhere_in_its_middle():
    """An even mass of 1 / 480 a pixel: the cone's volume of it, pi r^2 / 3."""
    joints_hm, scores = ExpectedMetric(width_px=3.2)(torch.ones(1, 1, *SIZE))
    assert float(scores) == pytest.approx(np.pi * 3.2**2 / 3 / 480, abs=1e-7)
    x, y = joints_hm[0, 0].tolist()
    assert 2.6 < x < 16.4
    assert 2.6 < y < 20.4


def test_a_width_for_each_joint():
    mass = torch.tensor(masses("blobs", np.random.default_rng(1)))[None, None].repeat(1, 2, 1, 1)
    both = ExpectedMetric(width_px=[1.5, 5.0])(mass)
    for joint, radius in enumerate((1.5, 5.0)):
        alone = ExpectedMetric(width_px=radius)(mass[:, :1])
        torch.testing.assert_close(both[0][:, joint], alone[0][:, 0], rtol=0, atol=1e-6)
        torch.testing.assert_close(both[1][:, joint], alone[1][:, 0], rtol=0, atol=1e-9)


def test_oks_is_the_mode():
    mass = torch.tensor(masses("rough", np.random.default_rng(3)))[None, None]
    for one, other in zip(ExpectedMetric("oks", 1.5)(mass), Mode(1.5)(mass), strict=True):
        assert torch.equal(one, other)


def test_the_place_is_a_median_and_the_modes_is_not():
    """Two pixels, the heavier one has more than half of the mass in reach.

    A kernel that is flat in its middle, as the mode's, moves between them instead.
    """
    maps = torch.zeros(1, 1, *SIZE)
    maps[0, 0, 10, [6, 8]] = torch.tensor([0.6, 0.4])
    assert ExpectedMetric(width_px=4.0)(maps)[0][0, 0, 0] == pytest.approx(6, abs=0.5)
    # The mean of the two is 6.8; a kernel twice as wide as they are apart hardly differs from that.
    assert Mode(4.0)(maps)[0][0, 0, 0] == pytest.approx(6.8, abs=0.05)


def test_nothing_positive_gives_the_corner_and_no_score():
    joints_hm, scores = ExpectedMetric()(torch.full((1, 2, *SIZE), -1.0))
    assert joints_hm.tolist() == [[[0, 0], [0, 0]]]
    assert scores.tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metric": "pck"}, r"decoder\.metric=pck must be pckh or oks"),
        ({"width_px": 0.5}, r"decoder\.width_px=0\.5 must be a number from 1 to 16"),
        ({"metric": "oks", "width_px": [1, 0.5]}, "must be a number from 0.75 to 16"),
    ],
)
def test_refusals(options, said):
    with pytest.raises(PosematchError, match=said):
        ExpectedMetric(**options)


@pytest.mark.parametrize("metric", ["pckh", "oks"])
def test_widths_for_other_joints(metric):
    decoder = ExpectedMetric(metric, [1, 1, 1])
    with pytest.raises(PosematchError, match=r"width_px has 3 widths, and the maps are of 2"):
        decoder(torch.zeros(1, 2, *SIZE))
