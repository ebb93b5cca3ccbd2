"""COCO's truth in the run folder, so that AP is recomputed without the data set."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from posematch.data.coco import PERSON_CATEGORY, read_annotations, skeleton_of
from posematch.data.people import OKSTruth, People
from posematch.errors import PosematchError
from posematch.files import write_text
from posematch.skeletons import COCO

# What COCOeval reads of an annotation. No segmentation: the area is kept as the file has it.
_KEPT = ("id", "image_id", "category_id", "keypoints", "num_keypoints", "area", "bbox", "iscrowd")
# Of people and their padded boxes, next to the annotations; the name is not one of COCO's.
_PEOPLE = "posematch_people"
_BOXES = "posematch_boxes"
# Below the folder of a data set that does not say otherwise.
COCO_VALID_ANNOTATIONS = "annotations/person_keypoints_val2017.json"


@dataclass(frozen=True, eq=False)
class StoredTruth:
    """What a ``truth.json`` holds.

    Attributes
    ----------
    oks
        Its annotation file is the ``truth.json`` itself.
    box_sizes
        (width, height) of people's padded boxes in photo pixels, which OKS-NMS takes areas from, by
        ``person_id``; empty for an annotation file of a data set.
    """

    oks: OKSTruth
    box_sizes: dict[int, tuple[float, float]]


def write_truth(path: Path, people: People) -> None:
    """Write what AP of these people is measured against, in one piece.

    The file is a COCO annotation file of the scored photos: pycocotools reads it, too. Crowds and
    people without labelled joints stay in it, since COCOeval does not count what is found there.

    Parameters
    ----------
    path
        ``truth.json`` of a run folder.
    people
        Their truth must be an `OKSTruth`.
    """
    truth = people.truth
    assert isinstance(truth, OKSTruth)
    content = read_annotations(truth.annotation_file, truth.skeleton)
    scored = set(truth.image_ids)
    skeleton = truth.skeleton
    stored = {
        "images": [
            {key: one[key] for key in ("id", "file_name", "width", "height") if key in one}
            for one in content["images"]
            if one.get("id") in scored
        ],
        "annotations": [
            {key: one[key] for key in _KEPT}
            for one in content["annotations"]
            if one.get("image_id") in scored and one.get("category_id") == PERSON_CATEGORY
        ],
        "categories": [
            {
                "id": PERSON_CATEGORY,
                "name": "person",
                "keypoints": skeleton.joints,
                "skeleton": [(start + 1, end + 1) for start, end in skeleton.limbs],
                "oks_sigmas": skeleton.oks_sigmas,
            }
        ],
        _BOXES: truth.boxes,
        _PEOPLE: [
            {"person_id": person.person_id, "box_size_img": person.box_size_img.tolist()}
            for person in people.people
        ],
    }
    write_text(path, json.dumps(stored, allow_nan=False) + "\n")


def read_truth(path: Path) -> StoredTruth:
    """Read a ``truth.json``, or a data set's annotation file, all photos of which are scored then.

    Raises
    ------
    PosematchError
        The file is missing or neither.
    """
    return _read(path, changed(path))


def changed(path: Path) -> int:
    """When a truth was written, in nanoseconds; errors as `read_truth` where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise PosematchError(f"{path} cannot be read ({error.strerror}).") from error


@lru_cache(maxsize=8)
def _read(path: Path, changed: int) -> StoredTruth:
    """``changed`` is part of the cache's key: a file that was written anew is read anew."""
    content = read_annotations(path)
    category: dict[str, Any] = next(
        (one for one in content["categories"] if one.get("id") == PERSON_CATEGORY), {}
    )
    try:
        skeleton = (
            skeleton_of(path, category.get("oks_sigmas")) if "keypoints" in category else COCO
        )
        if skeleton.joints == COCO.joints and skeleton.oks_sigmas == COCO.oks_sigmas:
            skeleton = COCO
        image_ids = tuple(int(one["id"]) for one in content["images"])
        _check_annotations(content["annotations"], skeleton.num_joints)
        people = content.get(_PEOPLE, [])
        sizes = {
            int(one["person_id"]): (float(one["box_size_img"][0]), float(one["box_size_img"][1]))
            for one in people
        }
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise PosematchError(f"{path} is no truth of COCO keypoints ({error!r}).") from error
    boxes = str(content.get(_BOXES, "unknown"))
    return StoredTruth(OKSTruth(path, image_ids, boxes, skeleton), sizes)


def _check_annotations(annotations: list[dict[str, Any]], joints: int) -> None:
    """What COCOeval reads of people, which would end in an error of its own."""
    for one in annotations:
        if one.get("category_id") != PERSON_CATEGORY:
            continue
        where = f"annotation {one.get('id')}"
        if any(type(one[key]) is not int for key in ("id", "image_id", "num_keypoints", "iscrowd")):
            raise TypeError(f"{where} has ids or counts that are no whole numbers")
        for name, count in (("keypoints", 3 * joints), ("bbox", 4)):
            numbers = np.asarray(one[name], dtype=np.float64)
            if numbers.shape != (count,) or not np.isfinite(numbers).all():
                raise ValueError(f"{where} needs {count} finite numbers as {name}")
        if not 0 <= float(one["area"]) < np.inf:
            raise ValueError(f"{where} has an area that is no size")
