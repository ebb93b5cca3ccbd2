"""The place at which a map's own mass expects the highest metric: PCKh or OKS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch

from posematch.decoding.basins import decided, local_maxima, widths_of, widths_on, windows
from posematch.decoding.mode import LARGEST_SIGMA_PX, SMALLEST_SIGMA_PX, Mode
from posematch.decoding.pckh_kernel import at_corners, derivatives, volumes
from posematch.decoding.peaks import accurate, grid, positive_sums
from posematch.errors import PosematchError

# Narrower, and a pixel's square reaches the rim; wider, and windows take gigabytes.
_SMALLEST_RADIUS_PX, _LARGEST_RADIUS_PX = 1.0, 16.0
# Nearer to 1 the rim is a cliff, and rounding grows as 1 / (1 - share).
_LARGEST_SHARE = 0.9
# Pixels that are looked at, and of the places around them those that Newton's method starts from.
_BASINS, _STARTS = 8, 8
_NODES_PX, _REACH_PX, _FARTHEST_PX = 0.125, 0.75, 1.25
_NEWTON_STEPS, _LONGEST_STEP_PX = 10, 0.1


class ExpectedMetric:
    """The joint at which the metric's expectation under the map's mass is largest, to 1e-3 pixels.

    ``oks``: sum_n s_n exp(-|x - p_n|^2 / (2 width^2)); the same as `Mode`, width = 2 sigma_k
    sqrt(area) in heatmap pixels.

    ``pckh``: the chance that x is within t of the joint, averaged over thresholds t from ``start``
    times the width to the width. 0: over PCKh's whole curve up to there, the area under it, whose
    maximum is a median of the mass in reach; towards 1: PCKh at that threshold alone, which is as
    content with any place from which all mass is in reach. Each pixel's mass is spread evenly over
    its square. MPII's crops of 1.25 person boxes have PCKh@0.5 at 1/20 of the map's side for every
    person, as their box is eight heads: 3.2 heatmap pixels of 64.

    The metric is found at every half pixel, then exactly on a grid of 1/8 px around the highest of these,
    then by Newton's method from the highest of those (`posematch.decoding.pckh_kernel`).

    For masses, and raw maps, whose positive part it takes. The score is the metric that is
    expected. A map without a positive value gives (0, 0) and 0.

    Parameters
    ----------
    metric
        ``pckh`` or ``oks``.
    width_px
        Heatmap pixels: PCKh's largest distance, from 1 to 16, or OKS's width, from 0.75 to 16; one
        for all joints, or one for each.
    start
        PCKh's smallest distance as a share of its largest, from 0 to 0.9.

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
        start: float = 0.0,
    ) -> None:
        if metric not in ("pckh", "oks"):
            raise PosematchError(f"decoder.metric={metric} must be pckh or oks.")
        if not 0 <= start <= _LARGEST_SHARE:
            raise PosematchError(
                f"decoder.start={start} must be from 0 to {_LARGEST_SHARE}: a share of"
                " decoder.width_px."
            )
        limits = (
            (_SMALLEST_RADIUS_PX, _LARGEST_RADIUS_PX)
            if metric == "pckh"
            else (SMALLEST_SIGMA_PX, LARGEST_SIGMA_PX)
        )
        self.width_px = widths_of(width_px, *limits, "decoder.width_px")
        self.start = float(start)
        self._as_mode = Mode(self.width_px) if metric == "oks" else None

    def __call__(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        radius = widths_on(self.width_px, maps, "decoder.width_px")
        if self._as_mode is not None:
            return self._as_mode(maps)
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32)).clamp_min(0)
        radius = accurate(radius)
        x, y, _ = local_maxima(_at_half_pixels(maps, radius, self.start), _BASINS)
        x, y = x // 2, y // 2
        # So wide that no mass outside is in reach of a place that may be found.
        mass, first = windows(maps, x, y, math.ceil(max(self.width_px) + _FARTHEST_PX + 0.5))
        whole = accurate(positive_sums(maps))
        mass = mass / whole.clamp_min(torch.finfo(maps.dtype).tiny)[..., None, None, None]
        basin, place = self._starts(mass, radius)
        mass = mass.gather(2, basin[..., None, None].expand(-1, -1, -1, *grid(mass)))
        first = first.gather(2, basin[..., None].expand(-1, -1, -1, 2))
        corners, radius = at_corners(mass), radius[None, :, None, None, None]
        value = self._expected(corners, place, radius)
        length = torch.ones_like(value)
        for _ in range(_NEWTON_STEPS):
            step = self._step(corners, place, radius) * length[..., None]
            further = (place + step).clamp(-_FARTHEST_PX, _FARTHEST_PX)
            higher = self._expected(corners, further, radius)
            # Near a rim the slopes change within a hundredth of a pixel: shorter, where it led down.
            up = higher >= value
            place = torch.where(up[..., None], further, place)
            value = torch.where(up, higher, value)
            length = torch.where(up, 1.0, length / 4)
        return decided(value, first + place, whole, maps.dtype)

    def _starts(
        self, mass: torch.Tensor, radius: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Highest local maxima of a fine grid around each basin's pixel.

        (B, K, S) int64 which basin, and (B, K, S, 2) x, y from its pixel.
        """
        lines = torch.arange(-_REACH_PX, _REACH_PX + 1e-9, _NODES_PX, device=mass.device).to(mass)
        nodes = torch.stack(torch.meshgrid(lines, lines, indexing="xy"), -1).flatten(0, 1)
        kernels = _spread(mass.shape[-1], nodes, radius, self.start)
        joints, basins = (int(length) for length in mass.shape[1:3])
        values = mass.flatten(-2) @ kernels.flatten(-2).transpose(-1, -2)
        # Of equally high ones that nearest to the pixel.
        values = values - 1e-9 * nodes.square().sum(-1)
        squares = values.unflatten(-1, (len(lines), len(lines))).flatten(0, 2)[:, None]
        highest = torch.nn.functional.max_pool2d(squares, 3, 1, 1)
        local = torch.where(squares == highest, squares, -1.0)
        local = local.view(-1, joints, basins * len(nodes))
        _, found = local.topk(_STARTS, -1)
        return found // len(nodes), nodes[found % len(nodes)]

    def _expected(
        self, corners: torch.Tensor, place: torch.Tensor, radius: torch.Tensor
    ) -> torch.Tensor:
        """(B, K, S): the metric at (B, K, S, 2) places."""
        return (corners * volumes(*_ways(corners, place), radius, self.start)).sum((-2, -1))

    def _step(
        self, corners: torch.Tensor, place: torch.Tensor, radius: torch.Tensor
    ) -> torch.Tensor:
        """(B, K, S, 2): Newton's step, uphill and short where that is not downhill already."""
        found = derivatives(corners, *_ways(corners, place), radius, self.start)
        xx, xy, yy = found.xx, found.xy, found.yy
        middle, half = (xx + yy) / 2, ((xx - yy) / 2).square() + xy.square()
        # Shifted until it curves down everywhere.
        shift = (middle + half.sqrt() + 1e-6).clamp_min(0)
        xx, yy = xx - shift, yy - shift
        determinant = xx * yy - xy.square()
        step = torch.stack(
            [
                (xy * found.slope_y - yy * found.slope_x) / determinant,
                (xy * found.slope_x - xx * found.slope_y) / determinant,
            ],
            -1,
        )
        return step.clamp(-_LONGEST_STEP_PX, _LONGEST_STEP_PX)


def _ways(corners: torch.Tensor, place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(..., 1, N + 1) and (..., N + 1, 1) from (..., 2) places to the corners of the windows."""
    half = int(corners.shape[-1]) / 2 - 0.5
    lines = torch.arange(-half, half + 0.5, device=corners.device).to(corners)
    return lines - place[..., None, :1], lines[:, None] - place[..., None, 1:]


def _spread(side: int, nodes: torch.Tensor, radius: torch.Tensor, share: float) -> torch.Tensor:
    """(K, P, N, N): what each pixel of N x N adds at (P, 2) places from the middle one."""
    lines = torch.arange(side + 1, device=nodes.device).to(nodes) - side / 2
    over = volumes(
        lines - nodes[:, None, :1],
        lines[:, None] - nodes[:, None, 1:],
        radius[:, None, None, None],
        share,
    )
    rows = over[..., 1:, :] - over[..., :-1, :]
    return rows[..., 1:] - rows[..., :-1]


def _at_half_pixels(maps: torch.Tensor, radius: torch.Tensor, share: float) -> torch.Tensor:
    """(B, K, 2 H, 2 W) the metric at each pixel, and half a pixel to its right and below."""
    reach = math.ceil(float(radius.max()) + 1)
    nodes = torch.tensor([[0, 0], [0.5, 0], [0, 0.5], [0.5, 0.5]], device=maps.device).to(radius)
    kernels = _spread(2 * reach + 1, nodes, radius, share).to(maps).flatten(0, 1)[:, None]
    values = torch.nn.functional.conv2d(maps, kernels, padding=reach, groups=len(radius))
    return torch.nn.functional.pixel_shuffle(values, 2)
