"""Which joints of a batch are solved, and how their values come back to all joints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch


class Selection(NamedTuple):
    """The joints of a batch that are solved: those of some rows, or (None) all.

    Attributes
    ----------
    counted
        (J,) bool, on all joints.
    rows
        (C,) indices of those that are counted.
    """

    counted: torch.Tensor
    rows: torch.Tensor | None

    def pick(self, values: torch.Tensor) -> torch.Tensor:
        """The solved joints' part of (J, ...) values."""
        # By index, as that has a faster backward than a mask.
        return values if self.rows is None else values.index_select(0, self.rows)

    def without_uncounted(self, demand: torch.Tensor) -> torch.Tensor:
        """(J, M) demands of the solved joints, 0 for those that do not count."""
        return demand if self.rows is not None else demand * self.counted[:, None]

    def put_back(self, values: torch.Tensor) -> torch.Tensor:
        """Solved joints' values on all joints, (J,); 0 for those that are not solved."""
        if self.rows is None:
            return values
        return values.new_zeros(self.counted.shape).masked_scatter(self.counted, values)

    @torch.no_grad()
    def means(self, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Means of solved joints' values over those that count."""
        # One reduction for all, as each launch on a device takes its time.
        stacked = torch.stack([one.double() for one in values.values()])
        if self.rows is None:
            means = (stacked * self.counted).sum(1) / self.counted.sum().clamp_min(1)
        else:
            means = stacked.mean(1)
        return dict(zip(values, means.unbind(), strict=True))
