"""Calibrated scores that no fit has seen the people of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from posematch.calibration.fitting import fit_curve
from posematch.calibration.labelled import LabelledScores
from posematch.calibration_record import Method, log_size
from posematch.errors import PosematchError
from posematch.geometry import Size
from posematch.runs.predictions import PredictionTable

FOLDS = 5


def cross_fitted(
    table: PredictionTable, data: LabelledScores, input_size: Size, method: Method
) -> NDArray[np.float64]:
    """(N, K) scores of a table, each calibrated on the people of the other folds' photos.

    Parameters
    ----------
    table, data
        People, and their labelled joints by `LabelledScores.of`.
    input_size
        (H, W) of the crops.
    method
        Of the curve.

    Raises
    ------
    PosematchError
        There are fewer photos than folds.
    """
    fold = folds_of_photos(table.image_ids)
    log_sizes = log_size(table.need("box_size_img", "box_width"), input_size)
    scores = table.values("score")
    calibrated = np.empty_like(scores)
    joints = table.skeleton.num_joints
    of_joint = fold[data.people]
    for k in range(FOLDS):
        curve = fit_curve(data.chosen(of_joint != k), joints, method)
        out = fold == k
        calibrated[out] = curve.apply(scores[out], log_sizes[out])
    return calibrated


def folds_of_photos(image_ids: NDArray[np.int64]) -> NDArray[np.intp]:
    """(N,) fold of each person, 0 to `FOLDS` - 1: by photo, drawn once and for all.

    Raises
    ------
    PosematchError
        There are fewer photos than folds.
    """
    photos, place = np.unique(image_ids, return_inverse=True)
    if len(photos) < FOLDS:
        raise PosematchError(
            f"the people are on {len(photos)} photos; a calibration is measured on photos that it"
            f" was not fitted on, which takes {FOLDS} at least."
        )
    fold = np.random.default_rng(0).permutation(len(photos)) % FOLDS
    return np.asarray(fold[place], np.intp)
