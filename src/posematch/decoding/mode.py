"""The place under whose kernel most of a map's mass lies: what maximises an expected similarity."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from posematch.decoding.basins import (
    climbed,
    decided,
    local_maxima,
    widths_of,
    widths_on,
    windows,
)
from posematch.decoding.peaks import accurate, grid, positive_sums

# Basins that are looked at, of kernels one pixel wide; fewer local maxima come near the highest the
# wider the kernel is.
_BASINS, _LEAST_BASINS = 8, 2
_MEAN_SHIFTS, _NEWTON_STEPS = 2, 8
# Half a window's width in units of the kernel's: what lies outside weighs e^-12.5, times its share.
_REACH = 5.0
# Narrower than pixels are apart, every pixel is a basin of its own.
SMALLEST_SIGMA_PX, LARGEST_SIGMA_PX = 0.75, 16.0


class Mode:
    """The place x that maximises sum_n s_n exp(-|x - p_n|^2 / (2 sigma^2)), to 1e-3 pixels.

    With the map's mass s as the probability of where a joint is, that is the decision with the
    largest expected object keypoint similarity, if sigma is its width: COCO's 2 sigma_k sqrt(area)
    in heatmap pixels (docs/protocols.md, COCO scoring). A wide sigma decides between people by
    their mass, a narrow one places the joint.

    The start is the highest pixel of the blurred map, and other local maxima that could be higher
    between their pixels: of each the best place is found by mean shift, which never goes down, and
    Newton's method, on sums over a window of 5 sigma.

    For masses, and raw maps, whose positive part it takes. The score is the share of it under the
    kernel: the expected similarity. A map without a positive value gives (0, 0) and 0.

    Parameters
    ----------
    sigma_px
        The kernel's width, heatmap pixels, from 0.75 to 16; one for all joints, or one for each.

    Examples
    --------
    >>> from posematch.losses import gaussian_targets
    >>> maps = gaussian_targets(torch.tensor([[[10.3, 8.0]]]), (16, 20), 2.0, "subpixel")
    >>> joints_hm, scores = Mode(sigma_px=1.0)(maps)
    >>> joints_hm
    tensor([[[10.3000,  8.0000]]])
    """

    def __init__(self, sigma_px: float | Sequence[float] = 1.0) -> None:
        self.sigma_px = widths_of(sigma_px, SMALLEST_SIGMA_PX, LARGEST_SIGMA_PX, "decoder.sigma_px")

    def __call__(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sigma = widths_on(self.sigma_px, maps, "decoder.sigma_px")
        maps = maps.clamp_min(0)
        x, y, open_ = _basins(_blurred(maps, sigma), sigma, min(self.sigma_px))
        mass, first = windows(maps, x, y, math.ceil(_REACH * max(self.sigma_px)) + 1)
        place, value = climbed(_climb, open_, mass, accurate(sigma)[:, None].expand(open_.shape))
        whole = accurate(positive_sums(maps))
        share = value / whole.clamp_min(torch.finfo(maps.dtype).tiny)[..., None]
        return decided(share, first + place, whole, maps.dtype)


def _blurred(maps: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """(B, K, H, W) sums under the kernel at each pixel."""
    height, width = grid(maps)

    def kernels(length: int) -> torch.Tensor:
        pixels = torch.arange(length, device=maps.device).to(maps)
        ways = (pixels[:, None] - pixels).square()
        return (-ways / (2 * sigma.square()[:, None, None])).exp()

    return kernels(height) @ maps @ kernels(width)


def _basins(
    blurred: torch.Tensor, sigma: torch.Tensor, narrowest_px: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels (B, K, C) from which a maximum may be reached, and whether they are to be looked at.

    A sum of Gaussians curves by at most itself / sigma^2, so at the pixel nearest to its maximum,
    half a diagonal away, at most 1 / (4 sigma^2) of that is missing.
    """
    basins = max(math.ceil(_BASINS / narrowest_px**2), _LEAST_BASINS)
    x, y, value = local_maxima(blurred, basins)
    least = (1 - 1 / (4 * sigma.square())).clamp_min(0)[None, :, None] * value[..., :1]
    # The first is always looked at.
    open_ = (value >= least) & (value >= 0)
    return x, y, open_


def _climb(mass: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(..., 2) places of maxima from the middles of (..., N, N) windows, and (...) their height."""
    place = mass.new_zeros(*sigma.shape, 2)
    for step in range(_MEAN_SHIFTS + _NEWTON_STEPS):
        moments = _moments(mass, place, sigma)
        place = (place + _step(moments, sigma, step < _MEAN_SHIFTS)).clamp(-1.5, 1.5)
    return place, _moments(mass, place, sigma)[..., 0, 0]


def _moments(mass: torch.Tensor, place: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """(..., 3, 3): sums of mass x kernel x dy^i dx^j over the windows, i, j up to 2.

    ``place`` (..., 2) is x, y from the windows' middles.
    """
    radius = mass.shape[-1] // 2
    steps = torch.arange(-radius, radius + 1, device=mass.device).to(mass)

    def weights(along: torch.Tensor) -> torch.Tensor:
        ways = steps - along[..., None]
        kernel = (-ways.square() / (2 * sigma.square()[..., None])).exp()
        return torch.stack([kernel, kernel * ways, kernel * ways.square()], -2)

    moments: torch.Tensor = weights(place[..., 1]) @ mass @ weights(place[..., 0]).transpose(-1, -2)
    return moments


def _step(moments: torch.Tensor, sigma: torch.Tensor, mean_shift: bool) -> torch.Tensor:
    """(..., 2) way to a higher place: Newton's where the sum is concave, else mean shift."""
    total = moments[..., 0, 0].clamp_min(torch.finfo(moments.dtype).tiny)
    shift = torch.stack([moments[..., 0, 1], moments[..., 1, 0]], -1) / total[..., None]
    if mean_shift:
        return shift
    # Second derivatives / the sum, times sigma^2.
    square = sigma.square()
    xx = moments[..., 0, 2] / total / square - 1
    yy = moments[..., 2, 0] / total / square - 1
    xy = moments[..., 1, 1] / total / square
    determinant = xx * yy - xy.square()
    concave = (xx < 0) & (determinant > 1e-6)
    safe = torch.where(concave, determinant, 1.0)
    newton = torch.stack(
        [xy * shift[..., 1] - yy * shift[..., 0], xy * shift[..., 0] - xx * shift[..., 1]], -1
    )
    newton = newton / safe[..., None]
    near = newton.abs().amax(-1) <= 1
    return torch.where((concave & near)[..., None], newton, shift)
