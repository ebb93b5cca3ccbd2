"""COCO keypoints: people of an annotation file, on annotated boxes or a detector's.

Source: docs/protocols.md, COCO boxes. What a file may look like: `posematch.data.annotations`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posematch.data.annotations import (
    ANNOTATION,
    OBTAINED,
    PERSON_CATEGORY,
    Annotations,
    number_of,
    numbers_of,
    read_annotations,
    shown,
    whole_of,
)
from posematch.data.people import OKSTruth, People, Person, PersonRows, PhotoPaths
from posematch.data.pictures import size_of_photo
from posematch.data.reading import check_there, path_below, read_json, require
from posematch.data.report import ReadingReport
from posematch.errors import PosematchError
from posematch.geometry import Size, box_to_center_size
from posematch.skeletons import COCO, Skeleton, joint_pairs

_USED, _CROWD, _UNLABELLED, _NO_AREA, _OUTSIDE = range(5)
_LEFT_OUT = {
    _CROWD: "of crowds",
    _UNLABELLED: "without labelled joints",
    _NO_AREA: "with an area of 0",
    _OUTSIDE: "with a box outside the photo",
}
_DETECTIONS = "the detector's boxes (data.detections)"


def check_files(annotation_file: Path, detections: Path | None = None) -> None:
    """Raise the sentence of `read_coco` about the first of the files that is missing."""
    check_there(annotation_file, ANNOTATION, OBTAINED)
    if detections is not None:
        check_there(detections, _DETECTIONS)


def read_coco(
    annotation_file: Path,
    image_folder: Path,
    split: str,
    input_size: Size,
    detections: Path | None = None,
    detection_threshold: float = 0.0,
    skeleton: Skeleton = COCO,
) -> People:
    """Read the people of one COCO keypoint annotation file.

    Parameters
    ----------
    annotation_file
        ``person_keypoints_*.json``, or what `posematch.data.annotations` reads.
    image_folder
        Folder of its photos, which may lie in folders of their own below it.
    split
        Name of the split, for messages.
    input_size
        (H, W) of the network's input; boxes are grown to its aspect and padded by a quarter.
    detections
        A detector's json; if given, people are its boxes (without joints), of the person's category
        with a score of at least ``detection_threshold``, neither clipped nor filtered otherwise.
    detection_threshold
        See above; 0.0 in every published recipe.
    skeleton
        Joints of the file, in its order.

    Returns
    -------
    People; ``person_id`` is the annotation's id, or the row of the detector's file.

    Raises
    ------
    PosematchError
        A file is missing or not what it should be.
    """
    annotations = read_annotations(annotation_file, skeleton)
    report = annotations.fresh_report()
    report.pairs = joint_pairs(skeleton)
    photos = _photos(annotations, image_folder, report)
    if detections is None:
        people: Sequence[Person] = _annotated(annotations, photos, input_size, report)
        boxes = "gt"
    else:
        people = _detected(
            photos, detections, annotation_file, input_size, detection_threshold, skeleton, report
        )
        boxes = detections.name
    report.people = len(people)
    truth = OKSTruth(annotation_file, tuple(photos), boxes, skeleton)
    return People("coco", split, skeleton, people, truth, report)


class _Photo:
    """Of the file: path, and width and height, looked up in the photo where the file is silent."""

    def __init__(self, entry: dict[str, Any], path: Path, where: str) -> None:
        self.path = path
        self.where = where
        self._size = (
            (entry["width"], entry["height"]) if "width" in entry and "height" in entry else None
        )

    @property
    def size(self) -> tuple[int, int]:
        if self._size is None:
            self._size = size_of_photo(self.path, self.where)
        return self._size


def _photos(
    annotations: Annotations, image_folder: Path, report: ReadingReport
) -> dict[int, _Photo]:
    found = {}
    for entry in annotations.content["images"]:
        where = f"image {entry['id']} of {annotations.file}"
        if not isinstance(entry.get("file_name"), str):
            raise PosematchError(f"{where} has no file_name; name its photo.")
        if "width" not in entry or "height" not in entry:
            report.note("repaired", "sizes of photos looked up in them", where)
        path = path_below(image_folder, entry["file_name"], where)
        found[entry["id"]] = _Photo(entry, path, where)
    return found


def _annotated(
    annotations: Annotations,
    photos: dict[int, _Photo],
    input_size: Size,
    report: ReadingReport,
) -> PersonRows:
    everybody = annotations.arrays
    # By photo, in the file's order of both.
    listed = np.array(list(photos), dtype=np.int64)
    by_id = np.argsort(listed)
    place = by_id[np.searchsorted(listed[by_id], everybody.image_ids)]
    rows = np.argsort(place, kind="stable")
    # The annotation's area decides, not the box's (docs/protocols.md, COCO boxes).
    why = np.select(
        [everybody.crowds[rows], ~everybody.labelled[rows], everybody.areas[rows] <= 0],
        [_CROWD, _UNLABELLED, _NO_AREA],
        default=_USED,
    )
    used = np.flatnonzero(why == _USED)
    in_order = list(photos.values())
    sizes = np.zeros((len(in_order), 2), dtype=np.int64)
    for one in np.unique(place[rows[used]]).tolist():
        sizes[one] = in_order[one].size
    boxes, inside = clipped_boxes(everybody.boxes_img[rows], sizes[place[rows]])
    why[used[~inside[used]]] = _OUTSIDE
    for row in np.flatnonzero(why != _USED).tolist():
        report.note("left out", _LEFT_OUT[why[row]], f"annotation {everybody.ids[rows[row]]}")
    kept = np.flatnonzero(why == _USED)
    rows, boxes = rows[kept], boxes[kept]
    photo = place[rows]
    keypoints = everybody.keypoints[rows]
    _look_at(keypoints, boxes, sizes[photo], everybody.ids[rows], report)
    centers_img, box_sizes_img = box_to_center_size(boxes, input_size)
    return PersonRows(
        person_ids=everybody.ids[rows],
        image_ids=everybody.image_ids[rows],
        photos=PhotoPaths(os.fspath(one.path) for one in in_order),
        photo=photo,
        centers_img=centers_img,
        box_sizes_img=box_sizes_img,
        joints_img=keypoints[..., :2].copy(),
        visible=(keypoints[..., 2] > 0).astype(np.float32),
        occluded=keypoints[..., 2] == 1,
        box_scores=np.ones(len(rows)),
        areas=everybody.areas[rows],
        head_sizes_img=np.zeros(len(rows)),
        photo_sizes=sizes[photo],
    )


def _look_at(
    keypoints: NDArray[np.float64],
    boxes: NDArray[np.float64],
    sizes: NDArray[np.int64],
    ids: NDArray[np.int64],
    report: ReadingReport,
) -> None:
    """Note people with labelled joints that lie where no joint of theirs can."""
    places, labelled = keypoints[..., :2], keypoints[..., 2] > 0
    first, extent = boxes[:, None, :2], boxes[:, None, 2:]

    def beyond(low: NDArray[np.float64] | float, high: NDArray[Any]) -> NDArray[np.bool_]:
        return np.asarray((((places < low) | (places > high)).any(-1) & labelled).any(-1))

    outside = beyond(-1, sizes[:, None])
    far = beyond(first - extent, first + 2 * extent)
    for row in np.flatnonzero(outside | far).tolist():
        where = "outside the photo" if outside[row] else "far outside their box"
        report.note("suspicious", f"with labelled joints {where}", f"annotation {ids[row]}")


def clipped_boxes(
    boxes_img: NDArray[np.float64], photo_sizes: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(N, 4) boxes cut to photos of (N, 2) width and height (docs/protocols.md, COCO boxes).

    Returns
    -------
    The boxes, and (N,) whether something is left of each.
    """
    first = np.maximum(0.0, boxes_img[:, :2])
    last = np.minimum(photo_sizes - 1.0, first + np.maximum(0.0, boxes_img[:, 2:] - 1))
    # A box of one pixel has no size left, and no crop.
    inside = (last >= first).all(axis=1) & (last > first).any(axis=1)
    return np.concatenate([first, last - first], axis=1), inside


