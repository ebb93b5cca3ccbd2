"""Labelled joints of people held out of training: their scores, and how right they turned out."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posematch.calibration_record import Meaning, log_size
from posematch.errors import PosematchError
from posematch.geometry import Size
from posematch.metrics.hits import NEAR_HEADS
from posematch.runs.predictions import PredictionTable

Floats = NDArray[np.float64]

# Of fewer people no curve is fitted; of fewer than FEW_PEOPLE it is rough, and that is said.
LEAST_PEOPLE, FEW_PEOPLE = 10, 50


@dataclass(frozen=True, eq=False)
class LabelledScores:
    """n labelled joints.

    Attributes
    ----------
    scores
        (n,) by the decoder, in [0, 1].
    targets
        (n,) in [0, 1]: 1 or 0 for within half a head or not, or the joint's OKS.
    joints, people, photos
        (n,) the joint in the skeleton, row of the table, place among the table's ``photos``.
    log_sizes
        (n,) of the person, see `posematch.calibration_record.log_size`.
    """

    scores: Floats
    targets: Floats
    joints: NDArray[np.intp]
    people: NDArray[np.intp]
    photos: NDArray[np.intp]
    log_sizes: Floats

    @classmethod
    def of(cls, table: PredictionTable, input_size: Size) -> LabelledScores:
        """All labelled joints of a table.

        Parameters
        ----------
        table
            Predictions of people whom the network was not trained on.
        input_size
            (H, W) of the crops.

        Raises
        ------
        PosematchError
            Scores, boxes or labels are missing, a score lies outside [0, 1], or there are fewer
            than `LEAST_PEOPLE` people.
        """
        table.check_measurable()
        scores = table.values("score")
        people, joints = np.nonzero(table.labelled)
        told = len(np.unique(people))
        if told < LEAST_PEOPLE:
            raise PosematchError(
                f"{table.name} has {told} people with labelled joints; a calibration needs"
                f" {LEAST_PEOPLE} at least, and {FEW_PEOPLE} to be worth something: validate on"
                " more people."
            )
        if scores.min() < 0 or scores.max() > 1:
            raise PosematchError(
                f"{table.name} has scores outside 0 to 1, which no decoder of posematch gives."
            )
        boxes = table.need("box_size_img", "box_width")
        if not (np.isfinite(boxes) & (boxes > 0)).all():
            raise PosematchError(f"{table.name} has a box without a size (box_width, box_height).")
        _, photos = np.unique(table.image_ids, return_inverse=True)
        return cls(
            scores=scores[people, joints],
            targets=targets(table)[people, joints],
            joints=joints,
            people=people,
            photos=photos[people],
            log_sizes=log_size(boxes, input_size)[people],
        )

    def __len__(self) -> int:
        return len(self.scores)

    def chosen(self, rows: NDArray[np.bool_]) -> LabelledScores:
        """Some of the joints, (n,) bool."""
        arrays: dict[str, Any] = {one.name: getattr(self, one.name)[rows] for one in fields(self)}
        return LabelledScores(**arrays)


def targets(table: PredictionTable) -> Floats:
    """(N, K) what a calibrated score predicts; NaN or 0 where not labelled."""
    if table.by_heads:
        return np.asarray(table.hits(NEAR_HEADS), np.float64)
    return table.joint_oks


def meaning_of(table: PredictionTable) -> Meaning:
    """What a score of these people can mean."""
    return "within 0.5 head sizes" if table.by_heads else "expected OKS"
