"""The tables of `posematch.reports.report`, as text for its template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from posematch.reports.ablation import DECIMALS, Ablation, Row
from posematch.reports.curves import STATISTICS, Curves
from posematch.reports.groups import with_limits
from posematch.reports.theorem import Theorem
from posematch.runs.finished import Run
from posematch.runs.folder import config_differences


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


def consistency_table(curves: Curves) -> Table:
    rows: list[list[str | Cell]] = [
        [loss, *(_statistic(curves, loss, loss, one) for one in STATISTICS)]
        for loss in curves.groups
    ]
    headings = ["training loss", "Spearman", "Kendall", "disagreed", "loss fell, metric fell"]
    return Table("table-consistency", "Consistency of loss and metric", headings, rows)


def cross_table(curves: Curves) -> Table:
    rows: list[list[str | Cell]] = [
        [measured, *(_statistic(curves, loss, measured, "spearman") for loss in curves.groups)]
        for measured in curves.measured
    ]
    headings = ["measured loss", *(f"trained with {loss}" for loss in curves.groups)]
    return Table("table-cross", "Each measured loss in each training", headings, rows)


def _statistic(curves: Curves, training: str, measured: str, statistic: str) -> str:
    chosen = curves.table[
        (curves.table["training_loss"] == training) & (curves.table["measured_loss"] == measured)
    ]
    if chosen.empty:
        return "-"
    values = [float(chosen[f"{statistic}{end}"].iloc[0]) for end in ("", "_low", "_high")]
    return with_limits(values[0], values[1], values[2], decimals=2)


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
