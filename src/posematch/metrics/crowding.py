"""Crowd index: how much of other people there is in a person's box.

Source: Li et al., CrowdPose, CVPR 2019: the crowd index of a photo is the mean over its people of
N_b / N_a, with N_a the joints of the person and N_b those of others in the person's box. Photos up
to 0.1 are easy, from 0.8 on hard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from posematch.data.people import OKSTruth, PCKhTruth, People
from posematch.metrics.coco_truth import annotated_people, coco_figures
from posematch.metrics.suppression import photo_blocks

EASY_UP_TO, HARD_FROM = 0.1, 0.8
LEVELS = ("easy", "medium", "hard")


def person_crowding(
    boxes_img: ArrayLike,
    joints_img: ArrayLike,
    labelled: ArrayLike,
    image_ids: ArrayLike,
) -> NDArray[np.float64]:
    """N_b / N_a of each person.

    Parameters
    ----------
    boxes_img
        (N, 4) x, y of the first corner, width, height.
    joints_img
        (N, K, 2).
    labelled
        (N, K) bool; other joints are nobody's.
    image_ids
        (N,) people of one photo see each other.

    Returns
    -------
    ndarray
        (N,); NaN for a person without a labelled joint in the box.
    """
    boxes, joints = np.asarray(boxes_img, dtype=np.float64), np.asarray(joints_img, np.float64)
    labelled, image_ids = np.asarray(labelled, dtype=np.bool_), np.asarray(image_ids)
    crowding = np.full(len(boxes), np.nan)
    for rows in photo_blocks(image_ids):
        first, size = boxes[rows][:, :, None, None, :2], boxes[rows][:, :, None, None, 2:]
        places = joints[rows][:, None]
        inside = ((places >= first) & (places <= first + size)).all(-1) & labelled[rows][:, None]
        found = inside.sum(-1)  # (photos, box of, joints of)
        own = np.diagonal(found, axis1=1, axis2=2)
        others = found.sum(-1) - own
        crowding[rows] = np.where(own > 0, others / np.maximum(own, 1), np.nan)
    return crowding


def photo_crowd_index(
    crowding: NDArray[np.float64], image_ids: NDArray[np.int64]
) -> dict[int, float]:
    """Mean of `person_crowding` over the people of each photo, by image id."""
    has = ~np.isnan(crowding)
    ids, photo = np.unique(image_ids[has], return_inverse=True)
    means = np.bincount(photo, crowding[has]) / np.maximum(np.bincount(photo), 1)
    return {int(one): float(mean) for one, mean in zip(ids, means, strict=True)}


@lru_cache(maxsize=4)
def crowd_index(people: People) -> dict[int, float]:
    """Crowd index of a split's photos, by image id.

    COCO: annotated boxes and joints of the people that are not crowds, also where the split's boxes
    are a detector's. Others (MPII has no tight boxes): the extent of the labelled joints, and of
    the people of the split alone; MPII's photos show more.

    Returns
    -------
    dict
        Photos without a labelled joint are left out.
    """
    if isinstance(people.truth, OKSTruth):
        boxes, joints_img, labelled, image_ids = annotated_people(people.truth)
    else:
        image_ids, rows = people.rows.image_ids, people.rows.person_ids
        joints_img, labelled = people.rows.joints_img, people.rows.visible > 0
        if isinstance(people.truth, PCKhTruth) and len(rows):
            joints_img, labelled = people.truth.joints_img[rows], people.truth.visible[rows] > 0
        first = np.where(labelled[..., None], joints_img, np.inf).min(1, initial=np.inf)
        last = np.where(labelled[..., None], joints_img, -np.inf).max(1, initial=-np.inf)
        boxes = np.concatenate([first, np.maximum(last - first, 0)], axis=1)
        boxes[~labelled.any(1)] = 0
    return photo_crowd_index(person_crowding(boxes, joints_img, labelled, image_ids), image_ids)


def crowd_level(index: ArrayLike) -> NDArray[np.str_]:
    """``easy``, ``medium`` or ``hard`` by CrowdPose's bounds."""
    index = np.asarray(index, dtype=np.float64)
    return np.where(index <= EASY_UP_TO, "easy", np.where(index >= HARD_FROM, "hard", "medium"))


def ap_by_crowding(results: Sequence[Mapping[str, Any]], truth: OKSTruth) -> pd.DataFrame:
    """COCO's AP and AR of the photos of each of CrowdPose's levels.

    Parameters
    ----------
    results
        As they are scored, see `posematch.metrics.coco_truth.coco_figures`.
    truth
        Annotations, and the photos that are scored.

    Returns
    -------
    DataFrame
        A row per level that has photos: ``photos`` and the figures, fractions.

    Raises
    ------
    PosematchError
        As `coco_figures`.
    """
    boxes, joints_img, labelled, image_ids = annotated_people(truth)
    index = photo_crowd_index(person_crowding(boxes, joints_img, labelled, image_ids), image_ids)
    level_of = dict(zip(index, crowd_level(list(index.values())).tolist(), strict=True))
    rows = {}
    for level in LEVELS:
        photos = {one for one in truth.image_ids if level_of.get(one) == level}
        of_level = [result for result in results if result["image_id"] in photos]
        if photos:
            figures = coco_figures(truth.annotation_file, of_level, photos, truth.skeleton)
            rows[level] = {"photos": len(photos), "AP": figures["AP"], "AR": figures["AR"]}
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("crowding")
    return frame.astype({"photos": int}) if len(frame) else frame
