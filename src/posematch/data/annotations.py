"""COCO's keypoint format as people write it: read where the meaning is plain, else one sentence.

The one place where an annotation file becomes data. What comes out is the same whatever tool wrote
the file: whole numbers as ids, numbers as numbers, one category of people with id 1, and a report
of what was mended, left out, or looks wrong. People, COCO's metrics and run folders start from it.

| in the file | read as |
|---|---|
| numbers in strings, as whole floats | numbers |
| ids that are neither, negative, beyond 2^63, or repeat | refused |
| a photo listed again, word by word | one |
| ``num_keypoints`` | counted, whatever the file says |
| ``iscrowd`` null, "0", missing | 0 |
| coordinates of joints with v = 0 | not looked at |
| ``keypoints`` nested, as a string | flattened; empty or missing: nobody's |
| ``bbox`` missing, or without a size, where joints are labelled | that of the joints |
| ``area`` missing, null or NaN; of other skeletons than COCO's also 0 | the box's |
| several categories with the same joints, any id | one, with id 1 |
| people of other categories, or of photos that the file does not list | left out |
| boxes or joints as shares of the photo | refused |

Source of what is left out of COCO's own: docs/protocols.md, COCO boxes.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posematch.data.annotated import AnnotatedPeople
from posematch.data.reading import read_json, require
from posematch.data.report import ReadingReport
from posematch.errors import PosematchError
from posematch.skeletons import COCO, Skeleton, skeleton_from_names

PERSON_CATEGORY = 1
ANNOTATION = "the COCO keypoint annotation"
OBTAINED = (
    "Photos (train2017/, val2017/) and annotations/person_keypoints_*.json come from the COCO site,"
    " 2017 train, val and their annotations;"
    " posematch prepare_data what=coco root=FOLDER gets what it can of them"
)
# All that anybody reads: outlines, addresses and licences are most of a large file.
_OF_IMAGE = ("id", "file_name", "width", "height")
_OF_PERSON = ("id", "image_id", "keypoints", "num_keypoints", "area", "bbox", "iscrowd")
_MOST_ID = 2**63
_WHOLE = re.compile(r"\s*\d{1,19}\s*")
_LEAST_SIDE_PX = 10  # of a photo in which coordinates up to 1 are no pixels

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Annotations:
    """An annotation file, read.

    Attributes
    ----------
    file
        Where it is.
    content
        As COCO writes it: ``images``, ``annotations`` of people, ``categories`` (one, with id 1).
        Not to be changed: others are given the same.
    joints
        Names of the joints as the category tells them; empty where it does not.
    categories
        Numbers of the category in the file.
    report
        Counts of people and photos are the whole file's.
    """

    file: Path
    content: dict[str, Any]
    joints: tuple[str, ...]
    categories: frozenset[int]
    report: ReadingReport

    @cached_property
    def arrays(self) -> AnnotatedPeople:
        """``content``, as arrays; not to be changed either."""
        return AnnotatedPeople.of(self.content, self.report.joints)

    def fresh_report(self) -> ReadingReport:
        """The report, to be added to."""
        return copy.deepcopy(self.report)


def read_annotations(annotation_file: Path, skeleton: Skeleton | None = COCO) -> Annotations:
    """Read a file once for as long as it does not change.

    Parameters
    ----------
    annotation_file
        In COCO's keypoint format.
    skeleton
        Its joints, in its order; None for those that it names.

    Raises
    ------
    PosematchError
        The file is missing or not what it should be; the sentence says how many entries are not,
        and names the first.
    """
    try:
        status = annotation_file.stat()
        changed = (status.st_mtime_ns, status.st_size)
    except (OSError, ValueError):
        changed = (0, 0)  # told by the reader
    name, joints = ("", None) if skeleton is None else (skeleton.name, skeleton.joints)
    return _read(annotation_file, name, joints, skeleton == COCO, changed)


def forget_annotations() -> None:
    """Let go of what was read: of 44,000 people 110 MiB, measured.

    Before loaders' workers are made, each of which would have a copy in the end.
    """
    _read.cache_clear()


@lru_cache(maxsize=4)
def _read(
    file: Path,
    name: str,
    joints: tuple[str, ...] | None,
    of_coco: bool,
    changed: tuple[int, int],
) -> Annotations:
    """``changed`` is part of the cache's key: a file that was written anew is read anew."""
    raw = read_json(file, ANNOTATION, OBTAINED)
    parts = ("images", "annotations", "categories")
    require(
        isinstance(raw, dict)
        and all(isinstance(raw.get(part), list) for part in parts)
        and all(isinstance(entry, dict) for part in parts for entry in raw[part]),
        file,
        "COCO annotations (images, annotations, categories)",
    )
    report = ReadingReport(file.name)
    category, of_people = _people_category(file, raw["categories"], name, joints)
    named = tuple(map(str, category.get("keypoints") or ()))
    K = len(joints or named)
    require(K, file, "a category with the names of its keypoints")
    images = _images(file, raw["images"], report)
    entries = _entries(file, raw["annotations"], images, of_people, K, of_coco, report)
    content = {
        **{key: value for key, value in raw.items() if key not in parts},
        "images": list(images.values()),
        "annotations": entries,
        "categories": [{**category, "id": PERSON_CATEGORY}],
    }
    report.photos, report.joints = len(images), K
    report.people = sum(one["num_keypoints"] > 0 for one in entries)
    return Annotations(file, content, named, of_people, report)


