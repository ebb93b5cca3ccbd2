r"""Kernels of the semi-dual as windows of one small table; and the pixels summed over cells.

The four demands are the corners of a pixel square, so costs depend on a pixel's offset from it
alone: K = exp((min_m C - C) / epsilon) is one table for all joints, made in float64; a joint's
kernel is a window of it, and no exponential is taken per pixel.
"""

from __future__ import annotations

import functools

import torch

from posematch.transport.costs import Cost
from posematch.transport.problem import TransportProblem

# Cells are so many pixels wide and high; around the dot's square pixels stay by themselves, a block
# so wide and high that starts so many to the left and above.
POOL, NEAR, NEAR_BEFORE = 4, 8, 3


@functools.lru_cache(maxsize=32)
def offset_table(
    size: tuple[int, int],
    cost: Cost,
    epsilon: float,
    dtype: torch.dtype,
    device: torch.device,
    log: bool,
    pool: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """K (or its logarithm), (4, 2H, 2W), and min_m C, (2H, 2W), by the offset from the square.

    Of the middles of cells of ``pool`` x ``pool`` pixels (up to pool - 1 more rows and columns, as
    the last cells may reach beyond the map) by the offset of the cell's first pixel.
    """
    dy, dx = (
        torch.arange(1 - n, pool * cells(n, pool) + 1, dtype=torch.float64) + (pool - 1) / 2
        for n in size
    )
    corners = ((0, 0), (1, 0), (0, 1), (1, 1))
    grid_y, grid_x = torch.meshgrid(dy, dx, indexing="ij")
    costs = torch.stack([cost(grid_x - x, grid_y - y) for x, y in corners])
    least = costs.amin(0)
    exponent = (least - costs) / epsilon
    table = exponent if log else exponent.exp()
    return table.to(device, dtype), least.to(device, dtype)


def cells(pixels: int, pool: int = POOL) -> int:
    """How many cells cover so many pixels."""
    return -(-pixels // pool)


def largest_exponent(problem: TransportProblem) -> float:
    """Of K, whose smallest entry is its exp(-)."""
    height, width = problem.supply.shape[-2:]
    return cost_span((height, width), problem.cost) / problem.epsilon


@functools.lru_cache(maxsize=32)
def cost_span(size: tuple[int, int], cost: Cost) -> float:
    """Largest difference of a pixel's costs to the four demands, on a map of (H, W)."""
    exponents, _ = offset_table(size, cost, 1.0, torch.float64, torch.device("cpu"), True)
    return -float(exponents.min())


def windows(
    part: TransportProblem, pixels: torch.Tensor | None, dtype: torch.dtype, log: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """K, (J, 4, n), and min_m C, (J, n), of each problem's pixels (all: None)."""
    height, width = part.supply.shape[-2:]
    table, least = _table(part, dtype, log)
    if pixels is None:
        place = _place(part)
        kernel, least = (_views(one, part)[place] for one in (table, least))
        return kernel.flatten(2), least.flatten(1)
    x, y = part.places_hm[:, 0].long().unbind(-1)
    row = torch.div(pixels, width, rounding_mode="floor")
    offset = (row - y[:, None] + height - 1) * (2 * width)
    offset += pixels - row * width - x[:, None] + width - 1
    kernel = table.flatten(1)[:, offset].transpose(0, 1).contiguous()
    return kernel, least.flatten()[offset]


def _table(
    part: TransportProblem, dtype: torch.dtype, log: bool, pool: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    height, width = part.supply.shape[-2:]
    size, device = (height, width), part.supply.device
    return offset_table(size, part.cost, part.epsilon, dtype, device, log, pool)


def _place(part: TransportProblem) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column at which the windows start."""
    height, width = part.supply.shape[-2:]
    x, y = part.places_hm[:, 0].long().unbind(-1)
    return height - 1 - y, width - 1 - x


def _views(table: torch.Tensor, part: TransportProblem, pool: int = 1) -> torch.Tensor:
    """Each window of the table's last two axes by its first row and column: (.., .., ..., h, w)."""
    for length in part.supply.shape[-2:]:
        table = table.unfold(-2, pool * (cells(length, pool) - 1) + 1, 1)[..., ::pool]
    return table.movedim((-4, -3), (0, 1))


def pooled(problem: TransportProblem) -> bool:
    """Whether the cells are a start: balanced problems of more pixels than cells.

    Relaxed, what the cells' middles cost more than their pixels would shift the total mass.
    """
    height, width = problem.supply.shape[-2:]
    enough = cells(height) * cells(width) + NEAR**2 <= height * width
    return problem.balanced and enough and min(height, width) >= NEAR


def pooled_supply(problem: TransportProblem, dtype: torch.dtype) -> torch.Tensor:
    """(J, n): the cells' masses without the pixels near the dot, then these."""
    supply = problem.supply.to(dtype)
    height, width = supply.shape[-2:]
    reach = torch.arange(NEAR, device=supply.device) - NEAR_BEFORE
    x, y = (problem.places_hm[:, 0, axis, None].long() + reach for axis in (0, 1))
    on_grid = ((x >= 0) & (x < width))[:, None] & ((y >= 0) & (y < height))[:, :, None]
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    pixel = (y[:, :, None] * width + x[:, None]).flatten(1)
    near = supply.flatten(1).gather(1, pixel) * on_grid.flatten(1)
    sums = torch.nn.functional.avg_pool2d(supply, POOL, ceil_mode=True, divisor_override=1)
    cell = (y // POOL)[:, :, None] * cells(width) + (x // POOL)[:, None]
    far = sums.flatten(1).scatter_add_(1, cell.flatten(1), -near).clamp_min_(0)  # but for rounding
    return torch.cat([far, near], 1)


def pooled_windows(problem: TransportProblem, dtype: torch.dtype, log: bool) -> torch.Tensor:
    """K, (J, 4, n), of the middles of the cells, and of the pixels near the dot."""
    table = _views(_table(problem, dtype, log, POOL)[0], problem, POOL)
    far = table[_place(problem)].flatten(2)
    near = _near(_table(problem, dtype, log)[0]).expand(len(far), -1, -1)
    return torch.cat([far, near], 2)


def _near(table: torch.Tensor) -> torch.Tensor:
    """(4, NEAR^2) of a table by offset: the pixels near the dot, the same for every joint."""
    rows, columns = (
        slice(n // 2 - 1 - NEAR_BEFORE, n // 2 - 1 - NEAR_BEFORE + NEAR) for n in table.shape[1:]
    )
    return table[:, rows, columns].flatten(1)
