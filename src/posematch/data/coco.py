"""COCO keypoints through pycocotools: annotated boxes or a detector's json.

Source: docs/protocols.md, COCO boxes.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from posematch.data.people import OKSTruth, People, Person
from posematch.data.reading import check_joint_count, check_there, plain_name, read_json, require
from posematch.errors import PosematchError
from posematch.geometry import Size, box_to_center_size
from posematch.skeletons import COCO, Skeleton, skeleton_from_names

PERSON_CATEGORY = 1
# How files name the sides of joints, also in ways that `skeleton_from_names` does not pair.
_SIDE = re.compile(r"^(left|right)|(left|right)$|(^|[\W_])[lr]([\W_]|$)", re.IGNORECASE)
OBTAINED = (
    "Photos (train2017/, val2017/) and annotations/person_keypoints_*.json come from the COCO site,"
    " 2017 train, val and their annotations"
)


_ANNOTATION = "the COCO keypoint annotation"
_DETECTIONS = "the detector's boxes (data.detections)"


def check_files(annotation_file: Path, detections: Path | None = None) -> None:
    """Raise the sentence of `read_coco` about the first of the files that is missing."""
    check_there(annotation_file, _ANNOTATION, OBTAINED)
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
        ``person_keypoints_*.json``.
    image_folder
        Folder of its photos.
    split
        Name of the split, for messages.
    input_size
        (H, W) of the network's input; boxes are grown to its aspect and padded by a quarter.
    detections
        A detector's json; if given, people are its boxes (without joints), all of category 1 with
        a score of at least ``detection_threshold``, neither clipped nor filtered otherwise.
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
    coco = _load(annotation_file, skeleton)
    if detections is None:
        try:
            people = _annotated(coco, annotation_file, image_folder, input_size, skeleton)
        except (TypeError, ValueError, LookupError, OverflowError) as error:
            raise PosematchError(
                f"{annotation_file} has an entry that is not of COCO's kind ({error}); mend it."
            ) from error
        boxes = "gt"
    else:
        people = _detected(
            coco, detections, image_folder, input_size, detection_threshold, skeleton
        )
        boxes = detections.name
    truth = OKSTruth(annotation_file, tuple(coco.getImgIds()), boxes, skeleton)
    return People("coco", split, skeleton, people, truth)


def read_annotations(annotation_file: Path, skeleton: Skeleton = COCO) -> dict[str, Any]:
    """Content of an annotation file, with what annotation tools often leave out filled in.

    ``area`` is the box's, ``iscrowd`` 0, ``num_keypoints`` the count of labelled joints. An area of
    0 stands, and leaves the person out (docs/protocols.md, COCO boxes), for COCO's skeleton only:
    in files of others it means that nobody measured it.

    Raises
    ------
    PosematchError
        The file is missing or not what it should be.
    """
    content = read_json(annotation_file, _ANNOTATION, OBTAINED)
    parts = ("images", "annotations", "categories")
    require(
        isinstance(content, dict)
        and all(isinstance(content.get(part), list) for part in parts)
        and all(isinstance(entry, dict) for part in parts for entry in content[part]),
        annotation_file,
        "COCO annotations (images, annotations, categories)",
    )
    for entry in content["annotations"]:
        if entry.get("area") is None or (skeleton != COCO and entry["area"] == 0):
            entry.pop("area", None)
            with contextlib.suppress(
                KeyError, TypeError, ValueError, OverflowError
            ):  # told by who needs it
                _, _, width, height = map(float, entry["bbox"])
                entry["area"] = width * height
        if entry.get("num_keypoints") is None:
            with contextlib.suppress(KeyError, TypeError):
                entry["num_keypoints"] = sum(flag > 0 for flag in entry["keypoints"][2::3])
        entry.setdefault("iscrowd", 0)
    return dict(content)


def skeleton_of(annotation_file: Path, oks_sigmas: Sequence[float] | None = None) -> Skeleton:
    """The skeleton that the file's person category describes.

    Its ``keypoints`` name the joints, its ``skeleton`` the limbs (1-based pairs, may be missing).

    Parameters
    ----------
    annotation_file
        In COCO's keypoint format; its person category is the one with id 1.
    oks_sigmas
        Standard deviation of each joint for OKS, as a share of the person's size; None for
        `posematch.skeletons.DEFAULT_OKS_SIGMA` each, or COCO's for its 17 joints.

    Raises
    ------
    PosematchError
        It describes none, or one that cannot be mirrored.
    """
    person = _person_category(read_annotations(annotation_file))
    names = _named(person)
    require(names, annotation_file, f"a category {PERSON_CATEGORY} with the names of its keypoints")
    if names == COCO.joints and oks_sigmas is None:
        return COCO
    try:
        limbs = [(int(a) - 1, int(b) - 1) for a, b in person.get("skeleton") or []]
        skeleton = skeleton_from_names(str(person.get("name", "person")), names, limbs, oks_sigmas)
        paired = {k for pair in skeleton.flip_pairs for k in pair}
        for k, joint in enumerate(names):
            if k not in paired and _SIDE.search(joint):
                raise ValueError(
                    f"'{joint}' seems to have a side, but no twin in left_... or right_..."
                )
    except (TypeError, ValueError, OverflowError) as error:
        raise PosematchError(
            f"The category {PERSON_CATEGORY} of {annotation_file} is no skeleton: {error}; mend its"
            " keypoints and skeleton, or data.oks_sigmas."
        ) from error
    return skeleton


def _person_category(content: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((one for one in content["categories"] if one.get("id") == PERSON_CATEGORY), {})


def _named(category: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of its joints; none where it does not tell them."""
    names = category.get("keypoints")
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _check_names(content: Mapping[str, Any], annotation_file: Path, skeleton: Skeleton) -> None:
    """Other joints in the same number would train without a word, mirrored wrongly."""
    named = _person_category(content).get("keypoints", [])
    require(isinstance(named, list), annotation_file, "a list of names as its category's keypoints")
    images = [one.get("id") for one in content["images"]]
    odd = next(
        (one for one in content["annotations"] if type(one.get("image_id")) is not int), None
    )
    if odd is not None and all(type(one) is int for one in images):
        raise PosematchError(
            f"annotation {odd.get('id')} of {annotation_file} is of image {odd.get('image_id')!r},"
            " and images are numbered there; mend its image_id."
        )
    names = _named(_person_category(content))
    if names and names != skeleton.joints:
        both = zip_longest(names, skeleton.joints, fillvalue="nothing")
        theirs, ours = next((theirs, ours) for theirs, ours in both if theirs != ours)
        raise PosematchError(
            f"The category {PERSON_CATEGORY} of {annotation_file} has {theirs} where the skeleton"
            f" '{skeleton.name}' has {ours}; for joints of your own set data.own_skeleton=true, and"
            " name the same ones in the same order in both files."
        )


