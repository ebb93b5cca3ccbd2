"""How wide a loss takes each joint of each person to be."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from posematch.errors import PosematchError


class JointWidths:
    """The metric's widths as a loss uses them: times a factor, within a range, none unknown.

    Each person's follow from that person alone, so a loss is the same however batches are made.

    Parameters
    ----------
    unknown_px
        Of who has none, heatmap pixels. Crops are as large as their people, so one length means
        about the same for all: with `posematch.geometry.BOX_PADDING`, half a head is about a
        twentieth of an MPII crop's height.
    factor
        Times the metric's width.
    range_px
        Least and most of the result; None: as it is.

    Raises
    ------
    PosematchError
        A factor or a range that is none.

    Examples
    --------
    >>> widths = JointWidths(2.0, factor=0.5, range_px=(1.0, 4.0))
    >>> widths(torch.tensor([[1.0, 6.0, 0.0]]), torch.ones(1, 3), torch.float32)
    tensor([[1., 3., 2.]])
    """

    def __init__(
        self, unknown_px: float, factor: float = 1.0, range_px: Sequence[float] | None = None
    ) -> None:
        if not 0 < factor < math.inf:
            raise PosematchError(f"loss.width_factor={factor} must be positive.")
        ends = (0.0, math.inf) if range_px is None else tuple(range_px)
        if len(ends) != 2 or not 0 <= ends[0] <= ends[1] > 0:
            raise PosematchError(
                f"loss.width_range_px={range_px} must be [least,most], heatmap pixels, or null."
            )
        self.unknown_px = unknown_px
        self.factor = factor
        self.least_px, self.most_px = ends

    def __call__(
        self, widths_hm: torch.Tensor | None, like: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        """(B, K) positive widths from the metric's, 0 or None where unknown; on that device."""
        if widths_hm is None:
            return torch.full(like.shape, self.unknown_px, dtype=dtype, device=like.device)
        widths = (widths_hm.to(dtype) * self.factor).clamp(self.least_px, self.most_px)
        return torch.where(widths_hm > 0, widths, self.unknown_px)
