"""The place under whose kernel most of the mass lies, against a search on a fine grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from posematch.decoding import Mode
from posematch.errors import PosematchError

SIZE = (24, 20)


def by_search(mass, sigma):
    """Highest point (x, y) of the sum, on grids of 0.05 px and then 0.0005, and its height."""
    height, width = mass.shape

    def sums(xs, ys):
        in_x = np.exp(-((xs[:, None] - np.arange(width)) ** 2) / (2 * sigma**2))
        in_y = np.exp(-((ys[:, None] - np.arange(height)) ** 2) / (2 * sigma**2))
        return in_y @ mass @ in_x.T

    xs, ys = np.arange(-0.5, width, 0.05), np.arange(-0.5, height, 0.05)
    row, column = np.unravel_index(sums(xs, ys).argmax(), (len(ys), len(xs)))
    xs, ys = (one + np.arange(-0.06, 0.06, 0.0005) for one in (xs[column], ys[row]))
    fine = sums(xs, ys)
    row, column = np.unravel_index(fine.argmax(), fine.shape)
    return np.array([xs[column], ys[row]]), fine.max()


def masses(kind, rng):
    """(H, W) masses."""
    height, width = SIZE
    if kind == "rough":
        mass = np.exp(3 * rng.standard_normal(SIZE))
    elif kind == "sparse":
        mass = rng.random(SIZE) ** 8
    else:  # a few blobs, as of two people or of left and right
        x, y = np.arange(width), np.arange(height)[:, None]
        mass = sum(
            height_of * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 1.5**2))
            for cx, cy, height_of in rng.random((4, 3)) * [width, height, 1] + [0, 0, 0.2]
        )
    return mass / mass.sum()


@pytest.mark.parametrize("sigma", [0.75, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("kind", ["rough", "sparse", "blobs"])
def test_finds_what_a_search_finds(kind, sigma):
    rng = np.random.default_rng(0)
    many = [masses(kind, rng) for _ in range(40)]
    joints_hm, scores = Mode(sigma)(torch.tensor(np.stack(many))[:, None])
    for mass, joint, score in zip(many, joints_hm[:, 0].numpy(), scores[:, 0], strict=True):
        place, value = by_search(mass, sigma)
        assert np.abs(joint - place).max() < 1e-3
        assert float(score) == pytest.approx(value, abs=1e-6)


def test_a_width_for_each_joint():
    mass = torch.tensor(masses("blobs", np.random.default_rng(1)))[None, None].repeat(1, 2, 1, 1)
    both = Mode([1.0, 4.0])(mass)
    for joint, sigma in enumerate((1.0, 4.0)):
        alone = Mode(sigma)(mass[:, :1])
        # Windows as wide as the widest kernel's: no more than rounding, and e^-12.5 outside.
        torch.testing.assert_close(both[0][:, joint], alone[0][:, 0], rtol=0, atol=1e-4)
        torch.testing.assert_close(both[1][:, joint], alone[1][:, 0], rtol=0, atol=1e-5)


def test_is_the_gaussians_middle_and_translates_with_the_map():
    """A sum of one Gaussian is symmetric about its dot, wherever between pixels that lies."""
    x, y = torch.arange(20.0), torch.arange(24.0)[:, None]
    dots = torch.tensor([[9.3, 11.6], [9.0, 12.0], [10.5, 11.5]])
    maps = torch.stack(
        [torch.exp(-((x - a).square() + (y - b).square()) / (2 * 1.5**2)) for a, b in dots]
    )
    joints_hm, _ = Mode(1.0)(maps[None])
    torch.testing.assert_close(joints_hm[0], dots, rtol=0, atol=1e-3)


def test_more_mass_wins_over_a_higher_pixel():
    maps = torch.zeros(1, 1, *SIZE)
    maps[0, 0, 5, 5] = 1.0
    maps[0, 0, 15:17, 12:14] = 0.5
    assert Mode(0.75)(maps)[0][0, 0].tolist() == pytest.approx([12.5, 15.5], abs=1e-3)


def test_nothing_positive_gives_the_corner_and_no_score():
    joints_hm, scores = Mode()(torch.full((1, 2, *SIZE), -1.0))
    assert joints_hm.tolist() == [[[0, 0], [0, 0]]]
    assert scores.tolist() == [[0, 0]]


@pytest.mark.parametrize("sigma", [0.1, 17, [], [1, 0.2], float("nan")])
def test_refusals(sigma):
    with pytest.raises(PosematchError, match=r"decoder\.sigma_px="):
        Mode(sigma)


def test_widths_for_other_joints():
    with pytest.raises(PosematchError, match="has 3 widths, and the maps are of 2 joints"):
        Mode([1, 1, 1])(torch.zeros(1, 2, *SIZE))
