"""Decoders and flip test: parity with HRNet's own code, bounds, round trips."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posematch.decoding import Argmax, Barycentre, QuarterOffset, flip_average, flip_back
from posematch.geometry import apply_affine, box_to_crop_affine, heatmap_to_crop, invert_affine
from posematch.losses import to_mass
from posematch.skeletons import COCO, MPII
from posematch.transport import subpixel_demand

SIZE = (16, 12)
places = st.tuples(st.floats(3.0, 8.0), st.floats(3.0, 12.0))


class TestAgainstHRNet:
    """Heatmaps with peaks on and off the grid, one all negative, one all zero."""

    @pytest.fixture
    def heatmaps(self, hrnet_fixtures):
        return torch.from_numpy(hrnet_fixtures["decode_heatmaps"])

    def to_image(self, joints_hm, fixtures):
        affines = np.stack(
            [
                box_to_crop_affine(center.astype(float), scale.astype(float) * 200, (256, 192))
                for center, scale in zip(
                    fixtures["decode_center_img"], fixtures["decode_scale"], strict=True
                )
            ]
        )
        joints_crop = heatmap_to_crop(joints_hm.double(), (256, 192), (64, 48), "hrnet")
        return apply_affine(invert_affine(torch.from_numpy(affines)), joints_crop)

    def test_argmax(self, heatmaps, hrnet_fixtures):
        joints_hm, _ = Argmax()(heatmaps)
        np.testing.assert_array_equal(joints_hm, hrnet_fixtures["decode_argmax_hm"])
        np.testing.assert_allclose(
            self.to_image(joints_hm, hrnet_fixtures), hrnet_fixtures["decode_argmax_img"],
            atol=1e-3, rtol=1e-6,
        )  # fmt: skip

    def test_score_is_the_peak(self, heatmaps, hrnet_fixtures):
        _, scores = Argmax()(heatmaps)
        peaks = hrnet_fixtures["decode_maxval"].reshape(scores.shape)
        np.testing.assert_array_equal(scores, peaks.clip(0, 1))

    def test_quarter_offset(self, heatmaps, hrnet_fixtures):
        joints_hm, _ = QuarterOffset()(heatmaps)
        np.testing.assert_allclose(
            self.to_image(joints_hm, hrnet_fixtures),
            hrnet_fixtures["decode_quarter_offset_img"],
            atol=1e-3, rtol=1e-6,
        )  # fmt: skip

    @pytest.mark.parametrize("shift", [False, True])
    def test_flip_back(self, hrnet_fixtures, shift):
        own = flip_back(torch.from_numpy(hrnet_fixtures["flip_in"]), COCO, shift)
        name = "flip_back_coco_shifted" if shift else "flip_back_coco"
        np.testing.assert_array_equal(own, hrnet_fixtures[name])


@given(place=places)
@settings(deadline=None)  # a busy machine takes longer than 200 ms now and then
def test_barycentre_inverts_the_subpixel_demand(place):
    pixels, mass = subpixel_demand(torch.tensor([place]), SIZE)
    maps = torch.zeros(1, 1, *SIZE)
    for (x, y), share in zip(pixels[0].long().tolist(), mass[0], strict=True):
        maps[0, 0, y, x] = share
    joints_hm, scores = Barycentre()(maps)
    # 1e-3 px is the promise; four products and sums in float32 lose less than 1e-5.
    np.testing.assert_allclose(joints_hm[0, 0], place, atol=1e-5)
    assert float(scores[0, 0]) == pytest.approx(1, abs=1e-6)


def test_barycentre_at_the_border_and_its_score():
    maps = torch.zeros(1, 2, *SIZE)
    maps[0, 0, 0, 0], maps[0, 0, 0, 1] = 3.0, 1.0
    maps[0, 1, 8, 6], maps[0, 1, 2, 2] = 3.0, 1.0  # the second peak is out of the window
    joints_hm, scores = Barycentre(radius_px=2)(maps)
    np.testing.assert_allclose(joints_hm[0], [[0.25, 0.0], [6.0, 8.0]])
    np.testing.assert_allclose(scores[0], [1.0, 0.75])


@pytest.mark.parametrize("supply", ["none", "relu", "softmax"])
def test_flip_average_of_a_mirror_symmetric_network_is_one_view(supply):
    maps = torch.randn(2, 16, *SIZE, generator=torch.Generator().manual_seed(0))
    mirrored = flip_back(maps, MPII, shift=False)  # flipping back is its own inverse

    def mass(raw):
        return to_mass(raw, supply)

    average = flip_average(maps, mirrored, MPII, mass, shift=False)
    torch.testing.assert_close(average, mass(maps))
