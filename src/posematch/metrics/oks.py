"""COCO's keypoint AP: the ten figures by pycocotools, and the metric that collects poses for them.

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
from numpy.typing import NDArray
from pycocotools import coco as coco_api
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchmetrics import Metric

from posematch.data.coco import read_annotations
from posematch.data.people import OKSTruth, People
from posematch.errors import PosematchError
from posematch.metrics.batches import check_seen_once, checked_batch, mark_seen, rows_of
from posematch.metrics.coco_results import PERSON_CATEGORY, Poses, Suppression
from posematch.metrics.suppression import COUNTED_JOINT_SCORE, MAX_POSES, NMS_THRESHOLD
from posematch.skeletons import COCO, Skeleton

NEEDED_OF_ANNOTATION = frozenset(
    ("id", "image_id", "category_id", "keypoints", "num_keypoints", "bbox", "area")
)
# The order of COCOeval's stats.
FIGURES = ("AP", "AP50", "AP75", "AP(M)", "AP(L)", "AR", "AR50", "AR75", "AR(M)", "AR(L)")


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
        As `coco_figures`.
    """
    annotations = _annotations(truth.annotation_file, truth.skeleton)
    ids = annotations.getAnnIds(truth.image_ids, [PERSON_CATEGORY], iscrowd=False)
    entries = [one for one in annotations.loadAnns(ids) if one["num_keypoints"] > 0]
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
    entries = _annotations(truth.annotation_file, truth.skeleton).anns.values()
    return {
        int(one["id"]): (float(one["bbox"][2]), float(one["bbox"][3]))
        for one in entries
        if "bbox" in one
    }


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
            # pycocotools makes arrays of them: of objects, of an integer beyond 64 bits.
            entry["keypoints"] = [float(value) for value in entry["keypoints"]]
            entry["bbox"] = [float(value) for value in entry["bbox"]]
            entry["area"] = float(entry["area"])
        with redirect_stdout(StringIO()):
            annotations.createIndex()
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
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

    Poses are rescored, near-duplicates in a photo suppressed (`posematch.metrics.suppression`), and
    what stays goes to pycocotools.

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
            f"joints > {COUNTED_JOINT_SCORE}, OKS-NMS {NMS_THRESHOLD}, {MAX_POSES} people a photo"
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
        ids, predicted_img, each = checked_batch(
            person_ids, joints_img, scores, self.truth.skeleton.num_joints
        )
        rows = rows_of(ids, self._person_ids).to(self.times_seen.device)
        mark_seen(self.times_seen, rows)
        bits = torch.cat([predicted_img, each[..., None]], dim=2).view(torch.int64)
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

    def results(self, suppression: Suppression = "hard") -> list[dict[str, Any]]:
        """The poses that are scored, of all processes, as the official server takes them.

        To be called on every process alike, as ``compute``; `posematch.metrics.coco_results` writes
        them.

        Returns
        -------
        list of dict
            As `posematch.metrics.coco_results.Poses.results`.
        """
        with self.sync_context():
            return self._suppressed(suppression)

    def poses(self) -> Poses:
        """Poses of this process's states, by person id, before anything is suppressed."""
        rows = np.flatnonzero(self.times_seen.cpu().numpy())
        return Poses(
            image_ids=self._image_ids[rows],
            keypoints=self.prediction_bits.cpu().view(torch.float64).numpy()[rows],
            box_scores=self._box_scores[rows],
            box_areas=self._box_areas[rows],
        )

    def _suppressed(self, suppression: Suppression = "hard") -> list[dict[str, Any]]:
        check_seen_once(self.times_seen)
        return self.poses().results(self.truth.skeleton.oks_sigmas, suppression)
