"""Pixel-wise MSE to the dot itself: the paper's second baseline (supplement, section B)."""

from __future__ import annotations

import torch

from posematch.losses.base import HeatmapLoss
from posematch.losses.mass import check_temperature, logits


class DotMSE(HeatmapLoss):
    """Mean over pixels of (h / temperature - t)^2 per joint, t one at pixel int(x + 0.5) alone.

    Parameters
    ----------
    temperature
        The network's maps are divided by it: how high a peak it has to learn.

    Examples
    --------
    >>> heatmaps, visible = torch.zeros(1, 1, 4, 4), torch.ones(1, 1)
    >>> dots = torch.tensor([[[1.0, 2.0]]])
    >>> DotMSE()(heatmaps, dots, visible)  # one of 16 pixels is wrong by 1
    tensor(0.0625)
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        check_temperature(temperature)
        self.temperature = temperature

    def joint_losses(
        self, heatmaps: torch.Tensor, joints_hm: torch.Tensor, counted: torch.Tensor
    ) -> torch.Tensor:
        height, width = heatmaps.shape[-2:]
        pixel = (joints_hm + 0.5).trunc().long()
        on_grid = counted & ((pixel >= 0) & (pixel < pixel.new_tensor([width, height]))).all(-1)
        index = (pixel[..., 1] * width + pixel[..., 0]).where(
            on_grid, torch.zeros_like(pixel[..., 0])
        )
        flat = logits(heatmaps, self.temperature).flatten(-2)
        at_dot = flat.gather(-1, index[..., None])[..., 0]
        # sum (h - t)^2 = sum h^2 + (1 - 2 h) at the dot: the one-hot map is never made.
        total = flat.square().sum(-1) + torch.where(on_grid, 1 - 2 * at_dot, 0.0)
        return total / (height * width)
