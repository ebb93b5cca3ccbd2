"""MPII Human Pose in HRNet's layout: ``images/``, ``annot/`` with two json and ``gt_valid.mat``.

Source: docs/protocols.md, MPII boxes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posematch.data import matlab
from posematch.data.mpii_truth import read_pckh_truth
from posematch.data.people import PCKhTruth, People, PersonRows, PhotoPaths
from posematch.data.reading import (
    check_joint_count,
    check_there,
    path_below,
    read_json,
    require,
)
from posematch.data.report import ReadingReport
from posematch.errors import PosematchError
from posematch.geometry import Size, grow_to_aspect
from posematch.skeletons import MPII, joint_pairs

# docs/protocols.md, MPII boxes: the box is `scale` times 200 px high, shifted down by 15 px a unit
# of scale (the annotated centre sits high on the body) and padded by a quarter.
PIXELS_PER_SCALE = 200.0
CENTER_SHIFT_PER_SCALE_PX = 15.0
PADDING = 1.25
MOST_PX = 1e6  # larger than any photo
# gt_valid.mat's head size, 0.6 times the head box's diagonal, is this many times the distance from
# upper neck to head top: measured on all 2,932 validation people who have both, 5 to 95 % of whom
# lie within 0.000002 of it. train.json comes without head boxes.
HEAD_SIZE_OF_HEAD = 0.75
MOST_HEADS_APART = 0.25  # half of what PCKh counts as right


OBTAINED = (
    "Photos (images/) come from the MPII Human Pose site, mpii_human_pose_v1; annot/train.json,"
    " annot/valid.json and annot/gt_valid.mat from HRNet's data preparation;"
    " posematch prepare_data what=mpii root=FOLDER gets what it can of them"
)


_ANNOTATION = "the MPII annotation in HRNet's json layout"


def truth_file(root: Path) -> Path:
    """What PCKh is measured against, below the data set's folder."""
    return root / "annot" / "gt_valid.mat"


def _annotation(root: Path, split: str) -> Path:
    return root / "annot" / f"{split}.json"


def check_files(root: Path, splits: Sequence[str]) -> None:
    """Raise the sentence of `read_mpii` about the first file of these splits that is missing."""
    for split in splits:
        check_there(_annotation(root, split), _ANNOTATION, OBTAINED)
        if split == "valid":
            matlab.check_there(truth_file(root))


def read_mpii(root: Path, split: str, input_size: Size) -> People:
    """Read one split of MPII.

    Parameters
    ----------
    root
        Folder with ``images/`` and ``annot/``.
    split
        ``"train"`` or ``"valid"``; the latter also brings what PCKh is measured against.
    input_size
        (H, W) of the network's input; boxes get its aspect.

    Returns
    -------
    People with 0-based joints; ``person_id`` is the row of the json.

    Raises
    ------
    PosematchError
        A file is missing or not what it should be.
    """
    annotation = _annotation(root, split)
    rows = read_json(annotation, _ANNOTATION, OBTAINED)
    require(isinstance(rows, list) and rows, annotation, "a non-empty list of people")
    first_row_of_photo: dict[str, int] = {}
    read = [_read_person(row, index, annotation) for index, row in enumerate(rows)]
    people = _rows(read, root, annotation, input_size, first_row_of_photo)
    truth = None
    if split == "valid":
        mat_file = truth_file(root)
        truth = read_pckh_truth(mat_file)
        if len(truth.joints_img) != len(people):
            raise PosematchError(
                f"{mat_file} has {len(truth.joints_img)} people but {annotation} has"
                f" {len(people)}; the two must describe the same people, row by row."
            )
        _check_order(people, truth, annotation, mat_file)
        people.head_sizes_img = np.where(truth.head_size_img > 0, truth.head_size_img, 0)
    report = ReadingReport(annotation.name, len(first_row_of_photo), joints=MPII.num_joints)
    for row in np.flatnonzero(~people.visible.any(axis=1)).tolist():
        report.note("suspicious", "without labelled joints", f"row {row}")
    report.people, report.pairs = len(people), joint_pairs(MPII)
    return People("mpii", split, MPII, people, truth, report)


def _check_order(people: PersonRows, truth: PCKhTruth, annotation: Path, mat_file: Path) -> None:
    """Refuse a json whose rows are other people than the truth's: all figures would be chance."""
    both = people.visible * truth.visible > 0
    heads = (
        np.linalg.norm(people.joints_img - truth.joints_img, axis=2) / truth.head_size_img[:, None]
    )
    # In MPII's own files the median is 0.0000002 heads, so a quarter leaves room for mended joints.
    if both.any() and (typical := float(np.median(heads[both]))) > MOST_HEADS_APART:
        raise PosematchError(
            f"the joints of {annotation} lie {typical:.1f} head sizes (median) from those of"
            f" {mat_file}: the rows are in another order, or of other people; restore both files."
        )


