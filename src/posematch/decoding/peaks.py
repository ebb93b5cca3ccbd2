"""Where each map is highest, and the pixels around that place.

All decoders start here. The cost of most of them is this one pass over the maps.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from posematch.arithmetic import is_recorded

# Pixels that are searched at a time for the highest one, and again within the run that has it.
_RUN_PIXELS, _SHORT_RUN_PIXELS = 288, 18
# Maps that are worked on at a time on a CPU: what they need stays in its cache.
_MAPS_AT_A_TIME = 16


@dataclass(frozen=True, slots=True)
class Peaks:
    """The highest pixel of each map; the first one, by rows, where several are.

    Attributes
    ----------
    value
        (B, K) of the maps' dtype.
    x, y
        (B, K) int64 column and row; (0, 0) for a map without a positive value, as in HRNet's code
        (docs/protocols.md, Decoders).
    """

    value: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor

    @classmethod
    def of(cls, maps: torch.Tensor) -> Peaks:
        """Of (B, K, H, W) maps."""
        height, width = grid(maps)
        flat = maps.reshape(-1, height * width)
        run = _run_length(height * width, _RUN_PIXELS)
        short = _run_length(run, _SHORT_RUN_PIXELS)
        # The highest of each run first: unlike a search for indices that is vectorised on CPUs.
        value, place = _highest_run(flat, run)
        chosen = _chosen_run(flat, run, place)
        _, within = _highest_run(chosen, short)
        place = run * place + short * within + _chosen_run(chosen, short, within).argmax(-1)
        place = (place * (value > 0)).view(maps.shape[:2])
        return cls(value.view(maps.shape[:2]), place % width, place // width)

    @property
    def positive(self) -> torch.Tensor:
        """(B, K) bool: the map has a positive value."""
        return self.value > 0

    @property
    def scores(self) -> torch.Tensor:
        """(B, K) the peak, cut to [0, 1]."""
        return self.value.clamp(0, 1)

    def joints_hm(self) -> torch.Tensor:
        """(B, K, 2) the pixels as joints, float32 or float64."""
        dtype = torch.promote_types(self.value.dtype, torch.float32)
        return torch.stack([self.x, self.y], dim=-1).to(dtype)


def _highest_run(lines: torch.Tensor, run: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) highest values of (N, L) lines of pixels, and the first runs that have them."""
    value, first = lines.view(-1, lines.shape[1] // run, run).amax(-1).max(-1)
    return value, first


def _chosen_run(lines: torch.Tensor, run: int, chosen: torch.Tensor) -> torch.Tensor:
    """(N, run): of each line the run of that number."""
    runs = lines.shape[1] // run
    starts = torch.arange(0, lines.shape[0] * runs, runs, device=lines.device)
    return lines.view(-1, run)[starts + chosen]


@functools.cache
def _run_length(pixels: int, about: int) -> int:
    divisors = [run for run in range(1, pixels + 1) if pixels % run == 0]
    return min(divisors, key=lambda run: abs(run - about))


def grid(maps: torch.Tensor) -> tuple[int, int]:
    """(H, W) of (..., H, W) maps, as plain numbers while torch.jit records, too."""
    height, width = maps.shape[-2:]
    return int(height), int(width)


def accurate(tensor: torch.Tensor) -> torch.Tensor:
    """In float64, or float32 where the device has none; for a few pixels of each map."""
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


def values_at(maps: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(B, K, P) values of (B, K, H, W) maps at (B, K, P) columns and rows on the grid."""
    return maps.flatten(-2).gather(-1, y * maps.shape[-1] + x)


def window(
    maps: torch.Tensor, x: torch.Tensor, y: torch.Tensor, radius_px: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Squares of pixels.

    Parameters
    ----------
    maps
        (B, K, H, W).
    x, y
        (B, K) int64, their middle pixels.
    radius_px
        They are N = 2 radius + 1 wide.

    Returns
    -------
    values, on_columns, on_rows
        (B, K, N, N) values, 0 off the grid, and (B, K, N) bool, which columns and rows are on it.
    """
    height, width = maps.shape[-2:]
    reach = torch.arange(-radius_px, radius_px + 1, device=maps.device)
    columns, rows = x[..., None] + reach, y[..., None] + reach
    on_columns = (columns >= 0) & (columns < width)
    on_rows = (rows >= 0) & (rows < height)
    values = square_at(maps, columns.clamp(0, width - 1), rows.clamp(0, height - 1))
    values *= on_columns.to(maps)[..., None, :]
    values *= on_rows.to(maps)[..., :, None]
    return values, on_columns, on_rows


def square_at(
    maps: torch.Tensor,
    columns: torch.Tensor,
    rows: torch.Tensor,
    channel: int = 0,
    channels: int = 1,
) -> torch.Tensor:
    """(B, K, N, M) values where (B, K, N) rows and (B, K, M) columns on the grid cross.

    Of (B, K channels, H, W) maps, several a joint, those of one channel: a slice of them would have
    to be copied whole.
    """
    people, maps_of_each, height, width = maps.shape
    joints = maps_of_each // channels
    first = torch.arange(people * joints, device=maps.device).view(people, joints, 1)
    first = first * channels + channel
    row_starts = (first * height + rows) * width
    # One index into all maps: faster than a gather, which needs as large an index and more of it.
    return maps.reshape(-1).take(row_starts[..., :, None] + columns[..., None, :])


@functools.cache
def blur_kernel(size: int) -> NDArray[np.float64]:
    """(size,) OpenCV's Gaussian of that odd size: sigma 0.3 ((size - 1) / 2 - 1) + 0.8.

    Sizes up to 7 are its fixed tables.
    """
    return np.asarray(cv2.getGaussianKernel(size, 0, cv2.CV_64F)[:, 0], dtype=np.float64)


def blur_at(values: torch.Tensor, size: int, points: tuple[tuple[int, int], ...]) -> torch.Tensor:
    """Gaussian blur of squares of pixels, at a few points only.

    Parameters
    ----------
    values
        (B, K, N, N) from `window` with the reach of the points plus half the kernel.
    size
        Of the kernel, see `blur_kernel`.
    points
        (x, y) of P points from the square's middle.

    Returns
    -------
    (B, K, P).
    """
    weights = torch.from_numpy(_blur_weights(values.shape[-1], size, points))
    return values.flatten(-2) @ weights.to(values)


@functools.cache
def _blur_weights(side: int, size: int, points: tuple[tuple[int, int], ...]) -> NDArray[np.float64]:
    kernel, start = blur_kernel(size), side // 2 - size // 2
    weights = np.zeros((len(points), side, side))
    for weight, (x, y) in zip(weights, points, strict=True):
        weight[start + y : start + y + size, start + x : start + x + size] = np.outer(
            kernel, kernel
        )
    return weights.reshape(len(points), -1).T.copy()


@functools.cache
def blur_matrix(length: int, size: int, reflected: bool) -> NDArray[np.float64]:
    """(length, length) matrix that blurs a line of pixels.

    Beyond its ends there is nothing, or, ``reflected``, its mirror image about the end's pixel
    (OpenCV's default border).
    """
    kernel, half = blur_kernel(size), size // 2
    matrix = np.zeros((length, length + 2 * half))
    for row in range(length):
        matrix[row, row : row + size] = kernel
    if not reflected:
        return matrix[:, half : half + length]
    onto = reflect(np.arange(-half, length + half), length)
    folded = np.zeros((length, length))
    np.add.at(folded.T, onto, matrix.T)
    return folded


def reflect(places: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Places off a line of pixels, mirrored about its end pixels until they are on it."""
    if length == 1:
        return np.zeros_like(places)
    period = 2 * (length - 1)
    folded: NDArray[np.int64] = np.abs((places + length - 1) % period - (length - 1))
    return folded


def positive_sums(maps: torch.Tensor) -> torch.Tensor:
    """(B, K) sums of the maps' positive part."""
    return torch.cat([part.clamp_min(0).sum((-2, -1)) for part in in_parts(maps)]).view(
        maps.shape[:2]
    )


def in_parts(maps: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """(M, H, W) parts of (B, K, H, W) maps: on a CPU small enough for its cache, else all maps."""
    flat = maps.flatten(0, 1)
    split = maps.device.type == "cpu" and not is_recorded()  # nor is the number of maps known then
    return torch.split(flat, _MAPS_AT_A_TIME) if split else (flat,)
