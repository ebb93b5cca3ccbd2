"""The place at which a map's own mass expects the highest metric: PCKh or OKS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len

from posematch.arithmetic import is_recorded
from posematch.decoding.basins import (
    climbed,
    decided,
    highest_around,
    local_maxima,
    widths_of,
    widths_on,
    windows,
)
from posematch.decoding.mode import LARGEST_SIGMA_PX, SMALLEST_SIGMA_PX, Mode
from posematch.decoding.pckh_kernel import at_corners, expected, volumes
from posematch.decoding.peaks import accurate, grid, positive_sums
from posematch.errors import PosematchError

# Narrower, and a pixel's square reaches the rim; wider, and windows take gigabytes.
_SMALLEST_RADIUS_PX, _LARGEST_RADIUS_PX = 1.0, 16.0
# Half pixels that are looked at; of the places around them those that Newton's method starts from.
_BASINS, _STARTS = 8, 8
# Maps that are searched at a time on a CPU: what halves of their pixels need stays in its cache.
_MAPS_AT_A_TIME = 8
_NODES_PX, _REACH_PX, _FARTHEST_PX = 0.125, 0.75, 1.25
# The metric curves down by at most this / radius: a unit of mass on the square whose middle curves
# most, spread where sin^2(angle) / distance, the cone's curvature, is highest, area 1.
_CURVATURE = 2.18
_NEWTON_STEPS, _LONGEST_STEP_PX, _DONE_PX = 10, 0.1, 1e-5


class ExpectedMetric:
    """The joint at which the metric's expectation under the map's mass is largest, to 1e-3 pixels.

    ``oks``: sum_n s_n exp(-|x - p_n|^2 / (2 width^2)); the same as `Mode`, width = 2 sigma_k
    sqrt(area) in heatmap pixels.

    ``pckh``: the chance that x is within t of the joint, averaged over thresholds t from 0 to the
    width: the area under PCKh's curve up to there, whose maximum is a median of the mass in reach.
    Each pixel's mass is spread evenly over its square. MPII's crops of 1.25 person boxes have
    PCKh@0.5 at 1/20 of the map's side for every person, as their box is eight heads: 3.2 heatmap
    pixels of 64. One threshold alone is not offered: any place from which the same mass is in reach
    is equally good, and rough maps have so many almost equal maxima that a search from a few starts
    misses the highest of some.

    The metric is found at every half pixel (whole ones miss the highest place of one map of noise
    in a thousand), then exactly on a grid of 1/8 px around the highest of these, then by Newton's
    method from those that may lead to the highest (`posematch.decoding.pckh_kernel`).

    For masses, and raw maps, whose positive part it takes. The score is the metric that is
    expected. A map without a positive value gives (0, 0) and 0.

    Parameters
    ----------
    metric
        ``pckh`` or ``oks``.
    width_px
        Heatmap pixels: PCKh's largest distance, from 1 to 16, or OKS's width, from 0.75 to 16; one
        for all joints, or one for each.

    Examples
    --------
    >>> from posematch.losses import gaussian_targets
    >>> maps = gaussian_targets(torch.tensor([[[10.3, 8.0]]]), (16, 20), 2.0, "subpixel")
    >>> joints_hm, scores = ExpectedMetric("oks", width_px=1.0)(maps)
    >>> joints_hm
    tensor([[[10.3000,  8.0000]]])
    """

    def __init__(
        self,
        metric: Literal["pckh", "oks"] = "pckh",
        width_px: float | Sequence[float] = 3.2,
    ) -> None:
        if metric not in ("pckh", "oks"):
            raise PosematchError(f"decoder.metric={metric} must be pckh or oks.")
        limits = (
            (_SMALLEST_RADIUS_PX, _LARGEST_RADIUS_PX)
            if metric == "pckh"
            else (SMALLEST_SIGMA_PX, LARGEST_SIGMA_PX)
        )
        self.width_px = widths_of(width_px, *limits, "decoder.width_px")
        self._as_mode = Mode(self.width_px) if metric == "oks" else None
        if self._as_mode is not None:
            return
        # So wide that no mass outside is in reach of a place that may be found.
        self._radius_px = math.ceil(max(self.width_px) + _FARTHEST_PX + 0.5)
        reach = math.ceil(max(self.width_px) + 1)
        self._halves = _spread(reach, _nodes(0, 0.5, 0.5), self.width_px)
        self._places = _nodes(-_REACH_PX, _REACH_PX, _NODES_PX)
        self._fine = _spread(self._radius_px, self._places, self.width_px)

    def __call__(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        radius = accurate(widths_on(self.width_px, maps, "decoder.width_px"))
        if self._as_mode is not None:
            return self._as_mode(maps)
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32)).clamp_min(0)
        x, y = self._basins(maps)
        mass, first = windows(maps, x, y, self._radius_px)
        whole = accurate(positive_sums(maps))
        mass = mass / whole.clamp_min(torch.finfo(maps.dtype).tiny)[..., None, None, None]
        basin, place, value = self._starts(mass)
        # A start is at most half a node's diagonal from its maximum.
        missing = _CURVATURE / radius[:, None] * (_NODES_PX / 2) ** 2
        open_ = value >= value.amax(-1, keepdim=True) - missing
        corners = at_corners(mass)
        corners = corners.gather(2, basin[..., None, None].expand(-1, -1, -1, *grid(corners)))
        first = first.gather(2, basin[..., None].expand(-1, -1, -1, 2))
        place, value = climbed(_climb, open_, corners, place, radius[:, None].expand(open_.shape))
        return decided(value, first + place, whole, maps.dtype)

    def _basins(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, K, C) columns and rows of pixels by which the metric is highest."""
        split = maps.device.type == "cpu" and not is_recorded()
        people = max(_MAPS_AT_A_TIME // maps.shape[1], 1)
        parts = torch.split(maps, people) if split else (maps,)
        halves = [local_maxima(_at_half_pixels(one, self._halves), _BASINS) for one in parts]
        x, y = (torch.cat(one) for one in list(zip(*halves, strict=True))[:2])
        return x // 2, y // 2

    def _starts(self, mass: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Highest local maxima of a fine grid around each basin's pixel.

        (B, K, S) int64 which basin, (B, K, S, 2) x, y from its pixel, (B, K, S) how high.
        """
        nodes, kernels = (torch.from_numpy(one).to(mass) for one in (self._places, self._fine))
        values = mass.flatten(-2) @ kernels.flatten(-2).transpose(-1, -2)
        # Of equally high ones that nearest to the pixel.
        values = values - 1e-9 * nodes.square().sum(-1)
        side = math.isqrt(len(nodes))
        squares = values.view(*values.shape[:-1], side, side)
        local = torch.where(squares == highest_around(squares), squares, -1.0)
        value, found = local.flatten(2).topk(_STARTS, -1)
        return found // len(nodes), nodes[found % len(nodes)], value


def _climb(
    corners: torch.Tensor, place: torch.Tensor, radius: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(..., 2) maxima and (...) their heights, from places amid (..., N + 1, N + 1) corners."""
    radius = radius[..., None, None]
    now = expected(corners, *_ways(corners, place), radius)
    length = torch.ones_like(now[..., :1])
    for _ in range(_NEWTON_STEPS):
        step = _step(now) * length
        further = (place + step).clamp(-_FARTHEST_PX, _FARTHEST_PX)
        there = expected(corners, *_ways(corners, further), radius)
        # Near a rim the slopes change within a hundredth of a pixel: shorter, where it led down.
        up = there[..., :1] >= now[..., :1]
        place, now = torch.where(up, further, place), torch.where(up, there, now)
        length = torch.where(up, 1.0, length / 4)
        if not is_recorded() and not (step.abs() > _DONE_PX).any():
            break
    return place, now[..., 0]


def _step(now: torch.Tensor) -> torch.Tensor:
    """(..., 2): Newton's step from `expected`; where that does not curve down, one uphill."""
    _, x, y, xx, xy, yy = now.unbind(-1)
    middle, half = (xx + yy) / 2, ((xx - yy) / 2).square() + xy.square()
    # Mirrored where it curves up.
    shift = (2 * (middle + half.sqrt()) + 1e-6).clamp_min(0)
    xx, yy = xx - shift, yy - shift
    step = torch.stack([xy * y - yy * x, xy * x - xx * y], -1)
    step = step / (xx * yy - xy.square())[..., None]
    # Of the same direction: x and y cut apart could lead down.
    long = step.square().sum(-1, keepdim=True).sqrt() / _LONGEST_STEP_PX
    return step / long.clamp_min(1)


def _ways(corners: torch.Tensor, place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(..., 1, N + 1) and (..., N + 1, 1) from (..., 2) places to the corners of the windows."""
    half = int(corners.shape[-1]) / 2 - 0.5
    lines = torch.arange(-half, half + 0.5, device=corners.device).to(corners)
    return lines - place[..., None, :1], lines[:, None] - place[..., None, 1:]


def _nodes(first: float, last: float, step: float) -> NDArray[np.float64]:
    """(P, 2) x, y of a square grid."""
    lines = np.arange(first, last + step / 2, step)
    return np.stack(np.meshgrid(lines, lines), -1).reshape(-1, 2)


def _spread(
    reach: int, nodes: NDArray[np.float64], widths_px: Sequence[float]
) -> NDArray[np.float64]:
    """(widths, P, N, N): what pixels, N = 2 reach + 1, add at (P, 2) places from the middle."""
    lines = torch.arange(-reach - 0.5, reach + 1, dtype=torch.float64)
    places = torch.from_numpy(nodes)
    radius = torch.tensor(widths_px, dtype=torch.float64)[:, None, None, None]
    x, y = lines - places[:, None, :1], lines[:, None] - places[:, None, 1:]
    over = volumes(x, y, radius)
    rows = over[..., 1:, :] - over[..., :-1, :]
    return np.ascontiguousarray((rows[..., 1:] - rows[..., :-1]).numpy())


def _at_half_pixels(maps: torch.Tensor, kernels: NDArray[np.float64]) -> torch.Tensor:
    """(B, K, 2 H, 2 W) the metric at each pixel, and half a pixel to its right and below.

    ``kernels`` (1 or K, 4, N, N) of `_spread`.
    """
    joints, reach = int(maps.shape[1]), kernels.shape[-1] // 2
    weights = torch.from_numpy(kernels).to(maps)
    if is_recorded():  # ONNX has no Fourier transform that all runtimes know
        weights = weights.expand(joints, -1, -1, -1).flatten(0, 1)[:, None]
        values = torch.nn.functional.conv2d(maps, weights, padding=reach, groups=joints)
    else:
        height, width = grid(maps)
        # What goes round the end lands beyond the part that is kept.
        size = tuple(next_fast_len(side + reach, real=True) for side in (height, width))
        product = torch.fft.rfft2(maps, size)[:, :, None] * torch.fft.rfft2(
            weights.flip(-2, -1), size
        )
        values = torch.fft.irfft2(product, size).clamp_min(0)
        values = values[..., reach : reach + height, reach : reach + width].flatten(1, 2)
    return torch.nn.functional.pixel_shuffle(values, 2)
