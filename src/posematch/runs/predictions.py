"""The per-person, per-joint predictions of one validation, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from posematch.data.people import PCKhTruth, People
from posematch.files import replacing
from posematch.metrics.crowding import crowd_index


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
        of_person["image"] = [photo_name(person.image, root) for person in chosen]
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


def photo_name(photo: Path, root: Path) -> str:
    """The photo's path below the data set's folder; its name where it lies elsewhere."""
    return photo.relative_to(root).as_posix() if photo.is_relative_to(root) else photo.name


def write_predictions(path: Path, table: pd.DataFrame) -> None:
    """Write parquet in one piece: never half a file under the final name."""
    with replacing(path) as file:
        table.to_parquet(file, index=False)
