"""The highest pixel of a blurred map, without blurring all of it.

A blur's weights are positive and sum to 1, so the blurred pixels of a small square are at most what
the blur would make of a map that is everywhere as high as its highest pixel nearby. That bound is
cheap: it is about squares of 4 x 4 pixels. The square around the highest bound is blurred; where no
bound outside of it comes near what was found there, that is the map's highest pixel. The other maps
are blurred whole: of several peaks, say, or wide ones.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray

from posematch.arithmetic import is_recorded
from posematch.decoding.peaks import (
    Peaks,
    blur_kernel,
    blur_matrix,
    grid,
    in_parts,
    reflect,
    square_at,
)

# Pixels of a side of the squares that have bounds, and how many of these are blurred, a side.
_CELL, _CELLS = 4, 5
# Maps with less pixels than a blurred square reads twice over are blurred whole as fast.
_LEAST_PIXELS = 2500
# Above float32's rounding of sums of a few hundred products.
_ROUNDING = 1e-5


def blurred_peaks(maps: torch.Tensor, kernel: int, channels: int = 1) -> Peaks:
    """`Peaks` of blurred maps, which are mirrored about their outermost pixels beyond the border.

    Parameters
    ----------
    maps
        (B, K channels, H, W), of which the first of each joint's is looked at.
    kernel
        Of the blur, see `posematch.decoding.peaks.blur_kernel`.
    channels
        Maps of a joint.
    """
    firsts = maps[:, ::channels]
    height, width = grid(maps)
    # Elsewhere whole maps are blurred in no time, and looking at what was found has to wait for it.
    whole = is_recorded() or maps.device.type != "cpu" or maps.dtype != torch.float32
    fits = min(height, width) >= _CELL * _CELLS and not (height % _CELL or width % _CELL)
    if whole or not fits or height * width < _LEAST_PIXELS:
        return Peaks.of(_blurred(firsts, kernel))
    found, sure = _near_highest_bound(maps, kernel, channels)
    if not sure.all():
        rest = ~sure
        of_rest = Peaks.of(_blurred(firsts[rest][None], kernel))
        found.value[rest], found.x[rest], found.y[rest] = (
            of_rest.value[0],
            of_rest.x[0],
            of_rest.y[0],
        )
    return found


def _near_highest_bound(
    maps: torch.Tensor, kernel: int, channels: int
) -> tuple[Peaks, torch.Tensor]:
    """The highest blurred pixel near the highest bound, and (B, K) where it is the map's."""
    height, width = grid(maps)
    # Along columns first, where neighbours lie in a row.
    firsts = maps[:, ::channels]
    of_rows = firsts.view(*firsts.shape[:2], height // _CELL, _CELL, width).amax(-2)
    cells = of_rows.view(*of_rows.shape[:3], width // _CELL, _CELL).amax(-1).clamp_min(0)
    on_rows, on_columns = (torch.from_numpy(_cell_weights(one, kernel)) for one in (height, width))
    bounds = on_rows @ (cells @ on_columns.T)
    rows, columns = bounds.shape[-2:]
    best = bounds.flatten(-2).argmax(-1)
    first_x = (best % columns - _CELLS // 2).clamp(0, columns - _CELLS)
    first_y = (best // columns - _CELLS // 2).clamp(0, rows - _CELLS)
    x, y = _CELL * first_x, _CELL * first_y

    half, side = kernel // 2, _CELL * _CELLS
    reach = torch.arange(side + 2 * half)
    seen_x, seen_y = (
        torch.from_numpy(reflect(np.arange(-half, length + half), length))[start[..., None] + reach]
        for length, start in ((width, x), (height, y))
    )
    pixels = square_at(maps, seen_x, seen_y, channels=channels)
    blur = torch.from_numpy(_square_blur(side, kernel))
    peaks = Peaks.of(blur @ (pixels @ blur.T))

    inside_x, inside_y = (
        (places >= 0) & (places < _CELLS)
        for places in (
            torch.arange(columns) - first_x[..., None],
            torch.arange(rows) - first_y[..., None],
        )
    )
    inside = inside_y[..., None] & inside_x[..., None, :]
    others = bounds.masked_fill(inside, 0).amax((-2, -1))
    sure = (others * (1 + _ROUNDING) < peaks.value) & peaks.positive
    return Peaks(peaks.value, peaks.x + x, peaks.y + y), sure


@functools.cache
def _cell_weights(length: int, kernel: int) -> NDArray[np.float32]:
    """(cells, cells) most weight that a pixel of one cell gives to another cell, on a line."""
    matrix = blur_matrix(length, kernel, reflected=True)
    of_cells = matrix.reshape(length, -1, _CELL).sum(axis=-1)
    most: NDArray[np.float64] = of_cells.reshape(-1, _CELL, of_cells.shape[1]).max(axis=1)
    return most.astype(np.float32)


@functools.cache
def _square_blur(side: int, kernel: int) -> NDArray[np.float32]:
    """(side, side + kernel - 1) matrix that blurs the middle of a line of pixels."""
    matrix = np.zeros((side, side + kernel - 1), dtype=np.float32)
    for row in range(side):
        matrix[row, row : row + kernel] = blur_kernel(kernel)
    return matrix


def _blurred(maps: torch.Tensor, kernel: int) -> torch.Tensor:
    """(B, K, H, W) whole maps blurred."""
    rows, columns = (
        torch.from_numpy(blur_matrix(length, kernel, reflected=True)).to(maps)
        for length in grid(maps)
    )
    parts = [rows @ (part @ columns.T) for part in in_parts(maps)]
    return torch.cat(parts).view(maps.shape)
