"""One split as arrays: what the checks look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posematch.data.annotations import read_annotations
from posematch.data.people import OKSTruth, People
from posematch.geometry import BOX_PADDING
from posematch.skeletons import Skeleton

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Split:
    """People of a split; every coordinate is 0-based photo pixels, x then y.

    Attributes
    ----------
    people
        As they were read; row i below is ``people.people[i]``.
    joints_img
        (N, K, 2); NaN where not labelled.
    boxes_img
        (N, 4) x, y, width and height: as annotated, or the network's without its padding.
    annotated_boxes
        Whether they are as annotated.
    areas
        (N,) square pixels; NaN where the annotation tells none.
    sizes
        (N, 2) width and height of the photo; NaN where unknown.
    photos
        (N,) number of the photo among those of the split, by its path.
    """

    people: People
    joints_img: Floats
    boxes_img: Floats
    annotated_boxes: bool
    areas: Floats
    sizes: Floats
    photos: NDArray[np.int64]

    @property
    def name(self) -> str:
        return self.people.split

    @property
    def skeleton(self) -> Skeleton:
        return self.people.skeleton

    @property
    def labelled(self) -> Flags:
        """(N, K)."""
        return np.asarray(np.isfinite(self.joints_img).all(axis=2))

    def __len__(self) -> int:
        return len(self.people.people)


def split_of(people: People, sizes: Mapping[Path, tuple[int, int]] | None = None) -> Split:
    """People as arrays.

    Parameters
    ----------
    people
        As a reader yields them, on annotated boxes.
    sizes
        (width, height) of photos whose annotation does not tell them.
    """
    everybody, known = people.people, sizes or {}
    rows = people.rows
    joints_img = np.where(rows.visible[..., None] > 0, rows.joints_img, np.nan)
    centers, box_sizes = rows.centers_img, rows.box_sizes_img / BOX_PADDING
    boxes = np.concatenate([centers - box_sizes / 2, box_sizes], axis=1)
    annotated = _annotated_boxes(people)
    if annotated is not None:
        boxes = annotated
    areas = rows.areas
    told = [one.photo_size or known.get(one.image) or (np.nan, np.nan) for one in everybody]
    number: dict[Path, int] = {}
    photos = [number.setdefault(one.image, len(number)) for one in everybody]
    return Split(
        people=people,
        joints_img=joints_img,
        boxes_img=boxes,
        annotated_boxes=annotated is not None,
        areas=np.where(areas > 0, areas, np.nan),
        sizes=np.array(told, dtype=np.float64).reshape(-1, 2),
        photos=np.array(photos, dtype=np.int64),
    )


def _annotated_boxes(people: People) -> Floats | None:
    """(N, 4) of COCO's file, which the reader has read and keeps; None for other formats."""
    truth = people.truth
    if not isinstance(truth, OKSTruth) or truth.boxes != "gt":
        return None
    rows: list[dict[str, Any]] = read_annotations(truth.annotation_file, truth.skeleton).content[
        "annotations"
    ]
    boxes = {one["id"]: one["bbox"] for one in rows}
    if any(one.person_id not in boxes for one in people.people):
        return None
    return np.array([boxes[one.person_id] for one in people.people], dtype=np.float64)
