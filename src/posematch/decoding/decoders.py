"""Decoders: ``decoder(maps) -> joints_hm (B, K, 2), scores (B, K)``.

``maps`` are raw heatmaps of a loss that fixes the amplitude, or masses (`to_mass`) of one that
does not. Scores lie in [0, 1]; COCO's AP depends on which score a decoder gives.
"""

from __future__ import annotations

from typing import Protocol

import torch

from posematch.errors import PosematchError


class Decoder(Protocol):
    """(B, K, H, W) maps to (B, K, 2) joints in heatmap pixels and (B, K) scores."""

    def __call__(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...


class Argmax:
    """The highest pixel; its value, cut to [0, 1], is the score.

    A map without a positive value gives (0, 0), as HRNet's code does (PROTOCOLS 2.8).
    """

    def __call__(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        width = maps.shape[-1]
        peak, index = maps.flatten(-2).max(-1)
        joints_hm = torch.stack([index % width, index // width], dim=-1).to(maps.dtype)
        return joints_hm * (peak > 0)[..., None], peak.clamp(0, 1)


class QuarterOffset:
    """Argmax, moved a quarter pixel an axis towards the higher neighbour (PROTOCOLS 2.8).

    HRNet's edge rule: no move at all unless 1 < x < W - 1 and 1 < y < H - 1.
    """

    def __call__(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        joints_hm, scores = Argmax()(maps)
        height, width = maps.shape[-2:]
        x, y = joints_hm.long().unbind(-1)
        inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
        # Any inner pixel serves where the offset is not applied.
        x, y = x.clamp(1, width - 2), y.clamp(1, height - 2)
        flat = maps.flatten(-2)

        def value(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return flat.gather(-1, (y * width + x)[..., None])[..., 0]

        slope = torch.stack(
            [value(x + 1, y) - value(x - 1, y), value(x, y + 1) - value(x, y - 1)], dim=-1
        )
        return joints_hm + 0.25 * slope.sign() * inside[..., None], scores


class Barycentre:
    """Barycentre of the mass in a square window around the highest pixel.

    The score is the share of the map's positive mass that lies in the window.

    Parameters
    ----------
    radius_px
        The window is 2 radius + 1 heatmap pixels wide; what falls off the grid is left out.
    """

    def __init__(self, radius_px: int = 2) -> None:
        if radius_px < 1:
            raise PosematchError(f"decoder.radius_px={radius_px} must be at least 1.")
        self.radius_px = radius_px

    def __call__(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = maps.shape[-2:]
        mass = maps.flatten(-2).clamp_min(0)
        index = mass.argmax(-1)
        reach = torch.arange(-self.radius_px, self.radius_px + 1, device=maps.device)
        offset_y, offset_x = (
            grid.flatten() for grid in torch.meshgrid(reach, reach, indexing="ij")
        )
        x = (index % width)[..., None] + offset_x
        y = (index // width)[..., None] + offset_y
        on_grid = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        window = mass.gather(-1, (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)))
        window = window * on_grid
        tiny = torch.finfo(maps.dtype).tiny
        near = window.sum(-1)
        share = window / near.clamp_min(tiny)[..., None]
        joints_hm = torch.stack([(share * x).sum(-1), (share * y).sum(-1)], dim=-1)
        return joints_hm, (near / mass.sum(-1).clamp_min(tiny)).clamp(0, 1)
