"""UDP's combined target: a disk around the dot, and the way from each of its pixels to the dot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from posematch.errors import PosematchError
from posematch.losses.base import HeatmapLoss
from posematch.losses.gaussian_mass import counted_dots


class UDPCombined(HeatmapLoss):
    """Half of MSE(class) + MSE(disk * x offset) + MSE(disk * y offset), means over all pixels.

    Huang et al. 2020, The Devil is in the Details; docs/protocols.md, Targets. A joint has three
    maps, one after another: class, whose target is 1 on the disk and 0 elsewhere; x and y offset,
    whose target on the disk is (dot - pixel) / radius and which are free elsewhere. The published
    loss divides by all joints, those that do not count as zeros; this one, as all here, by those
    that count.

    Parameters
    ----------
    radius_share
        Radius of the disk over the map's height; the published 0.0546875 is 3.5 px of 64.

    Examples
    --------
    >>> heatmaps = torch.zeros(1, 3, 16, 16)  # class, x offset and y offset of one joint
    >>> dots, visible = torch.tensor([[[8.0, 8.0]]]), torch.ones(1, 1)
    >>> UDPCombined(radius_share=0.125)(heatmaps, dots, visible)
    tensor(0.0391)
    """

    mirror_signs = (1.0, -1.0, 1.0)

    def __init__(self, radius_share: float = 0.0546875) -> None:
        super().__init__()
        if not radius_share > 0:
            raise PosematchError(f"loss.radius_share={radius_share} must be positive.")
        self.radius_share = radius_share

    def decoder_config(self) -> Mapping[str, Any]:
        return {
            "_target_": "posematch.decoding.UDPCombined",
            "kernel": 11,
            "radius_share": self.radius_share,
        }

    def targets(
        self, joints_hm: torch.Tensor, heatmap_size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, K, H, W) bool disk, and the offsets to the dot over the radius from every pixel.

        The offsets are (B, K, 1, W) along x and (B, K, H, 1) along y.
        """
        height, width = heatmap_size
        radius_px = self.radius_share * height
        columns = torch.arange(width, dtype=joints_hm.dtype, device=joints_hm.device)
        rows = torch.arange(height, dtype=joints_hm.dtype, device=joints_hm.device)
        x = ((joints_hm[..., 0, None] - columns) / radius_px)[..., None, :]
        y = ((joints_hm[..., 1, None] - rows) / radius_px)[..., :, None]
        return x.square() + y.square() <= 1, x, y

    def joint_losses(
        self, heatmaps: torch.Tensor, joints_hm: torch.Tensor, counted: torch.Tensor
    ) -> torch.Tensor:
        height, width = heatmaps.shape[-2:]
        class_maps, x_maps, y_maps = (heatmaps[:, channel::3] for channel in range(3))
        disk, x, y = self.targets(counted_dots(joints_hm, counted), (height, width))
        offsets = (x_maps - x).square() + (y_maps - y).square()
        squared = (class_maps - disk.to(heatmaps.dtype)).square() + offsets * disk
        return 0.5 * squared.mean((-2, -1))
