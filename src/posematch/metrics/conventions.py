"""Every named convention of a figure, side by side.

The interface, which scripts build on::

    pckh_conventions(joints_img, truth, name="hourglass")     MPII, arrays (0-based photo pixels)
    coco_conventions(poses, truth, name="run a")              COCO, `CocoPoses` before suppression
    coco_conventions_of_results(results, truth, name="...")   COCO, a results json, as it is scored
    joined([one, other])                                      several in one table

Each gives a `Conventions`: ``.frame`` is a tidy DataFrame, ``.table(title)`` a rich table,
``.markdown()`` and ``.json()`` text; ``.joints_table(title)`` and ``.joints_markdown()`` are the
same figures joint by joint (PCKh only).

Sources: docs/protocols.md, PCKh; docs/protocols.md, COCO boxes; docs/protocols.md, COCO scoring.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from rich.table import Table

from posematch.data.annotations import read_annotations
from posematch.data.people import OKSTruth, PCKhTruth
from posematch.errors import PosematchError
from posematch.metrics.coco_results import CocoPoses, Suppression
from posematch.metrics.coco_truth import annotated_people, coco_figures
from posematch.metrics.columns import COLUMNS, FIGURES, NOT_IN_MEANS
from posematch.metrics.hits import distances_heads, within_heads
from posematch.metrics.suppression import COUNTED_JOINT_SCORE, NMS_THRESHOLD
from posematch.metrics.tables import plain_table
from posematch.skeletons import COCO, Skeleton

# Columns of `Conventions.frame`, a row per figure.
COLUMNS_OF_FRAME = ("name", "convention", "source", "boxes", "part", "value", "unit")
WEIGHTED_MEAN, PLAIN_MEAN = "Mean", "plain mean"
JOINT_PREFIX = "joint/"
# Of the photos with people: a detector finds somebody in nearly each.
MOST_UNTOLD = 0.1
# Joints of one's own have sigmas that are a guess within these factors.
SIGMA_FACTORS = (0.5, 2.0)
# mmpose's stand-in for the size of a head that has none: everything is near then.
SIZE_OF_NO_HEAD_PX = 1e6


@dataclass(frozen=True)
class PCKhConvention:
    """How near a prediction has to be.

    Attributes
    ----------
    name
        In tables.
    source
        Whose code counts like this.
    threshold
        In heads.
    comparison
        ``<=`` or ``<``. With ``<`` come mmpose's heads: one of size 0 or less is taken as 1e6 px,
        so its joints are right. With ``<=`` a joint of such a head is wrong (HRNet divides by it).
    """

    name: str
    source: str
    threshold: float
    comparison: Literal["<=", "<"]


PCKH_CONVENTIONS = (
    PCKhConvention("@0.5, <=", "HRNet", 0.5, "<="),
    PCKhConvention("@0.5, <", "mmpose", 0.5, "<"),
    PCKhConvention("@0.1, <=", "MPII", 0.1, "<="),
    PCKhConvention("@0.1, <", "mmpose", 0.1, "<"),
    PCKhConvention("@0.11 legacy, <=", "HRNet", 0.11, "<="),
    PCKhConvention("@0.11 legacy, <", "mmpose 0.x", 0.11, "<"),
)
# What COCO's poses go through before COCOeval, by name.
SUPPRESSIONS: Mapping[Suppression, tuple[str, str]] = {
    "hard": (f"rescored, OKS-NMS {NMS_THRESHOLD}", "HRNet"),
    "soft": (f"rescored, soft OKS-NMS {NMS_THRESHOLD}", "HRNet, SOFT_NMS"),
    "soft_damped": (f"rescored, soft OKS-NMS {NMS_THRESHOLD}, damped scores", "posematch"),
    "none": ("rescored, no suppression", "posematch"),
}


@dataclass(frozen=True, eq=False)
class Conventions:
    """Figures under all conventions.

    Attributes
    ----------
    frame
        A row per figure: ``name`` (what was scored), ``convention``, ``source`` (whose code does
        so), ``boxes`` (COCO: ``gt`` or the detector's file; empty for MPII), ``part`` (``Mean``,
        ``plain mean``, ``Head`` ..., ``joint/left_wrist`` ..., or ``AP`` ...), ``value``, ``unit``
        (``percent`` or ``fraction``).
    notes
        What a reader has to know to compare the figures, a sentence each.
    """

    frame: pd.DataFrame
    notes: tuple[str, ...]

    def wide(self) -> pd.DataFrame:
        """A row per convention, a column per figure; joints left out. Missing figures are NaN."""
        rows = self.frame[~self.frame["part"].str.startswith(JOINT_PREFIX)]
        keys = ["name", "boxes", "convention"]
        return _without_empty(_pivot(rows, keys, "part"))

    def joints(self) -> pd.DataFrame:
        """A row per name and joint, a column per convention; empty for COCO."""
        rows = self.frame[self.frame["part"].str.startswith(JOINT_PREFIX)]
        rows = rows.assign(joint=rows["part"].str.removeprefix(JOINT_PREFIX))
        return _without_empty(_pivot(rows, ["name", "joint"], "convention"))

    def table(self, title: str) -> Table:
        """For the terminal."""
        return self._rich(self.wide(), title)

    def joints_table(self, title: str) -> Table:
        """For the terminal, joint by joint."""
        return self._rich(self.joints(), title)

    def markdown(self) -> str:
        """Table and notes."""
        return self._markdown(self.wide())

    def joints_markdown(self) -> str:
        """Table, joint by joint, and notes."""
        return self._markdown(self.joints())

    def json(self) -> str:
        """``{"figures": [a row of frame each], "notes": [...]}``, values in full precision."""
        figures = self.frame.to_dict(orient="records")
        return json.dumps(
            {"figures": figures, "notes": list(self.notes)}, allow_nan=False, indent=1
        )

    def _rich(self, wide: pd.DataFrame, title: str) -> Table:
        headings, rows = self._cells(wide)
        table = plain_table(headings, rows, title, "\n".join(self.notes))
        for column, heading in zip(table.columns, headings, strict=True):
            if heading in COLUMNS_OF_FRAME or heading == "joint":
                column.justify = "left"
        return table

    def _markdown(self, wide: pd.DataFrame) -> str:
        headings, rows = self._cells(wide)
        words = [one in COLUMNS_OF_FRAME or one == "joint" for one in headings]
        lines = [headings, ["---" if word else "---:" for word in words], *rows]
        text = "\n".join("| " + " | ".join(map(_escaped, line)) + " |" for line in lines)
        return f"{text}\n\n" + "\n".join(f"- {note}" for note in self.notes) + "\n"

    def _cells(self, wide: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
        decimals = 2 if (self.frame["unit"] == "percent").all() else 3
        rows = [[_cell(value, decimals) for value in row] for row in wide.itertuples(index=False)]
        return [str(heading) for heading in wide.columns], rows


def joined(parts: Sequence[Conventions]) -> Conventions:
    """Several in one table, in order; notes that two of them share stand once."""
    frame = pd.concat([part.frame for part in parts], ignore_index=True)
    notes = dict.fromkeys(note for part in parts for note in part.notes)
    return Conventions(frame, tuple(notes))


def pckh_conventions(joints_img: ArrayLike, truth: PCKhTruth, name: str = "") -> Conventions:
    """PCKh by every convention of `PCKH_CONVENTIONS`, as both means, columns and joints.

    Parameters
    ----------
    joints_img
        (N, K, 2) predicted, 0-based photo pixels, rows as in the truth.
    truth
        What they are measured against.
    name
        What was scored.

    Raises
    ------
    PosematchError
        A prediction is not finite, of another shape, or there is no labelled joint to count.
    """
    joints_img = np.asarray(joints_img, dtype=np.float64)
    if joints_img.shape != truth.joints_img.shape:
        raise PosematchError(
            f"the predictions are {joints_img.shape}, the truth {truth.joints_img.shape}: give a"
            " row per person of the truth and its joints in its order."
        )
    labelled = truth.visible > 0
    if not np.isfinite(joints_img[labelled]).all():
        raise PosematchError("a prediction is NaN or infinite: give every joint a place.")
    figures = [
        (convention.name, convention.source, "", part, value, "percent")
        for convention in PCKH_CONVENTIONS
        for part, value in _pckh_parts(
            _right(joints_img, truth, convention), labelled, truth.skeleton
        ).items()
    ]
    notes = (
        f"PCKh of {len(labelled)} people, in percent. Mean: joints weighted by how often each is"
        " labelled, without pelvis and thorax; plain mean: the same joints, each weighs the same.",
        "<= is HRNet's comparison, < mmpose's; HRNet, SimpleBaseline, DARK and UDP publish @0.11"
        " legacy as Mean@0.1.",
    )
    return Conventions(_frame(name, figures), notes)


def coco_conventions(
    poses: CocoPoses, truth: OKSTruth, name: str = "", joint_score: str = ""
) -> Conventions:
    """COCO's ten figures by every kind of suppression of `SUPPRESSIONS`.

    Parameters
    ----------
    poses
        Before suppression; of a prediction table: ``table.poses``.
    truth
        Annotations, photos, and which boxes the poses come from.
    name
        What was scored.
    joint_score
        What the joints' scores are, for the notes (``peak of the map``).

    Raises
    ------
    PosematchError
        As `posematch.metrics.oks.coco_figures`.
    """
    figures = []
    for suppression, (convention, source) in SUPPRESSIONS.items():
        results = poses.results(truth.skeleton.oks_sigmas, suppression)
        by_name = coco_figures(truth.annotation_file, results, truth.image_ids, truth.skeleton)
        figures += [
            (convention, source, truth.boxes, part, value, "fraction")
            for part, value in by_name.items()
        ]
    score = f", {joint_score}" if joint_score else ""
    notes = (
        *_coco_notes(truth),
        f"rescored: box score x mean of the joint scores > {COUNTED_JOINT_SCORE}{score}.",
        *_sigma_notes(poses, truth),
    )
    return Conventions(_frame(name, figures), notes)


def _sigma_notes(poses: CocoPoses, truth: OKSTruth) -> tuple[str, ...]:
    """How far AP of joints of one's own depends on sigmas that nobody has measured."""
    if truth.skeleton.joints == COCO.joints:
        return ()
    found = []
    for factor in SIGMA_FACTORS:
        sigmas = tuple(factor * one for one in truth.skeleton.oks_sigmas)
        skeleton = replace(truth.skeleton, oks_sigmas=sigmas)
        figures = coco_figures(
            truth.annotation_file, poses.results(sigmas), truth.image_ids, skeleton
        )
        found.append(f"{figures['AP']:.3f} with {factor:g} times the sigmas")
    low, high = min(truth.skeleton.oks_sigmas), max(truth.skeleton.oks_sigmas)
    told = f"{low:g} each" if low == high else f"{low:g} to {high:g}"
    return (f"OKS sigmas {told}; AP would be {', '.join(found)}.",)


