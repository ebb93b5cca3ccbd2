"""The per-person, per-joint predictions of one validation, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from posematch.data.people import PCKhTruth, People
from posematch.files import replacing
from posematch.metrics.crowding import crowd_index

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


def predictions_table(
    people: People,
    person_ids: np.ndarray,
    joints_img: np.ndarray,
    scores: np.ndarray,
    columns: Mapping[str, np.ndarray] | None = None,
    *,
    root: Path | None = None,
) -> pd.DataFrame:
    """One row per person and joint, all any metric of the run needs.

    Parameters
    ----------
    people
        The validation split; its truth decides the true joints (PCKh: the .mat's).
    person_ids, joints_img, scores
        (N,), (N, K, 2) image pixels, (N, K).
    columns
        Further (N, K) columns by name: the compactness of the decoded maps,
        `posematch.metrics.compactness.MapCompactness`.
    root
        Folder of the data set, which photos are named relative to; None for no such column.

    Returns
    -------
    DataFrame
        Rows by person, joints in the skeleton's order. Coordinates are 0-based image pixels.
        ``person_id``, ``image_id``, ``joint``; ``x``, ``y``, ``score`` as decoded; ``true_x``,
        ``true_y``, ``visible`` (labelled), ``occluded`` (where the annotation tells);
        ``box_score``, and ``box_center_x``, ``box_center_y``, ``box_width``, ``box_height`` of the
        padded, aspect-grown box; ``crowd_index`` of the photo
        (`posematch.metrics.crowding`, NaN where nobody is labelled); ``head_size_img`` (PCKh) or
        ``area`` (OKS); ``image``, the photo's path below ``root``; ``columns``. Tables of earlier
        versions lack some of them, so readers ask for what they need and go without the rest.
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
    crowding = crowd_index(people)
    of_person: dict[str, Any] = {
        "box_score": [person.box_score for person in chosen],
        "box_center_x": [float(person.center_img[0]) for person in chosen],
        "box_center_y": [float(person.center_img[1]) for person in chosen],
        "box_width": [float(person.box_size_img[0]) for person in chosen],
        "box_height": [float(person.box_size_img[1]) for person in chosen],
        "crowd_index": [crowding.get(person.image_id, np.nan) for person in chosen],
        scale_name: scale,
    }
    if root is not None:
        of_person["image"] = [_below(person.image, root) for person in chosen]
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
            **{name: np.repeat(values, joints) for name, values in of_person.items()},
            **{name: values.ravel() for name, values in (columns or {}).items()},
        }
    )


def _below(photo: Path, root: Path) -> str:
    """The photo's path below the data set's folder; its name where it lies elsewhere."""
    return photo.relative_to(root).as_posix() if photo.is_relative_to(root) else photo.name


def write_predictions(path: Path, table: pd.DataFrame) -> None:
    """Write parquet in one piece: never half a file under the final name."""
    with replacing(path) as file:
        table.to_parquet(file, index=False)
