"""Photo to crop to perfect maps and back, under both conventions, flip test included."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from posematch.decoding import (
    DARK,
    UDP,
    Barycentre,
    EdgeDARK,
    SoftArgmax,
    UDPCombined,
    decode,
    flip_average,
)
from posematch.geometry import (
    apply_affine,
    box_to_crop_affine,
    crop_to_heatmap,
    heatmap_to_crop,
    invert_affine,
)
from posematch.losses import UDPCombined as UDPCombinedLoss
from posematch.losses import gaussian_targets
from posematch.skeletons import MPII
from posematch.transport import subpixel_demand

CROP, MAP = (256, 192), (64, 48)
PEOPLE, JOINTS = 6, MPII.num_joints


def gaussians(dots):
    return gaussian_targets(dots, MAP, 2.0, "subpixel")


def demands(dots):
    pixels, mass = subpixel_demand(dots.flatten(0, 1), MAP)
    index = (pixels[..., 1] * MAP[1] + pixels[..., 0]).long()
    maps = torch.zeros(len(mass), MAP[0] * MAP[1], dtype=mass.dtype).scatter_add(1, index, mass)
    return maps.view(*dots.shape[:2], *MAP)


def combined(dots):
    disk, x, y = UDPCombinedLoss().targets(dots, MAP)
    maps = [disk.to(dots.dtype), x.expand_as(disk), y.expand_as(disk)]
    return torch.stack(maps, dim=2).flatten(1, 2)


# What paints perfect maps, who reads them, and how exactly, in heatmap pixels (test_round_trips).
CASES = {
    "dark": (gaussians, DARK(), 0.01),
    "dark_edge": (gaussians, EdgeDARK(), 0.01),
    "udp": (gaussians, UDP(), 0.01),
    "soft_argmax": (gaussians, SoftArgmax(), 0.01),
    "barycentre": (demands, Barycentre(), 1e-3),
    "soft_argmax of a demand": (demands, SoftArgmax(), 1e-3),
    "udp_combined": (combined, UDPCombined(), 1e-3),
}


def errors_px(case, convention, flip_test):
    """(B, K, 2) decoded minus true joints, turned back into the crop's axes, heatmap pixels."""
    paint, decoder, _ = CASES[case]
    rng = np.random.default_rng(0)
    affines = np.stack(
        [
            box_to_crop_affine(
                rng.uniform(300, 600, 2),
                np.array([0.75, 1.0]) * rng.uniform(200, 500),
                CROP,
                rng.uniform(-40, 40),
                mirror_image_width=1000 if person % 2 else None,
                convention=convention,
            )
            for person in range(PEOPLE)
        ]
    )
    affine = torch.from_numpy(affines)
    inside = rng.uniform(0.3, 0.7, (PEOPLE, JOINTS, 2)) * [CROP[1], CROP[0]]
    joints_img = apply_affine(invert_affine(affine), torch.from_numpy(inside))

    joints_crop = apply_affine(affine, joints_img)
    maps = paint(crop_to_heatmap(joints_crop, CROP, MAP, convention))
    channels = getattr(decoder, "channels_per_joint", 1)
    if flip_test:
        mirrored = joints_crop.clone()
        mirrored[..., 0] = CROP[1] - 1 - mirrored[..., 0]
        mirrored = mirrored[:, list(MPII.flip_permutation)]
        of_mirrored = paint(crop_to_heatmap(mirrored, CROP, MAP, convention))
        signs = UDPCombinedLoss.mirror_signs if channels == 3 else (1.0,)
        maps = flip_average(maps, of_mirrored, MPII, lambda raw: raw, convention == "hrnet", signs)
    joints_hm, _ = decode(decoder, maps, channels)
    back = heatmap_to_crop(joints_hm.double(), CROP, MAP, convention)
    back_img = apply_affine(invert_affine(affine), back)
    error_crop = apply_affine(affine, back_img) - apply_affine(affine, joints_img)
    return crop_to_heatmap(error_crop, CROP, MAP, convention)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("convention", "flip_test"), [("hrnet", False), ("udp", False), ("udp", True)]
)
def test_perfect_maps_come_back_to_the_photo(case, convention, flip_test):
    error = errors_px(case, convention, flip_test)
    assert float(error.abs().max()) <= CASES[case][2]


@pytest.mark.parametrize("case", CASES)
def test_hrnets_flip_test_is_an_eighth_of_a_pixel_too_far_right(case):
    """A mirrored map misses by 1 - 1 / stride; the shift by 1 overshoots by 1 / stride in one view.

    So the mean of both is 1 / (2 stride) = 0.125 px off along x: the bias that UDP is about.
    """
    error = errors_px(case, "hrnet", True)
    expected = torch.tensor([1 / 8, 0.0]).double().expand_as(error)
    torch.testing.assert_close(error, expected, atol=CASES[case][2], rtol=0)


def test_a_shift_under_udp_would_cost_half_a_pixel():
    """The check above can fail: shifted as under hrnet, udp's maps miss."""
    dots = torch.full((1, JOINTS, 2), 20.3).double()
    mirrored = dots.clone()
    mirrored[..., 0] = MAP[1] - 1 - mirrored[..., 0]
    maps = flip_average(gaussians(dots), gaussians(mirrored), MPII, lambda raw: raw, True)
    joints_hm, _ = DARK()(maps)
    torch.testing.assert_close(joints_hm - dots, torch.tensor([0.5, 0.0]).double().expand_as(dots),
                               atol=0.01, rtol=0)  # fmt: skip


def test_decoders_of_one_map_read_the_class_map():
    dots = torch.tensor([[[20.3, 30.8]]]).double().expand(1, JOINTS, 2)
    joints_hm, _ = decode(SoftArgmax(), combined(dots), 3)
    assert float((joints_hm - dots).norm(dim=-1).max()) < 0.5  # a disk of pixels


@pytest.mark.parametrize("case", CASES)
def test_autocast_does_not_reach_the_decoders(case):
    paint, decoder, bar_px = CASES[case]
    dots = torch.tensor([[[20.3, 30.8]]]).expand(1, JOINTS, 2)
    maps = paint(dots).float()
    with torch.autocast("cpu", torch.bfloat16):
        joints_hm, scores = decode(decoder, maps, getattr(decoder, "channels_per_joint", 1))
    assert joints_hm.dtype == scores.dtype == torch.float32
    assert float((joints_hm - dots).abs().max()) <= bar_px
