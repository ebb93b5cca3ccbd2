"""Two recipes, or two prediction files, side by side, with how sure their difference is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from posematch.errors import PosematchError
from posematch.files import write_output
from posematch.metrics.columns import (
    COLUMNS,
    NEARNESS,
    NOT_IN_MEANS,
    PLAIN_MEAN,
    PRIMARY,
    THRESHOLDS,
)
from posematch.metrics.columns import FIGURES as COCO_FIGURES
from posematch.metrics.tables import markdown_row
from posematch.runs.finished import (
    OF_THE_LOSS,
    OF_THE_SEED,
    check_comparable,
    people_difference,
)
from posematch.runs.predictions import PredictionTable
from posematch.skeletons import COCO
from posematch.statistics.figures import Floats
from posematch.statistics.intervals import LEAST_SEEDS, intervals
from posematch.statistics.sides import Side, check_folds, fold_of, has_people, with_people

SIZES = ("small", "medium", "large")
Sides = tuple[list[PredictionTable], list[PredictionTable]]  # of a and b, one for each seed


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` finds.

    Attributes
    ----------
    names
        Of a and of b.
    figures
        A row per figure: ``part`` (overall, joint, size), ``figure``, ``a``, ``b``, ``difference``
        (b - a), ``low``, ``high``, ``b_better``, and ``seeds_std`` where seeds are too few for an
        interval (`posematch.statistics.intervals.Interval`). PCKh in percent, the rest in 0..1.
    people
        A row per person: ``person_id``, ``image_id``, ``a``, ``b`` (quality in 0..1, the mean over
        seeds), ``difference``; where b gains most first.
    quality
        What that quality is.
    caption
        How the figures and intervals are made.
    sides
        Predictions, with a row for every annotated person and joint.
    """

    names: tuple[str, str]
    figures: pd.DataFrame
    people: pd.DataFrame
    quality: str
    caption: str
    sides: Sides


def compare(
    a: Side,
    b: Side,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    may_differ: Iterable[str] = (),
) -> Comparison:
    """Compare two sides.

    Parameters
    ----------
    a, b
        As `posematch.statistics.sides.read_side` reads them.
    draws, seed, level
        As for `posematch.statistics.intervals.paired_intervals`.
    may_differ
        Keys of the configuration that may differ between a and b, besides those of the loss.

    Raises
    ------
    PosematchError
        They are not comparable; the sentence says in what they differ.
    """
    _check(a, b, tuple(may_differ))
    sides = (a.predictions, b.predictions)
    if not all(has_people(one) for side in sides for one in side):
        sides = ([with_people(one) for one in sides[0]], [with_people(one) for one in sides[1]])
    reference = sides[0][0]
    for one in (*sides[0], *sides[1]):
        if difference := _difference(reference, one):
            raise PosematchError(
                f"{reference.name} and {one.name} cannot be compared: {difference}."
            )

    def rows(
        part: str, figures: Sequence[str], keep: NDArray[np.bool_] | None = None
    ) -> list[dict[str, object]]:
        chosen = [[one if keep is None else one.of_people(keep) for one in side] for side in sides]
        found = intervals(chosen[0], chosen[1], figures, draws, seed, level)
        return [
            {
                "part": part,
                "figure": name,
                "a": means[0],
                "b": means[1],
                "difference": interval.value,
                "low": interval.low,
                "high": interval.high,
                "b_better": interval.better,
                "seeds_std": interval.seeds_std,
            }
            for name, (means, interval) in found.items()
        ]

    if reference.head_size_img is not None:
        columns = [f"{PRIMARY}/{column}" for column in COLUMNS]
        table = rows("overall", [*THRESHOLDS, PLAIN_MEAN])
        table += rows(
            "joint", [*columns, *(f"{PRIMARY}/joint/{one}" for one in reference.skeleton.joints)]
        )
        classes, bounds = _thirds(reference.head_size_img)
        for third, name in enumerate(SIZES):
            keep = classes == third
            if len(np.unique(reference.image_ids[keep])) > 1:
                table += [
                    row | {"figure": f"{row['figure']}, {name} heads ({bounds[third]})"}
                    for row in rows("size", [PRIMARY, "PCKh@0.1"], keep)
                ]
        quality = "1 - mean error of the person's joints in head sizes, each at most 1"
    else:
        overall = [one for one in COCO_FIGURES if not one.endswith(")")]
        sized = [one for one in COCO_FIGURES if one.endswith(")")]
        # One pass over the photos for all of them.
        near = ["OKS"] if reference.skeleton.joints == COCO.joints else list(NEARNESS)
        table = rows("overall", [*overall, *near, *sized])
        table = [row | {"part": "size"} if row["figure"] in sized else row for row in table]
        table += rows("joint", [f"OKS/joint/{one}" for one in reference.skeleton.joints])
        quality = "OKS"
    figures = pd.DataFrame(table)
    if figures["seeds_std"].isna().all():
        figures = figures.drop(columns="seeds_std")
    return Comparison(
        (a.name, b.name),
        figures[figures["a"].notna() & figures["b"].notna()].reset_index(drop=True),
        _people(sides),
        quality,
        _caption(sides, draws, level),
        sides,
    )


