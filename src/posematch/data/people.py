"""A person: what readers yield, crops cut out and metrics score.

Every coordinate is 0-based image pixels, x then y, pixel centres at integers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posematch.data.report import ReadingReport
from posematch.skeletons import Skeleton


@dataclass(frozen=True, slots=True, eq=False)
class Person:
    """One annotated (or detected) person of one photo.

    Attributes
    ----------
    person_id
        Unique within a data split and stable: the row of MPII's json, the annotation id of COCO,
        the position in a detector's file.
    image_id
        COCO's image id; for MPII the first row that uses the photo. People of one photo share it.
    image
        Path of the photo.
    center_img
        (2,) centre of the person's box.
    box_size_img
        (2,) width and height of the box in pixels, padding included, aspect as the network's input.
    joints_img
        (K, 2); rows of joints that are not labelled mean nothing.
    visible
        (K,) 1 where labelled (occluded or not), else 0.
    occluded
        (K,) True where labelled but said to be hidden (COCO's v = 1); all False where the
        annotation does not tell.
    box_score
        Detector's confidence, 1 for an annotated box.
    area
        COCO's segmentation area in square pixels, for OKS; 0 where there is none.
    photo_size
        (width, height) that the annotation tells of the photo; None where it does not.
    """

    person_id: int
    image_id: int
    image: Path
    center_img: NDArray[np.float64]
    box_size_img: NDArray[np.float64]
    joints_img: NDArray[np.float64]
    visible: NDArray[np.float32]
    occluded: NDArray[np.bool_]
    box_score: float = 1.0
    area: float = 0.0
    photo_size: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class PCKhTruth:
    """What PCKh is measured against: MPII's ``gt_valid.mat``, rows as in ``valid.json``.

    Attributes
    ----------
    joints_img
        (N, K, 2), 0-based.
    visible
        (N, K), 1 where the .mat says the joint is not missing.
    head_size_img
        (N,) 0.6 times the diagonal of the head box, in pixels (docs/protocols.md, PCKh).
    skeleton
        Joint order.
    """

    joints_img: NDArray[np.float64]
    visible: NDArray[np.float32]
    head_size_img: NDArray[np.float64]
    skeleton: Skeleton


@dataclass(frozen=True, eq=False)
class OKSTruth:
    """What COCO's AP is measured against: an annotation file and who is scored.

    Attributes
    ----------
    annotation_file
        ``person_keypoints_*.json``.
    image_ids
        Photos that are scored.
    boxes
        Which boxes the people come from: ``"gt"``, or the name of the detector's file.
    skeleton
        Joint order.
    """

    annotation_file: Path
    image_ids: tuple[int, ...]
    boxes: str
    skeleton: Skeleton


@dataclass(frozen=True, eq=False)
class People:
    """One split of a data set, read: its people and what they are scored against.

    ``report`` says what the reader made of its files; None where it tells nothing.
    """

    name: str
    split: str
    skeleton: Skeleton
    people: list[Person]
    truth: PCKhTruth | OKSTruth | None = field(default=None)
    report: ReadingReport | None = field(default=None)
