"""The highest pixel of a blurred map, with most of the map never blurred, is that of the whole."""

from __future__ import annotations

import pytest
import torch

from posematch.decoding.blurred_peaks import _blurred, _near_highest_bound, blurred_peaks
from posematch.decoding.peaks import Peaks
from posematch.losses import gaussian_targets

SIZE = (96, 72)


def maps_of(kind: str) -> torch.Tensor:
    """(2, 15, 96, 72): five joints with three maps each, of which the first counts."""
    generator = torch.Generator().manual_seed(5)
    dots = torch.rand(2, 15, 2, generator=generator) * torch.tensor([72.0, 96.0]) - 0.5
    noise = torch.randn(2, 15, *SIZE, generator=generator)
    match kind:
        case "peak":
            return gaussian_targets(dots, SIZE, 3.0, "subpixel") + 0.02 * noise
        case "wide":
            return gaussian_targets(dots, SIZE, 15.0, "subpixel") + 0.02 * noise
        case "several":
            return sum(gaussian_targets(dots.roll(n, 1), SIZE, 3.0, "subpixel") for n in range(3))
        case "noise":
            return noise
        case "negative":
            return -noise.abs()
    raise ValueError(kind)


@pytest.mark.parametrize("kind", ["peak", "wide", "several", "noise", "negative"])
@pytest.mark.parametrize("kernel", [11, 23])
def test_it_is_the_whole_blurred_maps_highest_pixel(kind: str, kernel: int) -> None:
    maps = maps_of(kind)
    found = blurred_peaks(maps, kernel, channels=3)
    whole = Peaks.of(_blurred(maps[:, ::3], kernel))
    torch.testing.assert_close(found.value, whole.value, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close((found.x, found.y), (whole.x, whole.y), rtol=0, atol=0)


def test_maps_of_one_peak_are_not_blurred_whole_and_others_are() -> None:
    assert _near_highest_bound(maps_of("peak"), 23, 3)[1].all()
    assert not _near_highest_bound(maps_of("noise"), 23, 3)[1].any()
    assert not _near_highest_bound(maps_of("negative"), 23, 3)[1].any()


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf")])
def test_maps_that_are_not_finite_are_read_as_before(spoilt: float) -> None:
    maps = maps_of("peak")
    maps[0, 3, 40, 30] = spoilt
    found = blurred_peaks(maps, 11, channels=3)
    whole = Peaks.of(_blurred(maps[:, ::3], 11))
    torch.testing.assert_close(found.value, whole.value, equal_nan=True)
    torch.testing.assert_close((found.x, found.y), (whole.x, whole.y))
