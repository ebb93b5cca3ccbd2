"""The adaptive wing loss: pixel-wise, steep near the target's foreground."""

from __future__ import annotations

import torch
from torch.nn.functional import max_pool2d

from posematch.errors import PosematchError
from posematch.losses.base import HeatmapLoss, Mask
from posematch.losses.gaussian_mass import check_sigma
from posematch.losses.gaussian_mse import Centre, gaussian_targets
from posematch.losses.mass import check_temperature, logits

# Wang et al.: what of the dilated target counts as foreground.
FOREGROUND = 0.2


class AdaptiveWing(HeatmapLoss):
    """Mean over pixels of the adaptive wing of h - g per joint, g a Gaussian with peak 1.

    Wang, Bo, Li: Adaptive Wing Loss for Robust Face Alignment via Heatmap Regression (ICCV 2019).
    With d = |h - g|::

        omega log(1 + (d / epsilon)^(alpha - g))    where d < theta
        A d - C                                     elsewhere,

    A and C such that value and slope are continuous at d = theta.

    Parameters
    ----------
    sigma, centre
        Of the Gaussian, see `gaussian_targets`; heatmap pixels.
    omega, theta, epsilon, alpha
        Of the formula, in units of the heatmap's values; alpha above 2, so that the slope is 0 at
        d = 0 also where g is 1.
    weight
        Pixels whose target, dilated by 3 x 3, is at least 0.2 weigh 1 + weight, the others 1; 0 is
        the loss without its weighted map.
    mask
        See `HeatmapLoss`.
    temperature
        The network's maps are divided by it first: how high a peak it has to learn.

    Examples
    --------
    >>> heatmaps, visible = torch.zeros(1, 1, 4, 4), torch.ones(1, 1)
    >>> dots = torch.tensor([[[1.0, 2.0]]])
    >>> AdaptiveWing(1.0)(heatmaps, dots, visible)
    tensor(28.8604)
    """

    def __init__(
        self,
        sigma: float,
        omega: float = 14.0,
        theta: float = 0.5,
        epsilon: float = 1.0,
        alpha: float = 2.1,
        weight: float = 10.0,
        centre: Centre = "quantised",
        mask: Mask = "inside",
        temperature: float = 1.0,
    ) -> None:
        super().__init__(mask, mask_sigma=sigma)
        check_sigma(sigma)
        check_temperature(temperature)
        self.temperature = temperature
        for name, value in (("omega", omega), ("theta", theta), ("epsilon", epsilon)):
            if value <= 0:
                raise PosematchError(f"loss.{name}={value} must be positive.")
        if alpha <= 2:
            raise PosematchError(f"loss.alpha={alpha} must be above 2.")
        if weight < 0:
            raise PosematchError(f"loss.weight={weight} must be at least 0.")
        if centre not in ("quantised", "subpixel"):
            raise PosematchError(f"loss.centre={centre} must be quantised or subpixel.")
        self.sigma = sigma
        self.omega = omega
        self.theta = theta
        self.epsilon = epsilon
        self.alpha = alpha
        self.weight = weight
        self.centre: Centre = centre

    def joint_losses(
        self, heatmaps: torch.Tensor, joints_hm: torch.Tensor, counted: torch.Tensor
    ) -> torch.Tensor:
        height, width = heatmaps.shape[-2:]
        targets = gaussian_targets(joints_hm, (height, width), self.sigma, self.centre)
        power = self.alpha - targets
        distance = (logits(heatmaps, self.temperature) - targets).abs()
        ratio = self.theta / self.epsilon
        at_theta = ratio**power
        slope = self.omega * power * (at_theta / ratio) / ((1 + at_theta) * self.epsilon)
        offset = self.theta * slope - self.omega * at_theta.log1p()
        # Cut at theta, so that the untaken branch stays finite.
        near = self.omega * (distance.clamp_max(self.theta) / self.epsilon).pow(power).log1p()
        losses = torch.where(distance < self.theta, near, slope * distance - offset)
        if self.weight > 0:
            foreground = max_pool2d(targets, kernel_size=3, stride=1, padding=1) >= FOREGROUND
            losses = losses * (1 + self.weight * foreground)
        return losses.mean(dim=(-2, -1))
