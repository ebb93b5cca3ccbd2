"""COCO's keypoint AP: similarity of poses (OKS), its suppression, rescoring and COCOeval.

Source: PROTOCOLS 2.9.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pycocotools import coco as coco_api
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchmetrics import Metric

from posematch.data.coco import read_annotations
from posematch.data.people import OKSTruth, People
from posematch.errors import PosematchError
from posematch.metrics.batches import check_batch, check_seen_once, mark_seen
from posematch.skeletons import COCO, Skeleton

PERSON_CATEGORY = 1
COUNTED_JOINT_SCORE = 0.2
NMS_THRESHOLD = 0.9
NEEDED_OF_ANNOTATION = frozenset(
    ("id", "image_id", "category_id", "keypoints", "num_keypoints", "bbox", "area")
)
# The order of COCOeval's stats.
FIGURES = ("AP", "AP50", "AP75", "AP(M)", "AP(L)", "AR", "AR50", "AR75", "AR(M)", "AR(L)")


def oks(
    joints_a: ArrayLike,
    joints_b: ArrayLike,
    area_a: ArrayLike,
    area_b: ArrayLike,
    sigmas: ArrayLike,
) -> NDArray[np.float64]:
    """Object keypoint similarity of predicted poses, as suppression uses it.

    Every joint counts, and the size is the mean of both areas (COCOeval instead counts the labelled
    joints and divides by the truth's area).

    Parameters
    ----------
    joints_a, joints_b
        (..., K, 2) pixels; leading axes are broadcast.
    area_a, area_b
        (...) square pixels.
    sigmas
        (K,) COCO's per-joint standard deviations.

    Returns
    -------
    ndarray
        (...) in [0, 1].
    """
    offset_px = np.asarray(joints_a, dtype=np.float64) - np.asarray(joints_b, dtype=np.float64)
    squared_px = np.sum(offset_px**2, axis=-1)
    area = (np.asarray(area_a, dtype=np.float64) + np.asarray(area_b, dtype=np.float64)) / 2
    variance = (2 * np.asarray(sigmas, dtype=np.float64)) ** 2
    # spacing(1) is COCO's guard against an empty box; keeping it keeps their figures.
    exponent = squared_px / variance / (area[..., None] + np.spacing(1)) / 2
    similarity: NDArray[np.float64] = np.exp(-exponent).mean(axis=-1)
    return similarity


def oks_nms(
    keypoints: NDArray[np.float64],
    scores: NDArray[np.float64],
    areas: NDArray[np.float64],
    sigmas: ArrayLike,
    threshold: float = NMS_THRESHOLD,
) -> NDArray[np.intp]:
    """Greedy suppression: the best pose stays, poses more similar to it than the threshold go.

    Parameters
    ----------
    keypoints
        (N, K, 2 or more) pixels, x and y first.
    scores, areas
        (N,).
    sigmas
        (K,).
    threshold
        Poses with an OKS above it are one person.

    Returns
    -------
    ndarray
        Kept indices, best score first; of equal scores the first comes first.
    """
    joints = keypoints[..., :2]
    similarity = oks(joints[:, None], joints[None, :], areas[:, None], areas[None, :], sigmas)
    gone = np.zeros(len(scores), dtype=np.bool_)
    kept = []
    for index in np.argsort(-scores, kind="stable"):
        if not gone[index]:
            kept.append(index)
            gone |= similarity[index] > threshold
    return np.asarray(kept, dtype=np.intp)


def rescore(
    box_scores: NDArray[np.float64],
    joint_scores: NDArray[np.float64],
    threshold: float = COUNTED_JOINT_SCORE,
) -> NDArray[np.float64]:
    """Score of a pose: its box's times the mean of its joints' that are above the threshold.

    Parameters
    ----------
    box_scores
        (N,).
    joint_scores
        (N, K).
    threshold
        Joints at or below it do not enter the mean; with none above it the score is 0.

    Returns
    -------
    ndarray
        (N,).
    """
    above = joint_scores > threshold
    mean = np.sum(joint_scores * above, axis=1) / np.maximum(above.sum(axis=1), 1)
    scores: NDArray[np.float64] = box_scores * mean
    return scores


def coco_figures(
    annotation_file: Path,
    results: Sequence[Mapping[str, Any]],
    image_ids: Iterable[int] | None = None,
    skeleton: Skeleton = COCO,
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
    truth = _annotations(annotation_file, skeleton)
    known = set(truth.imgs)
    scored = known if image_ids is None else set(image_ids)
    strangers = (scored | {int(result["image_id"]) for result in results}) - known
    if strangers:
        raise PosematchError(
            f"image {min(strangers)} is not in {annotation_file}: "
            "score predictions against the annotation file they were made for."
        )
    detections = [
        {key: result[key] for key in ("image_id", "category_id", "keypoints", "score")}
        for result in results
    ]
    with redirect_stdout(StringIO()):
        found = truth.loadRes(detections) if detections else _no_detections(truth)
        evaluation = COCOeval(truth, found, "keypoints")
        evaluation.params.imgIds = sorted(scored)
        evaluation.params.catIds = [PERSON_CATEGORY]
        evaluation.params.kpt_oks_sigmas = np.array(skeleton.oks_sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # -1 is pycocotools' word for "there is nothing to find".
    figures = {
        name: float(figure)
        for name, figure in zip(FIGURES, evaluation.stats, strict=True)
        if figure >= 0
    }
    if COCOKeypointAP.primary not in figures:
        raise PosematchError(
            f"none of the {len(scored)} scored photos of {annotation_file} has a person with "
            "labelled joints: choose other photos."
        )
    return figures


def _annotations(annotation_file: Path, skeleton: Skeleton) -> coco_api.COCO:
    """Read an annotation file, once for as long as it does not change."""
    try:
        changed = annotation_file.stat().st_mtime_ns
    except OSError as error:
        raise PosematchError(
            f"{annotation_file} cannot be read ({error.strerror}): "
            "set data.root and data.valid_annotations to a COCO person_keypoints_*.json."
        ) from error
    return _read_annotations(annotation_file.resolve(), skeleton, changed)


@lru_cache(maxsize=2)
def _read_annotations(annotation_file: Path, skeleton: Skeleton, changed: int) -> coco_api.COCO:
    """``changed`` is part of the cache's key: a file that was written anew is read anew."""
    annotations = coco_api.COCO()
    annotations.dataset = read_annotations(annotation_file, skeleton)
    try:
        for entry in annotations.dataset["annotations"]:
            if entry.get("category_id") not in (None, PERSON_CATEGORY):
                continue
            if missing := NEEDED_OF_ANNOTATION - entry.keys():
                raise KeyError(*sorted(missing))
            if len(entry["keypoints"]) != 3 * skeleton.num_joints:
                raise ValueError(f"keypoints of annotation {entry['id']}")
        with redirect_stdout(StringIO()):
            annotations.createIndex()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PosematchError(
            f"{annotation_file} is not a COCO keypoint annotation file "
            f"({type(error).__name__}: {error}): use a person_keypoints_*.json."
        ) from error
    return annotations


def _no_detections(truth: coco_api.COCO) -> coco_api.COCO:
    """An empty result; ``loadRes`` cannot take an empty list."""
    found = coco_api.COCO()
    found.dataset = {
        "images": truth.dataset["images"],
        "categories": truth.dataset["categories"],
        "annotations": [],
    }
    found.createIndex()
    return found


class COCOKeypointAP(Metric):
    """COCO keypoint AP and AR of the people of a split.

    Poses are rescored (`rescore`), near-duplicates in a photo suppressed (`oks_nms`), and what
    stays goes to pycocotools.

    Parameters
    ----------
    people
        Their box scores and padded boxes (the area in `oks_nms`); their ``truth`` must be an
        `OKSTruth`.

    Raises
    ------
    TypeError
        It is not.
    ValueError
        The skeleton is not COCO's, or two people have the same id.
    """

    primary: ClassVar[str] = "AP"
    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    times_seen: Tensor
    prediction_bits: Tensor

    def __init__(self, people: People) -> None:
        super().__init__()
        truth = people.truth
        if not isinstance(truth, OKSTruth):
            raise TypeError(f"AP needs an OKSTruth, {people.name} has {type(truth).__name__}")
        if len(truth.skeleton.oks_sigmas) != truth.skeleton.num_joints:
            raise ValueError(f"the {truth.skeleton.name} skeleton has no OKS sigmas")
        self.truth = truth
        by_id = sorted(people.people, key=lambda person: person.person_id)
        self._person_ids = torch.tensor([person.person_id for person in by_id], dtype=torch.int64)
        if len(set(self._person_ids.tolist())) != len(by_id):
            raise ValueError(f"two people of {people.name}/{people.split} have the same id")
        self._image_ids = np.array([person.image_id for person in by_id], dtype=np.int64)
        self._box_scores = np.array([person.box_score for person in by_id], dtype=np.float64)
        # Area of the padded, aspect-grown box, not of the person (PROTOCOLS 2.9).
        self._box_areas = np.array(
            [np.prod(person.box_size_img) for person in by_id], dtype=np.float64
        )

        seen = torch.zeros(len(by_id), dtype=torch.int64)
        self.add_state("times_seen", seen, dist_reduce_fx="sum")
        # x, y, score of every person in a row of its own, as float64 bits in an integer: exact on
        # devices without float64 and under half-precision casts of the module, and, since only one
        # process fills a row, unchanged by the sum. A row that nobody filled stays 0.
        bits = torch.zeros((len(by_id), truth.skeleton.num_joints, 3), dtype=torch.int64)
        self.add_state("prediction_bits", bits, dist_reduce_fx="sum")

    @property
    def protocol(self) -> str:
        """How the figures are made, for a table's caption."""
        return (
            f"{len(self.truth.image_ids)} photos, boxes: {self.truth.boxes}, scores: box x mean of "
            f"joints > {COUNTED_JOINT_SCORE}, OKS-NMS {NMS_THRESHOLD}, 20 people a photo"
        )

    def update(self, person_ids: Tensor, joints_img: Tensor, scores: Tensor) -> None:
        """Take in a batch.

        Parameters
        ----------
        person_ids
            (B,) ids of `Person`.
        joints_img
            (B, K, 2) predicted joints, 0-based image pixels.
        scores
            (B, K) of the joints, in [0, 1].

        Raises
        ------
        ValueError
            Wrong shapes, an unknown person, or a person scored twice.
        PosematchError
            A prediction is not finite.
        """
        check_batch(person_ids, joints_img, scores, self.truth.skeleton.num_joints)
        ids = person_ids.detach().cpu().long()
        unknown = ids[~torch.isin(ids, self._person_ids)]
        if unknown.numel():
            raise ValueError(f"nobody has the person id {int(unknown[0])}")
        rows = torch.searchsorted(self._person_ids, ids).to(self.times_seen.device)
        mark_seen(self.times_seen, rows)
        predicted = torch.cat([joints_img, scores[..., None]], dim=2).detach().cpu().double()
        bits = predicted.view(torch.int64)
        self.prediction_bits[rows] = bits.to(self.prediction_bits.device)

    def compute(self) -> dict[str, float]:
        """COCO's ten figures, see `coco_figures`.

        Raises
        ------
        ValueError
            Two processes scored the same person.
        PosematchError
            As `coco_figures`.
        """
        truth = self.truth
        return coco_figures(
            truth.annotation_file, self._suppressed(), truth.image_ids, truth.skeleton
        )

    def results(self) -> list[dict[str, Any]]:
        """The poses that are scored, of all processes, as the official server takes them.

        To be called on every process alike, as ``compute``.

        Returns
        -------
        list of dict
            ``image_id``, ``category_id`` (1), ``keypoints`` (x, y, score of each joint in a row,
            0-based pixels), ``score``; by photo, best first.
        """
        with self.sync_context():
            return self._suppressed()

    def _suppressed(self) -> list[dict[str, Any]]:
        check_seen_once(self.times_seen)
        rows = np.flatnonzero(self.times_seen.cpu().numpy())
        # Rows are in the order of person ids and the sort is stable: ties in a score are broken
        # alike, however the people came in.
        rows = rows[np.argsort(self._image_ids[rows], kind="stable")]
        keypoints = self.prediction_bits.cpu().view(torch.float64).numpy()[rows]
        image_ids = self._image_ids[rows]
        scores = rescore(self._box_scores[rows], keypoints[..., 2])
        areas = self._box_areas[rows]

        results: list[dict[str, Any]] = []
        _, starts = np.unique(image_ids, return_index=True)
        for photo in np.split(np.arange(len(rows)), starts[1:]):
            kept = photo[
                oks_nms(
                    keypoints[photo], scores[photo], areas[photo], self.truth.skeleton.oks_sigmas
                )
            ]
            results.extend(
                {
                    "image_id": int(image_ids[index]),
                    "category_id": PERSON_CATEGORY,
                    "keypoints": keypoints[index].ravel().tolist(),
                    "score": float(scores[index]),
                }
                for index in kept
            )
        return results
