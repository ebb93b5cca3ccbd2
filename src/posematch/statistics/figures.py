"""Figures as functions of how often each photo counts, which is what resampling photos needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from posematch.errors import PosematchError
from posematch.metrics.oks import FIGURES as COCO_FIGURES
from posematch.metrics.pckh import COLUMNS, NOT_IN_MEANS
from posematch.runs.finished import Run
from posematch.runs.truth import read_truth
from posematch.skeletons import COCO
from posematch.statistics.average_precision import average_precision

Floats = NDArray[np.float64]
# (D, P) multiplicities of photos to (D, F) figures; NaN where nothing is left to count.
OfPhotos = Callable[[Floats], Floats]

LOWER_IS_BETTER = ("EPE", "spread_px")
_PCKH = re.compile(
    r"PCKh@(?P<threshold>\d*\.?\d+)(\(legacy\))?"
    r"(?P<plain>\(plain mean\))?(/joint/(?P<joint>\w+)|/(?P<column>\w+))?"
)


@dataclass(frozen=True, eq=False)
class Predicted:
    """Predictions of one training, or of one file, and what they are scored against.

    Attributes
    ----------
    name
        For messages and tables.
    table
        As `posematch.runs.predictions.predictions_table`: all joints of a person in a row, in
        the skeleton's order. Empty where only COCO's figures are asked for.
    seed
        Of the training; None where there was none to know.
    truth
        The run's ``truth.json``, or any COCO annotation file: for AP only.
    results
        Poses as COCO's server takes them; None to make them of the table (rescored, suppressed).
    """

    name: str
    table: pd.DataFrame
    seed: int | None = None
    truth: Path | None = None
    results: Sequence[dict[str, Any]] | None = None

    @cached_property
    def joints(self) -> list[str]:
        """Names of the skeleton's joints, in its order."""
        return [str(joint) for joint in self.table["joint"].unique()]

    @cached_property
    def people(self) -> pd.DataFrame:
        """``person_id`` and ``image_id``, a row per person of the table."""
        return self.table[["person_id", "image_id"]].iloc[:: max(len(self.joints), 1)]

    def grid(self, column: str) -> Floats:
        """(N, K) float64 values of a column of the table.

        Raises
        ------
        PosematchError
            The table has no such column, or is not people by joints.
        """
        if column not in self.table:
            raise PosematchError(f"The predictions of {self.name} have no column '{column}'.")
        people, joints = len(self.people), len(self.joints)
        if len(self.table) != people * joints or list(self.table["joint"]) != self.joints * people:
            raise PosematchError(
                f"The predictions of {self.name} are not {joints} joints, in one order, of every"
                " person; write the table again."
            )
        return np.asarray(self.table[column].to_numpy(dtype=np.float64).reshape(people, joints))

    @cached_property
    def labelled(self) -> NDArray[np.bool_]:
        """(N, K) which joints have a truth."""
        return np.asarray(self.grid("visible") > 0)

    @cached_property
    def error_px(self) -> Floats:
        """(N, K) distances to the truth; where there is none, they mean nothing."""
        offset = np.stack([self.grid(axis) - self.grid(f"true_{axis}") for axis in "xy"], axis=-1)
        # As PCKh does it, to the last bit: a joint may lie on the threshold.
        return np.asarray(torch.linalg.vector_norm(torch.from_numpy(offset), dim=2).numpy())

    @cached_property
    def similarity(self) -> Floats:
        """(N, K) OKS of each joint, by the person's own area, as COCOeval; 0 for one not found.

        Raises
        ------
        PosematchError
            The people have no area, or their joints no sigmas.
        """
        sigmas = np.array(self.sigmas)
        exponent = self.error_px**2 / (2 * sigmas) ** 2
        similarity = np.exp(-exponent / (self.grid("area") + np.spacing(1)) / 2)
        return np.asarray(np.nan_to_num(similarity))

    @property
    def sigmas(self) -> tuple[float, ...]:
        """OKS sigmas of the joints."""
        if self.truth is not None:
            return read_truth(self.truth).oks.skeleton.oks_sigmas
        if tuple(self.joints) == COCO.joints:
            return COCO.oks_sigmas
        raise PosematchError(f"The joints of {self.name} have no OKS sigmas.")

    @cached_property
    def photos(self) -> NDArray[np.int64]:
        """(P,) ids of the photos that are scored, also those where nobody was found."""
        if self.truth is not None:
            return np.array(sorted(read_truth(self.truth).oks.image_ids), dtype=np.int64)
        return np.unique(self.table["image_id"].to_numpy(dtype=np.int64))


