"""How compact a heatmap is: the paper's "more compact" as numbers, of the maps that are decoded."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

RADIUS_PX = 2.0
# Sums are kept in whole millionths: exact under any split over batches and processes, and safe from
# devices without float64 and from half precision.
_MILLION = 1_000_000


class MapCompactness(NamedTuple):
    """Of each map, its positive part normalised to a sum of 1; lengths in heatmap pixels.

    Attributes
    ----------
    mass_within_2px
        (B, K) share of the mass whose pixels lie within the radius (2 px) of the highest one.
    mass_within_2px_of_truth
        (B, K) the same around the true, sub-pixel joint; NaN where the joint is not labelled.
    spread_px
        (B, K) root mean squared distance of the mass from its barycentre.

    A map without a positive pixel has no mass anywhere (0, 0), and no spread (NaN).
    """

    mass_within_2px: Tensor
    mass_within_2px_of_truth: Tensor
    spread_px: Tensor


@torch.no_grad()
def map_compactness(
    maps: Tensor, joints_hm: Tensor, visible: Tensor, radius_px: float = RADIUS_PX
) -> MapCompactness:
    """Compactness of each map, on its device.

    Parameters
    ----------
    maps
        (B, K, H, W) what the decoder gets: raw maps, or masses.
    joints_hm
        (B, K, 2) true joints in heatmap pixels; any finite value where not labelled.
    visible
        (B, K), > 0 where labelled.
    radius_px
        Of the disc around the peak and around the truth.

    Returns
    -------
    MapCompactness
        float32.

    Raises
    ------
    ValueError
        Shapes do not fit together.
    """
    batch, joints, height, width = maps.shape
    if joints_hm.shape != (batch, joints, 2) or visible.shape != (batch, joints):
        raise ValueError(
            f"expected joints_hm {(batch, joints, 2)} and visible {(batch, joints)} for maps"
            f" {tuple(maps.shape)}; got {tuple(joints_hm.shape)} and {tuple(visible.shape)}"
        )
    mass = maps.float().clamp_min(0)
    by_x, by_y = mass.sum(-2), mass.sum(-1)
    total = by_x.sum(-1)
    dead = total <= 0
    flat = mass.flatten(-2)
    peak = flat.argmax(-1)
    peak_hm = torch.stack([peak % width, peak // width], dim=-1)

    near_peak = _within(flat, (height, width), peak_hm, radius_px)
    near_truth = _within(flat, (height, width), joints_hm.float(), radius_px)
    # Measured from the peak, squares of a compact map are small: nothing cancels in float32.
    variance_px2 = _variance(by_x, total, peak_hm[..., 0])
    variance_px2 = variance_px2 + _variance(by_y, total, peak_hm[..., 1])
    total = total.masked_fill(dead, 1)
    return MapCompactness(
        (near_peak / total).clamp_max(1),
        (near_truth / total).clamp_max(1).masked_fill(visible <= 0, torch.nan),
        variance_px2.clamp_min(0).sqrt().masked_fill(dead, torch.nan),
    )


def _within(flat: Tensor, size: tuple[int, int], centres_hm: Tensor, radius_px: float) -> Tensor:
    """(B, K) sum of (B, K, H W) over the disc around (B, K, 2) centres."""
    height, width = size
    reach = int(radius_px) + 1
    steps = torch.arange(-reach, reach + 1, device=flat.device)
    dy, dx = (grid.flatten() for grid in torch.meshgrid(steps, steps, indexing="ij"))
    # Far outside the grid nothing is near; the clamp keeps whole numbers from overflowing.
    x0, y0 = centres_hm.clamp(-1e6, 1e6).round().long().unbind(-1)
    x, y = x0[..., None] + dx, y0[..., None] + dy
    squared_px = (x - centres_hm[..., 0, None]) ** 2 + (y - centres_hm[..., 1, None]) ** 2
    counted = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (squared_px <= radius_px**2)
    values = flat.gather(-1, y.clamp(0, height - 1) * width + x.clamp(0, width - 1))
    return (values * counted).sum(-1)


def _variance(marginal: Tensor, total: Tensor, origin: Tensor) -> Tensor:
    """(B, K) variance of position along an axis, of (B, K, n) marginals, not normalised."""
    position = torch.arange(marginal.shape[-1], device=marginal.device) - origin[..., None]
    share = marginal / total.clamp_min(torch.finfo(marginal.dtype).tiny)[..., None]
    mean = (share * position).sum(-1)
    return (share * (position - mean[..., None]) ** 2).sum(-1)


@torch.no_grad()
def map_covariance(maps: Tensor) -> Tensor:
    """Covariance of the mass's place on each map, in squares of heatmap pixels.

    Parameters
    ----------
    maps
        (B, K, H, W) as for `map_compactness`, whose ``spread_px`` is the root of its trace.

    Returns
    -------
    (B, K, 2, 2) float32, x before y; NaN for a map without a positive pixel.

    Examples
    --------
    >>> one = torch.zeros(1, 1, 4, 4)
    >>> one[0, 0, 1, [0, 2]] = 1
    >>> map_covariance(one)[0, 0].tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    mass = maps.float().clamp_min(0)
    height, width = mass.shape[-2:]
    by_x, by_y = mass.sum(-2), mass.sum(-1)
    total = by_x.sum(-1)
    dead = total <= 0
    # Measured from the peak, as above.
    peak = mass.flatten(-2).argmax(-1)
    peak_x, peak_y = peak % width, peak // width
    var_x, var_y = _variance(by_x, total, peak_x), _variance(by_y, total, peak_y)
    x = torch.arange(width, device=maps.device) - peak_x[..., None]
    y = torch.arange(height, device=maps.device) - peak_y[..., None]
    share = 1 / total.masked_fill(dead, 1)
    mean_x, mean_y = (by_x * x).sum(-1) * share, (by_y * y).sum(-1) * share
    # Along x first: no map of products of coordinates.
    along_x = (mass * (x - mean_x[..., None])[..., None, :]).sum(-1)
    both = (along_x * (y - mean_y[..., None])).sum(-1) * share
    rows = [torch.stack([var_x, both], dim=-1), torch.stack([both, var_y], dim=-1)]
    return torch.stack(rows, dim=-2).masked_fill(dead[..., None, None], torch.nan)


class Compactness(Metric):
    """Means of `map_compactness` over labelled joints.

    Spread over those that have one, the share of mass over all of them.
    """

    is_differentiable = False
    full_state_update = False

    millionths: Tensor
    counted: Tensor

    def __init__(self) -> None:
        super().__init__()
        for state in ("millionths", "counted"):
            zeros = torch.zeros(len(MapCompactness._fields), dtype=torch.int64)
            self.add_state(state, zeros, dist_reduce_fx="sum")

    def update(self, of_maps: MapCompactness, visible: Tensor) -> None:
        """Take in a batch.

        Parameters
        ----------
        of_maps
            `map_compactness` of the batch's maps.
        visible
            (B, K), > 0 where labelled.
        """
        values = torch.stack(list(of_maps))
        counted = (visible > 0) & ~values.isnan()
        millionths = (values.nan_to_num() * _MILLION).round().long() * counted
        self.millionths += millionths.sum((1, 2))
        self.counted += counted.sum((1, 2))

    def compute(self) -> dict[str, float]:
        """Means by the names of `MapCompactness`; one that no joint has is left out."""
        sums, counts = self.millionths.tolist(), self.counted.tolist()
        return {
            name: total / count / _MILLION
            for name, total, count in zip(MapCompactness._fields, sums, counts, strict=True)
            if count
        }
