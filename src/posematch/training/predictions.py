"""The per-person, per-joint predictions of one validation, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from posematch.data.people import PCKhTruth, People


class PredictionStore:
    """Collects what one validation decoded, over all processes."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._batches: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def update(
        self, person_ids: torch.Tensor, joints_img: torch.Tensor, scores: torch.Tensor
    ) -> None:
        """Take (B,) ids, (B, K, 2) image pixels and (B, K) scores."""
        self._batches.append((person_ids.cpu(), joints_img.cpu(), scores.cpu()))

    def gather(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(N,) ids, (N, K, 2) joints, (N, K) scores of all processes, ordered by id.

        A collective: every process must call it, also one that saw nobody.
        """
        batches = self._batches
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            of_all: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(of_all, batches)
            batches = [batch for one in of_all for batch in one]
        ids, joints_img, scores = (
            torch.cat(column).numpy() for column in zip(*batches, strict=True)
        )
        order = ids.argsort()
        return ids[order], joints_img[order], scores[order]


def predictions_table(
    people: People, person_ids: np.ndarray, joints_img: np.ndarray, scores: np.ndarray
) -> pd.DataFrame:
    """One row per person and joint, all any metric of the run needs.

    Parameters
    ----------
    people
        The validation split; its truth decides the true joints (PCKh: the .mat's).
    person_ids, joints_img, scores
        (N,), (N, K, 2) image pixels, (N, K).

    Returns
    -------
    Columns person_id, image_id, joint, x, y, score, true_x, true_y, visible, occluded, box_score,
    and head_size_img (PCKh) or area (OKS). Coordinates are 0-based image pixels.
    """
    by_id = {person.person_id: person for person in people.people}
    chosen = [by_id[int(person_id)] for person_id in person_ids]
    joints = people.skeleton.num_joints
    true_img = np.stack([person.joints_img for person in chosen])
    visible = np.stack([person.visible for person in chosen])
    scale_name, scale = "area", np.array([person.area for person in chosen])
    if isinstance(people.truth, PCKhTruth):
        true_img = people.truth.joints_img[person_ids]
        visible = people.truth.visible[person_ids]
        scale_name, scale = "head_size_img", people.truth.head_size_img[person_ids]
    return pd.DataFrame(
        {
            "person_id": np.repeat(person_ids, joints),
            "image_id": np.repeat([person.image_id for person in chosen], joints),
            "joint": np.tile(people.skeleton.joints, len(chosen)),
            "x": joints_img[..., 0].ravel(),
            "y": joints_img[..., 1].ravel(),
            "score": scores.ravel(),
            "true_x": true_img[..., 0].ravel(),
            "true_y": true_img[..., 1].ravel(),
            "visible": visible.ravel(),
            "occluded": np.stack([person.occluded for person in chosen]).ravel(),
            "box_score": np.repeat([person.box_score for person in chosen], joints),
            scale_name: np.repeat(scale, joints),
        }
    )


def write_predictions(path: Path, table: pd.DataFrame) -> None:
    """Write parquet in one piece: never half a file under the final name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    table.to_parquet(partial, index=False)
    partial.replace(path)
