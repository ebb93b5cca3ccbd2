"""Coordinates from the whole map (soft-argmax), regularised towards a Gaussian."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from posematch.errors import PosematchError
from posematch.losses.base import HeatmapLoss
from posematch.losses.divergences import jensen_shannon
from posematch.losses.gaussian_mass import check_sigma, counted_dots, gaussian_log_mass
from posematch.losses.mass import Supply, check_temperature


class DSNT(HeatmapLoss):
    """Distance of the softmax map's expectation from the dot, plus a Jensen-Shannon regulariser.

    Nibali et al. 2018, Numerical Coordinate Regression with Convolutional Neural Networks (the
    differentiable spatial to numerical transform). The distance is Euclidean in coordinates that
    run from -1 to 1 over the map's outer edges, (2 x + 1) / W - 1 and (2 y + 1) / H - 1; the
    regulariser is in nats.

    Parameters
    ----------
    regularisation
        Factor of the regulariser, the paper's lambda.
    sigma
        Of its Gaussian around the sub-pixel dot, heatmap pixels.
    temperature
        The maps are divided by it before the softmax.

    Examples
    --------
    >>> heatmaps, visible = torch.zeros(1, 1, 4, 4), torch.ones(1, 1)
    >>> dots = torch.tensor([[[1.0, 2.0]]])
    >>> DSNT(regularisation=0)(heatmaps, dots, visible)  # half a pixel off in x and y
    tensor(0.3536)
    """

    supply: Supply = "softmax"
    default_decoder: ClassVar[Mapping[str, Any]] = {
        "_target_": "posematch.decoding.SoftArgmax",
        "temperature": 1.0,
        "radius_px": 2,
    }

    def __init__(
        self, regularisation: float = 1.0, sigma: float = 1.0, temperature: float = 1.0
    ) -> None:
        super().__init__()
        check_sigma(sigma)
        check_temperature(temperature)
        if regularisation < 0:
            raise PosematchError(f"loss.regularisation={regularisation} must be at least 0.")
        self.regularisation = regularisation
        self.sigma = sigma
        self.temperature = temperature

    def joint_losses(
        self, heatmaps: torch.Tensor, joints_hm: torch.Tensor, counted: torch.Tensor
    ) -> torch.Tensor:
        height, width = heatmaps.shape[-2:]
        dots_hm = counted_dots(joints_hm, counted)
        mass = self.mass(heatmaps)
        error_hm = expectation(mass) - dots_hm
        # A pixel is 2 / W wide in normalised coordinates. The norm's gradient at 0 is 0.
        error = 2 * error_hm / error_hm.new_tensor([width, height])
        distance: torch.Tensor = torch.linalg.vector_norm(error, dim=-1)
        log_target = gaussian_log_mass(dots_hm, (height, width), self.sigma)
        return distance + self.regularisation * jensen_shannon(mass, log_target)


def expectation(mass: torch.Tensor) -> torch.Tensor:
    """(..., H, W) masses that sum to 1 to their (..., 2) barycentres, x then y, in pixels."""
    height, width = mass.shape[-2:]
    columns = torch.arange(width, dtype=mass.dtype, device=mass.device)
    rows = torch.arange(height, dtype=mass.dtype, device=mass.device)
    return torch.stack([mass.sum(-2) @ columns, mass.sum(-1) @ rows], dim=-1)