def coco_conventions_of_results(
    results: Sequence[Mapping[str, Any]], truth: OKSTruth, name: str = ""
) -> Conventions:
    """COCO's ten figures of a results json, whose scores and poses are taken as they are.

    Where the file has nothing about more than `MOST_UNTOLD` of the photos with people, it may be of
    a part of them, in which nobody else is missed: the figures of that part stand beside those of
    all photos.

    Parameters
    ----------
    results
        See `posematch.data.predictions.read_coco_results`.
    truth
        Its ``boxes`` say which boxes the results were made from, where that is known.
    name
        What was scored.

    Raises
    ------
    PosematchError
        As `posematch.metrics.oks.coco_figures`.
    """
    by_name = coco_figures(truth.annotation_file, results, truth.image_ids, truth.skeleton)
    figures = [
        ("as scored in the file", "", truth.boxes, part, value, "fraction")
        for part, value in by_name.items()
    ]
    told = {int(result["image_id"]) for result in results}
    with_people = set(annotated_people(truth)[3].tolist())
    notes = _coco_notes(truth)
    if told and len(with_people - told) > MOST_UNTOLD * len(with_people):
        part = tuple(one for one in truth.image_ids if one in told)
        of_part = coco_figures(truth.annotation_file, results, part, truth.skeleton)
        figures += [
            ("as scored, photos with results", "", truth.boxes, figure, value, "fraction")
            for figure, value in of_part.items()
        ]
        notes += (
            f"the file has results of {len(part)} of {len(truth.image_ids)} photos;"
            f" {len(with_people - told)} of the others have people, who are missed in the first row"
            " and left out of the second.",
        )
    return Conventions(_frame(name, figures), notes)


