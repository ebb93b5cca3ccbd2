"""A matching loss that starts as an easier one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from posematch.errors import PosematchError
from posematch.losses.combined import CombinedLoss
from posematch.losses.matching import Matching
from posematch.transport.costs import WITHOUT_SCALE

ANNEALED = ("epsilon", "relaxation", "scale_px", "temperature")


class Annealed(CombinedLoss):
    """The matching loss, some of whose values move in the first epochs to where they stay.

    What it is at the end is the loss alone, with its optimum. On the way a value moves
    geometrically, or, where it ends at inf, so that its inverse moves evenly. The temperature is
    part of what the maps mean; the epoch's is kept with the network.

    Parameters
    ----------
    loss
        A `Matching`, as it is at the end.
    start
        Where values begin, by name: ``epsilon``, ``relaxation``, ``scale_px``, ``temperature``;
        None: where they stay.
    anneal_epochs
        The epoch, from 0, that is the first with the loss's own values; before it each epoch makes
        an equal part of the way.

    Examples
    --------
    >>> loss = Annealed(Matching(supply="softmax"), {"relaxation": 0.25}, anneal_epochs=4)
    >>> loss.start_epoch(2)
    >>> loss.loss.distance.relaxation
    0.5
    >>> loss.start_epoch(4)
    >>> loss.loss.distance.relaxation
    inf
    """

    def __init__(
        self, loss: Matching, start: Mapping[str, float | None], anneal_epochs: int
    ) -> None:
        if not isinstance(loss, Matching):
            raise PosematchError("loss.loss must be a matching loss: posematch.losses.Matching.")
        if not isinstance(start, Mapping) or not start:
            raise PosematchError(f"loss.start must name values: {', '.join(ANNEALED)}.")
        for key, value in start.items():
            if key not in ANNEALED:
                raise PosematchError(f"loss.start.{key} must be one of {', '.join(ANNEALED)}.")
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (is_number and 0 < value < math.inf):
                raise PosematchError(f"loss.start.{key}={value} must be a positive number.")
        if anneal_epochs < 1:
            raise PosematchError(f"loss.anneal_epochs={anneal_epochs} must be at least 1.")
        super().__init__({"loss": loss})
        self.loss = loss
        self.way = {
            key: (float(value), loss.values[key])
            for key, value in start.items()
            if value is not None
        }
        if not self.way:
            raise PosematchError(
                f"loss.start names no value but null; give one of {', '.join(ANNEALED)}."
            )
        cost = loss.distance.cost.name
        if "scale_px" in self.way and cost in WITHOUT_SCALE and not loss.takes_widths:
            raise PosematchError(
                f"loss.start.scale_px changes nothing of cost={cost}; leave it out."
            )
        if "temperature" in self.way and loss.supply == "relu":
            raise PosematchError(
                "loss.start.temperature changes nothing of supply=relu; leave it out."
            )
        self.anneal_epochs = anneal_epochs
        self._decoder = loss.decoder_config()  # of the values that the training ends with
        self.start_epoch(0)

    def shares(self) -> dict[str, float]:
        return {"loss": 1.0}

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        part = min(epoch / self.anneal_epochs, 1.0)
        self.loss.change(**{key: _between(*ends, part) for key, ends in self.way.items()})
        self.lead_by(self.loss)

    def decoder_config(self) -> Mapping[str, Any]:
        return self._decoder


def _between(start: float, end: float, part: float) -> float:
    if part == 1:
        return end
    if math.isinf(end):
        return start / (1 - part)
    return start * math.exp(part * math.log(end / start))
