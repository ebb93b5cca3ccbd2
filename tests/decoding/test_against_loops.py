"""Every decoder against its plain loop over joints: values, borders, degenerate maps, batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loops import LOOPS, blurred, over_joints

from posematch.decoding import (
    DARK,
    UDP,
    Argmax,
    Barycentre,
    EdgeDARK,
    QuarterOffset,
    SoftArgmax,
    UDPCombined,
)
from posematch.losses import gaussian_targets

SIZE = (24, 20)
DECODERS = {
    "argmax": Argmax(),
    "quarter_offset": QuarterOffset(),
    "quarter_offset_mmpose": QuarterOffset("mmpose"),
    "barycentre": Barycentre(),
    "soft_argmax": SoftArgmax(),
    "soft_argmax sharpened": SoftArgmax(temperature=0.1),
    "dark": DARK(),
    "dark_edge": EdgeDARK(),
    "udp": UDP(),
    "udp_combined": UDPCombined(),
}
EVERY_PIXEL = [(x, y) for y in range(SIZE[0]) for x in range(SIZE[1])]


def generator():
    return torch.Generator().manual_seed(0)


def dots(people, joints, reach=0.5):
    """Anywhere on the grid: up to half a pixel beyond its outermost pixels."""
    size = torch.tensor([SIZE[1] - 1, SIZE[0] - 1])
    drawn = torch.rand(people, joints, 2, generator=generator(), dtype=torch.float64)
    return drawn * (size + 2 * reach) - reach


def maps(kind):
    """(6, 30, H, W) float64."""
    clean = gaussian_targets(dots(6, 30), SIZE, 2.0, "subpixel")
    noise = torch.randn(clean.shape, generator=generator(), dtype=torch.float64)
    if kind == "sparse mass":  # mostly exact zeros
        mass = (clean - 0.5).clamp_min(0)
        return mass / mass.sum((-2, -1), keepdim=True)
    return {
        "clean": clean,
        "noisy": clean + 0.03 * noise,
        "noise": noise,
        "low": 1e-4 * clean,
        "below the floor": 1e-10 * clean,
        "shifted down": clean - 0.1,
        "mass": clean / clean.sum((-2, -1), keepdim=True),
        "no positive value": -clean,
    }[kind]


def looped(name, heatmaps):
    channels = getattr(DECODERS[name], "channels_per_joint", 1)
    pieces = heatmaps.unflatten(1, (-1, channels)) if channels > 1 else heatmaps
    with np.errstate(invalid="ignore", divide="ignore"):
        return over_joints(LOOPS[name], pieces.numpy())


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize(
    "kind",
    ["clean", "noisy", "noise", "low", "below the floor", "shifted down", "mass", "sparse mass",
     "no positive value"],
)  # fmt: skip
def test_is_the_loop(name, kind):
    """Issue 5: 1e-4 px, edges included. In float64, as steps of noise have no limit."""
    heatmaps = maps(kind)
    joints_hm, scores = DECODERS[name](heatmaps)
    expected_hm, expected_scores = looped(name, heatmaps)
    np.testing.assert_allclose(joints_hm, expected_hm, atol=1e-4, rtol=1e-9)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-9)
    assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("kind", ["clean", "noisy", "mass", "sparse mass"])
def test_is_the_loop_in_float32(name, kind):
    heatmaps = maps(kind).float()
    joints_hm, _ = DECODERS[name](heatmaps)
    assert joints_hm.dtype == torch.float32
    np.testing.assert_allclose(joints_hm, looped(name, heatmaps)[0], atol=1e-4)


@pytest.mark.parametrize("name", DECODERS)
def test_peak_on_every_pixel(name):
    """The edge rules, one pixel after the other: a lone peak on random ground."""
    channels = getattr(DECODERS[name], "channels_per_joint", 1)
    ground = torch.rand(1, len(EVERY_PIXEL) * channels, *SIZE, generator=generator()).double()
    for index, (x, y) in enumerate(EVERY_PIXEL):
        ground[0, index * channels, y, x] = 2.0
    joints_hm, _ = DECODERS[name](ground)
    np.testing.assert_allclose(joints_hm, looped(name, ground)[0], atol=1e-4, rtol=1e-9)


@pytest.mark.parametrize("kernel", [1, 3, 5, 7, 9, 17])
@pytest.mark.parametrize("name", ["dark", "dark_edge", "udp", "udp_combined"])
def test_kernels_are_opencvs(name, kernel):
    heatmaps = maps("noisy")
    joints_hm, _ = type(DECODERS[name])(kernel)(heatmaps)
    channels = getattr(DECODERS[name], "channels_per_joint", 1)
    pieces = heatmaps.unflatten(1, (-1, channels)) if channels > 1 else heatmaps
    expected_hm = np.array([[LOOPS[name](one, kernel) for one in p] for p in pieces.numpy()])
    np.testing.assert_allclose(joints_hm, expected_hm[..., :2], atol=1e-4)


@pytest.mark.parametrize("name", DECODERS)
def test_batched_is_each_alone(name):
    decoder = DECODERS[name]
    channels = getattr(decoder, "channels_per_joint", 1)
    heatmaps = maps("noise")[:3, :6]
    joints_hm, scores = decoder(heatmaps)
    for person in range(3):
        for joint in range(6 // channels):
            own = heatmaps[person, joint * channels : (joint + 1) * channels]
            alone_hm, score = decoder(own[None])
            torch.testing.assert_close(alone_hm[0, 0], joints_hm[person, joint])
            torch.testing.assert_close(score[0, 0], scores[person, joint])


@pytest.mark.parametrize("size", [(3, 3), (5, 4), (16, 12), (17, 13), (31, 29), (64, 48)])
def test_highest_pixel_is_numpys_the_first_of_several(size):
    heatmaps = torch.randint(0, 5, (20, 10, *size), generator=generator()).float() - 1
    joints_hm, _ = Argmax()(heatmaps)
    first = heatmaps.flatten(-2).numpy().argmax(-1)
    np.testing.assert_array_equal(joints_hm[..., 1] * size[1] + joints_hm[..., 0], first)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("fill", [0.0, -1.0, 0.5, 1e-30, 1e30])
def test_flat_and_extreme_maps_are_finite(name, fill):
    heatmaps = torch.full((1, 3, *SIZE), fill)
    joints_hm, scores = DECODERS[name](heatmaps)
    assert joints_hm.isfinite().all()
    assert scores.isfinite().all()


@pytest.mark.parametrize("decoder", [DARK(), UDP()])
def test_a_map_that_is_nowhere_positive_after_the_blur_keeps_its_pixel(decoder):
    """The published code divides by that map's peak, which is negative or 0 there."""
    heatmaps = torch.full((1, 1, *SIZE), -1.0)
    heatmaps[0, 0, 9, 8] = 0.5
    assert blurred(heatmaps[0, 0].numpy(), 11).max() > 0  # the sign of everything turned around
    joints_hm, _ = decoder(heatmaps)
    assert joints_hm[0, 0].tolist() == [8, 9]
