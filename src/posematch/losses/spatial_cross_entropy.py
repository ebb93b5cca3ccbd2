"""Cross-entropy over the pixels: localisation as classification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch

from posematch.errors import PosematchError
from posematch.losses.base import HeatmapLoss
from posematch.losses.gaussian_mass import check_sigma, counted_dots, gaussian_log_mass
from posematch.losses.mass import Supply, check_temperature, logits
from posematch.transport import subpixel_demand


class SpatialCrossEntropy(HeatmapLoss):
    """-sum t log softmax(h / temperature) over the pixels, in nats; t: target's mass; (B, K).

    Mask R-CNN's loss of keypoints (He et al., ICCV 2017), its one-hot target generalised. At its
    best, softmax(h) = t, it is t's entropy, not 0.

    Parameters
    ----------
    target
        ``dot``: bilinear masses on the four pixels around the sub-pixel dot, as the matching loss
        demands; Mask R-CNN's one-hot where the dot is a pixel's centre. ``gaussian``: around the
        sub-pixel dot, normalised over the grid.
    sigma
        Of the Gaussian, heatmap pixels; not read for ``dot``.
    pool
        Pixels of a block's side: the cross-entropy is between the masses of blocks, so that where
        in its block a mass lies does not matter. 1: of the pixels.
    temperature
        The maps are divided by it before the softmax.

    Examples
    --------
    >>> heatmaps, visible = torch.zeros(1, 1, 4, 4), torch.ones(1, 1)
    >>> dots = torch.tensor([[[1.0, 2.0]]])
    >>> SpatialCrossEntropy()(heatmaps, dots, visible)  # log 16
    tensor(2.7726)
    """

    supply: Supply = "softmax"
    default_decoder: ClassVar[Mapping[str, Any]] = {
        "_target_": "posematch.decoding.Barycentre",
        "radius_px": 2,
    }

    def __init__(
        self,
        target: Literal["dot", "gaussian"] = "dot",
        sigma: float = 2.0,
        pool: int = 1,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if target not in ("dot", "gaussian"):
            raise PosematchError(f"loss.target={target} must be dot or gaussian.")
        check_sigma(sigma)
        if pool < 1:
            raise PosematchError(f"loss.pool={pool} must be at least 1.")
        check_temperature(temperature)
        self.target = target
        self.sigma = sigma
        self.pool = pool
        self.temperature = temperature

    def joint_losses(
        self, heatmaps: torch.Tensor, joints_hm: torch.Tensor, counted: torch.Tensor
    ) -> torch.Tensor:
        height, width = heatmaps.shape[-2:]
        if self.pool >= max(height, width):
            raise PosematchError(
                f"loss.pool={self.pool} makes one block of a map of {width} x {height} pixels,"
                " whose mass is always 1; take a smaller one."
            )
        dots_hm = counted_dots(joints_hm, counted)
        log_mass = logits(heatmaps, self.temperature).flatten(-2).log_softmax(-1)
        blocks = -(-width // self.pool)  # in a row; the last may be narrower
        if self.pool > 1:
            log_mass = _log_pooled(log_mass.view_as(heatmaps), self.pool).flatten(-2)
        if self.target == "gaussian":
            log_target = gaussian_log_mass(dots_hm, (height, width), self.sigma)
            if self.pool > 1:
                log_target = _log_pooled(log_target, self.pool)
            return -(log_target.exp().flatten(-2) * log_mass).sum(-1)
        pixels, demand = subpixel_demand(dots_hm.flatten(0, 1), (height, width))
        # Pixels off the grid have no demand: any pixel on it serves.
        x, y = pixels.long().unbind(-1)
        row, column = y.clamp(0, height - 1) // self.pool, x.clamp(0, width - 1) // self.pool
        index = row * blocks + column
        at_dot = log_mass.flatten(0, 1).gather(-1, index)
        return -(demand.to(at_dot.dtype) * at_dot).sum(-1).reshape(counted.shape)


def _log_pooled(log_mass: torch.Tensor, side: int) -> torch.Tensor:
    """(..., H, W) logarithms of masses to those of blocks; the last ones may be smaller."""
    height, width = log_mass.shape[-2:]
    missing = (0, -width % side, 0, -height % side)
    padded = torch.nn.functional.pad(log_mass, missing, value=-torch.inf)
    rows, columns = padded.shape[-2] // side, padded.shape[-1] // side
    blocks = padded.reshape(*padded.shape[:-2], rows, side, columns, side)
    return blocks.logsumexp((-3, -1))
