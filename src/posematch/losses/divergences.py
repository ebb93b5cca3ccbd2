"""Divergences between the heatmap as a distribution and a Gaussian around the dot."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from posematch.errors import PosematchError
from posematch.losses.base import HeatmapLoss
from posematch.losses.gaussian_mass import check_sigma, counted_dots, gaussian_log_mass
from posematch.losses.mass import SUPPLIES, Supply, check_temperature


class Divergence(HeatmapLoss):
    """A divergence of the heatmap's mass p from g, the Gaussian normalised over the grid.

    Parameters
    ----------
    sigma
        Of the Gaussian, whose centre is the sub-pixel dot; heatmap pixels.
    supply
        How a map becomes p: ``relu``, ``softplus``, ``softmax`` or ``sparsemax``; see `to_mass`.
    temperature
        The maps are divided by it before all but ``relu``.
    """

    default_decoder: ClassVar[Mapping[str, Any]] = {
        "_target_": "posematch.decoding.Barycentre",
        "radius_px": 2,
    }

    def __init__(self, sigma: float, supply: Supply = "softmax", temperature: float = 1.0) -> None:
        super().__init__()
        check_sigma(sigma)
        check_temperature(temperature)
        if supply not in SUPPLIES:
            raise PosematchError(f"loss.supply={supply} must be one of {', '.join(SUPPLIES)}.")
        self.sigma = sigma
        self.supply = supply
        self.temperature = temperature
        if supply == "relu":
            self.initial_bias = 1.0  # as Matching: every pixel starts with mass and a gradient

    def joint_losses(
        self, heatmaps: torch.Tensor, joints_hm: torch.Tensor, counted: torch.Tensor
    ) -> torch.Tensor:
        height, width = heatmaps.shape[-2:]
        dots_hm = counted_dots(joints_hm, counted)
        log_target = gaussian_log_mass(dots_hm, (height, width), self.sigma)
        return self.divergence(self.mass(heatmaps), log_target)

    @abstractmethod
    def divergence(self, mass: torch.Tensor, log_target: torch.Tensor) -> torch.Tensor:
        """(..., H, W) p and log g to (...) divergences in nats."""


class KLDivergence(Divergence):
    """KL(p || g) = sum p (log p - log g), in nats: from the heatmap to the Gaussian.

    The direction of Nibali et al. 2018 (Numerical Coordinate Regression with Convolutional Neural
    Networks), finite whatever p: where p is 0 so is the summand. The other direction,
    KL(g || p), is infinite for exact zeros; with a softmax supply it is `SpatialCrossEntropy` to a
    Gaussian, but for a constant.

    Examples
    --------
    >>> heatmaps, visible = torch.zeros(1, 1, 4, 4), torch.ones(1, 1)
    >>> dots = torch.tensor([[[1.0, 2.0]]])
    >>> KLDivergence(1.0)(heatmaps, dots, visible)
    tensor(0.4349)
    """

    def divergence(self, mass: torch.Tensor, log_target: torch.Tensor) -> torch.Tensor:
        return (x_log_x(mass) - mass * log_target).sum(dim=(-2, -1))


class JSDivergence(Divergence):
    """KL(p || m) / 2 + KL(g || m) / 2 with m = (p + g) / 2, in nats: between 0 and log 2.

    The regulariser that Nibali et al. 2018 (Numerical Coordinate Regression with Convolutional
    Neural Networks) found best, here as a loss of its own.

    Examples
    --------
    >>> heatmaps, visible = torch.zeros(1, 1, 4, 4), torch.ones(1, 1)
    >>> dots = torch.tensor([[[1.0, 2.0]]])
    >>> JSDivergence(1.0)(heatmaps, dots, visible)
    tensor(0.0848)
    """

    def divergence(self, mass: torch.Tensor, log_target: torch.Tensor) -> torch.Tensor:
        return jensen_shannon(mass, log_target)


def jensen_shannon(mass: torch.Tensor, log_target: torch.Tensor) -> torch.Tensor:
    """(..., H, W) p and log g to (...) Jensen-Shannon divergences in nats."""
    target = log_target.exp()
    mixture = 0.5 * (mass + target)
    # sum m log m contains both halves' log m.
    return (0.5 * (x_log_x(mass) + x_log_x(target)) - x_log_x(mixture)).sum(dim=(-2, -1))


def x_log_x(x: torch.Tensor) -> torch.Tensor:
    """x log x, 0 at 0, where the gradient is taken as 0, too.

    Its true gradient there, -inf, is met only by pixels whose own gradient is 0: ReLU's other side,
    those off a sparsemax's support and a softmax that has underflowed; their product is 0.
    """
    positive = x > torch.finfo(x.dtype).tiny
    return x * torch.where(positive, x, torch.ones_like(x)).log()
