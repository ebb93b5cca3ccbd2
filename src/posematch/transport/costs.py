"""What it costs to carry mass from a pixel to a place, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from posematch.errors import PosematchError

CostName = Literal["l2", "squared_l2", "l1", "power", "oks", "log1p", "truncated", "miss"]


WITHOUT_SCALE = ("l2", "l1", "squared_l2")  # costs that `Cost.scale_px` is no part of


@dataclass(frozen=True)
class Cost:
    """Cost of the way (dx, dy), d its length in heatmap pixels.

    Attributes
    ----------
    name
        ``l2``: d, the paper's. ``squared_l2``: d^2 / 2. ``l1``: abs(dx) + abs(dy). ``power``:
        (d / scale_px)^power. ``oks``: 1 - exp(-d^2 / (2 scale_px^2)), COCO's similarity as a
        distance. ``log1p``: log(1 + d / scale_px). ``truncated``: min(d, scale_px). ``miss``: 1
        where d > scale_px, else 0, what PCKh counts as wrong.
    scale_px
        Length in heatmap pixels; ``l2``, ``squared_l2`` and ``l1`` do not use it.
    power
        Positive; of ``power`` only.
    """

    name: CostName = "l2"
    scale_px: float = 1.0
    power: float = 1.5

    def __post_init__(self) -> None:
        if self.name not in get_args(CostName):
            raise PosematchError(
                f"loss.cost={self.name} must be one of {', '.join(get_args(CostName))}."
            )
        for key in ("scale_px", "power"):
            if not 0 < getattr(self, key) < float("inf"):
                raise PosematchError(f"loss.{key}={getattr(self, key)} must be positive.")

    def __call__(
        self, dx: torch.Tensor, dy: torch.Tensor, width_px: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Broadcast differences in heatmap pixels to costs.

        ``width_px``, positive and broadcast too, stands in for `scale_px`; ``l2``, ``l1`` and
        ``squared_l2``, which have none, are then of the way in units of it.
        """
        scale: float | torch.Tensor = self.scale_px if width_px is None else width_px
        if width_px is not None and self.name in WITHOUT_SCALE:
            dx, dy = dx / scale, dy / scale
        if self.name == "l1":
            return dx.abs() + dy.abs()
        squared = dx.square() + dy.square()
        if self.name == "squared_l2":
            return squared / 2
        if self.name == "oks":
            return -torch.expm1(-squared / (2 * scale**2))
        if self.name == "power":
            relative: torch.Tensor = squared / scale**2
            return relative ** (self.power / 2)
        distance = squared.sqrt()
        if self.name == "log1p":
            return torch.log1p(distance / scale)
        if self.name == "truncated":
            return distance.clamp_max(scale)
        if self.name == "miss":
            return (distance > scale).to(distance.dtype)
        return distance


L2 = Cost("l2")
