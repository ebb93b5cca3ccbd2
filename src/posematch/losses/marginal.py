"""Losses on a map's marginals: its mass summed over rows, and over columns, each against the dot.

Two lines of W and H numbers in place of H x W: SimCC's classification of coordinates (Li et al.,
ECCV 2022), without its layers that make the lines, and transport, which a line has in closed form.
docs/theory.md (Marginals) says what a map that is good by its marginals may still get wrong.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch

from posematch.errors import PosematchError
from posematch.losses.base import HeatmapLoss
from posematch.losses.gaussian_mass import check_sigma, counted_dots, gaussian_log_profile
from posematch.losses.mass import SUPPLIES, MassSupply, Supply, check_temperature, logits


class MarginalLoss(HeatmapLoss):
    """Sum of a distance of the map's column sums from the dot's x, and of its row sums from y."""

    default_decoder: ClassVar[Mapping[str, Any]] = {
        "_target_": "posematch.decoding.Barycentre",
        "radius_px": 2,
    }

    def joint_losses(
        self, heatmaps: torch.Tensor, joints_hm: torch.Tensor, counted: torch.Tensor
    ) -> torch.Tensor:
        x, y = counted_dots(joints_hm, counted).unbind(-1)
        columns, rows = self.marginals(heatmaps)
        return self.distance(columns, x) + self.distance(rows, y)

    @abstractmethod
    def marginals(self, heatmaps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(..., H, W) raw maps to what `distance` takes of columns (..., W) and rows (..., H)."""

    @abstractmethod
    def distance(self, marginal: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """(..., L) marginals and (...) coordinates in pixels to (...) distances."""


class MarginalCrossEntropy(MarginalLoss):
    """-sum t log m over the columns, plus the same over the rows, in nats; softmax supply.

    SimCC's loss (Li et al., ECCV 2022), with the map's own marginals m in place of two vectors that
    a layer makes, and bins one heatmap pixel wide. At its best, m = t, it is t's entropy, not 0;
    without that it is KL(t || m).

    Parameters
    ----------
    target
        ``gaussian``: SimCC's smoothed label, around the sub-pixel dot, normalised over the grid.
        ``dot``: linear weights on the two nearest columns, and rows.
    sigma
        Of the Gaussian, heatmap pixels; not read for ``dot``. mmpose's SimCC has 6 bins, each half
        a pixel of the crop, an eighth of the heatmap's.
    temperature
        The maps are divided by it before the softmax.

    Examples
    --------
    >>> heatmaps, visible = torch.zeros(1, 1, 4, 8), torch.ones(1, 1)
    >>> dots = torch.tensor([[[1.0, 2.5]]])
    >>> MarginalCrossEntropy("dot")(heatmaps, dots, visible)  # log 8 + log 4
    tensor(3.4657)
    """

    supply: Supply = "softmax"

    def __init__(
        self,
        target: Literal["gaussian", "dot"] = "gaussian",
        sigma: float = 0.75,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if target not in ("gaussian", "dot"):
            raise PosematchError(f"loss.target={target} must be gaussian or dot.")
        check_sigma(sigma)
        check_temperature(temperature)
        self.target = target
        self.sigma = sigma
        self.temperature = temperature

    def marginals(self, heatmaps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logarithms: a line without mass still says which way there is more."""
        # The softmax's denominator is the same for the lines as for the pixels.
        maps = logits(heatmaps, self.temperature)
        return maps.logsumexp(-2).log_softmax(-1), maps.logsumexp(-1).log_softmax(-1)

    def distance(self, marginal: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        length = marginal.shape[-1]
        if self.target == "dot":
            target = linear_weights(place, length)
        else:
            target = gaussian_log_profile(place, length, self.sigma).exp()
        return -(target * marginal).sum(-1)


class MarginalTransport(MarginalLoss):
    """Cost of carrying the column sums onto the dot's two columns, plus the same for its rows.

    The dot has linear weights on the two nearest columns; a pixel of mass moved d columns costs
    d^power. On a line the best plan keeps the order, whatever the power from 1 on: with F the
    cumulative sums, the first part of the mass, as much as the lower column demands, goes there,
    the rest to the upper one. With power 1 the cost is sum |F - F_dot|, the Wasserstein distance.

    The sum over both axes is at most the transport of the map itself, with cost d_x^power +
    d_y^power, as that one's plan has marginals, too.

    Parameters
    ----------
    power
        1: heatmap pixels. 2: squares of them.
    supply, temperature
        How a map becomes a mass; see `to_mass`.

    Examples
    --------
    >>> heatmaps = torch.full((1, 1, 4, 8), -100.0)
    >>> heatmaps[0, 0, 1, 2] = 0.0  # all mass at (2, 1)
    >>> dots, visible = torch.tensor([[[5.25, 1.0]]]), torch.ones(1, 1)
    >>> MarginalTransport()(heatmaps, dots, visible)
    tensor(3.2500)
    """

    def __init__(
        self, power: float = 1.0, supply: MassSupply = "softmax", temperature: float = 1.0
    ) -> None:
        super().__init__()
        if not 1 <= power < float("inf"):
            raise PosematchError(f"loss.power={power} must be at least 1.")
        if supply not in SUPPLIES:
            raise PosematchError(f"loss.supply={supply} must be one of {', '.join(SUPPLIES)}.")
        check_temperature(temperature)
        self.power = power
        self.supply = supply
        self.temperature = temperature
        if supply == "relu":
            self.initial_bias = 1.0  # as Matching: every pixel starts with mass and a gradient

    def marginals(self, heatmaps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Masses."""
        mass = self.mass(heatmaps)
        return mass.sum(-2), mass.sum(-1)

    def distance(self, marginal: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        length = marginal.shape[-1]
        pixels = torch.arange(length, device=marginal.device)
        place = place.clamp(0, length - 1)[..., None]
        lower = place.floor()
        demand = 1 - (place - lower)  # of the lower pixel
        # A product, not torch.cumsum, which is not deterministic on CUDA, nor a matmul, which may
        # be done in TF32.
        upto = (pixels <= pixels[:, None]).to(marginal.dtype)
        cumulative = (marginal[..., None, :] * upto).sum(-1)
        filled = torch.minimum(cumulative, demand)
        to_lower = filled.diff(dim=-1, prepend=torch.zeros_like(demand))
        offset = pixels - lower
        cost_lower, cost_upper = offset.abs() ** self.power, (offset - 1).abs() ** self.power
        return (marginal * cost_upper + to_lower * (cost_lower - cost_upper)).sum(-1)


def linear_weights(place: torch.Tensor, length: int) -> torch.Tensor:
    """(...) coordinates to (..., L) weights on the two nearest pixels of a line; all on its end.

    The marginals of `posematch.transport.subpixel_demand`.

    Examples
    --------
    >>> linear_weights(torch.tensor([1.25, -0.5]), 4)
    tensor([[0.0000, 0.7500, 0.2500, 0.0000],
            [1.0000, 0.0000, 0.0000, 0.0000]])
    """
    pixels = torch.arange(length, dtype=place.dtype, device=place.device)
    return (1 - (pixels - place.clamp(0, length - 1)[..., None]).abs()).clamp_min(0)
