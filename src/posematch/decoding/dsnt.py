"""The decoder of `posematch.losses.DSNT`: soft-argmax."""

from __future__ import annotations

import torch

from posematch.errors import PosematchError


class DSNTDecoder:
    """Barycentre of the whole map's positive mass, for masses the soft-argmax (Nibali et al. 2018).

    The score is the share of that mass within a square window around the barycentre.

    Parameters
    ----------
    radius_px
        Half the window's width, heatmap pixels.
    """

    def __init__(self, radius_px: float = 2) -> None:
        if radius_px <= 0:
            raise PosematchError(f"decoder.radius_px={radius_px} must be positive.")
        self.radius_px = radius_px

    def __call__(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = maps.shape[-2:]
        mass = maps.clamp_min(0)
        mass = mass / mass.sum((-2, -1), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
        columns = torch.arange(width, dtype=maps.dtype, device=maps.device)
        rows = torch.arange(height, dtype=maps.dtype, device=maps.device)
        x, y = mass.sum(-2) @ columns, mass.sum(-1) @ rows
        near_x = (columns - x[..., None]).abs() <= self.radius_px
        near_y = (rows - y[..., None]).abs() <= self.radius_px
        near = (mass * near_x[..., None, :] * near_y[..., :, None]).sum((-2, -1))
        return torch.stack([x, y], dim=-1), near.clamp(0, 1)
