"""A decoder of one's own."""

import torch


class PowerBarycentre:
    """Barycentre of the whole map; its highest value is the score.

    Parameters
    ----------
    sharpness
        Power that each map is raised to first.
    """

    def __init__(self, sharpness: float = 1.0) -> None:
        self.sharpness = sharpness

    def __call__(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, K, H, W) maps to (B, K, 2) joints in heatmap pixels, x then y, and (B, K) scores."""
        height, width = maps.shape[-2:]
        mass = maps.clamp_min(0) ** self.sharpness
        mass = mass / mass.sum((-2, -1), keepdim=True).clamp_min(1e-12)
        x = (mass.sum(-2) * torch.arange(width, device=maps.device)).sum(-1)
        y = (mass.sum(-1) * torch.arange(height, device=maps.device)).sum(-1)
        return torch.stack([x, y], dim=-1), maps.amax((-2, -1)).clamp(0, 1)
