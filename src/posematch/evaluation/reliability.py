"""Whether a joint's score can be trusted: calibration, and risk against coverage.

A joint is right by PCKh@0.5's rule (MPII), or with an OKS of the joint alone of at least 0.5
(COCO); labelled joints count, of MPII without pelvis and thorax. Joints of one score are told apart
by nothing, so each stands for their mean: no figure depends on the order of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from posematch.errors import PosematchError
from posematch.evaluation.breakdown import counted_joints
from posematch.metrics.hits import NEAR_HEADS, is_near
from posematch.runs.predictions import PredictionTable

BINS = 15


@dataclass(frozen=True, eq=False)
class Calibration:
    """How far scores are from the share of joints that are right.

    Attributes
    ----------
    bins
        A row per bin of equally many joints, by score: ``score`` and ``right`` (means),
        ``joints``.
    error
        Expected calibration error: mean over the joints of their bin's \\|score - right\\|.
    """

    bins: pd.DataFrame
    error: float


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """Share of errors among the joints with the highest scores.

    Attributes
    ----------
    curve
        ``coverage`` (share of joints that are kept) and ``risk`` (share of errors among them), one
        row per distinct score, the highest first.
    area
        Mean risk over all numbers of joints that can be kept (AURC, Geifman and El-Yaniv 2017).
        Scores that say nothing give the share of errors, ``curve["risk"]``'s last value.
    """

    curve: pd.DataFrame
    area: float


def score_calibration(table: PredictionTable, bins: int = BINS) -> Calibration:
    """`calibration` of a prediction table's scores."""
    return calibration(*_scores_and_right(table), bins)


def score_risk_coverage(table: PredictionTable) -> RiskCoverage:
    """`risk_coverage` of a prediction table's scores."""
    return risk_coverage(*_scores_and_right(table))


def calibration(scores: ArrayLike, right: ArrayLike, bins: int = BINS) -> Calibration:
    """Calibration error with bins of equal mass.

    Parameters
    ----------
    scores
        (N,) in [0, 1].
    right
        (N,) bool; or in [0, 1], how right each is, such as an OKS.
    bins
        How many; fewer where there are fewer joints. Sizes differ by one at most.

    Raises
    ------
    PosematchError
        There is nothing, a score lies outside [0, 1], or bins is not positive.
    """
    scores, right = _checked(scores, right)
    if scores.min() < 0 or scores.max() > 1:
        raise PosematchError("a score lies outside 0 to 1, so it is no probability to be checked.")
    if bins < 1:
        raise PosematchError(f"bins={bins} must be at least 1.")
    order = np.argsort(scores, kind="stable")
    parts = np.array_split(order, min(bins, len(scores)))
    right = _mean_of_ties(scores, right)
    frame = pd.DataFrame(
        {
            "score": [scores[part].mean() for part in parts],
            "right": [right[part].mean() for part in parts],
            "joints": [len(part) for part in parts],
        }
    )
    gaps = (frame["score"] - frame["right"]).abs()
    return Calibration(frame, float(np.average(gaps, weights=frame["joints"])))


def bin_shares(scores: NDArray[np.float64], bins: int = BINS) -> sparse.coo_array:
    """Which bin of `calibration` each joint is in, as a matrix for sums over part of the joints.

    Parameters
    ----------
    scores, bins
        As of `calibration`.

    Returns
    -------
    sparse array
        (N, bins); a row adds up to 1. Joints of one score that lie on the border of two bins are in
        both, as each stands for their mean.

    Examples
    --------
    >>> bin_shares(np.array([0.1, 0.5, 0.5, 0.5]), 2).toarray().round(2)
    array([[1.  , 0.  ],
           [0.33, 0.67],
           [0.33, 0.67],
           [0.33, 0.67]])
    """
    count = min(bins, len(scores))
    _, group, size = np.unique(scores, return_inverse=True, return_counts=True)
    # In the order of scores, as np.array_split cuts them.
    small, larger = divmod(len(scores), count)
    bin_of_place = np.repeat(np.arange(count), small + (np.arange(count) < larger))
    of_place = np.sort(group)
    ones = np.ones(len(scores))
    in_bin = sparse.coo_array((ones / size[of_place], (of_place, bin_of_place)))
    of_group = sparse.coo_array((ones, (np.arange(len(scores)), group)))
    return (of_group.tocsr() @ in_bin.tocsr()).tocoo()


def risk_coverage(scores: ArrayLike, right: ArrayLike) -> RiskCoverage:
    """Risk against coverage.

    Parameters
    ----------
    scores
        (N,) any numbers; higher is surer.
    right
        (N,) bool.

    Raises
    ------
    PosematchError
        There is nothing.
    """
    scores, right = _checked(scores, right)
    order = np.argsort(-scores, kind="stable")
    wrong = 1 - _mean_of_ties(scores, right)[order]
    kept = np.arange(1, len(scores) + 1)
    risk = np.cumsum(wrong) / kept
    last_of_score = np.append(np.diff(scores[order]) != 0, True)
    curve = pd.DataFrame({"coverage": kept / len(scores), "risk": risk})
    return RiskCoverage(curve[last_of_score].reset_index(drop=True), float(risk.mean()))


def _scores_and_right(table: PredictionTable) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    table.check_measurable()
    counted = counted_joints(table)
    right = table.hits(NEAR_HEADS) if table.by_heads else is_near(table.similarity)
    return table.values("score")[counted], right[counted]


def _checked(
    scores: ArrayLike, right: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    scores = np.asarray(scores, dtype=np.float64)
    right = np.asarray(right, dtype=np.float64)
    if scores.shape != right.shape or scores.ndim != 1 or not len(scores):
        raise PosematchError("reliability needs as many scores as answers, and at least one.")
    if not np.isfinite(scores).all():
        raise PosematchError("a score is NaN or infinite.")
    return scores, right


def _mean_of_ties(scores: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, group = np.unique(scores, return_inverse=True)
    means: NDArray[np.float64] = np.bincount(group, values) / np.bincount(group)
    return means[group]