def _detected(
    photos: dict[int, _Photo],
    detections: Path,
    annotation_file: Path,
    input_size: Size,
    threshold: float,
    skeleton: Skeleton,
    report: ReadingReport,
) -> list[Person]:
    rows = read_json(detections, _DETECTIONS)
    require(isinstance(rows, list), detections, "a list of detections")
    require(rows, detections, "a single detection")
    people = []
    of_others: set[int] = set()
    highest = 0.0
    for index, row in enumerate(rows):
        where = f"row {index} of {detections}"
        found = _detection(row)
        if found is None:
            raise PosematchError(
                f"{where} is not a detection (image_id, category_id, bbox, score): {shown(row)}."
            )
        image_id, category, box, score = found
        if category != PERSON_CATEGORY or score < threshold:
            continue
        if not np.isfinite(box).all() or box[2:].min() <= 0:
            report.note("left out", "detections with a box of no size", where)
            continue
        if image_id not in photos:
            of_others.add(image_id)
            report.note("left out", "detections of photos that are not listed", where)
            continue
        highest = max(highest, float(box.max()))
        center_img, box_size_img = box_to_center_size(box, input_size)
        people.append(
            Person(
                person_id=index,
                image_id=image_id,
                image=photos[image_id].path,
                center_img=center_img,
                box_size_img=box_size_img,
                joints_img=np.zeros((skeleton.num_joints, 2)),
                visible=np.zeros(skeleton.num_joints, dtype=np.float32),
                occluded=np.zeros(skeleton.num_joints, dtype=bool),
                box_score=score,
                photo_size=photos[image_id].size,
            )
        )
    if of_others and not people:
        raise PosematchError(
            f"{detections} is about photo {min(of_others)}, which {annotation_file} does not know,"
            " and about none that it does; the detector's file must belong to the same split."
        )
    if people and highest <= 1:
        raise PosematchError(
            f"the boxes of {detections} lie between 0 and 1: they are shares of the photo, and"
            " pixels are needed; multiply x and width by each photo's width, y and height by its"
            " height."
        )
    return people


def _detection(row: Any) -> tuple[int, int, NDArray[np.float64], float] | None:
    """Photo, category, box (4,) and score; None if it is none."""
    if not isinstance(row, dict):
        return None
    image_id, category = whole_of(row.get("image_id")), whole_of(row.get("category_id"))
    box, score = numbers_of(row.get("bbox")), number_of(row.get("score"))
    if image_id is None or category is None or box is None or box.size != 4 or score is None:
        return None
    return image_id, category, box.reshape(4), score
