"""What a pixel's mass, spread over its square, adds to an expected PCKh: exactly, with slopes.

A joint's chance of lying within t of a place, averaged over t from r0 to r, is its mass under a
kernel: 1 up to r0, from there straight down to 0 at r. For r0 = 0, the area under the whole curve
of PCKh, that is a cone, 1 - d / r. Any other is two cones: (r cone_r - r0 cone_r0) / (r - r0). All
places from which the same mass is within r0 would be equally good; a thousandth of the whole curve,
which counts as the rest does, makes one of them the best.

Under a kernel spread over squares, what lies under it is a sum over the corners between pixels of
the kernel's volume over the rectangle from its middle to the corner, times the masses' second
difference there. Volumes, their slopes (lengths of cuts through the cone along a line of pixels'
edges) and the slopes' slopes all are elementary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

# Stands for zero where the logarithm of a distance is multiplied by that distance.
_NOTHING_PX = 1e-9
_WHOLE_CURVE = 1e-3


@dataclass(frozen=True, slots=True)
class Expected:
    """An expected PCKh at some places, and its derivatives: (...) tensors."""

    slope_x: torch.Tensor
    slope_y: torch.Tensor
    xx: torch.Tensor
    xy: torch.Tensor
    yy: torch.Tensor


def at_corners(mass: torch.Tensor) -> torch.Tensor:
    """(..., N + 1, N + 1) second differences at the corners of (..., N, N) pixels."""
    padded = torch.nn.functional.pad(mass, (1, 1, 1, 1))
    rows = padded[..., 1:, :] - padded[..., :-1, :]
    return rows[..., 1:] - rows[..., :-1]


def volumes(x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor, share: float) -> torch.Tensor:
    """Volumes of the kernel over the rectangles from its middle to (x, y), signed as x y is.

    Parameters
    ----------
    x, y
        Tensors that broadcast with each other, heatmap pixels.
    radius
        r, heatmap pixels, broadcasts with both.
    share
        r0 / r, from 0 and below 1.
    """

    def of(radius: torch.Tensor) -> torch.Tensor:
        along_x, along_y = x.abs(), y.abs()
        whole = _triangle(along_x, along_y, radius) + _triangle(along_y, along_x, radius)
        return x.sign() * y.sign() * whole

    if share == 0:
        return of(radius)
    outer, inner = _weights(share)
    return outer * of(radius) + inner * of(share * radius)


def derivatives(
    corners: torch.Tensor, x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor, share: float
) -> Expected:
    """Slopes of the mass under the kernel, and their slopes, at one place of each window.

    Parameters
    ----------
    corners
        (..., N + 1, N + 1) of `at_corners`.
    x, y
        (..., 1, N + 1) and (..., N + 1, 1) ways from the places to the corners.
    radius, share
        As for `volumes`; the first broadcasts with (..., 1, 1).
    """
    found = _cone_derivatives(corners, x, y, radius)
    if share > 0:
        less = _cone_derivatives(corners, x, y, share * radius)
        outer, inner = _weights(share)
        found = [outer * one + inner * other for one, other in zip(found, less, strict=True)]
    return Expected(*found)


def _weights(share: float) -> tuple[float, float]:
    """Of the cones of radius r and r0."""
    mean = (1 - _WHOLE_CURVE) / (1 - share)
    return mean + _WHOLE_CURVE, -mean * share


def _cone_derivatives(
    corners: torch.Tensor, x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor
) -> list[torch.Tensor]:
    along_x, along_y = x.abs(), y.abs()
    inside = (1 - (x.square() + y.square()).sqrt() / radius).clamp_min(0)
    signed_x, signed_y = corners * x.sign(), corners * y.sign()
    cut_of_x, log_of_x = _cut(along_x, along_y, radius)
    cut_of_y, log_of_y = _cut(along_y, along_x, radius)
    # A step to the right takes every corner as far to the left.
    return [
        -(signed_y * cut_of_x).sum((-2, -1)),
        -(signed_x * cut_of_y).sum((-2, -1)),
        -(signed_y * x * log_of_x / radius).sum((-2, -1)),
        (corners * inside).sum((-2, -1)),
        -(signed_x * y * log_of_y / radius).sum((-2, -1)),
    ]


def _clipped(
    beside: torch.Tensor, along: torch.Tensor, radius: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of a line ``beside`` the cone's middle: how far ``along`` it lies in the cone, the distance
    of that end from the middle, and log((along + distance) / beside)."""
    half = (radius.square() - beside.square()).clamp_min(0).sqrt()
    far = torch.minimum(along, half)
    beside = beside.clamp_min(_NOTHING_PX)
    distance = (beside.square() + far.square()).sqrt()
    return far, distance, ((far + distance) / beside).log()


def _cut(
    beside: torch.Tensor, along: torch.Tensor, radius: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Area of the cone's cut along a line, from 0 to ``along``, and the logarithm in it."""
    far, distance, log = _clipped(beside, along, radius)
    return far - (far * distance + beside.square() * log) / (2 * radius), log


def _triangle(beside: torch.Tensor, along: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """The cone's volume over the triangle (0, 0), (beside, 0), (beside, along).

    Along each ray that is distance^2 / 2 - distance^3 / (3 r), and r^2 / 6 beyond the rim.
    """
    far, distance, log = _clipped(beside, along, radius)
    within = beside * (far / 2 - (far * distance + beside.square() * log) / (6 * radius))
    return within + radius.square() / 6 * (_angle(along, beside) - _angle(far, beside))


def _angle(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Of (x, y) from the x axis, for neither negative.

    In place of `torch.atan2`, which onnxruntime has in float32 only: three times halved, then ten
    terms of its series, to 1e-15.
    """
    x = x.clamp_min(_NOTHING_PX)
    tangent = y / (x + (x.square() + y.square()).sqrt())
    for _ in range(2):
        tangent = tangent / (1 + (1 + tangent.square()).sqrt())
    square = tangent.square()
    series = torch.zeros_like(tangent)
    for term in range(9, -1, -1):
        series = series * square + (-1) ** term / (2 * term + 1)
    return 8 * tangent * series
