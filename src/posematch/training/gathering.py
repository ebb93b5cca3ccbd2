"""What one validation decoded, of all processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from posematch.data.people import People
from posematch.runs.predictions import PredictionTable

Columns = Mapping[str, torch.Tensor]
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, Columns]


class PredictionStore:
    """Collects what one validation decoded, over all processes."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._batches: list[Batch] = []
        self._of_all: list[Batch] = []

    def update(
        self,
        person_ids: torch.Tensor,
        joints_img: torch.Tensor,
        scores: torch.Tensor,
        compactness: Columns | None = None,
    ) -> None:
        """Take (B,) ids, (B, K, 2) photo pixels, (B, K) scores and the (B, K) maps' compactness."""
        more = {name: values.cpu() for name, values in (compactness or {}).items()}
        self._batches.append((person_ids.cpu(), joints_img.cpu(), scores.cpu(), more))

    def gather(self) -> None:
        """Fetch what all processes hold, for `table`.

        A collective: every process must call it, also one that saw nobody.
        """
        self._of_all = self._batches
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            of_each: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(of_each, self._batches)
            self._of_all = [batch for one in of_each for batch in one]

    def table(
        self, people: People, root: Path | None = None, joints: Sequence[int] | None = None
    ) -> PredictionTable:
        """What was gathered, as a table of these people, ordered by id.

        Parameters
        ----------
        people
            Of the validation.
        root
            See `posematch.runs.predictions.PredictionTable.for_people`.
        joints
            Which of the decoded joints are those of the people; None for all.
        """
        ids, joints_img, scores, more = zip(*self._of_all, strict=True)
        person_ids = torch.cat(ids).numpy()
        order = person_ids.argsort()
        of = slice(None) if joints is None else list(joints)
        return PredictionTable.for_people(
            people,
            person_ids[order],
            torch.cat(joints_img).numpy()[order][:, of],
            torch.cat(scores).numpy()[order][:, of],
            {
                name: torch.cat([one[name] for one in more]).numpy()[order][:, of]
                for name in more[0]
            },
            root=root,
        )
