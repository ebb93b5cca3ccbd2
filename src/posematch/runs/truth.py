"""COCO's truth in the run folder, so that AP is recomputed without the data set."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from posematch.data.annotations import PERSON_CATEGORY, read_annotations, skeleton_of
from posematch.data.people import OKSTruth, People
from posematch.errors import PosematchError
from posematch.files import write_text
from posematch.metrics.coco_truth import photos_seen
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
    photo_of
        The photo of each of these people; empty where it is not told, as by earlier versions of a
        detector's boxes.
    """

    oks: OKSTruth
    box_sizes: dict[int, tuple[float, float]]
    photo_of: dict[int, int]

    def of_seen(self, person_ids: Iterable[int]) -> StoredTruth:
        """With the photos that can be scored where these people alone were predicted."""
        seen = set(person_ids)
        unseen = self.photo_of.keys() - seen
        if not unseen or not seen & self.photo_of.keys():
            return self
        photos = photos_seen(
            self.oks.image_ids,
            [self.photo_of[one] for one in seen & self.photo_of.keys()],
            [self.photo_of[one] for one in unseen],
        )
        return replace(self, oks=replace(self.oks, image_ids=photos))


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
    content = read_annotations(truth.annotation_file, truth.skeleton).content
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
            if one["image_id"] in scored
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
            {
                "person_id": person_id,
                "image_id": image_id,
                "box_size_img": box_size_img,
            }
            for person_id, image_id, box_size_img in zip(
                people.rows.person_ids.tolist(),
                people.rows.image_ids.tolist(),
                people.rows.box_sizes_img.tolist(),
                strict=True,
            )
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
    annotations = read_annotations(path, None)
    content = annotations.content
    category: dict[str, Any] = content["categories"][0]
    try:
        skeleton = skeleton_of(path, category.get("oks_sigmas")) if annotations.joints else COCO
        if skeleton.joints == COCO.joints and skeleton.oks_sigmas == COCO.oks_sigmas:
            skeleton = COCO
        image_ids = tuple(one["id"] for one in content["images"])
        people = content.get(_PEOPLE, [])
        sizes = {
            int(one["person_id"]): (float(one["box_size_img"][0]), float(one["box_size_img"][1]))
            for one in people
        }
        photo_of = {one["id"]: one["image_id"] for one in content["annotations"]}
        photo_of = {
            int(one["person_id"]): int(one.get("image_id", photo_of.get(one["person_id"], -1)))
            for one in people
        }
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise PosematchError(f"{path} is no truth of COCO keypoints ({error!r}).") from error
    boxes = str(content.get(_BOXES, "unknown"))
    if not set(photo_of.values()) <= set(image_ids):
        photo_of = {}  # a detector's boxes, by an earlier version
    return StoredTruth(OKSTruth(path, image_ids, boxes, skeleton), sizes, photo_of)
