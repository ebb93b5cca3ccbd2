"""COCO's AP as a function of how often each photo counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from posematch.errors import PosematchError

if TYPE_CHECKING:
    from posematch.experiments.figures import Predicted


def average_precision(
    one: Predicted, figures: Sequence[str]
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    raise PosematchError("AP cannot be resampled yet.")
