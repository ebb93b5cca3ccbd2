"""The Gaussian as a probability over the pixels: the target of losses between distributions."""

from __future__ import annotations

import torch

from posematch.errors import PosematchError


def gaussian_log_mass(
    joints_hm: torch.Tensor, heatmap_size: tuple[int, int], sigma: float
) -> torch.Tensor:
    """Logarithms of Gaussians around the dots themselves, normalised over the grid.

    Parameters
    ----------
    joints_hm
        (..., 2) dots in heatmap pixels, sub-pixel.
    heatmap_size
        (H, W).
    sigma
        Heatmap pixels.

    Returns
    -------
    (..., H, W); finite everywhere, also where the mass itself underflows to 0.

    Examples
    --------
    >>> mass = gaussian_log_mass(torch.tensor([1.0, 2.0]), (4, 4), 1.0).exp()
    >>> mass.shape, round(float(mass.sum()), 6)
    (torch.Size([4, 4]), 1.0)
    """
    height, width = heatmap_size
    profiles = []
    for axis, length in ((0, width), (1, height)):
        pixels = torch.arange(length, dtype=joints_hm.dtype, device=joints_hm.device)
        offset = pixels - joints_hm[..., axis, None]
        # Separable, so each axis is normalised alone.
        profiles.append((-offset.square() / (2 * sigma**2)).log_softmax(-1))
    return profiles[1][..., :, None] + profiles[0][..., None, :]


def counted_dots(joints_hm: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """(B, K, 2) dots with those that do not count, which may be anywhere, moved to pixel (0, 0)."""
    return torch.where(counted[..., None], joints_hm, torch.zeros_like(joints_hm))


def check_sigma(sigma: float) -> None:
    """Raise a sentence unless a width in heatmap pixels is positive."""
    if sigma <= 0:
        raise PosematchError(f"loss.sigma={sigma} must be positive (heatmap pixels).")
