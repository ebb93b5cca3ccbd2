"""PCK, AUC and EPE by sizes of the person, from a prediction table.

| size | pixels |
|---|---|
| ``head`` | MPII's head size; PCK@0.5 is PCKh@0.5 then |
| ``torso`` | from left hip to right shoulder (Sapp and Taskar, MODEC, CVPR 2013); people who lack one of them do not count |
| ``box`` | the longer side of the annotated box (mmpose's ``bbox``); of MPII 200 px times ``scale`` |
"""  # noqa: E501

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from posematch.data.mpii import PADDING
from posematch.data.people import OKSTruth
from posematch.errors import PosematchError
from posematch.evaluation.breakdown import counted_joints
from posematch.metrics.coco_truth import annotated_box_sides
from posematch.metrics.hits import distances_px, within_heads
from posematch.runs.predictions import PredictionTable

Floats = NDArray[np.float64]

TORSO = ("left_hip", "right_shoulder")
SIZES = ("head", "torso", "box")
THRESHOLDS = (0.05, 0.1, 0.2, 0.5)
# MPII's: from 0 to 0.5 in steps of 0.01.
AUC_LIMIT, AUC_STEPS = 0.5, 50


def person_sizes(table: PredictionTable, size: str, truth: OKSTruth | None = None) -> Floats:
    """What distances are divided by.

    Parameters
    ----------
    table
        With its truth.
    size
        One of `SIZES`.
    truth
        COCO's, for ``box``.

    Returns
    -------
    ndarray
        (N,) pixels; 0 where the person has no such size.

    Raises
    ------
    PosematchError
        Nobody has such a size.
    """
    match size:
        case "torso" if set(TORSO) <= set(table.skeleton.joints):
            ends = [table.skeleton.joints.index(joint) for joint in TORSO]
            hip, shoulder = table.true_img[:, ends].swapaxes(0, 1)
            has = table.labelled[:, ends].all(axis=1)
            return np.where(has, distances_px(shoulder, hip), 0.0)
        case "head" if table.head_size_img is not None:
            return np.asarray(table.head_size_img, np.float64)
        case "box" if table.by_heads and table.box_size_img is not None:
            return np.asarray(table.box_size_img.max(axis=1) / PADDING)
        case "box" if truth is not None:
            sides = annotated_box_sides(truth)
            return np.array([max(sides.get(one, (0.0,))) for one in table.person_ids.tolist()])
    raise PosematchError(f"the people of {table.name} have no size '{size}'.")


def pck(errors: Floats, threshold: float) -> float:
    """Share of joints within a fraction of the size, percent, ``<=``.

    >>> pck(np.array([0.1, 0.2, 0.3, np.nan]), 0.2)
    50.0

    Parameters
    ----------
    errors
        (N,) in sizes; NaN is wrong.
    threshold
        In sizes.
    """
    return 100.0 * float(within_heads(errors, threshold).mean())


def auc(errors: Floats, limit: float = AUC_LIMIT, steps: int = AUC_STEPS) -> float:
    """Area under the curve of `pck` up to a threshold, divided by that threshold; percent.

    By the trapezoidal rule on ``steps`` + 1 thresholds.

    >>> auc(np.array([0.0, 0.25, 1.0]), limit=0.5, steps=2)
    58.333333333333336

    Parameters
    ----------
    errors
        (N,) in sizes, as for `pck`.
    limit
        The largest threshold.
    steps
        Intervals.
    """
    thresholds = np.arange(steps + 1) * limit / steps
    # A joint's own curve jumps from 0 to 1 at the first threshold that reaches its error: all
    # trapezoids after it are whole and the one before it is half. NaN comes after all of them.
    first = np.searchsorted(thresholds, errors)
    area = np.clip(steps - first + np.where(first > 0, 0.5, 0.0), 0, None) / steps
    return 100.0 * float(area.mean())


def distance_figures(table: PredictionTable, truth: OKSTruth | None = None) -> pd.DataFrame:
    """EPE, PCK and AUC by each size that is known.

    Parameters
    ----------
    table
        With its truth.
    truth
        COCO's, for ``box``.

    Returns
    -------
    DataFrame
        A row per size: ``people`` who have it, ``joints`` (labelled, of MPII without pelvis and
        thorax, as in PCKh's means), ``EPE`` (mean distance in sizes), ``PCK@...`` (percent) at
        `THRESHOLDS`, ``AUC@0.5`` (percent). Empty where nobody has any.
    """
    rows = {}
    for size in SIZES:
        try:
            sizes_img = person_sizes(table, size, truth)
        except PosematchError:
            continue
        has_size = sizes_img > 0
        counted = counted_joints(table) & has_size[:, None]
        if not counted.any():
            continue
        errors = (table.errors_px / np.where(has_size, sizes_img, 1.0)[:, None])[counted]
        rows[size] = {
            "people": int(counted.any(axis=1).sum()),
            "joints": int(counted.sum()),
            "EPE": float(errors.mean()),
            **{f"PCK@{one:g}": pck(errors, one) for one in THRESHOLDS},
            f"AUC@{AUC_LIMIT:g}": auc(errors),
        }
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("size")
    return frame.astype({"people": int, "joints": int}) if len(frame) else frame