def _check(a: Side, b: Side, may_differ: tuple[str, ...]) -> None:
    allowed = (*OF_THE_LOSS, *OF_THE_SEED, *may_differ)
    folds = sorted({fold_of(run) for run in (*a.runs, *b.runs)})
    for fold in folds:
        of_a, of_b = ([run for run in side.runs if fold_of(run) == fold] for side in (a, b))
        for side, own in ((a, of_a), (b, of_b)):
            check_comparable(own, OF_THE_SEED)
            seeds = [run.seed for run in own]
            if len(set(seeds)) < len(seeds):
                raise PosematchError(
                    f"{side.name}: two runs have the same seed; name one run for each seed."
                )
        check_comparable([*of_a[:1], *of_b], allowed)
    for side in (a, b):
        check_folds(side.runs, side.name)


def _difference(a: PredictionTable, b: PredictionTable) -> str:
    """How what two are scored against differs; empty where it does not."""
    if a.by_heads != b.by_heads:
        return "one is scored by PCKh and the other by OKS"
    if difference := people_difference(a, b):
        return difference
    if a.by_heads:
        same = np.array_equal(a.size_img, b.size_img)
        return "" if same else "heads have other sizes"
    if a.truth_file is None or b.truth_file is None:
        return "one of them has no truth.json that AP could be measured against"
    if not np.array_equal(a.photos, b.photos):
        return "other photos were scored"
    return "" if np.array_equal(a.size_img, b.size_img) else "people have other areas"


def _thirds(sizes: Floats) -> tuple[NDArray[np.int64], list[str]]:
    """0, 1 or 2 for everybody, and the bounds of each third in words."""
    low, high = np.quantile(sizes, [1 / 3, 2 / 3])
    classes = (sizes > low).astype(int) + (sizes > high)
    return classes, [f"to {low:.0f} px", f"to {high:.0f} px", f"over {high:.0f} px"]


def _people(sides: Sides) -> pd.DataFrame:
    reference = sides[0][0]
    qualities = [np.stack([_quality(one) for one in side]).mean(axis=0) for side in sides]
    a, b = np.asarray(qualities[0]), np.asarray(qualities[1])
    scored = np.asarray(reference.labelled.any(axis=1))
    people = pd.DataFrame(
        {
            "person_id": reference.person_ids,
            "image_id": reference.image_ids,
            "a": a,
            "b": b,
            "difference": b - a,
        }
    )
    order = np.asarray(np.argsort(a - b, kind="stable"))
    return people.iloc[order[scored[order]]].reset_index(drop=True)


