"""A table of held-out people to a `CalibrationRecord`, and what it is worth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from posematch.calibration.crossfit import cross_fitted, folds_of_photos
from posematch.calibration.fitting import fit_curve
from posematch.calibration.labelled import FEW_PEOPLE, LabelledScores, meaning_of
from posematch.calibration.measuring import DRAWS, ERROR, Reliability, reliability
from posematch.calibration_record import CalibrationRecord, Method
from posematch.errors import PosematchError
from posematch.evaluation.breakdown import counted_joints
from posematch.geometry import Size
from posematch.runs.predictions import PredictionTable
from posematch.statistics.intervals import Interval, intervals

METHOD: Method = "temperature"


@dataclass(frozen=True, eq=False)
class Calibrated:
    """What a model gets, and how it was measured.

    Attributes
    ----------
    record
        Fitted on everybody.
    reliability
        Of joints that are in means (of MPII without pelvis and thorax), each calibrated by a fit
        to the other folds' photos.
    after
        The table with these calibrated scores.
    average_precision
        AP with the scores before and with those after, and the difference with its interval; None
        where the people have no AP.
    """

    record: CalibrationRecord
    reliability: Reliability
    after: PredictionTable
    average_precision: tuple[float, float, Interval] | None

    @property
    def caution(self) -> str:
        """A sentence about a fit to few people, or nothing."""
        people = self.record.people
        if people >= FEW_PEOPLE:
            return ""
        return (
            f"{people} people are few for a calibration: its figures are rough, and {FEW_PEOPLE} or"
            " more are wanted."
        )


def calibrate_table(
    table: PredictionTable,
    input_size: Size,
    data: str,
    epoch: int,
    method: Method = METHOD,
    draws: int = DRAWS,
) -> Calibrated:
    """Fit, and measure.

    Parameters
    ----------
    table
        Predictions of people held out of training, by the model's own decoder.
    input_size
        (H, W) of the crops.
    data
        Name of the data set, for the record.
    epoch
        Of the weights, from 0.
    method
        Of the curve.
    draws
        Resamplings of the photos, for intervals.

    Raises
    ------
    PosematchError
        As `LabelledScores.of` and `cross_fitted`.
    """
    labelled = LabelledScores.of(table, input_size)
    calibrated = cross_fitted(table, labelled, input_size, method)
    in_means = counted_joints(table)[labelled.people, labelled.joints]
    measured = labelled.chosen(in_means)
    if not len(measured):
        raise PosematchError(f"{table.name} has no labelled joint that is in a mean of its metric.")
    fold = folds_of_photos(table.image_ids)[measured.people]
    found = reliability(measured, calibrated[measured.people, measured.joints], fold, draws)
    before, later, _ = found.figures[ERROR]
    record = CalibrationRecord(
        meaning=meaning_of(table),
        curve=fit_curve(labelled, table.skeleton.num_joints, method),
        data=data[:100] or "unnamed data",
        people=len(np.unique(labelled.people)),
        photos=len(np.unique(labelled.photos)),
        joints=len(labelled),
        epoch=epoch,
        error_before=before.value,
        error_after=later.value,
    )
    after = replace(table, scores=calibrated)
    return Calibrated(record, found, after, _average_precision(table, after, draws))


def _average_precision(
    before: PredictionTable, after: PredictionTable, draws: int
) -> tuple[float, float, Interval] | None:
    if before.truth_file is None:
        return None
    means, difference = intervals([before], [after], ["AP"], draws, 0, 0.95)["AP"]
    return float(means[0]), float(means[1]), difference
