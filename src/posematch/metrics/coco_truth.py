"""COCO's truth, and results evaluated against it.

The one place where annotations become what results are scored against, checked and read once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posematch.data.annotated import AnnotatedPeople
from posematch.data.annotations import read_annotations
from posematch.data.people import OKSTruth
from posematch.errors import PosematchError
from posematch.metrics.coco_matching import Matches, match
from posematch.metrics.columns import FIGURES
from posematch.skeletons import SKELETONS, Skeleton


def evaluated(
    annotation_file: Path,
    results: Sequence[Mapping[str, Any]],
    image_ids: Iterable[int] | None,
    skeleton: Skeleton,
) -> Matches:
    """Results matched with people, photo by photo.

    Parameters
    ----------
    annotation_file
        ``person_keypoints_*.json``.
    results
        As the official server takes them; keys besides its own are ignored.
    image_ids
        The photos to score; None for all of the file.
    skeleton
        Number of joints, and their OKS sigmas.

    Raises
    ------
    PosematchError
        The file is missing or no keypoint annotation; a result or an image id is of another data
        set.
    """
    people = coco_people(annotation_file, skeleton)
    known = set(people.photos.tolist())
    scored = known if image_ids is None else set(image_ids)
    strangers = (scored | {int(result["image_id"]) for result in results}) - known
    if strangers:
        raise PosematchError(
            f"image {min(strangers)} is not in {annotation_file}: "
            "score predictions against the annotation file they were made for."
        )
    photos = np.array(sorted(scored), dtype=np.int64)
    return match(people, results, photos, np.array(skeleton.oks_sigmas))


def coco_figures(
    annotation_file: Path,
    results: Sequence[Mapping[str, Any]],
    image_ids: Iterable[int] | None = None,
    skeleton: Skeleton = SKELETONS["coco"],
) -> dict[str, float]:
    """COCO's ten keypoint figures.

    Parameters
    ----------
    annotation_file
        ``person_keypoints_*.json``.
    results
        As the official server takes them: ``image_id``, ``category_id``, ``keypoints``, ``score``.
        Other keys are ignored, also a ``bbox``: a pose's size is that of its joints' extent.
    image_ids
        The photos to score; all of the file by default.
    skeleton
        Number of joints, and their OKS sigmas.

    Returns
    -------
    dict
        `FIGURES` in 0..1. AP and AR of a size that no annotated person has are left out.

    Raises
    ------
    PosematchError
        The file is missing, no keypoint annotation, or has nobody to find in these photos; a
        result or an image id is of another data set.
    """
    matches = evaluated(annotation_file, results, image_ids, skeleton)
    figures = matches.figures()
    if FIGURES[0] not in figures:
        raise PosematchError(
            f"none of the {len(matches.photos)} scored photos of {annotation_file} has a"
            " person with labelled joints: choose other photos."
        )
    return figures


def photos_seen(
    photos: Iterable[int], of_seen: Iterable[int], of_unseen: Iterable[int]
) -> tuple[int, ...]:
    """The photos that can be scored where only a part of the people was predicted.

    Parameters
    ----------
    photos
        Of the whole split.
    of_seen, of_unseen
        Photos of the people who were predicted, and of those who were not.

    Returns
    -------
    All photos but those with somebody unseen; where that leaves nobody, those with somebody seen.
    """
    seen, unseen = set(of_seen), set(of_unseen)
    kept = seen - unseen or seen
    return tuple(one for one in photos if one in kept or one not in seen | unseen)


def annotated_people(
    truth: OKSTruth,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """People of the scored photos with a labelled joint, crowds left out, as annotated.

    Returns
    -------
    boxes_img (N, 4) x, y, width, height; joints_img (N, K, 2); labelled (N, K); image_ids (N,).

    Raises
    ------
    PosematchError
        As `coco_truth`.
    """
    people = coco_people(truth.annotation_file, truth.skeleton)
    scored = np.array(truth.image_ids, dtype=np.int64)
    rows = np.flatnonzero(people.counted & np.isin(people.image_ids, scored))
    keypoints = people.keypoints[rows]
    return (
        people.boxes_img[rows],
        keypoints[..., :2],
        keypoints[..., 2] > 0,
        people.image_ids[rows],
    )


def annotated_box_sides(truth: OKSTruth) -> dict[int, tuple[float, float]]:
    """Width and height of every annotated box of the file, by annotation id."""
    people = coco_people(truth.annotation_file, truth.skeleton)
    sides = zip(*people.boxes_img[:, 2:].T.tolist(), strict=True)
    return dict(zip(people.ids.tolist(), sides, strict=True))


def coco_people(annotation_file: Path, skeleton: Skeleton) -> AnnotatedPeople:
    """An annotation file's people as arrays, made once for as long as it does not change.

    Raises
    ------
    PosematchError
        As `posematch.data.annotations.read_annotations`.
    """
    return read_annotations(annotation_file, skeleton).arrays
