"""The tables of `posematch.reports.report`, as text for its template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from posematch.calibration.calibrating import Calibrated
from posematch.calibration.measuring import BRIER, ERROR, LOG_LOSS
from posematch.evaluation.diagnosis import KINDS, MEANINGS, diagnosis_of_table
from posematch.reports.ablation import DECIMALS, Ablation, Row
from posematch.reports.curves import STATISTICS, Curves, statistic_cell
from posematch.reports.groups import with_limits
from posematch.reports.theorem import Theorem
from posematch.runs.finished import Run
from posematch.runs.folder import config_differences
from posematch.statistics.intervals import Interval


@dataclass(frozen=True)
class Cell:
    """A figure of a table; ``best``: it is the best of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes
    ----------
    name, label
        Of its place in the page; what it is called aloud.
    headings
        The first is that of the rows' names.
    rows
        Each its name, then its cells.
    """

    name: str
    label: str
    headings: list[str]
    rows: Sequence[Sequence[str | Cell]]


def results_table(table: Ablation) -> Table:
    best = table.best()
    rows = []
    for number, row in enumerate(table.rows):
        cells: list[str | Cell] = [_name(row)]
        for place, (mean, spread) in enumerate(zip(row.means, row.spreads, strict=True)):
            text = "-" if pd.isna(mean) else f"{mean:.{DECIMALS}f}"
            text += "" if pd.isna(spread) else f" ± {spread:.{DECIMALS}f}"
            cells.append(Cell(text, bool(best[number, place])))
        rows.append(cells)
    return Table("table-results", "Results", ["loss (decoder)", *table.headings], rows)


def differences_table(table: Ablation) -> Table | None:
    rows: list[list[str | Cell]] = []
    for row in table.rows:
        if row.differences:
            cells = (row.differences[heading] for heading in table.headings)
            told = (
                with_limits(c.value, c.low, c.high, DECIMALS, sign=True, seeds_std=c.seeds_std)
                for c in cells
            )
            rows.append([_name(row), *told])
    headings = ["loss (decoder)", *table.headings]
    return Table("table-differences", "Differences", headings, rows) if rows else None


def _name(row: Row) -> str:
    return f"{row.loss} ({row.decoder})"


def error_tables(groups: Mapping[str, Sequence[Run]]) -> list[tuple[str, Table, str]]:
    """Heading, table and meaning of each table of `posematch.evaluation.diagnosis`.

    A row per loss, means over its seeds; of the kinds of errors all joints together.
    """
    found: dict[str, list[pd.DataFrame]] = {}
    for loss, runs in groups.items():
        told = [diagnosis_of_table(run.last_predictions) for run in runs]
        for name in MEANINGS:
            frames = [one[name] for one in told if name in one]
            if len(frames) < len(runs):
                continue
            if name == KINDS:
                frames = [one[one["joint"] == "all"].drop(columns="joint") for one in frames]
            keys = [one for one in frames[0] if not is_numeric_dtype(frames[0][one])]
            mean = pd.concat(frames).groupby(keys or (lambda _: 0), sort=False).mean()
            mean = mean.reset_index() if keys else mean
            found.setdefault(name, []).append(mean.assign(loss=loss))
    tables = []
    for name, of_losses in found.items():
        frame = pd.concat(of_losses)
        names = [one for one in frame if one != "loss" and not is_numeric_dtype(frame[one])]
        figures = [str(one) for one in frame if one != "loss" and one not in names]
        rows: list[list[str | Cell]] = [
            [" ".join([str(row["loss"]), *(f"({row[one]})" for one in names)]),
             *(_short_figure(one, float(row[one])) for one in figures)]
            for row in frame.to_dict("records")
        ]  # fmt: skip
        heading = " ".join(["loss", *(f"({one})" for one in names)])
        table = Table(f"table-{name.replace(' ', '-')}", name, [heading, *figures], rows)
        tables.append((name[0].upper() + name[1:], table, MEANINGS[name]))
    return tables


def calibration_table(found: Mapping[str, Calibrated]) -> Table:
    """What calibrating the scores of each training would change."""
    rows: list[list[str | Cell]] = []
    with_ap = any(one.average_precision is not None for one in found.values())
    for loss, one in found.items():
        figures = one.reliability.figures
        error = figures[ERROR]
        cells = [
            *(_limited(each) for each in error[:2]),
            f"{one.reliability.floors[1]:.3f}",
            _limited(error[2], sign=True),
            *(f"{figures[name][side].value:.3f}" for name in (BRIER, LOG_LOSS) for side in (0, 1)),
        ]
        if with_ap:
            ap = one.average_precision
            cells += (
                ["-", "-", "-"]
                if ap is None
                else [
                    *(f"{100 * each:.2f}" for each in ap[:2]),
                    _limited(ap[2], sign=True, scale=100, decimals=2),
                ]
            )
        rows.append([f"{loss} ({one.record.curve.method})", *cells])
    headings = ["loss (method)", "ECE before", "ECE after", "floor after", "difference",
                "Brier before", "Brier after", "log loss before", "log loss after"]  # fmt: skip
    if with_ap:
        headings += ["AP before", "AP after", "difference"]
    return Table("table-calibration", "Calibration", headings, rows)


def _limited(one: Interval, sign: bool = False, scale: float = 1, decimals: int = 3) -> str:
    value, low, high = scale * one.value, scale * one.low, scale * one.high
    return with_limits(value, low, high, decimals, sign=sign)


def joints_table(groups: Mapping[str, Sequence[Run]]) -> Table | None:
    """OKS and distance of each joint for each loss, where runs have measured them."""
    first = next(iter(groups.values()))[0]
    prefix = "OKS/joint/"
    joints = [one.removeprefix(prefix) for one in first.figures if one.startswith(prefix)]
    if not joints:
        return None

    def mean(runs: Sequence[Run], figure: str) -> float:
        return sum(run.figures.get(figure, float("nan")) for run in runs) / len(runs)

    rows: list[list[str | Cell]] = [
        [
            joint.replace("_", " "),
            *(
                f"{mean(runs, f'{kind}/joint/{joint}'):.{decimals}f}"
                for runs in groups.values()
                for kind, decimals in (("OKS", 3), ("EPE", 1))
            ),
        ]
        for joint in joints
    ]
    headings = [f"{loss}: {kind}" for loss in groups for kind in ("OKS", "EPE, px")]
    return Table("table-joints", "By joint", ["joint", *headings], rows)


def _short_figure(name: str, value: float) -> str:
    """Counts whole, percent with one decimal, all else with three; a dash without a value."""
    if pd.isna(value):
        return "-"
    if name in ("people", "joints", "photos"):
        return f"{value:.0f}"
    return f"{value:.1f}" if name.startswith(("PCK", "AUC")) else f"{value:.3f}"


def consistency_table(curves: Curves) -> Table:
    rows: list[list[str | Cell]] = [
        [loss, *(statistic_cell(curves, loss, loss, one) for one in STATISTICS)]
        for loss in curves.groups
    ]
    headings = ["training loss", "Spearman", "Kendall", "disagreed", "loss fell, metric fell"]
    return Table("table-consistency", "Consistency of loss and metric", headings, rows)


def cross_table(curves: Curves) -> Table:
    rows: list[list[str | Cell]] = [
        [measured, *(statistic_cell(curves, loss, measured, "spearman") for loss in curves.groups)]
        for measured in curves.measured
    ]
    headings = ["measured loss", *(f"trained with {loss}" for loss in curves.groups)]
    return Table("table-cross", "Each measured loss in each training", headings, rows)


def theorem_table(theorem: Theorem) -> Table:
    rows: list[list[str | Cell]] = []
    for row in theorem.table.to_dict("records"):
        names = ("gaussian_risk", "dot_risk", "extra")
        moved = [f"{row[f'{one}_first']:.4g} to {row[f'{one}_last']:.4g}" for one in names]
        constant, residual = f"{row['constant_last']:.4g}", f"{row['largest_residual']:.0e}"
        rows.append([row["training_loss"], *moved, constant, residual])
    headings = ["training loss", "Gaussian risk", "dot risk", "2 E⟨h, g⟩ − 2 E⟨h, d⟩", "C"]
    return Table("table-theorem", "Theorem 1", [*headings, "largest residual"], rows)


def configuration_table(groups: Mapping[str, Sequence[Run]]) -> Table:
    """Keys in which losses differ; the seeds of a loss differ in nothing else."""
    of_losses = [runs[0] for runs in groups.values()]
    changed = [config_differences(of_losses[0].config, run.config) for run in of_losses]
    firsts = {key: old for differences in changed for key, old, _ in differences}
    seeds = ("seed", "data.seed")
    rows: list[list[str | Cell]] = [
        [key, *(_short({k: new for k, _, new in one}.get(key, first)) for one in changed)]
        for key, first in firsts.items()
        if key not in seeds
    ]
    if any(len(runs) > 1 or runs[0].seed != of_losses[0].seed for runs in groups.values()):
        rows.append(["seed", *(", ".join(str(one.seed) for one in g) for g in groups.values())])
    return Table("table-configuration", "Differences in configuration", ["key", *groups], rows)


def environments(runs: Sequence[Run]) -> tuple[Table, Table]:
    """What environment.json says: common to all runs, and different."""
    told = [_flat(run.environment) for run in runs]
    keys = list(dict.fromkeys(key for one in told for key in one))
    common, different = [], []
    for key in keys:
        values = [_short(one.get(key)) for one in told]
        if len(set(values)) == 1:
            common.append([key, values[0]])
        else:
            different.append([key, *values])
    names = [f"{run.loss}, seed {run.seed}" for run in runs]
    return (
        Table("table-environment", "Environment of all runs", ["what", "value"], common),
        Table("table-environments", "Differences in environment", ["what", *names], different),
    )


def _flat(environment: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in environment.items():
        if key == "command" and isinstance(value, list):
            flat[key] = " ".join(str(word) for word in value)
        elif key == "resumed" and isinstance(value, list):
            flat["resumed, times"] = len(value)
        elif key == "versions" and isinstance(value, dict):
            flat |= {str(name): version for name, version in value.items()}
        elif isinstance(value, dict):
            flat |= {f"{key} {name}": one for name, one in value.items()}
        else:
            flat[key] = value
    return flat


def _short(value: Any) -> str:
    """A value of a file in a cell; a dash where there is none."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None or value == "nothing" else str(value)
