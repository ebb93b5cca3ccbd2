"""COCO's keypoint AP: the metric that collects poses for its ten figures.

Source: docs/protocols.md, COCO scoring.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from posematch.data.people import OKSTruth, People
from posematch.metrics.batches import check_seen_once, checked_batch, mark_seen, rows_of
from posematch.metrics.coco_results import CocoPoses, Suppression
from posematch.metrics.coco_truth import annotated_box_sides, coco_figures, photos_seen
from posematch.metrics.columns import NEARNESS
from posematch.metrics.nearness import nearness
from posematch.metrics.suppression import COUNTED_JOINT_SCORE, MAX_POSES, NMS_THRESHOLD
from posematch.skeletons import COCO


class COCOKeypointAP(Metric):
    """COCO keypoint AP and AR of the people of a split, and how near their joints are.

    Poses are rescored, near-duplicates in a photo suppressed (`posematch.metrics.suppression`), and
    what stays is scored as by pycocotools (`posematch.metrics.coco_matching`).

    Parameters
    ----------
    people
        Their box scores and padded boxes (the area in `oks_nms`); their ``truth`` must be an
        `OKSTruth`.
    primary
        The main figure's name.

    Raises
    ------
    TypeError
        It is not.
    ValueError
        The skeleton has no OKS sigmas, or two people have the same id.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    times_seen: Tensor
    prediction_bits: Tensor

    def __init__(self, people: People, primary: str = "AP") -> None:
        super().__init__()
        self.primary = primary
        truth = people.truth
        if not isinstance(truth, OKSTruth):
            raise TypeError(f"AP needs an OKSTruth, {people.name} has {type(truth).__name__}")
        if len(truth.skeleton.oks_sigmas) != truth.skeleton.num_joints:
            raise ValueError(f"the {truth.skeleton.name} skeleton has no OKS sigmas")
        self.truth = truth
        by_id = people.rows[np.argsort(people.rows.person_ids, kind="stable")]
        self._person_ids = torch.from_numpy(by_id.person_ids)
        if len(np.unique(by_id.person_ids)) != len(by_id):
            raise ValueError(f"two people of {people.name}/{people.split} have the same id")
        self._scored: tuple[int, ...] | None = None  # photos of the last figures
        self._by_id = by_id
        # Of COCO's own joints its ten figures are what everybody tells.
        own = truth.skeleton.joints != COCO.joints or primary in NEARNESS
        self._tells_nearness = truth.boxes == "gt" and own
        self._image_ids = by_id.image_ids
        self._box_scores = by_id.box_scores
        # Of the padded, aspect-grown box, not of the person (docs/protocols.md, COCO scoring).
        self._box_areas = by_id.box_sizes_img.prod(axis=1)

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
        scored, everything = len(self._scored or ()), len(self.truth.image_ids)
        photos = f"{scored} of {everything}" if 0 < scored < everything else f"{everything}"
        return (
            f"{photos} photos, boxes: {self.truth.boxes}, scores: box x mean of "
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
        """COCO's ten figures, see `coco_figures`; of annotated boxes and joints of one's own, or
        where one of them is the main figure, also `nearness`.

        Of the photos of whom was seen: where a validation is of a part of the people, the others
        are not missed.

        Raises
        ------
        ValueError
            Two processes scored the same person.
        PosematchError
            As `coco_figures`.
        """
        truth, results = self.truth, self._suppressed()
        self._scored = self._photos_seen()
        scored = set(self._scored)
        figures = coco_figures(
            truth.annotation_file,
            [one for one in results if one["image_id"] in scored],
            self._scored,
            truth.skeleton,
        )
        return figures | self._nearness() if self._tells_nearness else figures

    def _nearness(self) -> dict[str, float]:
        rows = np.flatnonzero(self.times_seen.cpu().numpy())
        if not len(rows):
            return {}
        people = self._by_id[rows]
        sides = annotated_box_sides(self.truth)
        return nearness(
            self.poses().keypoints[..., :2],
            people.joints_img,
            people.visible > 0,
            people.areas,
            np.array([max(sides[one]) for one in people.person_ids.tolist()]),
            self.truth.skeleton,
        )

    def results(self, suppression: Suppression = "hard") -> list[dict[str, Any]]:
        """The poses that are scored, of all processes, as the official server takes them.

        To be called on every process alike, as ``compute``; `posematch.metrics.coco_results` writes
        them.

        Returns
        -------
        list of dict
            As `posematch.metrics.coco_results.CocoPoses.results`.
        """
        with self.sync_context():
            return self._suppressed(suppression)

    def poses(self) -> CocoPoses:
        """Poses of this process's states, by person id, before anything is suppressed."""
        rows = np.flatnonzero(self.times_seen.cpu().numpy())
        return CocoPoses(
            image_ids=self._image_ids[rows],
            keypoints=self.prediction_bits.cpu().view(torch.float64).numpy()[rows],
            box_scores=self._box_scores[rows],
            box_areas=self._box_areas[rows],
        )

    def _photos_seen(self) -> tuple[int, ...]:
        seen = self.times_seen.cpu().numpy() > 0
        if seen.all() or not seen.any():
            return self.truth.image_ids
        ids = self._image_ids
        return photos_seen(self.truth.image_ids, ids[seen].tolist(), ids[~seen].tolist())

    def _suppressed(self, suppression: Suppression = "hard") -> list[dict[str, Any]]:
        check_seen_once(self.times_seen)
        return self.poses().results(self.truth.skeleton.oks_sigmas, suppression)
