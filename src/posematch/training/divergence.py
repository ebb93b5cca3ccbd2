"""placeholder until the helper's branch is merged"""

from __future__ import annotations

from collections.abc import Mapping

import torch


def first_nonfinite(named: Mapping[str, torch.Tensor]) -> str | None:
    for name, tensor in named.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return name
    return None