# --- categories and skeletons ---


def _people_category(
    file: Path, categories: Sequence[dict[str, Any]], name: str, joints: tuple[str, ...] | None
) -> tuple[dict[str, Any], frozenset[int]]:
    """The category of people, and the ids of all that are the same; none names joints twice."""
    known: dict[int, dict[str, Any]] = {}
    for one in categories:
        number = whole_of(one.get("id"))
        if number is None or number in known:
            raise PosematchError(
                f"{file} has a category with the id {shown(one.get('id'))}, which is no whole"
                " number of its own; number the categories."
            )
        keypoints = one.get("keypoints")
        require(
            keypoints is None or isinstance(keypoints, list),
            file,
            f"a list of names as the keypoints of its category {number}",
        )
        known[number] = one
    named = {number: one for number, one in known.items() if one.get("keypoints")}
    if not named:
        # COCO's joints need no names; the category may have any number where it is the only one.
        number = next(iter(known)) if len(known) == 1 else PERSON_CATEGORY
        return known.get(number, {"name": "person"}), frozenset({number})
    names = {number: tuple(map(str, one["keypoints"])) for number, one in named.items()}
    first = PERSON_CATEGORY if PERSON_CATEGORY in named else next(iter(named))
    if joints is not None:
        first = next((number for number in names if names[number] == joints), first)
        if names[first] != joints:
            pairs = zip_longest(names[first], joints, fillvalue="nothing")
            theirs, ours = next((a, b) for a, b in pairs if a != b)
            raise PosematchError(
                f"The category {first} of {file} has {theirs} where the skeleton '{name}' has"
                f" {ours}; for joints of your own set data.own_skeleton=true, and name the same"
                " ones in the same order in both files."
            )
    elif len(set(names.values())) > 1:
        other = next(number for number in names if names[number] != names[first])
        raise PosematchError(
            f"The categories {first} and {other} of {file} have different joints, and one network"
            " has one skeleton; keep the category that is to be trained in the file."
        )
    same = frozenset(number for number in names if names[number] == names[first])
    return named[first], same


