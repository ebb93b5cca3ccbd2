"""Cross-entropy over the pixels: localisation as classification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch

from posematch.errors import PosematchError
from posematch.losses.base import HeatmapLoss
from posematch.losses.gaussian_mass import check_sigma, counted_dots, gaussian_log_mass
from posematch.losses.mass import Supply
from posematch.transport import subpixel_demand


class SpatialCrossEntropy(HeatmapLoss):
    """-sum t log softmax(h) over the pixels, in nats, t the target's mass; (B, K) losses.

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

    def __init__(self, target: Literal["dot", "gaussian"] = "dot", sigma: float = 2.0) -> None:
        super().__init__()
        if target not in ("dot", "gaussian"):
            raise PosematchError(f"loss.target={target} must be dot or gaussian.")
        check_sigma(sigma)
        self.target = target
        self.sigma = sigma

    def joint_losses(
        self, heatmaps: torch.Tensor, joints_hm: torch.Tensor, counted: torch.Tensor
    ) -> torch.Tensor:
        height, width = heatmaps.shape[-2:]
        dots_hm = counted_dots(joints_hm, counted)
        log_mass = heatmaps.flatten(-2).log_softmax(-1)
        if self.target == "gaussian":
            target = gaussian_log_mass(dots_hm, (height, width), self.sigma).exp()
            return -(target.flatten(-2) * log_mass).sum(-1)
        pixels, demand = subpixel_demand(dots_hm.flatten(0, 1), (height, width))
        # Pixels off the grid have no demand: any pixel on it serves.
        x, y = pixels.long().unbind(-1)
        index = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
        at_dot = log_mass.flatten(0, 1).gather(-1, index)
        return -(demand.to(at_dot.dtype) * at_dot).sum(-1).reshape(counted.shape)
