"""Expected PCKh of one map in plain numpy: what a search or an optimiser maximises."""

from __future__ import annotations

import numpy as np
from scipy.signal import fftconvolve


def cone_volume(x, y, radius):
    """Volume of the cone 1 - d / radius over the rectangle from its middle to x, y >= 0.

    In polar coordinates: over the triangles below and above the diagonal, along each ray
    d^2 / 2 - d^3 / (3 radius) up to the rectangle's end, at most radius^2 / 6.
    """

    def triangle(beside, along):
        beside = np.maximum(beside, 1e-12)
        far = np.minimum(along, np.sqrt(np.maximum(radius**2 - beside**2, 0)))
        log = np.arcsinh(far / beside)
        root = np.hypot(beside, far)
        within = beside * far / 2 - beside * (far * root + beside**2 * log) / (6 * radius)
        beyond = np.arctan2(along, beside) - np.arctan2(far, beside)
        return within + radius**2 / 6 * beyond

    return triangle(x, y) + triangle(y, x)


def kernel(dx, dy, radius):
    """What a unit of mass, even over a pixel's square whose middle is dx, dy away, adds."""
    total = 0.0
    for sx in (-1, 1):
        for sy in (-1, 1):
            x, y = dx + sx / 2, dy + sy / 2
            volume = cone_volume(np.abs(x), np.abs(y), radius)
            total = total + sx * sy * np.sign(x) * np.sign(y) * volume
    return total


def expected(mass, xs, ys, radius):
    """Expected PCKh of an (H, W) mass at places (...), (...)."""
    rows, columns = np.nonzero(mass)
    near = np.abs(rows - np.mean(ys)) < radius + 1 + np.ptp(ys)
    near &= np.abs(columns - np.mean(xs)) < radius + 1 + np.ptp(xs)
    rows, columns = rows[near], columns[near]
    added = kernel(xs[..., None] - columns, ys[..., None] - rows, radius)
    return added @ mass[rows, columns]


def over_grid(masses, radius, parts=8):
    """Expected PCKh of (M, H, W) masses at every 1 / parts of a pixel on the grid.

    (M, parts H, parts W), where [m, parts y + j, parts x + i] is at x + i / parts - 0.5 and
    y + j / parts - 0.5.
    """
    reach = int(np.ceil(radius + 1))
    steps = np.arange(-reach, reach + 1)
    found = np.zeros((len(masses), *(parts * side for side in masses.shape[1:])))
    for j in range(parts):
        for i in range(parts):
            dx, dy = (one / parts - 0.5 for one in (i, j))
            weights = kernel(dx + steps, dy + steps[:, None], radius)
            found[:, j::parts, i::parts] = fftconvolve(masses, weights[None], "same", axes=(1, 2))
    return found


def by_search(mass, coarse, radius, tops=6, parts=8):
    """Highest place x, y and its height, from the highest of ``coarse``, to 0.0005 pixels."""
    best = (-1.0, 0.0, 0.0)
    order = np.argpartition(coarse, -tops, axis=None)[-tops:]
    for row, column in zip(*np.unravel_index(order, coarse.shape), strict=True):
        x, y = column / parts - 0.5, row / parts - 0.5
        for step in (0.03, 0.006, 0.0005):
            along = step * np.arange(-7, 8)
            xs, ys = np.meshgrid(x + along, y + along)
            values = expected(mass, xs, ys, radius)
            x, y = xs.flat[values.argmax()], ys.flat[values.argmax()]
        best = max(best, (values.max(), x, y))
    return np.array(best[1:]), best[0]
