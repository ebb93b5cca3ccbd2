"""The one place where a heatmap becomes a probability mass over its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from posematch.arithmetic import full_float32

MassSupply = Literal["relu", "softplus", "softmax"]
Supply = Literal["none"] | MassSupply
SUPPLIES: tuple[str, ...] = get_args(MassSupply)

# A map whose positive part sums to less than this carries no usable mass. It is far below any
# trained map's sum, and keeps the gradient's factor 1 / sum below 1e12, whose square (Adam's second
# moment) still fits float32.
DEAD_SUM = 1e-12


def to_mass(heatmaps: torch.Tensor, supply: Supply, temperature: float = 1.0) -> torch.Tensor:
    """Normalise heatmaps to sum 1 over their pixels.

    Parameters
    ----------
    heatmaps
        (..., H, W) raw network output.
    supply
        ``relu``: relu(h) / sum relu(h), the paper's; joints whose positive part sums to less than
        `DEAD_SUM` fall back to ``softmax``, exactly, in value and gradient, so that they can
        revive. ``softplus``: the same with softplus. ``softmax``: over the pixels. ``none``: the
        heatmaps themselves, for losses that fix the amplitude.
    temperature
        The heatmaps are divided by it before anything else; changes nothing for ``relu``, whose
        mass does not depend on the map's scale.

    Returns
    -------
    (..., H, W) of the same dtype.
    """
    if supply == "none":
        return heatmaps
    if supply not in SUPPLIES:
        raise ValueError(f"supply={supply} must be one of none, {', '.join(SUPPLIES)}")
    flat = heatmaps.flatten(-2)
    if temperature != 1:
        flat = flat / temperature
    mass: torch.Tensor
    mass = flat.softmax(-1) if supply == "softmax" else _Normalise.apply(flat, supply)
    return mass.reshape(heatmaps.shape)


@dataclass(frozen=True)
class MapsMeaning:
    """What the maps of a network mean that was trained with a loss.

    Attributes
    ----------
    supply, temperature
        How `to_mass` turns them into probabilities; ``none`` where the loss fixed their height.
    mirror_signs
        One entry for each map that a joint has: the sign it takes when the crop is mirrored.
    """

    supply: Supply = "none"
    temperature: float = 1.0
    mirror_signs: tuple[float, ...] = (1.0,)

    @property
    def channels_per_joint(self) -> int:
        """Maps of each joint, one after another."""
        return len(self.mirror_signs)

    def mass(self, heatmaps: torch.Tensor) -> torch.Tensor:
        """Raw (..., H, W) heatmaps as what decoders get."""
        return to_mass(heatmaps, self.supply, self.temperature)


class _Normalise(torch.autograd.Function):
    """ReLU or softplus over its sum, softmax where there is none; (..., N) to (..., N).

    By hand, as autograd would keep four maps where one is enough: with p the positive part, m the
    result and g its gradient, dL/dh = p'(h) (g - <g, m>) / sum p, and m (g - <g, m>) for softmax.
    """

    @staticmethod
    def forward(ctx: Any, flat: torch.Tensor, supply: MassSupply) -> torch.Tensor:
        mass = flat.relu() if supply == "relu" else torch.nn.functional.softplus(flat)
        total = mass.sum(-1, keepdim=True)
        dead = total < DEAD_SUM
        mass /= total.masked_fill(dead, 1)
        if flat.device.type != "cpu":  # nobody waits for the device
            mass = torch.where(dead, flat.softmax(-1), mass)
        elif bool(dead.any()):
            rows = dead[..., 0]
            mass[rows] = flat[rows].softmax(-1)
        ctx.supply = supply
        ctx.save_for_backward(mass, total, dead, flat if supply == "softplus" else None)
        return mass

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        mass, total, dead, flat = ctx.saved_tensors
        if mass.device.type == "cpu":  # saves a map
            with full_float32("cpu"):
                mean = torch.linalg.vecdot(gradient, mass)[..., None]
        else:
            mean = (gradient * mass).sum(-1, keepdim=True)
        centred = (gradient - mean).div_(total.masked_fill(dead, 1))
        slope = mass > 0 if ctx.supply == "relu" else flat.sigmoid()
        if dead.device.type != "cpu" or bool(dead.any()):
            slope = torch.where(dead, mass, slope.to(mass.dtype))
        return centred.mul_(slope), None