def _load(annotation_file: Path, skeleton: Skeleton) -> Any:
    from pycocotools import coco as coco_api

    content = read_annotations(annotation_file, skeleton)
    _check_names(content, annotation_file, skeleton)
    coco = coco_api.COCO()
    coco.dataset = content
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
    except (KeyError, TypeError) as error:
        raise PosematchError(
            f"{annotation_file} is not a COCO annotation file: an entry lacks {error}."
        ) from error
    return coco


def _annotated(
    coco: Any, annotation_file: Path, image_folder: Path, input_size: Size, skeleton: Skeleton
) -> list[Person]:
    people = []
    for image_id in coco.getImgIds():
        info = coco.imgs[image_id]
        for annotation_id in coco.getAnnIds(imgIds=image_id, iscrowd=False):
            annotation = coco.anns[annotation_id]
            where = f"annotation {annotation_id} of {annotation_file}"
            try:
                if annotation["category_id"] != PERSON_CATEGORY:
                    continue
                bbox = np.array(annotation["bbox"], dtype=np.float64)
                area = float(annotation["area"])
                if not (np.isfinite(bbox).all() and math.isfinite(area)):
                    raise ValueError("its bbox or area is not finite")
                box = _clipped_box(bbox, info["width"], info["height"])
                # The annotation's area decides, not the box's (docs/protocols.md, COCO boxes).
                if box is None or area <= 0 or max(annotation["keypoints"]) == 0:
                    continue
                keypoints = np.array(annotation["keypoints"], dtype=np.float64).reshape(-1, 3)
                name = str(info["file_name"])
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise PosematchError(f"{where} is not a COCO person: {error!r}.") from error
            check_joint_count(len(keypoints), len(keypoints), skeleton, where)
            if not np.isfinite(keypoints).all():
                raise PosematchError(f"{where} has a coordinate that is not finite.")
            center_img, box_size_img = box_to_center_size(box, input_size)
            people.append(
                Person(
                    person_id=int(annotation_id),
                    image_id=int(image_id),
                    image=image_folder / plain_name(name, where),
                    center_img=center_img,
                    box_size_img=box_size_img,
                    joints_img=keypoints[:, :2].copy(),
                    visible=(keypoints[:, 2] > 0).astype(np.float32),
                    occluded=keypoints[:, 2] == 1,
                    area=area,
                )
            )
    return people


def _clipped_box(
    bbox: Any, width: int, height: int
) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """The box cut to the photo (docs/protocols.md, COCO boxes); None if nothing is left of it."""
    x, y, w, h = (float(value) for value in bbox)
    x1, y1 = max(0.0, x), max(0.0, y)
    x2 = min(width - 1.0, x1 + max(0.0, w - 1))
    y2 = min(height - 1.0, y1 + max(0.0, h - 1))
    # A box of one pixel has no size left, and no crop.
    if x2 < x1 or y2 < y1 or (x2 == x1 and y2 == y1):
        return None
    return np.array([x1, y1, x2 - x1, y2 - y1])


def _detected(
    coco: Any,
    detections: Path,
    image_folder: Path,
    input_size: Size,
    threshold: float,
    skeleton: Skeleton,
) -> list[Person]:
    rows = read_json(detections, _DETECTIONS)
    require(isinstance(rows, list), detections, "a list of detections")
    people = []
    for index, row in enumerate(rows):
        where = f"row {index} of {detections}"
        try:
            if row["category_id"] != PERSON_CATEGORY or row["score"] < threshold:
                continue
            image_id, score = int(row["image_id"]), float(row["score"])
            box = np.array(row["bbox"], dtype=np.float64).reshape(4)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise PosematchError(
                f"{where} is not a detection (image_id, category_id, bbox, score): {error!r}."
            ) from error
        if not np.isfinite(box).all() or box[2:].min() <= 0:
            continue
        if image_id not in coco.imgs:
            raise PosematchError(
                f"{where} is about photo {image_id}, which the annotations do not know; the"
                " detector's file must belong to the same split."
            )
        center_img, box_size_img = box_to_center_size(box, input_size)
        name = plain_name(str(coco.imgs[image_id]["file_name"]), where)
        people.append(
            Person(
                person_id=index,
                image_id=image_id,
                image=image_folder / name,
                center_img=center_img,
                box_size_img=box_size_img,
                joints_img=np.zeros((skeleton.num_joints, 2)),
                visible=np.zeros(skeleton.num_joints, dtype=np.float32),
                occluded=np.zeros(skeleton.num_joints, dtype=bool),
                box_score=score,
            )
        )
    return people
