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
    x, y = joints_hm.unbind(-1)
    # Separable, so each axis is normalised alone.
    columns = gaussian_log_profile(x, width, sigma)
    rows = gaussian_log_profile(y, height, sigma)
    return rows[..., :, None] + columns[..., None, :]


def gaussian_log_profile(place: torch.Tensor, length: int, sigma: float) -> torch.Tensor:
    """(...) coordinates to (..., L) logarithms of Gaussians, normalised over a line of L pixels."""
    pixels = torch.arange(length, dtype=place.dtype, device=place.device)
    offset = pixels - place[..., None]
    return (-offset.square() / (2 * sigma**2)).log_softmax(-1)


def counted_dots(joints_hm: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """(B, K, 2) dots with those that do not count, which may be anywhere, moved to pixel (0, 0)."""
    return torch.where(counted[..., None], joints_hm, torch.zeros_like(joints_hm))


def check_sigma(sigma: float) -> None:
    """Raise a sentence unless a width in heatmap pixels is positive."""
    if sigma <= 0:
        raise PosematchError(f"loss.sigma={sigma} must be positive (heatmap pixels).")
