"""What a pixel's mass, spread over its square, adds to the area under PCKh's curve: exactly.

A joint's chance of lying within t of a place, averaged over thresholds t from 0 to r, is its mass
under a cone, 1 - d / r.

Under a kernel spread over squares, what lies under it is a sum over the corners between pixels of
the kernel's volume over the rectangle from its middle to the corner, times the masses' second
difference there. Volumes, their slopes (lengths of cuts through the cone along a line of pixels'
edges) and the slopes' slopes all are elementary.
"""

from __future__ import annotations

import math

import torch

# Stands for zero where the logarithm of a distance is multiplied by that distance.
_NOTHING_PX = 1e-9


def at_corners(mass: torch.Tensor) -> torch.Tensor:
    """(..., N + 1, N + 1) second differences at the corners of (..., N, N) pixels."""
    padded = torch.nn.functional.pad(mass, (1, 1, 1, 1))
    rows = padded[..., 1:, :] - padded[..., :-1, :]
    return rows[..., 1:] - rows[..., :-1]


def volumes(x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Volumes of the cone over the rectangles from its middle to (x, y), signed as x y is.

    Parameters
    ----------
    x, y
        Tensors that broadcast with each other, heatmap pixels.
    radius
        r, heatmap pixels, broadcasts with both.
    """
    along_x, along_y = x.abs(), y.abs()
    beside_x, beside_y = _cut(along_x, along_y, radius), _cut(along_y, along_x, radius)
    return x.sign() * y.sign() * _volume(along_x, along_y, beside_x, beside_y, radius)


def expected(
    corners: torch.Tensor, x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor
) -> torch.Tensor:
    """(..., 6): the mass under the cone at a place of each window, f, f_x, f_y, f_xx, f_xy, f_yy.

    Parameters
    ----------
    corners
        (..., N + 1, N + 1) of `at_corners`.
    x, y
        (..., 1, N + 1) and (..., N + 1, 1) ways from the places to the corners.
    radius
        As for `volumes`; broadcasts with (..., 1, 1).
    """
    along_x, along_y = x.abs(), y.abs()
    inside = (1 - (x.square() + y.square()).sqrt() / radius).clamp_min(0)
    of_x, of_y = corners * x.sign(), corners * y.sign()
    beside_x, beside_y = _cut(along_x, along_y, radius), _cut(along_y, along_x, radius)
    volume = _volume(along_x, along_y, beside_x, beside_y, radius)
    # A step to the right takes every corner as far to the left.
    terms = [
        of_x * y.sign() * volume,
        -of_y * beside_x[1],
        -of_x * beside_y[1],
        -of_y * x * beside_x[2] / radius,
        corners * inside,
        -of_x * y * beside_y[2] / radius,
    ]
    return torch.stack([term.sum((-2, -1)) for term in terms], -1)


_Cut = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def _cut(beside: torch.Tensor, along: torch.Tensor, radius: torch.Tensor) -> _Cut:
    """The cone's cut along a line ``beside`` its middle, from 0 to ``along``.

    How far it reaches, its area, log((that + distance of that end from the middle) / beside), and
    the angle under which the middle sees it.
    """
    half = (radius.square() - beside.square()).clamp_min(0).sqrt()
    far = torch.minimum(along, half)
    beside = beside.clamp_min(_NOTHING_PX)
    distance = (beside.square() + far.square()).sqrt()
    log = ((far + distance) / beside).log()
    area = far - (far * distance + beside.square() * log) / (2 * radius)
    return far, area, log, _angle(far / (beside + distance))


def _volume(
    x: torch.Tensor, y: torch.Tensor, beside_x: _Cut, beside_y: _Cut, radius: torch.Tensor
) -> torch.Tensor:
    """The cone's volume over the rectangle (0, 0) to (x, y), from the cuts along its far sides.

    Two triangles; along each ray that is distance^2 / 2 - distance^3 / (3 r), and r^2 / 6 beyond
    the rim, which is where no cut is seen.
    """
    within = x * (beside_x[0] / 6 + beside_x[1] / 3) + y * (beside_y[0] / 6 + beside_y[1] / 3)
    return within + radius.square() / 6 * (math.pi / 2 - beside_x[3] - beside_y[3])


def _angle(tangent: torch.Tensor) -> torch.Tensor:
    """Of the tangent of its half, 0 to 1.

    In place of `torch.atan`, which onnxruntime has in float32 only: twice halved, then ten terms
    of its series, to 1e-15.
    """
    for _ in range(2):
        tangent = tangent / (1 + (1 + tangent.square()).sqrt())
    square = tangent.square()
    series = torch.zeros_like(tangent)
    for term in range(9, -1, -1):
        series = series * square + (-1) ** term / (2 * term + 1)
    return 8 * tangent * series