def skeleton_of(
    annotation_file: Path,
    oks_sigmas: Sequence[float] | None = None,
    flip_pairs: Sequence[Sequence[str]] | None = None,
) -> Skeleton:
    """The skeleton that the file's category of people describes.

    Its ``keypoints`` name the joints, its ``skeleton`` the limbs (1-based pairs, may be missing).

    Parameters
    ----------
    annotation_file
        In COCO's keypoint format.
    oks_sigmas
        Standard deviation of each joint for OKS, as a share of the person's size; None for
        `posematch.skeletons.DEFAULT_OKS_SIGMA` each, or COCO's for its 17 joints.
    flip_pairs
        Names of joints that change places in a mirrored photo; None: told by the names.

    Raises
    ------
    PosematchError
        It describes none, or one that cannot be mirrored.
    """
    annotations = read_annotations(annotation_file, None)
    category, names = annotations.content["categories"][0], annotations.joints
    if names == COCO.joints and oks_sigmas is None and flip_pairs is None:
        return COCO
    try:
        limbs = [(int(a) - 1, int(b) - 1) for a, b in category.get("skeleton") or []]
        return skeleton_from_names(
            str(category.get("name", "person")), names, limbs, oks_sigmas, flip_pairs
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise PosematchError(
            f"The category of {annotation_file} is no skeleton: {error}; mend its keypoints and"
            " skeleton, or data.oks_sigmas and data.flip_pairs."
        ) from error


# --- photos ---


def _images(
    file: Path, images: Sequence[dict[str, Any]], report: ReadingReport
) -> dict[int, dict[str, Any]]:
    """Entries by id, with whole numbers as sizes where they are told."""
    images = _each_once(images, report)
    ids = _ids(file, images, "images", report)
    found: dict[int, dict[str, Any]] = {}
    names: dict[str, int] = {}
    for number, image in zip(ids, images, strict=True):
        one = {key: image[key] for key in _OF_IMAGE if key in image} | {"id": number}
        for side in ("width", "height"):
            size = whole_of(image.get(side))
            if size is None or size == 0:
                one.pop(side, None)  # the photo itself tells it
            else:
                one[side] = size
        name = image.get("file_name")
        if isinstance(name, str):
            one["file_name"] = name
            if name in names:
                report.note("suspicious", "photos listed twice", f"{name}: {names[name]}, {number}")
            names.setdefault(name, number)
        found[number] = one
    return found


def _each_once(images: Sequence[dict[str, Any]], report: ReadingReport) -> Sequence[dict[str, Any]]:
    """Without entries that say word by word what another one does."""
    ids = [str(one.get("id")) for one in images]
    if len(set(ids)) == len(ids):
        return images
    once: dict[str, dict[str, Any]] = {}
    for image in images:
        told = json.dumps(image, sort_keys=True)
        if told in once:
            report.note("repaired", "photos listed again, word by word", image.get("file_name"))
        once[told] = image
    return list(once.values())


# --- people ---


def _entries(
    file: Path,
    annotations: Sequence[dict[str, Any]],
    images: dict[int, dict[str, Any]],
    of_people: frozenset[int],
    K: int,
    of_coco: bool,
    report: ReadingReport,
) -> list[dict[str, Any]]:
    """Of people of the listed photos, each with all that COCO's own entries have."""
    chosen = []
    for one in annotations:
        number = whole_of(one.get("category_id"))
        # Where there is but one category, entries that name none can mean no other.
        if number in of_people or (one.get("category_id") is None and len(of_people) == 1):
            chosen.append(one)
        elif one.get("keypoints"):
            report.note("left out", "of other categories", f"annotation {one.get('id')}")
    ids = _ids(file, chosen, "annotations", report)
    of_image = [whole_of(one.get("image_id")) for one in chosen]
    _refuse(
        file,
        [(one, one.get("image_id")) for one, number in zip(chosen, of_image, strict=True)
         if number is None],
        "of the image {value}, and images are numbered there; mend image_id",
    )  # fmt: skip
    entries: list[dict[str, Any]] = []
    plain = _plain_people(chosen, K, of_coco)
    wrong: dict[str, list[tuple[dict[str, Any], Any]]] = {}
    for place, (number, image_id, one) in enumerate(zip(ids, of_image, chosen, strict=True)):
        if image_id not in images:
            where = f"annotation {number}, image {image_id}"
            report.note("left out", "of photos that are not listed", where)
            continue
        entry = {key: one[key] for key in _OF_PERSON if key in one}
        entry |= {"id": number, "image_id": image_id, "category_id": PERSON_CATEGORY}
        if place in plain:
            entries.append(entry | plain[place])
            continue
        fault = _person(entry, K, of_coco, report)
        if fault is not None:
            wrong.setdefault(fault, []).append((one, one.get(_KEY_OF[fault])))
            continue
        entries.append(entry)
    for fault, cases in wrong.items():
        _refuse(file, cases, fault, K)
    _check_pixels(file, entries, images)
    return entries


def _plain_people(
    entries: Sequence[dict[str, Any]], K: int, of_coco: bool
) -> dict[int, dict[str, Any]]:
    """What `_person` makes of entries that need no mending, all at once, by their place."""
    places = [
        place
        for place, one in enumerate(entries)
        if type(one.get("keypoints")) is list
        and len(one["keypoints"]) == 3 * K
        and type(one.get("bbox")) is list
        and len(one["bbox"]) == 4
        and type(one.get("area")) in (int, float)
        and type(one.get("iscrowd")) is int
        and one["iscrowd"] in (0, 1)
    ]
    chosen = [entries[place] for place in places]
    try:
        keypoints = np.array([one["keypoints"] for one in chosen], np.float64).reshape(-1, 3 * K)
        boxes = np.array([one["bbox"] for one in chosen], np.float64).reshape(-1, 4)
        areas = np.array([one["area"] for one in chosen], np.float64)
    except (TypeError, ValueError, OverflowError):
        return {}  # told one by one
    flags = keypoints[:, 2::3]
    labelled = (flags > 0).sum(axis=1)
    fit = np.isfinite(keypoints).all(axis=1) & ((flags == 0) | (flags == 1) | (flags == 2)).all(1)
    fit &= np.isfinite(boxes).all(axis=1) & ((boxes[:, 2:] > 0).all(axis=1) | (labelled == 0))
    fit &= np.isfinite(areas) & ((areas >= 0) if of_coco else (areas > 0))
    rows = np.flatnonzero(fit)
    columns = (keypoints[rows].tolist(), boxes[rows].tolist(), areas[rows].tolist())
    return {
        places[row]: {"keypoints": points, "num_keypoints": count, "bbox": box, "area": area}
        for row, count, points, box, area in zip(
            rows.tolist(), labelled[rows].tolist(), *columns, strict=True
        )
    }


_COUNT, _NUMBERS, _UNPLACED, _BOX, _AREA, _CROWD = (
    "with {joints} joints, and the skeleton has {K}; for joints of your own use data=coco"
    " data.own_skeleton=true",
    "with keypoints that are no numbers: {value}; write x, y and v of each joint",
    "with a labelled joint (v above 0) at no finite place; label it with 0, or place it",
    "with a bbox that is no x, y, width and height: {value}",
    "with an area of {value}, which is no size",
    "with an iscrowd of {value}, which is neither 0 nor 1",
)
_KEY_OF = {
    _COUNT: "keypoints", _NUMBERS: "keypoints", _UNPLACED: "keypoints", _BOX: "bbox",
    _AREA: "area", _CROWD: "iscrowd",
}  # fmt: skip


def _person(entry: dict[str, Any], K: int, of_coco: bool, report: ReadingReport) -> str | None:
    """Make an entry whole; the fault that it cannot be read for, if any."""
    where = f"annotation {entry['id']}"
    crowd = _flag(entry.get("iscrowd"))
    if crowd is None:
        return _CROWD
    entry["iscrowd"] = crowd
    given = entry.get("keypoints")
    keypoints = numbers_of(given)
    if keypoints is None:
        return _NUMBERS
    if not keypoints.size:
        keypoints = np.zeros(3 * K)
    elif keypoints.ndim > 1 or isinstance(given, str):
        report.note("repaired", "keypoints in another shape", where)
    keypoints = keypoints.reshape(-1)
    if len(keypoints) != 3 * K:
        return _COUNT
    keypoints = keypoints.reshape(K, 3)
    flags = np.nan_to_num(keypoints[:, 2], nan=0.0)
    labelled = flags > 0
    if ((flags < 0) | (flags > 2) | (flags != np.floor(flags))).any():
        report.note("suspicious", "flags of joints besides 0, 1 and 2", where)
    if not np.isfinite(keypoints[labelled]).all():
        return _UNPLACED
    if not np.isfinite(keypoints).all():
        keypoints = np.where(np.isfinite(keypoints), keypoints, 0.0)
    keypoints[:, 2] = flags
    entry["keypoints"] = keypoints.ravel().tolist()
    entry["num_keypoints"] = int(labelled.sum())
    box = _box(entry, keypoints[labelled, :2], where, report)
    if box is None:
        return _BOX
    entry["bbox"] = box
    area = number_of(entry.get("area"))
    told = entry.get("area") is not None
    if area is None and told and not isinstance(entry["area"], float):
        return _AREA
    if area is not None and area < 0:
        return _AREA
    if area is None or (area == 0 and not of_coco):
        if told and labelled.any():
            report.note("repaired", "areas that nobody measured, the box's taken", where)
        area = box[2] * box[3]
    entry["area"] = area
    return None


def _box(
    entry: dict[str, Any], joints_img: Floats, where: str, report: ReadingReport
) -> list[float] | None:
    """x, y, width, height; of the labelled joints where the file has none. None: unreadable."""
    given = entry.get("bbox")
    box = numbers_of(given)
    if box is None or (box.size and (box.size != 4 or not np.isfinite(box).all())):
        return None
    box = box.reshape(-1)
    if (box.size and box[2] > 0 and box[3] > 0) or not len(joints_img):
        return [float(one) for one in box] if box.size else [0.0] * 4
    first, last = joints_img.min(axis=0), joints_img.max(axis=0)
    report.note("repaired", "boxes without a size, that of the joints taken", where)
    return [float(one) for one in (*first, *(last - first))]


def _check_pixels(
    file: Path, entries: Sequence[dict[str, Any]], images: dict[int, dict[str, Any]]
) -> None:
    """Refuse coordinates that are shares of the photo: all of them between 0 and 1."""
    labelled = [one for one in entries if one["num_keypoints"] > 0]
    sides = [one["width"] for one in images.values() if "width" in one]
    if not labelled or (sides and max(sides) <= _LEAST_SIDE_PX):
        return
    for key in ("keypoints", "bbox"):
        values = np.array([one[key] for one in labelled], dtype=np.float64)
        if key == "keypoints":
            joints = values.reshape(-1, 3)
            values = joints[joints[:, 2] > 0, :2]
        if 0 < values.max(initial=0.0) <= 1 and values.min(initial=0.0) >= 0:
            raise PosematchError(
                f"{key} of {file} lie between 0 and 1: they are shares of the photo, and pixels"
                " are needed; multiply x by each photo's width and y by its height."
            )


# --- numbers as tools write them ---


def _ids(
    file: Path, entries: Sequence[dict[str, Any]], what: str, report: ReadingReport
) -> list[int]:
    """Each entry's id; by position where no entry has one."""
    if entries and all("id" not in one for one in entries):
        report.note("repaired", f"{what} without ids, numbered in order", file.name)
        return list(range(1, len(entries) + 1))
    ids = [whole_of(one.get("id")) for one in entries]
    wrong = [one.get("id") for one, number in zip(entries, ids, strict=True) if number is None]
    if wrong:
        raise PosematchError(
            f"{len(wrong)} of {len(entries)} {what} of {file} have an id that is no whole number"
            f" from 0 to 2^63 (the first is {shown(wrong[0])}); number them."
        )
    whole = [number for number in ids if number is not None]
    if len(set(whole)) < len(whole):
        seen: set[int] = set()
        repeated = [number for number in whole if number in seen or seen.add(number)]  # type: ignore[func-returns-value]
        raise PosematchError(
            f"the id {repeated[0]} stands on several {what} of {file} ({len(repeated)} ids repeat);"
            " files that were merged number their parts anew: give each of the"
            f" {what} an id of its own, and annotations the image_id of their photo."
        )
    return whole


def _refuse(
    file: Path, cases: Sequence[tuple[dict[str, Any], Any]], fault: str, K: int = 0
) -> None:
    """Raise the sentence of a fault that entries have, with their number and the first."""
    if not cases:
        return
    entry, value = cases[0]
    joints = ""
    if fault == _COUNT:
        found = numbers_of(value)
        joints = f"{(0 if found is None else found.size) / 3:g}"
    said = fault.format(value=shown(value), joints=joints, K=K)
    others = f" ({len(cases)} entries are so)" if len(cases) > 1 else ""
    raise PosematchError(f"annotation {shown(entry.get('id'))} of {file} is {said}{others}.")


def whole_of(value: Any) -> int | None:
    """A whole number from 0 to 2^63, however it is written."""
    if isinstance(value, str):
        value = int(value) if _WHOLE.fullmatch(value) and value.isascii() else None
    elif isinstance(value, float):
        value = int(value) if value.is_integer() else None
    elif type(value) is not int:
        return None
    return value if value is not None and 0 <= value < _MOST_ID else None


def number_of(value: Any) -> float | None:
    """A finite number, however it is written."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _flag(value: Any) -> int | None:
    """``iscrowd``: 0 or 1."""
    if value is None or value in ("", "0", "false", "False"):
        return 0
    if value in ("1", "true", "True"):
        return 1
    return int(value) if isinstance(value, int | float) and value in (0, 1) else None


def numbers_of(value: Any) -> Floats | None:
    """An array of a list of numbers, nested or in a string; null is NaN. None: no such list."""
    if value is None:
        return np.zeros(0)
    if isinstance(value, str):
        words = re.split(r"[\s,;]+", value.strip("[]() \t\n"))
        value = [word for word in words if word]
    if not isinstance(value, list):
        return None
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    return array if array.ndim <= 2 else None


def shown(value: Any) -> str:
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