def predicted(run: Run, epoch: int | None = None) -> Predicted:
    """A run's predictions of an epoch (from 0; None for the last)."""
    table = run.last_predictions if epoch is None else run.predictions(epoch)
    return Predicted(run.folder.path.name, table, run.seed, run.truth)


def of_photos(one: Predicted, figures: Sequence[str]) -> OfPhotos:
    """The named figures as a function of the multiplicities of ``one.photos``.

    Parameters
    ----------
    one
        What is scored.
    figures
        Names. ``PCKh@T`` with any threshold T, as it is, or with ``(plain mean)``, ``/Wrist`` (a
        published column) or ``/joint/left_wrist`` behind it; COCO's ten (``AP``, ``AP(M)``, ...);
        ``OKS`` (mean over people), ``EPE`` (mean error in photo pixels), each also with
        ``/joint/<name>``; or any column of the table, meaned over labelled joints.

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


def _share(one: Predicted, name: str) -> _Share:
    match = _PCKH.fullmatch(name)
    if match:
        heads = one.grid("head_size_img")
        values = (one.error_px / heads <= float(match["threshold"])).astype(np.float64)
        columns = _pckh_columns(one, match, name)
        return _by_photo(one, [(values, one.labelled, joints) for joints in columns], 100.0)
    base, _, joint = name.partition("/joint/")
    joints = [_joint(one, joint, name)] if joint else list(range(len(one.joints)))
    if base == "OKS":
        # Mean over people of the mean over their joints.
        count = one.labelled.sum(axis=1, keepdims=True)
        if not joint:
            mean = np.where(one.labelled, one.similarity, 0).sum(axis=1, keepdims=True)
            mean = mean / np.maximum(count, 1)
            return _by_photo(one, [(mean, count > 0, [0])], 1.0)
        return _by_photo(one, [(one.similarity, one.labelled, joints)], 1.0)
    values = one.error_px if base == "EPE" else one.grid(base)
    return _by_photo(one, [(values, one.labelled, joints)], 1.0)


def _joint(one: Predicted, joint: str, name: str) -> int:
    if joint not in one.joints:
        raise PosematchError(f"{name}: the predictions of {one.name} have no joint '{joint}'.")
    return one.joints.index(joint)


def _pckh_columns(one: Predicted, match: re.Match[str], name: str) -> list[list[int]]:
    """Joints whose shares are counted together, for each share of the mean."""
    if match["joint"]:
        return [[_joint(one, match["joint"], name)]]
    if match["column"]:
        if match["column"] not in COLUMNS:
            raise PosematchError(f"{name} is no column of PCKh; there are: {', '.join(COLUMNS)}.")
        return [[_joint(one, joint, name)] for joint in COLUMNS[match["column"]]]
    counted = [k for k, joint in enumerate(one.joints) if joint not in NOT_IN_MEANS]
    return [[k] for k in counted] if match["plain"] else [counted]


def _by_photo(
    one: Predicted,
    columns: Sequence[tuple[Floats, NDArray[np.bool_], list[int]]],
    scale: float,
) -> _Share:
    rows = np.searchsorted(one.photos, one.people["image_id"].to_numpy())
    numerator = np.zeros((len(one.photos), len(columns)))
    denominator = np.zeros_like(numerator)
    for c, (values, counts, joints) in enumerate(columns):
        chosen = counts[:, joints]
        np.add.at(numerator[:, c], rows, np.where(chosen, values[:, joints], 0).sum(axis=1))
        np.add.at(denominator[:, c], rows, chosen.sum(axis=1))
    return _Share(numerator, denominator, scale)
