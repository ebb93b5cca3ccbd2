"""MPII Human Pose in HRNet's layout: ``images/``, ``annot/`` with two json and ``gt_valid.mat``.

Source: docs/protocols.md, MPII boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from posematch.data import matlab
from posematch.data.mpii_truth import read_pckh_truth
from posematch.data.people import PCKhTruth, People, Person
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
    people = [
        _read_person(row, index, root, annotation, input_size, first_row_of_photo)
        for index, row in enumerate(rows)
    ]
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
    report = ReadingReport(annotation.name, len(first_row_of_photo), joints=MPII.num_joints)
    for person in people:
        if not person.visible.any():
            report.note("suspicious", "without labelled joints", f"row {person.person_id}")
    report.people, report.pairs = len(people), joint_pairs(MPII)
    return People("mpii", split, MPII, people, truth, report)


def _check_order(people: list[Person], truth: PCKhTruth, annotation: Path, mat_file: Path) -> None:
    """Refuse a json whose rows are other people than the truth's: all figures would be chance."""
    joints_img = np.stack([person.joints_img for person in people])
    both = np.stack([person.visible for person in people]) * truth.visible > 0
    heads = np.linalg.norm(joints_img - truth.joints_img, axis=2) / truth.head_size_img[:, None]
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
    joints_img = np.stack([person.joints_img for person in people.people])
    visible = np.stack([person.visible for person in people.people])
    ends = [MPII.joints.index("upper_neck"), MPII.joints.index("head_top")]
    neck_img, top_img = joints_img[:, ends].swapaxes(0, 1)
    head_size_img = HEAD_SIZE_OF_HEAD * np.linalg.norm(top_img - neck_img, axis=1)
    has_head = (visible[:, ends] > 0).all(axis=1) & (head_size_img > 0)
    truth = PCKhTruth(
        joints_img,
        np.where(has_head[:, None], visible, 0).astype(np.float32),
        np.where(has_head, head_size_img, 1),
        MPII,
    )
    numbered = [replace(person, person_id=row) for row, person in enumerate(people.people)]
    return replace(people, people=numbered, truth=truth)


def _read_person(
    row: Any,
    index: int,
    root: Path,
    annotation: Path,
    input_size: Size,
    first_row_of_photo: dict[str, int],
) -> Person:
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
    side = scale * PIXELS_PER_SCALE
    return Person(
        person_id=index,
        image_id=first_row_of_photo.setdefault(image, index),
        image=path_below(root / "images", image, where),
        center_img=center - 1,
        box_size_img=grow_to_aspect(np.array([side, side]), input_size),
        joints_img=joints - 1,
        visible=(visible > 0).astype(np.float32),
        occluded=np.zeros(MPII.num_joints, dtype=bool),
    )
