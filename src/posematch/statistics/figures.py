"""Figures as functions of how often each photo counts, which is what resampling photos needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posematch.errors import PosematchError
from posematch.metrics.coco_truth import annotated_box_sides
from posematch.metrics.columns import COLUMNS, NOT_IN_MEANS, PCK_THRESHOLDS
from posematch.metrics.columns import FIGURES as COCO_FIGURES
from posematch.metrics.hits import within_heads
from posematch.runs.predictions import PredictionTable
from posematch.statistics.average_precision import average_precision

Floats = NDArray[np.float64]
# (D, P) multiplicities of photos to (D, F) figures; NaN where nothing is left to count.
OfPhotos = Callable[[Floats], Floats]

_PCKH = re.compile(
    r"PCKh@(?P<threshold>\d*\.?\d+)(\(legacy\))?"
    r"(?P<plain>\(plain mean\))?(/joint/(?P<joint>\w+)|/(?P<column>\w+))?"
)


def of_photos(one: PredictionTable, figures: Sequence[str]) -> OfPhotos:
    """The named figures as a function of the multiplicities of ``one.photos``.

    Parameters
    ----------
    one
        What is scored.
    figures
        Names. ``PCKh@T`` with any threshold T, as it is, or with ``(plain mean)``, ``/Wrist`` (a
        published column) or ``/joint/left_wrist`` behind it; COCO's ten (``AP``, ``AP(M)``, ...);
        ``OKS`` (mean over people), ``EPE`` (mean error in photo pixels), each also with
        ``/joint/<name>``; the others of `posematch.metrics.columns.NEARNESS`; or ``score`` or a
        name of `posematch.runs.predictions.COMPACTNESS`, meaned over labelled joints.

    Raises
    ------
    PosematchError
        There is no such figure, or the table lacks what it needs.
    """
    in_coco = [name for name in figures if name in COCO_FIGURES]
    average = average_precision(one, in_coco) if in_coco else None
    shares = {name: _share(one, name) for name in figures if name not in in_coco}

    def measure(weights: Floats) -> Floats:
        values = {name: share(weights) for name, share in shares.items()}
        if average is not None:
            values |= dict(zip(in_coco, average(weights).T, strict=True))
        return np.stack([values[name] for name in figures], axis=1)

    return measure


@dataclass(frozen=True, eq=False)
class _Share:
    """Mean over columns of a share of sums: (P, C) numerators and denominators by photo."""

    numerator: Floats
    denominator: Floats
    scale: float

    def __call__(self, weights: Floats) -> Floats:
        counted = weights @ self.denominator
        there = counted > 0
        shares = np.divide(
            weights @ self.numerator, counted, where=there, out=np.zeros_like(counted)
        )
        columns = there.sum(axis=1)
        # Each share in percent before the mean, as PCKh does it.
        mean = (self.scale * shares).sum(axis=1) / np.maximum(columns, 1)
        return np.where(columns > 0, mean, np.nan)


def _share(one: PredictionTable, name: str) -> _Share:
    match = _PCKH.fullmatch(name)
    if match:
        values = one.hits(float(match["threshold"])).astype(np.float64)
        columns = _pckh_columns(one, match, name)
        return _by_photo(one, [(values, one.labelled, joints) for joints in columns], 100.0)
    base, _, joint = name.partition("/joint/")
    joints = [_joint(one, joint, name)] if joint else list(range(one.skeleton.num_joints))
    if base == "OKS" and not joint:
        # Mean over people of the mean over their joints.
        has_truth = np.asarray(one.labelled.any(axis=1, keepdims=True))
        return _by_photo(one, [(one.oks[:, None], has_truth, [0])], 1.0)
    counts = one.labelled
    match base:
        case "OKS":
            values = one.joint_oks
        case "EPE":
            values = one.errors_px
        case "EPE(box)" | "PCK@0.1(box)" | "PCK@0.2(box)":
            sides = annotated_box_sides(one.stored_truth.oks)
            side_img = np.array([max(sides.get(i, (0.0,))) for i in one.person_ids.tolist()])
            counts = counts & (side_img > 0)[:, None]
            values = np.asarray(one.errors_px / np.where(side_img > 0, side_img, 1.0)[:, None])
            if base in PCK_THRESHOLDS:
                values = np.where(within_heads(values, PCK_THRESHOLDS[base]), 100.0, 0.0)
        case _:
            values = one.values(base)
    return _by_photo(one, [(values, counts, joints)], 1.0)


def _joint(one: PredictionTable, joint: str, name: str) -> int:
    if joint not in one.skeleton.joints:
        raise PosematchError(f"{name}: the predictions of {one.name} have no joint '{joint}'.")
    return one.skeleton.joints.index(joint)


def _pckh_columns(one: PredictionTable, match: re.Match[str], name: str) -> list[list[int]]:
    """Joints whose shares are counted together, for each share of the mean."""
    if match["joint"]:
        return [[_joint(one, match["joint"], name)]]
    if match["column"]:
        if match["column"] not in COLUMNS:
            raise PosematchError(f"{name} is no column of PCKh; there are: {', '.join(COLUMNS)}.")
        return [[_joint(one, joint, name)] for joint in COLUMNS[match["column"]]]
    counted = [k for k, joint in enumerate(one.skeleton.joints) if joint not in NOT_IN_MEANS]
    return [[k] for k in counted] if match["plain"] else [counted]


def _by_photo(
    one: PredictionTable,
    columns: Sequence[tuple[Floats, NDArray[np.bool_], list[int]]],
    scale: float,
) -> _Share:
    # Of a part of the people, photos with somebody unseen are not scored.
    known = np.isin(one.image_ids, one.photos)
    rows = np.searchsorted(one.photos, one.image_ids[known])
    numerator = np.zeros((len(one.photos), len(columns)))
    denominator = np.zeros_like(numerator)
    for c, (values, counts, joints) in enumerate(columns):
        chosen, of_joints = counts[known][:, joints], values[known][:, joints]
        np.add.at(numerator[:, c], rows, np.where(chosen, of_joints, 0).sum(axis=1))
        np.add.at(denominator[:, c], rows, chosen.sum(axis=1))
    return _Share(numerator, denominator, scale)
