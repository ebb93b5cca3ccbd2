"""A loss of one's own."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from posematch.losses import HeatmapLoss


class CrossEntropy(HeatmapLoss):
    """Cross-entropy of the softmax over all pixels, the pixel nearest to the dot as its class."""

    supply = "softmax"  # how a map becomes a probability, for the flip test and the decoder
    default_decoder: ClassVar[Mapping[str, Any]] = {
        "_target_": "posematch.decoding.Barycentre",
        "radius_px": 2,
    }

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature

    def joint_losses(self, heatmaps: Tensor, joints_hm: Tensor, counted: Tensor) -> Tensor:
        """(B, K, H, W) maps, (B, K, 2) dots in heatmap pixels, (B, K) bool to (B, K) losses."""
        width = heatmaps.shape[-1]
        x, y = (joints_hm + 0.5).floor().long().unbind(-1)
        pixel = torch.where(counted, y * width + x, 0)  # where not counted anything finite will do
        log_p = (heatmaps.flatten(-2) / self.temperature).log_softmax(-1)
        return -log_p.gather(-1, pixel[..., None])[..., 0]
