"""Decoders of Unbiased Data Processing (Huang et al. 2020), as mmpose has them.

They are about one map. What makes UDP unbiased is its convention of crops, maps and flips:
``data.convention=udp``, see `posematch.geometry`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from posematch.decoding.blurred_peaks import blurred_peaks
from posematch.decoding.dark import check_kernel, cut_off
from posematch.decoding.peaks import (
    Peaks,
    accurate,
    blur_at,
    grid,
    reflect,
    square_at,
    window,
)
from posematch.errors import PosematchError

# Disk of the combined target: its radius over the map's height (docs/protocols.md, Targets).
RADIUS_SHARE = 0.0546875
_FLOOR = 1e-3
_SQUARE = tuple((x, y) for y in (-1, 0, 1) for x in (-1, 0, 1))


class UDP:
    """Newton's step on the log of the blurred map, differences of one pixel: UDP's form of DARK.

    As mmpose's ``refine_keypoints_dark_udp``: peaks at the border move, too, the log of the map
    continued beyond it by its outermost pixel. That is exact for a Gaussian inside, and not at the
    border. The score is the raw peak, cut to [0, 1].

    For raw maps and masses. mmpose cuts the blurred map, scaled to the raw peak, off below 0.001
    (and above 50). Here the limit is 0.001 of the peak where that is below 1, so that masses, whose
    peak may be a thousandth, are decoded; a map whose highest pixels all are above 0.001 is decoded
    the same by both.

    Parameters
    ----------
    kernel
        Width of the blur, odd. mmpose takes 11 for sigma 2 and 17 for sigma 3.

    Examples
    --------
    >>> from posematch.losses import gaussian_targets
    >>> maps = gaussian_targets(torch.tensor([[[10.3, 8.0]]]), (16, 20), 2.0, "subpixel")
    >>> joints_hm, scores = UDP()(maps)
    >>> joints_hm
    tensor([[[10.3000,  8.0000]]])
    """

    def __init__(self, kernel: int = 11) -> None:
        self.kernel = check_kernel(kernel)

    def __call__(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        peaks = Peaks.of(maps)
        height, width = maps.shape[-2:]
        pixels, _, _ = window(maps, peaks.x, peaks.y, 1 + self.kernel // 2)
        blurred = blur_at(accurate(pixels), self.kernel, _SQUARE).to(maps.dtype)
        floor = _FLOOR * torch.where(peaks.positive, peaks.value.clamp_max(1), 1)
        blurred = cut_off(blurred, maps, peaks, self.kernel, floor)
        left, right = (peaks.x > 0).long(), (peaks.x < width - 1).long()
        above, below = (peaks.y > 0).long(), (peaks.y < height - 1).long()
        log = accurate(blurred).log()

        def at(x: torch.Tensor | int, y: torch.Tensor | int) -> torch.Tensor:
            place = 3 * (1 + y) + 1 + x + torch.zeros_like(peaks.x)
            return log.gather(-1, place[..., None])[..., 0]

        middle, east, west = at(0, 0), at(right, 0), at(-left, 0)
        south, north = at(0, below), at(0, -above)
        dx, dy = 0.5 * (east - west), 0.5 * (south - north)
        # mmpose's guard against a singular Hessian.
        guard = torch.finfo(torch.float32).eps
        dxx = east - 2 * middle + west + guard
        dyy = south - 2 * middle + north + guard
        corners = at(right, below) + at(-left, -above)
        dxy = 0.5 * (corners - east - west - south - north + 2 * middle)
        determinant = dxx * dyy - dxy.square()
        regular = determinant != 0
        step = torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], dim=-1)
        step = step / torch.where(regular, determinant, 1)[..., None] * regular[..., None]
        return peaks.joints_hm() + step.to(maps.dtype), peaks.scores


class UDPCombined:
    """For the maps of `posematch.losses.UDPCombined`: a class map's peak plus the offset there.

    As published (docs/protocols.md, Targets): the class map is blurred by a kernel of 2 kernel + 1,
    the offset maps by one of ``kernel``; at the blurred class map's highest pixel, the joint is
    that pixel plus the offset times the disk's radius. Beyond the border maps are mirrored about
    their outermost pixels. The score is the blurred class map's peak, cut to [0, 1].

    Parameters
    ----------
    kernel
        Width of the offsets' blur, odd; 1 for none.
    radius_share
        Of the disk, as the loss's.

    Examples
    --------
    >>> maps = torch.zeros(1, 3, 16, 16)  # class, x offset and y offset of one joint
    >>> maps[0, 0, 8, 5] = 1.0
    >>> maps[0, 1] = 0.5  # of the disk's radius, 2 px
    >>> UDPCombined(kernel=1, radius_share=0.125)(maps)[0]
    tensor([[[6., 8.]]])
    """

    channels_per_joint = 3

    def __init__(self, kernel: int = 11, radius_share: float = RADIUS_SHARE) -> None:
        if not radius_share > 0:
            raise PosematchError(f"decoder.radius_share={radius_share} must be positive.")
        self.kernel = check_kernel(kernel)
        self.radius_share = radius_share

    def __call__(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 3 K, H, W) maps, class, x and y offset of one joint after another."""
        height, width = grid(maps)
        channels = self.channels_per_joint
        peaks = blurred_peaks(maps, 2 * self.kernel + 1, channels)
        columns, rows = (
            torch.from_numpy(reflect(_reach(length, self.kernel), length)).to(maps.device)
            for length in (width, height)
        )
        # Row i of such a table holds the pixels that the kernel sees from pixel i.
        around = columns[peaks.x], rows[peaks.y]
        offsets = [
            blur_at(accurate(square_at(maps, *around, channel, channels)), self.kernel, ((0, 0),))[
                ..., 0
            ]
            for channel in (1, 2)
        ]
        radius_px = self.radius_share * height
        step = radius_px * torch.stack(offsets, dim=-1).to(maps.dtype)
        return peaks.joints_hm() + step, peaks.scores


def _reach(length: int, kernel: int) -> NDArray[np.int64]:
    """(length, kernel) places that a kernel covers from each pixel of a line."""
    half = kernel // 2
    return np.arange(length)[:, None] + np.arange(-half, half + 1)
