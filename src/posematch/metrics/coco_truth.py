"""COCO's truth as pycocotools takes it, and results evaluated against it.

The one place where annotations become a ``COCO`` object to score against, checked and read once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from posematch.data.annotations import PERSON_CATEGORY, Annotations, read_annotations
from posematch.data.people import OKSTruth
from posematch.errors import PosematchError
from posematch.metrics.columns import FIGURES
from posematch.skeletons import SKELETONS, Skeleton

# A bbox of a result would make pycocotools take the person's size from it, not from the joints.
_TAKEN_OF_RESULT = ("image_id", "category_id", "keypoints", "score")


def evaluated(
    annotation_file: Path,
    results: Sequence[Mapping[str, Any]],
    image_ids: Iterable[int] | None,
    skeleton: Skeleton,
) -> COCOeval:
    """``COCOeval`` of results, evaluated photo by photo and not yet accumulated.

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
    truth = coco_truth(annotation_file, skeleton)
    known = set(truth.imgs)
    scored = known if image_ids is None else set(image_ids)
    strangers = (scored | {int(result["image_id"]) for result in results}) - known
    if strangers:
        raise PosematchError(
            f"image {min(strangers)} is not in {annotation_file}: "
            "score predictions against the annotation file they were made for."
        )
    taken = [{key: result[key] for key in _TAKEN_OF_RESULT} for result in results]
    with redirect_stdout(StringIO()):
        found = truth.loadRes(taken) if taken else _no_detections(truth)
        evaluation = COCOeval(truth, found, "keypoints")
        evaluation.params.imgIds = sorted(scored)
        evaluation.params.catIds = [PERSON_CATEGORY]
        evaluation.params.kpt_oks_sigmas = np.array(skeleton.oks_sigmas)
        evaluation.evaluate()
    return evaluation


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
        Other keys are ignored: a ``bbox`` would make pycocotools take the person's size from it
        instead of from the joints.
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
    evaluation = evaluated(annotation_file, results, image_ids, skeleton)
    with redirect_stdout(StringIO()):
        evaluation.accumulate()
        evaluation.summarize()
    # -1 is pycocotools' word for "there is nothing to find".
    figures = {
        name: float(figure)
        for name, figure in zip(FIGURES, evaluation.stats, strict=True)
        if figure >= 0
    }
    if FIGURES[0] not in figures:
        raise PosematchError(
            f"none of the {len(evaluation.params.imgIds)} scored photos of {annotation_file} has a"
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
    scored = set(truth.image_ids)
    entries = [
        one
        for one in read_annotations(truth.annotation_file, truth.skeleton).content["annotations"]
        if one["num_keypoints"] > 0 and not one["iscrowd"] and one["image_id"] in scored
    ]
    keypoints = np.array([one["keypoints"] for one in entries], dtype=np.float64)
    keypoints = keypoints.reshape(-1, truth.skeleton.num_joints, 3)
    return (
        np.array([one["bbox"] for one in entries], dtype=np.float64).reshape(-1, 4),
        keypoints[..., :2],
        keypoints[..., 2] > 0,
        np.array([one["image_id"] for one in entries], dtype=np.int64),
    )


def annotated_box_sides(truth: OKSTruth) -> dict[int, tuple[float, float]]:
    """Width and height of every annotated box of the file, by annotation id."""
    entries = read_annotations(truth.annotation_file, truth.skeleton).content["annotations"]
    return {one["id"]: (one["bbox"][2], one["bbox"][3]) for one in entries}


def coco_truth(annotation_file: Path, skeleton: Skeleton) -> COCO:
    """An annotation file as pycocotools takes it, made once for as long as it does not change.

    People are numbered from 1, as pycocotools takes an id of 0 for "nobody was found"; the file's
    own ids are their ``person_id``.

    Raises
    ------
    PosematchError
        As `posematch.data.annotations.read_annotations`.
    """
    return _indexed(_ByIdentity(read_annotations(annotation_file, skeleton)))


class _ByIdentity:
    """Annotations as a key: they are the same object for as long as their file is the same."""

    def __init__(self, annotations: Annotations) -> None:
        self.annotations = annotations

    def __hash__(self) -> int:
        return id(self.annotations)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and self.annotations is other.annotations


@lru_cache(maxsize=2)
def _indexed(key: _ByIdentity) -> COCO:
    content = key.annotations.content
    truth = COCO()
    truth.dataset = content | {
        # COCOeval writes into them.
        "annotations": [
            one | {"id": number, "person_id": one["id"]}
            for number, one in enumerate(content["annotations"], 1)
        ]
    }
    with redirect_stdout(StringIO()):
        truth.createIndex()
    return truth


def _no_detections(truth: COCO) -> COCO:
    """An empty result; ``loadRes`` cannot take an empty list."""
    found = COCO()
    found.dataset = {
        "images": truth.dataset["images"],
        "categories": truth.dataset["categories"],
        "annotations": [],
    }
    found.createIndex()
    return found
