"""DARK: the peak of a Gaussian, from the logarithm of the blurred map around the highest pixel.

Zhang et al. 2020, Distribution-Aware Coordinate Representation for Human Pose Estimation. One
Newton step on the log of the map, which is a parabola where the map is a Gaussian.

The published code blurs whole maps, then scales each back to its old peak. Only thirteen blurred
values of a map are read, so only those are computed here; the factor cancels in the logarithm's
derivatives, unless a value lies below the floor that they are cut off at. Maps with such a value
are blurred whole.
"""

from __future__ import annotations

import torch

from posematch.arithmetic import is_recorded
from posematch.decoding.peaks import Peaks, accurate, blur_at, blur_matrix, grid, window
from posematch.errors import PosematchError

# Below this the published code (docs/protocols.md, Decoders) cuts the blurred map off.
FLOOR = 1e-10
_REACH = 2  # of the points, pixels
_POINTS = (
    (0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (2, 0), (-2, 0), (0, 2), (0, -2),
    (1, 1), (1, -1), (-1, 1), (-1, -1),
)  # fmt: skip


class DARK:
    """Newton's step on the log of the blurred map, as published (docs/protocols.md, Decoders).

    Peaks outside 1 < x < W - 2 and 1 < y < H - 2 stay where they are, so do those whose Hessian is
    singular. A step has no limit, as published. The score is the raw peak, cut to [0, 1].

    For raw maps, and for masses: a map's scale matters only against the floor of 1e-10.

    Parameters
    ----------
    kernel
        Width of the blur, odd; published are 11 for maps 64 pixels high and 3 for 32 (128 x 96
        crops). mmpose takes 11 for sigma 2 and 17 for sigma 3.

    Examples
    --------
    >>> from posematch.losses import gaussian_targets
    >>> maps = gaussian_targets(torch.tensor([[[10.3, 8.0]]]), (16, 20), 2.0, "subpixel")
    >>> joints_hm, scores = DARK()(maps)
    >>> joints_hm
    tensor([[[10.2998,  8.0000]]])
    """

    def __init__(self, kernel: int = 11) -> None:
        self.kernel = check_kernel(kernel)

    def __call__(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        peaks = Peaks.of(maps)
        height, width = maps.shape[-2:]
        pixels, _, _ = window(maps, peaks.x, peaks.y, _REACH + self.kernel // 2)
        blurred = blur_at(accurate(pixels), self.kernel, _POINTS)
        # Stored in the maps' precision, as published: equal values stay equal, and a flat
        # neighbourhood has a Hessian of exactly 0.
        blurred = blurred.to(maps.dtype)
        floor = torch.full_like(peaks.value, FLOOR)
        log = accurate(cut_off(blurred, maps, peaks, self.kernel, floor)).log()
        moves = (peaks.x > 1) & (peaks.x < width - 2) & (peaks.y > 1) & (peaks.y < height - 2)
        step = newton_step(log) * moves[..., None]
        return peaks.joints_hm() + step.to(maps.dtype), peaks.scores


class EdgeDARK:
    """posematch's own: DARK whose blur knows what lies beyond the map's border.

    A Gaussian that the border cuts off looks shifted inwards after a blur that finds nothing
    there, which is why DARK leaves peaks near it alone. Here the pixels off the grid are filled
    first: with the round Gaussian that fits the pixels on the grid around the peak (least squares
    of the log, weighted by the squared value, Guo 2011, and by the distance from the peak). Where
    those determine no such Gaussian (a mass on four pixels, say) nothing is filled in.

    Peaks whose window lies on the grid are decoded as by `DARK`, but for two things: a joint stays
    within a pixel of the highest one on each axis, and the floor is relative to the peak. The score
    is the raw peak, cut to [0, 1]. For raw maps and masses: the scale does not matter.

    Parameters
    ----------
    kernel
        As `DARK`'s.

    Examples
    --------
    >>> from posematch.losses import gaussian_targets
    >>> maps = gaussian_targets(torch.tensor([[[10.3, 8.0]]]), (16, 20), 2.0, "subpixel")
    >>> joints_hm, scores = EdgeDARK()(maps)
    >>> joints_hm
    tensor([[[10.2998,  8.0000]]])
    """

    def __init__(self, kernel: int = 11) -> None:
        self.kernel = check_kernel(kernel)

    def __call__(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        peaks = Peaks.of(maps)
        radius_px = _REACH + self.kernel // 2
        pixels, on_columns, on_rows = window(maps, peaks.x, peaks.y, radius_px)
        scale = torch.where(peaks.positive, peaks.value, torch.ones_like(peaks.value))
        pixels = accurate(pixels) / accurate(scale)[..., None, None]
        cut = peaks.positive & ~(on_columns.all(-1) & on_rows.all(-1))
        on_grid = on_rows[..., None] & on_columns[..., None, :]
        if is_recorded():
            pixels = torch.where(cut[..., None, None], _filled(pixels, on_grid), pixels)
        else:
            pixels[cut] = _filled(pixels[cut], on_grid[cut])
        log = blur_at(pixels, self.kernel, _POINTS).clamp_min(FLOOR).log()
        step = newton_step(log).clamp(-1, 1) * peaks.positive[..., None]
        return peaks.joints_hm() + step.to(maps.dtype), peaks.scores


def check_kernel(kernel: int) -> int:
    """The width of a blur, if it is odd and positive."""
    if kernel < 1 or kernel % 2 == 0:
        raise PosematchError(f"decoder.kernel={kernel} must be odd and at least 1.")
    return kernel


def newton_step(log: torch.Tensor) -> torch.Tensor:
    """(B, K, 13) logs at `_POINTS` to (B, K, 2) steps onto the parabola's top; 0 if singular."""
    at = dict(zip(_POINTS, log.unbind(-1), strict=True))
    dx = 0.5 * (at[1, 0] - at[-1, 0])
    dy = 0.5 * (at[0, 1] - at[0, -1])
    dxx = 0.25 * (at[2, 0] - 2 * at[0, 0] + at[-2, 0])
    dyy = 0.25 * (at[0, 2] - 2 * at[0, 0] + at[0, -2])
    dxy = 0.25 * (at[1, 1] - at[1, -1] - at[-1, 1] + at[-1, -1])
    determinant = dxx * dyy - dxy.square()
    regular = determinant != 0
    step = torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], dim=-1)
    step = step / torch.where(regular, determinant, 1)[..., None]
    return step * regular[..., None]


def cut_off(
    blurred: torch.Tensor, maps: torch.Tensor, peaks: Peaks, kernel: int, floor: torch.Tensor
) -> torch.Tensor:
    """Blurred values scaled so that the whole blurred map's peak is the raw one, and cut off below.

    Parameters
    ----------
    blurred
        (B, K, P) values of the maps' blur, zero beyond their border.
    maps, peaks, kernel
        What was blurred, where it is highest, and by which kernel.
    floor
        (B, K).

    Returns
    -------
    (B, K, P), not scaled where that makes no difference to the log's derivatives: where all values
    stay above the floor. A map that is nowhere positive after the blur has the floor everywhere.
    """
    # The kernel's sum is at most 1, so the factor is at least 1: what is above the floor stays so.
    low = peaks.positive & (blurred < floor[..., None]).any(-1)
    if is_recorded():
        factor = _peak_factor(maps, peaks.value, kernel).to(blurred)
        blurred = blurred * torch.where(low, factor, 1)[..., None]
    elif bool(low.any()):
        factor = _peak_factor(maps[low], peaks.value[low], kernel).to(blurred)
        blurred = blurred.clone()
        blurred[low] *= factor[:, None]
    return torch.maximum(blurred, floor[..., None])


def _peak_factor(maps: torch.Tensor, peaks: torch.Tensor, kernel: int) -> torch.Tensor:
    """(...) by what the blur of (..., H, W) maps has to be multiplied to have these peaks."""
    whole = accurate(maps)
    rows, columns = (
        torch.from_numpy(blur_matrix(length, kernel, reflected=False)).to(whole)
        for length in grid(maps)
    )
    highest = (rows @ whole @ columns.T).amax((-2, -1))
    return torch.where(highest > 0, accurate(peaks) / highest, 0)


def _filled(pixels: torch.Tensor, on_grid: torch.Tensor) -> torch.Tensor:
    """Squares of pixels with the fitted Gaussian where they lie off the grid.

    Parameters
    ----------
    pixels
        (..., N, N) with 1 in the middle, 0 off the grid.
    on_grid
        (..., N, N) bool.
    """
    radius = pixels.shape[-1] // 2
    reach = torch.arange(-radius, radius + 1, device=pixels.device).to(pixels)
    y, x = (one.flatten() for one in torch.meshgrid(reach, reach, indexing="ij"))
    squared = x.square() + y.square()
    # log g = c + b . (x, y) + a (x^2 + y^2): four unknowns of a round Gaussian.
    terms = torch.stack([torch.ones_like(x), x, y, squared], dim=-1)
    values = pixels.flatten(-2).clamp_min(0)
    near = torch.exp(-squared / (0.5 * radius**2))
    weights = values.square() * near
    log = torch.where(values > 0, values, 1).log()  # the others have no weight
    weighted = weights[..., None] * terms
    normal = weighted.mT @ terms
    right = (weighted.mT @ log[..., None])[..., 0]
    fit, pivots = _solved(normal, right)
    # The last pivot is what x^2 + y^2 adds to the others: nothing, for a mass on four pixels.
    fills = (pivots > 0).all(-1) & (pivots[..., 3] > 1e-10 * normal[..., 3, 3]) & (fit[..., 3] < 0)
    # Never above the peak, whatever a bad fit says.
    model = torch.exp((fit @ terms.T).clamp_max(0)) * fills[..., None]
    return torch.where(on_grid, pixels, model.view(pixels.shape))


def _solved(matrices: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Solve small symmetric systems by L D L^T, written out: ONNX has no factorisation.

    Parameters
    ----------
    matrices, right
        (..., N, N) and (..., N).

    Returns
    -------
    solutions, pivots
        (..., N) and D, (..., N): all positive if and only if the matrix is positive definite; else
        the solution is finite and means nothing.
    """
    size = right.shape[-1]
    lower: dict[tuple[int, int], torch.Tensor] = {}
    pivots: list[torch.Tensor] = []
    divisors: list[torch.Tensor] = []
    for column in range(size):
        for row in range(column, size):
            entry = matrices[..., row, column]
            for k in range(column):
                entry = entry - lower[row, k] * lower[column, k] * pivots[k]
            if row == column:
                pivots.append(entry)
                divisors.append(torch.where(entry > 0, entry, 1))
            else:
                lower[row, column] = entry / divisors[column]
    solution: list[torch.Tensor] = []
    for row in range(size):
        known = right[..., row]
        for k in range(row):
            known = known - lower[row, k] * solution[k]
        solution.append(known)
    solution = [one / divisor for one, divisor in zip(solution, divisors, strict=True)]
    for row in reversed(range(size)):
        for k in range(row + 1, size):
            solution[row] = solution[row] - lower[k, row] * solution[k]
    return torch.stack(solution, -1), torch.stack(pivots, -1)
