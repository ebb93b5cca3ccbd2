"""Pixel-wise MSE to a Gaussian drawn around the dot: the field's usual loss."""

from __future__ import annotations

from typing import Literal

import torch

from posematch.errors import PosematchError
from posematch.losses.base import PATCH_RADIUS_SIGMAS, HeatmapLoss, Mask, mean_over_processes
from posematch.losses.mass import check_temperature, logits

Centre = Literal["quantised", "subpixel"]


def gaussian_targets(
    joints_hm: torch.Tensor, heatmap_size: tuple[int, int], sigma: float, centre: Centre
) -> torch.Tensor:
    """Gaussians with peak 1.

    Parameters
    ----------
    joints_hm
        (..., 2) dots in heatmap pixels.
    heatmap_size
        (H, W).
    sigma
        Heatmap pixels.
    centre
        ``quantised``: centre int(x + 0.5), cut off outside a square of 3 sigma, as HRNet's code
        (docs/protocols.md, Targets). ``subpixel``: centre x, over the whole map, as DARK's.

    Returns
    -------
    (..., H, W).

    Examples
    --------
    >>> gaussian_targets(torch.tensor([1.2, 0.0]), (2, 3), 1.0, "quantised")
    tensor([[0.6065, 1.0000, 0.6065],
            [0.3679, 0.6065, 0.3679]])
    """
    height, width = heatmap_size
    # Separable: exp(-(dx^2 + dy^2) / 2 sigma^2) is a product of two vectors.
    profiles = []
    for axis, length in ((0, width), (1, height)):
        place = joints_hm[..., axis, None]
        if centre == "quantised":
            place = (place + 0.5).trunc()
        offset = torch.arange(length, dtype=joints_hm.dtype, device=joints_hm.device) - place
        profile = torch.exp(-offset.square() / (2 * sigma**2))
        if centre == "quantised":
            profile = profile * (offset.abs() <= PATCH_RADIUS_SIGMAS * sigma)
        profiles.append(profile)
    return profiles[1][..., :, None] * profiles[0][..., None, :]


class GaussianMSE(HeatmapLoss):
    """Mean over pixels of (h / temperature - g)^2 per joint, g a Gaussian with peak 1.

    Parameters
    ----------
    sigma
        Heatmap pixels; 1, 2, 3 for maps 32, 64, 96 pixels high.
    centre
        See `gaussian_targets`.
    reduction
        ``mean`` over counted joints, or ``hrnet``: half the mean over all joints, those that do
        not count as zeros in the denominator, weights squared (docs/protocols.md, Losses).
    mask
        See `HeatmapLoss`.
    temperature
        The network's maps are divided by it: how high a peak it has to learn.

    Examples
    --------
    >>> heatmaps, visible = torch.zeros(1, 1, 4, 4), torch.ones(1, 1)
    >>> dots = torch.tensor([[[1.0, 2.0]]])
    >>> loss = GaussianMSE(sigma=1.0)
    >>> loss(heatmaps, dots, visible)
    tensor(0.1923)
    >>> perfect = gaussian_targets(dots, (4, 4), 1.0, "quantised")
    >>> loss(perfect, dots, visible)
    tensor(0.)
    """

    def __init__(
        self,
        sigma: float,
        centre: Centre = "quantised",
        reduction: Literal["mean", "hrnet"] = "mean",
        mask: Mask = "inside",
        temperature: float = 1.0,
    ) -> None:
        super().__init__(mask, mask_sigma=sigma)
        check_temperature(temperature)
        if sigma <= 0:
            raise PosematchError(f"loss.sigma={sigma} must be positive (heatmap pixels).")
        if centre not in ("quantised", "subpixel"):
            raise PosematchError(f"loss.centre={centre} must be quantised or subpixel.")
        if reduction not in ("mean", "hrnet"):
            raise PosematchError(f"loss.reduction={reduction} must be mean or hrnet.")
        self.sigma = sigma
        self.centre: Centre = centre
        self.reduction = reduction
        self.temperature = temperature

    def joint_losses(
        self, heatmaps: torch.Tensor, joints_hm: torch.Tensor, counted: torch.Tensor
    ) -> torch.Tensor:
        height, width = heatmaps.shape[-2:]
        targets = gaussian_targets(joints_hm, (height, width), self.sigma, self.centre)
        maps = logits(heatmaps, self.temperature)
        return (maps - targets).square().mean(dim=(-2, -1))

    def reduce(self, losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        if self.reduction == "mean":
            return super().reduce(losses, weights)
        everything = torch.full_like(losses, 1.0).sum()
        return 0.5 * mean_over_processes((losses * weights.square()).sum(), everything)


class GaussianMSEBestScale(GaussianMSE):
    """`GaussianMSE` of each map times the factor that makes it least.

    The factor is the least-squares one, <h, g> / <h, h>, or 0 where that is negative: a map turned
    upside down is no fit. So a loss that leaves the amplitude free can be measured against the
    Gaussian, too; validation gives it the training loss's masses.

    Parameters
    ----------
    sigma, centre, reduction, mask
        See `GaussianMSE`; a temperature would change nothing, as the factor takes it back.

    Examples
    --------
    >>> heatmaps, visible = torch.zeros(1, 1, 4, 4), torch.ones(1, 1)
    >>> dots = torch.tensor([[[1.0, 2.0]]])
    >>> maps = 7 * gaussian_targets(dots, (4, 4), 1.0, "quantised")
    >>> bool(GaussianMSEBestScale(sigma=1.0)(maps, dots, visible) < 1e-12)
    True
    """

    measures_mass = True

    def __init__(
        self,
        sigma: float,
        centre: Centre = "quantised",
        reduction: Literal["mean", "hrnet"] = "mean",
        mask: Mask = "inside",
    ) -> None:
        super().__init__(sigma, centre, reduction, mask)

    def joint_losses(
        self, heatmaps: torch.Tensor, joints_hm: torch.Tensor, counted: torch.Tensor
    ) -> torch.Tensor:
        height, width = heatmaps.shape[-2:]
        targets = gaussian_targets(joints_hm, (height, width), self.sigma, self.centre)
        # In two steps: a mass spread over the whole map has an <h, h> of 1e-4 and less.
        largest = heatmaps.abs().amax((-2, -1), keepdim=True)
        shape = heatmaps / largest.clamp_min(torch.finfo(heatmaps.dtype).tiny)
        fit = (shape * targets).sum((-2, -1), keepdim=True).clamp_min(0)
        power = shape.square().sum((-2, -1), keepdim=True)
        factor = fit / power.clamp_min(torch.finfo(heatmaps.dtype).tiny)
        return (factor * shape - targets).square().mean(dim=(-2, -1))