def scored_by_annotation(people: People) -> People:
    """People of ``train.json`` with a truth for PCKh, which MPII has for ``valid.json`` alone.

    Parameters
    ----------
    people
        Of the training split.

    Returns
    -------
    The same people, numbered from 0, scored against their annotated joints. The head's size is
    `HEAD_SIZE_OF_HEAD` times the distance from upper neck to head top; joints of the few people
    without both count as not labelled.
    """
    joints_img, visible = people.rows.joints_img, people.rows.visible
    head_size_img = _head_sizes_img(joints_img, visible)
    has_head = head_size_img > 0
    truth = PCKhTruth(
        joints_img,
        np.where(has_head[:, None], visible, 0).astype(np.float32),
        np.where(has_head, head_size_img, 1),
        MPII,
    )
    numbered = [replace(person, person_id=row) for row, person in enumerate(people.people)]
    return replace(people, people=numbered, truth=truth)


def _head_sizes_img(
    joints_img: NDArray[np.float64], visible: NDArray[np.float32]
) -> NDArray[np.float64]:
    """(N,) by `HEAD_SIZE_OF_HEAD`; 0 where upper neck or head top is not labelled."""
    ends = [MPII.joints.index("upper_neck"), MPII.joints.index("head_top")]
    neck_img, top_img = joints_img[:, ends].swapaxes(0, 1)
    head_size_img = HEAD_SIZE_OF_HEAD * np.linalg.norm(top_img - neck_img, axis=1)
    return np.where((visible[:, ends] > 0).all(axis=1), head_size_img, 0)


class _Row(NamedTuple):
    """A person of the json; the centre in the network's 0-based frame, joints in MATLAB's."""

    image: str
    center_img: NDArray[np.float64]
    side_img: float
    joints: NDArray[np.float64]
    visible: NDArray[np.float32]


def _read_person(row: Any, index: int, annotation: Path) -> _Row:
    where = f"row {index} of {annotation}"
    try:
        image = str(row["image"])
        center = np.array(row["center"], dtype=np.float64).reshape(2)
        scale = float(row["scale"])
        joints = np.array(row["joints"], dtype=np.float64).reshape(-1, 2)
        visible = np.array(row["joints_vis"], dtype=np.float32).reshape(-1)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise PosematchError(
            f"{where} is not an MPII person (image, center, scale, joints, joints_vis): {error!r}."
        ) from error
    check_joint_count(len(joints), len(visible), MPII, where)
    # Not even NaN is below a bound.
    if not ((np.abs(joints) < MOST_PX).all() and (np.abs(center) < MOST_PX).all()):
        raise PosematchError(
            f"{where} has a coordinate that is not finite, or not of a photo; restore the file."
        )
    if not 0 < scale * PIXELS_PER_SCALE < MOST_PX:
        raise PosematchError(f"{where} has a scale of {scale}, which is no person's size.")
    # Order matters: shift by the unpadded scale, pad, and only then leave MATLAB's 1-based frame.
    if center[0] != -1:
        center[1] += CENTER_SHIFT_PER_SCALE_PX * scale
        scale *= PADDING
    return _Row(image, center - 1, scale * PIXELS_PER_SCALE, joints, visible)


def _rows(
    read: Sequence[_Row],
    root: Path,
    annotation: Path,
    input_size: Size,
    first_row_of_photo: dict[str, int],
) -> PersonRows:
    """All people; ``first_row_of_photo`` is filled, and numbers the photos."""
    paths, photo = [], []
    place: dict[str, int] = {}
    for index, one in enumerate(read):
        if one.image not in place:
            place[one.image] = len(place)
            first_row_of_photo[one.image] = index
            path = path_below(root / "images", one.image, f"row {index} of {annotation}")
            paths.append(os.fspath(path))
        photo.append(place[one.image])
    sides_img = np.array([one.side_img for one in read])
    joints_img = np.stack([one.joints for one in read]) - 1
    visible = (np.stack([one.visible for one in read]) > 0).astype(np.float32)
    return PersonRows(
        person_ids=np.arange(len(read), dtype=np.int64),
        image_ids=np.array([first_row_of_photo[one.image] for one in read], dtype=np.int64),
        photos=PhotoPaths(paths),
        photo=np.array(photo, dtype=np.intp),
        centers_img=np.stack([one.center_img for one in read]),
        box_sizes_img=grow_to_aspect(np.stack([sides_img, sides_img], axis=-1), input_size),
        joints_img=joints_img,
        visible=visible,
        occluded=np.zeros((len(read), MPII.num_joints), dtype=np.bool_),
        box_scores=np.ones(len(read)),
        areas=np.zeros(len(read)),
        head_sizes_img=_head_sizes_img(joints_img, visible),
        photo_sizes=np.zeros((len(read), 2), dtype=np.int64),
    )
