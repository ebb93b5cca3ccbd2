"""Theorem 1 by epoch: what falls when a loss is minimised, and what moves instead.

The dot risk is the Gaussian risk plus 2 E<h, g> - 2 E<h, d> - C (supplement, equation 4), so a
falling Gaussian risk may leave the dot risk where it is, or raise it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from posematch.errors import PosematchError
from posematch.files import write_output
from posematch.metrics.columns import TERMS
from posematch.plots import save_figure
from posematch.reports.curves import consistency, epochs_between
from posematch.reports.groups import (
    OVER_SEEDS,
    by_loss,
    interval_cell,
    interval_columns,
    interval_over_seeds,
    markdown_table,
    recipe_line,
    seeds_of,
)
from posematch.runs.finished import Run

PREFIX = "val/theorem/"
TOLERANCE = 1e-9  # of the identity in float64
_COLOURS = {
    "gaussian_risk": "#1b6ca8",
    "dot_risk": "#c8501e",
    "2_gaussian_product": "#5a9bd4",
    "-2_dot_product": "#e6925c",
    "extra": "#222222",
    "metric": "#2e7d32",
}
_LABELS = {
    "gaussian_risk": "Gaussian risk",
    "dot_risk": "dot risk",
    "2_gaussian_product": "2 E<h, g>",
    "-2_dot_product": "-2 E<h, d>",
    "extra": "their sum",
    "metric": "",
}
_PANELS = (("gaussian_risk", "dot_risk"), ("2_gaussian_product", "-2_dot_product", "extra"))


@dataclass(frozen=True, eq=False)
class Theorem:
    """The theorem's terms of comparable runs.

    Attributes
    ----------
    groups
        Runs by training loss.
    metric
        Name of the data set's main figure.
    terms
        A row per run and epoch (from 1): ``training_loss``, ``seed``, ``epoch``,
        `posematch.metrics.risks.TERMS`, ``extra`` (2 E<h, g> - 2 E<h, d>), ``residual``,
        ``metric``.
    table
        A row per training loss: each term's mean over seeds in the ``first`` and the ``last``
        epoch; the largest residual; and with 95 % intervals over seeds the Spearman correlation of
        either risk with the metric, and the share of steps from one epoch to the next in which the
        Gaussian risk fell and the dot risk rose.
    """

    groups: dict[str, list[Run]]
    metric: str
    terms: pd.DataFrame
    table: pd.DataFrame


def theorem_of(runs: Sequence[Run], first: int = 1, last: int = 10**6) -> Theorem:
    """The terms from epoch ``first`` to ``last``, counted from 1, both included.

    Raises
    ------
    PosematchError
        Runs are not comparable, were not measured, or the identity does not hold to `TOLERANCE`.
    """
    groups = by_loss(runs)
    metric = runs[0].metric
    parts, table = [], []
    for training_loss, group in groups.items():
        of_runs = [_terms(run, first, last) for run in group]
        parts += of_runs
        entry: dict[str, object] = {"training_loss": training_loss, "seeds": len(group)}
        for name in (*TERMS, "extra"):
            entry[f"{name}_first"] = float(np.mean([rows[name].iloc[0] for rows in of_runs]))
            entry[f"{name}_last"] = float(np.mean([rows[name].iloc[-1] for rows in of_runs]))
        entry["largest_residual"] = max(float(rows["residual"].max()) for rows in of_runs)
        statistics = {
            f"spearman_{risk}": [
                consistency(rows[risk], rows["metric"]).spearman for rows in of_runs
            ]
            for risk in ("gaussian_risk", "dot_risk")
        }
        statistics["gaussian_fell_dot_rose"] = [
            float(
                np.mean((rows["gaussian_risk"].diff() < 0)[1:] & (rows["dot_risk"].diff() > 0)[1:])
            )
            for rows in of_runs
        ]
        for name, values in statistics.items():
            least = -1.0 if name.startswith("spearman") else 0.0
            entry |= interval_columns(name, interval_over_seeds(values, least, 1.0))
        table.append(entry)
    return Theorem(groups, metric, pd.concat(parts, ignore_index=True), pd.DataFrame(table))


def _terms(run: Run, first: int, last: int) -> pd.DataFrame:
    chosen = epochs_between(run, first, last)
    names = (*TERMS, "residual")
    missing = [name for name in names if f"{PREFIX}{name}" not in chosen]
    if missing or chosen[[f"{PREFIX}{name}" for name in names]].isna().any(axis=None):
        raise PosematchError(
            f"{run.folder.path} has no {PREFIX}{(missing or names)[0]} in every epoch of"
            " metrics.csv; the risks need labelled validation joints, which a detector's boxes have"
            " not."
        )
    rows = pd.DataFrame({"training_loss": run.loss, "seed": run.seed, "epoch": chosen.index + 1})
    for name in TERMS:
        rows[name] = chosen[f"{PREFIX}{name}"].to_numpy()
    rows["extra"] = 2 * rows["gaussian_product"] - 2 * rows["dot_product"]
    rows["residual"] = chosen[f"{PREFIX}residual"].to_numpy()
    rows["metric"] = chosen[f"val/{run.metric}"].to_numpy()
    worst = float(rows["residual"].max())
    if worst > TOLERANCE:
        raise PosematchError(
            f"{run.folder.path}: Theorem 1 is off by {worst:.2g} of its largest term, more than"
            f" {TOLERANCE:g}; the Gaussian's peak is not 1 on the dot's pixel."
        )
    return rows


def figure(theorem: Theorem) -> Figure:
    """A column per training loss: both risks, the terms between them, the metric."""
    number = len(theorem.groups)
    drawn = Figure(figsize=(4.2 * number, 7.2), layout="constrained")
    axes = drawn.subplots(3, number, squeeze=False, sharex="col")
    for column, name in enumerate(theorem.groups):
        rows = theorem.terms[theorem.terms["training_loss"] == name].assign(
            **{
                "2_gaussian_product": lambda one: 2 * one["gaussian_product"],
                "-2_dot_product": lambda one: -2 * one["dot_product"],
            }
        )
        for row, terms in enumerate((*_PANELS, ("metric",))):
            axis = axes[row][column]
            for term in terms:
                colour, dashed = _COLOURS[term], "--" if term == "extra" else "-"
                for _, seed in rows.groupby("seed"):
                    axis.plot(seed["epoch"], seed[term], color=colour, linewidth=0.8, alpha=0.4)
                mean = rows.groupby("epoch")[term].mean()
                axis.plot(mean.index, mean, dashed, color=colour, linewidth=2, label=_LABELS[term])
            axis.grid(alpha=0.25)
            if row < 2:
                axis.legend(fontsize=8, frameon=False)
        axes[0][column].set_title(f"trained with {name}")
        axes[2][column].set_xlabel("epoch")
        axes[2][column].xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis, label in zip(
        axes[:, 0], ("risk per image", "terms between the risks", theorem.metric), strict=True
    ):
        axis.set_ylabel(label)
    return drawn


def markdown(theorem: Theorem) -> str:
    """The terms in the first and the last epoch, and how the risks follow the metric."""
    first, last = theorem.terms["epoch"].min(), theorem.terms["epoch"].max()
    run = next(iter(theorem.groups.values()))[0]
    terms, follow = [], []
    for row in theorem.table.to_dict("records"):
        name = f"`{row['training_loss']}`"
        arrows = [
            f"{row[f'{one}_first']:.4g} to {row[f'{one}_last']:.4g}"
            for one in ("gaussian_risk", "dot_risk", "extra")
        ]
        terms.append(
            [name, *arrows, f"{row['constant_last']:.4g}", _power(row["largest_residual"])]
        )
        follow.append(
            [
                name,
                *(
                    interval_cell(row, one)
                    for one in (
                        "gaussian_fell_dot_rose", "spearman_gaussian_risk", "spearman_dot_risk"
                    )
                ),
            ]
        )  # fmt: skip
    return "\n".join(
        [
            f"# Theorem 1, epochs {first} to {last}\n",
            f"{recipe_line(run)}; "
            + ", ".join(f"`{name}`: {seeds_of(group)}" for name, group in theorem.groups.items())
            + ".\n",
            "dot risk = Gaussian risk + 2 E<h, g> - 2 E<h, d> - C, expectations over validation"
            " images (people's crops), sums over pixels and labelled joints on the grid, raw"
            " heatmaps h, Gaussians g with peak 1 on the dot's pixel, one-hot maps d.\n",
            "## From the first epoch to the last, means over seeds\n",
            markdown_table(
                [
                    "training loss",
                    "Gaussian risk",
                    "dot risk",
                    "2 E<h, g> - 2 E<h, d>",
                    "C",
                    "largest residual",
                ],
                terms,
            ),
            "Residual: the identity's two sides' difference over its largest term, in float64.\n",
            f"## How the risks follow {theorem.metric}\n",
            markdown_table(
                [
                    "training loss",
                    "Gaussian risk fell, dot risk rose",
                    f"Spearman, Gaussian risk and {theorem.metric}",
                    f"Spearman, dot risk and {theorem.metric}",
                ],
                follow,
            ),
            f"First column: share of steps from one epoch to the next. {OVER_SEEDS} Risks of raw"
            " maps mean little where the training loss leaves the amplitude free.\n",
        ]
    )


def _power(value: float) -> str:
    return "0" if value == 0 else f"{value:.0e}"


def write_theorem(theorem: Theorem, output: Path) -> list[Path]:
    """Write theorem.{png,svg,csv,md} and theorem_summary.csv to a folder."""
    return [
        *save_figure(figure(theorem), output / "theorem"),
        write_output(output / "theorem.csv", theorem.terms.to_csv(index=False)),
        write_output(output / "theorem_summary.csv", theorem.table.to_csv(index=False)),
        write_output(output / "theorem.md", markdown(theorem)),
    ]
