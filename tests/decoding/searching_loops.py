"""Decoders that search, one joint at a time: the best pixel, and scipy's BFGS from there.

Less than the batched ones do, which start from several pixels: where a map has two places that are
almost equally good, these may end at the lower one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import cv2
import numpy as np
from expected_pckh import by_search as highest_under_a_cone
from expected_pckh import cone_volume, kernel, over_grid
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize
from test_mode import by_search as highest_under_a_gaussian

Joint = tuple[float, float, float]  # x, y, score


def mode(hm: np.ndarray, sigma: float = 1.0) -> Joint:
    """The highest place under a Gaussian, by its slopes."""
    mass = np.maximum(hm, 0)
    blurred = gaussian_filter(mass, sigma, mode="constant", truncate=5)
    y, x = np.unravel_index(blurred.argmax(), mass.shape)
    if mass.max() <= 0:
        return 0.0, 0.0, 0.0
    near, steps = window(mass, x, y, int(np.ceil(5 * sigma)) + 1)
    height = 2 * np.pi * sigma**2 * blurred[y, x]

    def lower(place: np.ndarray) -> tuple[float, np.ndarray]:
        in_x, in_y = (np.exp(-((steps - one) ** 2) / (2 * sigma**2)) for one in place)
        over_x, over_y = near @ in_x, in_y @ near
        slope_x = over_y @ (in_x * (steps - place[0])) / sigma**2
        slope_y = over_x @ (in_y * (steps - place[1])) / sigma**2
        return -(in_y @ over_x) / height, -np.array([slope_x, slope_y]) / height

    found = minimize(lower, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-5})
    return x + found.x[0], y + found.x[1], -found.fun * height / mass.sum()


def expected_metric(hm: np.ndarray, radius: float = 3.2) -> Joint:
    """The highest place under a cone, each pixel's mass spread over its square."""
    mass = np.maximum(hm, 0)
    if mass.max() <= 0:
        return 0.0, 0.0, 0.0
    halves = [
        cv2.filter2D(mass, -1, one.astype(mass.dtype), borderType=cv2.BORDER_CONSTANT)
        for one in half_pixel_kernels(radius)
    ]
    part, y, x = np.unravel_index(np.argmax(halves), (4, *mass.shape))
    near, steps = window(mass, x, y, int(np.ceil(radius)) + 2)
    corners = np.diff(np.diff(np.pad(near, 1), axis=0), axis=1)
    lines = np.append(steps - 0.5, steps[-1] + 0.5)
    height = halves[part][y, x]

    def lower(place: np.ndarray) -> float:
        dx, dy = lines - place[0], lines[:, None] - place[1]
        volume = cone_volume(np.abs(dx), np.abs(dy), radius)
        return -float((corners * np.sign(dx) * np.sign(dy) * volume).sum()) / height

    start = np.array([part % 2, part // 2]) / 2
    found = minimize(lower, start, method="BFGS", options={"gtol": 1e-5})
    return x + found.x[0], y + found.x[1], -found.fun * height / mass.sum()


def window(mass: np.ndarray, x: int, y: int, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels around one, 0 off the map, in float64; and their steps from it."""
    padded = np.pad(mass.astype(np.float64), reach)
    return padded[y : y + 2 * reach + 1, x : x + 2 * reach + 1], np.arange(-reach, reach + 1)


@functools.cache
def half_pixel_kernels(radius: float) -> list[np.ndarray]:
    """Of what pixels around add at a pixel, half a pixel to its right, below, and both."""
    steps = np.arange(-np.ceil(radius) - 1, np.ceil(radius) + 2)
    return [
        kernel(steps - dx, steps[:, None] - dy, radius)
        for dx, dy in ((0, 0), (0.5, 0), (0, 0.5), (0.5, 0.5))
    ]


def mode_by_grid(hm: np.ndarray, sigma: float = 1.0) -> Joint:
    """Brute force: every 0.05 px, then every 0.0005 around the highest."""
    (x, y), height = highest_under_a_gaussian(np.maximum(hm, 0).astype(np.float64), sigma)
    return x, y, height


def expected_metric_by_grid(hm: np.ndarray, radius: float = 3.2) -> Joint:
    """Brute force: every 1/8 px, then down to 0.0005 around the six highest."""
    mass = np.maximum(hm, 0).astype(np.float64)
    (x, y), height = highest_under_a_cone(mass, over_grid(mass[None], radius)[0], radius)
    return x, y, height


SEARCHES: dict[str, Callable[..., Joint]] = {
    "mode": mode,
    "expected_metric": expected_metric,
    "mode by grid": mode_by_grid,
    "expected_metric by grid": expected_metric_by_grid,
}
