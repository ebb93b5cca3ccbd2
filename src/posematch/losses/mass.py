"""The one place where a heatmap becomes a probability mass over its pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from posematch.arithmetic import normalise
from posematch.errors import PosematchError
from posematch.losses.sparsemax import sparsemax

MassSupply = Literal["relu", "softplus", "softmax", "sparsemax"]
Supply = Literal["none"] | MassSupply
SUPPLIES: tuple[str, ...] = get_args(MassSupply)

# A map whose positive part sums to less than this carries no usable mass. It is far below any
# trained map's sum, and keeps the gradient's factor 1 / sum below 1e12, whose square (Adam's second
# moment) still fits float32.
DEAD_SUM = 1e-12


def check_temperature(temperature: float) -> None:
    """Complain about a temperature that maps cannot be divided by; a key of ``loss``."""
    if not 0 < temperature < math.inf:
        raise PosematchError(f"loss.temperature={temperature} must be positive and finite.")


def to_mass(heatmaps: torch.Tensor, supply: Supply, temperature: float = 1.0) -> torch.Tensor:
    """Normalise heatmaps to sum 1 over their pixels.

    Parameters
    ----------
    heatmaps
        (..., H, W) raw network output.
    supply
        ``relu``: relu(h) / sum relu(h), the paper's; joints whose positive part sums to less than
        `DEAD_SUM` fall back to ``softmax``, exactly, in value and gradient, so that they can
        revive. ``softplus``: the same with softplus. ``softmax``: over the pixels. ``sparsemax``:
        the nearest probability, see `posematch.losses.sparsemax`; it has no dead maps, but no
        gradient where one pixel is higher than all others by 1. ``none``: the heatmaps, divided,
        for losses that fix the amplitude.
    temperature
        The heatmaps are divided by it before anything else; changes nothing for ``relu``, whose
        mass does not depend on the map's scale.

    Returns
    -------
    (..., H, W) of the same dtype.

    Raises
    ------
    ValueError
        ``supply`` is none of these.

    Examples
    --------
    >>> to_mass(torch.tensor([[-1.0, 1.0], [0.0, 3.0]]), "relu")
    tensor([[0.0000, 0.2500],
            [0.0000, 0.7500]])
    """
    maps = logits(heatmaps, temperature)
    if supply == "none":
        return maps
    flat = maps.flatten(-2)
    if supply == "softmax":
        mass = flat.softmax(-1)
    elif supply == "sparsemax":
        mass = sparsemax(flat)
    elif supply in SUPPLIES:
        mass = normalise(flat, supply, DEAD_SUM)
    else:
        raise ValueError(f"supply={supply} must be one of none, {', '.join(SUPPLIES)}")
    return mass.reshape(heatmaps.shape)


def logits(heatmaps: torch.Tensor, temperature: float) -> torch.Tensor:
    """Heatmaps over the temperature: what a softmax is taken of, or a target compared with."""
    return heatmaps if temperature == 1 else heatmaps / temperature


@dataclass(frozen=True)
class MapsMeaning:
    """What the maps of a network mean that was trained with a loss.

    Attributes
    ----------
    supply, temperature
        How `to_mass` turns them into probabilities; ``none`` where the loss fixed their height.
    mirror_signs
        One entry for each map that a joint has: the sign it takes when the crop is mirrored.

    Examples
    --------
    >>> MapsMeaning("relu").mass(torch.tensor([[[-1.0, 1.0], [3.0, 0.0]]])).tolist()
    [[[0.0, 0.25], [0.75, 0.0]]]
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
