"""What one validation decoded, of all processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

Columns = Mapping[str, torch.Tensor]
# Ids, joints, scores and further columns, see `PredictionStore.gather`.
Decoded = tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]


class PredictionStore:
    """Collects what one validation decoded, over all processes."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._batches: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, Columns]] = []

    def update(
        self,
        person_ids: torch.Tensor,
        joints_img: torch.Tensor,
        scores: torch.Tensor,
        columns: Columns | None = None,
    ) -> None:
        """Take (B,) ids, (B, K, 2) image pixels, (B, K) scores and further (B, K) columns."""
        more = {name: values.cpu() for name, values in (columns or {}).items()}
        self._batches.append((person_ids.cpu(), joints_img.cpu(), scores.cpu(), more))

    def gather(self) -> Decoded:
        """(N,) ids, (N, K, 2) joints, (N, K) scores and columns of all processes, ordered by id.

        A collective: every process must call it, also one that saw nobody.
        """
        batches = self._batches
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            of_all: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(of_all, batches)
            batches = [batch for one in of_all for batch in one]
        ids, joints_img, scores, columns = zip(*batches, strict=True)
        more = {name: torch.cat([one[name] for one in columns]).numpy() for name in columns[0]}
        all_ids = torch.cat(ids).numpy()
        order = all_ids.argsort()
        return (
            all_ids[order],
            torch.cat(joints_img).numpy()[order],
            torch.cat(scores).numpy()[order],
            {name: values[order] for name, values in more.items()},
        )