def _coco_notes(truth: OKSTruth) -> tuple[str, ...]:
    boxes = {
        "gt": "boxes gt: annotated boxes, one to two points of AP above the usual detector's."
    }.get(truth.boxes, f"boxes {truth.boxes}: a detector's file." if truth.boxes else "")
    scored, listed = (
        len(truth.image_ids),
        len(read_annotations(truth.annotation_file, truth.skeleton).content["images"]),
    )
    photos = f"{scored} of {listed}" if scored < listed else f"{scored}"
    told = f"COCOeval on {photos} photos of {truth.annotation_file.name}, 20 people a photo."
    return (told, boxes) if boxes else (told,)


def _right(
    joints_img: NDArray[np.float64], truth: PCKhTruth, convention: PCKhConvention
) -> NDArray[np.bool_]:
    if convention.comparison == "<=":
        distances = distances_heads(joints_img, truth.joints_img, truth.head_size_img)
        return within_heads(distances, convention.threshold)
    has_head = truth.head_size_img > 0
    size_img = np.where(has_head, truth.head_size_img, SIZE_OF_NO_HEAD_PX)
    distances = distances_heads(joints_img, truth.joints_img, size_img)
    return np.asarray(distances < convention.threshold)


def _pckh_parts(
    right: NDArray[np.bool_], labelled: NDArray[np.bool_], skeleton: Skeleton
) -> dict[str, float]:
    """Means, columns and joints, percent; what nobody has is left out."""
    counted = labelled.sum(axis=0)
    correct = (right & labelled).sum(axis=0)
    in_means = (counted > 0) & ~np.isin(skeleton.joints, NOT_IN_MEANS)
    if not in_means.any():
        raise PosematchError("PCKh has nothing to count: no person has a labelled joint.")
    by_joint = {
        joint: 100.0 * float(correct[k]) / float(counted[k])
        for k, joint in enumerate(skeleton.joints)
        if counted[k] > 0
    }
    parts = {
        WEIGHTED_MEAN: 100.0 * float(correct[in_means].sum()) / float(counted[in_means].sum()),
        PLAIN_MEAN: float(
            np.mean([by_joint[skeleton.joints[k]] for k in np.flatnonzero(in_means)])
        ),
    }
    for column, joints in COLUMNS.items():
        rates = [by_joint[joint] for joint in joints if joint in by_joint]
        if rates:
            parts[column] = float(np.mean(rates))
    return parts | {f"{JOINT_PREFIX}{joint}": rate for joint, rate in by_joint.items()}


