"""Compactness of heatmaps against plain loops, and the running means."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from posematch.metrics.compactness import Compactness, MapCompactness, map_compactness


def plain(heatmap: np.ndarray, dot: np.ndarray, radius_px: float) -> tuple[float, float, float]:
    """The definition, pixel by pixel, float64."""
    mass = np.maximum(heatmap.astype(np.float64), 0)
    mass = mass / mass.sum()
    height, width = mass.shape
    peak_y, peak_x = np.unravel_index(mass.argmax(), mass.shape)
    pixels = [(x, y) for y in range(height) for x in range(width)]
    near_peak = sum(mass[y, x] for x, y in pixels if np.hypot(x - peak_x, y - peak_y) <= radius_px)
    near_dot = sum(mass[y, x] for x, y in pixels if np.hypot(x - dot[0], y - dot[1]) <= radius_px)
    mean_x = sum(mass[y, x] * x for x, y in pixels)
    mean_y = sum(mass[y, x] * y for x, y in pixels)
    squared = sum(mass[y, x] * ((x - mean_x) ** 2 + (y - mean_y) ** 2) for x, y in pixels)
    return near_peak, near_dot, float(np.sqrt(squared))


@pytest.mark.parametrize("radius_px", [1.0, 2.0, 2.5])
def test_against_plain_loops(radius_px: float) -> None:
    """Noise, blobs at edges and corners, dots on and off the grid; float32 sums of 500 pixels."""
    random = np.random.default_rng(0)
    height, width, count = 24, 20, 12
    maps = random.normal(size=(2, count, height, width)).astype(np.float32)
    y, x = np.mgrid[:height, :width]
    for k, (cx, cy) in enumerate([(0, 0), (19, 23), (0, 12), (10.3, 11.7)]):
        maps[0, k] = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 4)
    dots = random.uniform(-4, 28, (2, count, 2)).astype(np.float32)
    visible = np.ones((2, count), dtype=np.float32)
    visible[1, 3] = 0
    result = map_compactness(*map(torch.from_numpy, (maps, dots, visible)), radius_px)
    for b in range(2):
        for k in range(count):
            expected = plain(maps[b, k], dots[b, k], radius_px)
            got = [float(values[b, k]) for values in result]
            if not visible[b, k]:
                assert np.isnan(got[1])
                got[1] = expected[1]
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_known_maps() -> None:
    """One pixel has all mass and no spread, two of equal weight 8 px apart a spread of 4."""
    maps = torch.zeros(1, 3, 16, 16)
    maps[0, 0, 5, 7] = 0.3
    maps[0, 1, 5, 2] = maps[0, 1, 5, 10] = 2.0
    maps[0, 2] = -1.0
    dots = torch.tensor([[[7.0, 5.0], [10.0, 5.0], [3.0, 3.0]]])
    result = map_compactness(maps, dots, torch.ones(1, 3))
    assert result.mass_within_2px.tolist() == [[1.0, 0.5, 0.0]]
    assert result.mass_within_2px_of_truth.tolist() == [[1.0, 0.5, 0.0]]
    assert result.spread_px[0, :2].tolist() == [0.0, 4.0]
    assert bool(result.spread_px[0, 2].isnan())  # a map without mass has none to spread


def test_scale_and_negative_parts_change_nothing() -> None:
    torch.manual_seed(0)
    maps, dots = torch.randn(2, 3, 12, 12), torch.rand(2, 3, 2) * 11
    visible = torch.ones(2, 3)
    base = map_compactness(maps, dots, visible)
    for other in (8 * maps, maps.clamp_min(0), torch.where(maps < 0, 5 * maps, maps)):
        for one, two in zip(base, map_compactness(other, dots, visible), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-6, atol=0)


def test_wrong_shapes_raise() -> None:
    with pytest.raises(ValueError, match="joints_hm"):
        map_compactness(torch.zeros(2, 3, 8, 8), torch.zeros(2, 4, 2), torch.ones(2, 3))


def test_means_over_labelled_joints_are_the_same_however_split() -> None:
    random = np.random.default_rng(1)
    values = torch.from_numpy(random.random((3, 40, 5)))
    visible = torch.from_numpy((random.random((40, 5)) < 0.6).astype(np.float32))
    values[1][visible == 0] = torch.nan
    values[2, 0, 0] = torch.nan  # a map without mass

    def of(*parts: slice) -> Compactness:
        metric = Compactness()
        for part in parts:
            metric.update(MapCompactness(*values[:, part]), visible[part])
        return metric

    whole = of(slice(None)).compute()
    first, second = of(slice(0, 7), slice(30, 40)), of(slice(7, 30))
    first.merge_state(second)  # the sum over processes
    assert first.compute() == whole
    for name, column in zip(MapCompactness._fields, values.numpy(), strict=True):
        counted = (visible.numpy() > 0) & ~np.isnan(column)
        # Sums are of whole millionths, each off by half of one at most.
        assert whole[name] == pytest.approx(column[counted].mean(), abs=0.5e-6)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_nothing_gives_nothing() -> None:
    assert Compactness().compute() == {}


def test_half_precision_modules_do_not_touch_the_means() -> None:
    holder = torch.nn.Module()
    holder.metric = Compactness()
    holder.to(torch.bfloat16)
    values = MapCompactness(*torch.full((3, 400, 16), 0.123456))
    holder.metric.update(values, torch.ones(400, 16))
    assert holder.metric.compute()["spread_px"] == pytest.approx(0.123456, abs=1e-9)