def _quality(one: PredictionTable) -> Floats:
    """(N,) how well each person is found, in 0..1."""
    if not one.by_heads:
        return one.oks
    counts = one.labelled & ~np.isin(one.skeleton.joints, NOT_IN_MEANS)
    values = np.where(counts, 1 - np.minimum(one.errors, 1), 0)
    return np.asarray(values.sum(axis=1) / np.maximum(counts.sum(axis=1), 1))


def _caption(sides: Sides, draws: int, level: float) -> str:
    reference = sides[0][0]
    seeds = [sorted(str(one.seed) for one in side) for side in sides]
    if max(map(len, seeds)) == 1:
        over = "of these two alone: nothing is known of other seeds"
    elif any(1 < len(one) < LEAST_SEEDS for one in seeds):
        over = (
            "alone; two seeds are too few for an interval over seeds, so their standard deviation"
            " stands beside it"
        )
    elif seeds[0] == seeds[1]:
        over = f"and over {len(seeds[0])} seeds, paired"
    else:
        over = f"and over {len(seeds[0])} and {len(seeds[1])} seeds, not paired"
    return (
        f"b - a with its {100 * level:g} % interval over {len(reference.photos)} photos"
        f" ({len(reference)} people, {draws} draws) {over}; better: share of draws in which"
        " b is the better one"
    )


def comparison_table(comparison: Comparison, parts: Sequence[str]) -> Table:
    """Rows of some of the parts, for a terminal."""
    table = Table(
        title=f"b - a; a: {comparison.names[0]}, b: {comparison.names[1]}",
        caption=comparison.caption,
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )
    for heading in _headings(comparison.figures):
        table.add_column(heading, justify="left" if heading == "figure" else "right", no_wrap=True)
    for cells in _cells(comparison.figures, parts):
        table.add_row(*cells)
    return table


def _cells(figures: pd.DataFrame, parts: Sequence[str]) -> list[list[str]]:
    found = []
    for row in figures[figures["part"].isin(parts)].to_dict("records"):
        decimals = 2 if row["figure"].startswith("PCKh") else 3
        absolute = [f"{row[key]:.{decimals}f}" for key in ("a", "b")]
        signed = [f"{row[key]:+.{decimals}f}" for key in ("difference", "low", "high")]
        name = row["figure"].replace("/joint/", "/")
        cells = [name, *absolute, *signed, f"{row['b_better']:.3f}"]
        if "seeds_std" in row:
            cells.append(f"{row['seeds_std']:.{decimals}f}")
        found.append(cells)
    return found


def _headings(figures: pd.DataFrame) -> list[str]:
    """Of `_cells`."""
    return ["figure", "a", "b", "b - a", "low", "high", "better"] + (
        ["± seeds"] if "seeds_std" in figures else []
    )


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write ``comparison.md``, ``.csv``, ``.json`` and ``people.csv``.

    Raises
    ------
    PosematchError
        The folder cannot be written.
    """
    a, b = comparison.names
    lines = [f"a: {a}", "", f"b: {b}", ""]
    headings = _headings(comparison.figures)
    lines += [markdown_row(headings), "|---|" + "---:|" * (len(headings) - 1)]
    parts = list(dict.fromkeys(comparison.figures["part"]))
    lines += [markdown_row(cells) for cells in _cells(comparison.figures, parts)]
    lines += ["", f"{comparison.caption}.", ""]
    lines += [f"People (people.csv, pictures) are compared by: {comparison.quality}."]
    content = {
        "a": a,
        "b": b,
        "caption": comparison.caption,
        "figures": json.loads(comparison.figures.to_json(orient="records", double_precision=15)),
    }
    texts = {
        "comparison.md": "\n".join(lines) + "\n",
        "comparison.csv": comparison.figures.to_csv(index=False, float_format="%.9g"),
        "comparison.json": json.dumps(content, indent=2) + "\n",
        "people.csv": comparison.people.to_csv(index=False, float_format="%.9g"),
    }
    for name, text in texts.items():
        write_output(folder / name, text)