def _frame(name: str, figures: Sequence[tuple[str, str, str, str, float, str]]) -> pd.DataFrame:
    return pd.DataFrame([(name, *row) for row in figures], columns=list(COLUMNS_OF_FRAME))


def _pivot(rows: pd.DataFrame, keys: list[str], column: str) -> pd.DataFrame:
    """Wide, rows and columns in the order in which they first appear."""
    wide = rows.set_index([*keys, column])["value"].unstack(column)
    order = pd.MultiIndex.from_frame(rows[keys].drop_duplicates())
    columns = [one for one in (*_PARTS, *dict.fromkeys(rows[column])) if one in wide.columns]
    return wide.reindex(index=order, columns=list(dict.fromkeys(columns))).reset_index()


# Their order in tables, also where the first thing that was scored lacks one.
_PARTS = (WEIGHTED_MEAN, PLAIN_MEAN, *COLUMNS, *FIGURES)


def _without_empty(wide: pd.DataFrame) -> pd.DataFrame:
    """Without ``name`` and ``boxes`` where they say nothing."""
    empty = [key for key in ("name", "boxes") if key in wide and (wide[key] == "").all()]
    return wide.drop(columns=empty)


def _cell(value: Any, decimals: int) -> str:
    if isinstance(value, str):
        return value
    return "-" if np.isnan(value) else f"{value:.{decimals}f}"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
