"""The paper's Figure 2: does a falling loss mean better joints? In pictures and in numbers.

Every validation measures every loss on every network. So a loss can be asked whether it follows the
metric not only in the training that minimises it, but in all of them, which tells whether the loss
or the training is to blame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from scipy import stats

from posematch.errors import PosematchError
from posematch.files import write_output
from posematch.plots import save_figure
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

LOSS_PREFIX = "val/loss/"
LEAST_EPOCHS = 3  # of two points any correlation is 1 or -1
LOSS_COLOUR, METRIC_COLOUR = "#1b6ca8", "#c8501e"
# Statistics of `Consistency` with the range of their values.
STATISTICS = {
    "spearman": (-1.0, 1.0),
    "kendall": (-1.0, 1.0),
    "disagreed": (0.0, 1.0),
    "loss_fell_metric_fell": (0.0, 1.0),
}


@dataclass(frozen=True)
class Consistency:
    """How well a loss follows a metric (higher is better) over the epochs of one training.

    Attributes
    ----------
    spearman, kendall
        Rank correlations of loss and metric, -1 for a perfect loss; Kendall's is tau-b. NaN where
        one of both never changes.
    disagreed
        Share of the steps from one epoch to the next in which one got better and the other worse.
    loss_fell_metric_fell
        The part of these in which the loss promised more than came.
    """

    spearman: float
    kendall: float
    disagreed: float
    loss_fell_metric_fell: float


def consistency(loss: ArrayLike, metric: ArrayLike) -> Consistency:
    """Of (E,) values by epoch.

    Raises
    ------
    ValueError
        Lengths differ, or there are fewer than `LEAST_EPOCHS`.
    """
    losses, metrics = np.asarray(loss, np.float64), np.asarray(metric, np.float64)
    if losses.shape != metrics.shape or losses.ndim != 1 or len(losses) < LEAST_EPOCHS:
        raise ValueError(f"expected two series of at least {LEAST_EPOCHS} epochs")
    loss_step, metric_step = np.sign(np.diff(losses)), np.sign(np.diff(metrics))
    both_fell = (loss_step < 0) & (metric_step < 0)
    both_rose = (loss_step > 0) & (metric_step > 0)
    if np.ptp(losses) == 0 or np.ptp(metrics) == 0:
        spearman = kendall = float("nan")
    else:
        spearman = float(stats.spearmanr(losses, metrics).statistic)
        kendall = float(stats.kendalltau(losses, metrics).statistic)
    return Consistency(
        spearman, kendall, float((both_fell | both_rose).mean()), float(both_fell.mean())
    )


@dataclass(frozen=True, eq=False)
class Curves:
    """Losses and metric by epoch, of runs that are comparable.

    Attributes
    ----------
    groups
        Runs by training loss.
    metric
        Name of the data set's main figure.
    series
        A row per run, epoch (from 1) and measured loss: ``training_loss``, ``seed``, ``epoch``,
        ``measured_loss``, ``loss``, ``metric``.
    table
        A row per training loss and measured loss: both names, ``seeds`` (their number), ``epochs``
        (their number), and each of `STATISTICS` as `interval_columns`: its
        mean over seeds with the 95 % interval.
    """

    groups: dict[str, list[Run]]
    metric: str
    series: pd.DataFrame
    table: pd.DataFrame

    @property
    def measured(self) -> list[str]:
        return list(dict.fromkeys(self.table["measured_loss"]))

    def own(self, training_loss: str, run: Run) -> pd.DataFrame:
        """Epochs of one run with the loss that it minimises."""
        rows = self.series
        return rows[
            (rows["training_loss"] == training_loss)
            & (rows["measured_loss"] == training_loss)
            & (rows["seed"] == run.seed)
        ]


def curves_of(runs: Sequence[Run], first: int = 2, last: int = 15) -> Curves:
    """Losses and metric from epoch ``first`` to ``last``, counted from 1, both included.

    The paper's Figure 2 shows epochs 2 to 15. Epochs without a validation are left out.

    Raises
    ------
    PosematchError
        Runs are not comparable, or have fewer than `LEAST_EPOCHS` validated epochs in that range.
    """
    groups = by_loss(runs)
    metric = runs[0].metric
    rows, table = [], []
    for training_loss, group in groups.items():
        found: dict[str, list[Consistency]] = {}
        for run in group:
            chosen = epochs_between(run, first, last)
            figure = chosen[f"val/{metric}"]
            for column in (c for c in map(str, chosen) if c.startswith(LOSS_PREFIX)):
                name, losses = column.removeprefix(LOSS_PREFIX), chosen[column]
                if losses.isna().any():
                    continue
                found.setdefault(name, []).append(consistency(losses, figure))
                rows += [
                    (training_loss, run.seed, epoch + 1, name, loss, value)
                    for epoch, loss, value in zip(chosen.index, losses, figure, strict=True)
                ]
            if training_loss not in found:
                raise PosematchError(
                    f"{run.folder.path} has no validation loss of its own ({LOSS_PREFIX}"
                    f"{training_loss}): its people have no labelled joints, as a detector's boxes."
                )
        for name, values in found.items():
            entry: dict[str, object] = {
                "training_loss": training_loss,
                "measured_loss": name,
                "seeds": len(values),
                "epochs": len(chosen),
            }
            for statistic, (least, most) in STATISTICS.items():
                of_seeds = [getattr(one, statistic) for one in values]
                interval = interval_over_seeds(of_seeds, least, most)
                entry |= interval_columns(statistic, interval)
            table.append(entry)
    columns = ["training_loss", "seed", "epoch", "measured_loss", "loss", "metric"]
    return Curves(groups, metric, pd.DataFrame(rows, columns=columns), pd.DataFrame(table))


def epochs_between(run: Run, first: int, last: int) -> pd.DataFrame:
    """Validated epochs of metrics.csv, ``first`` to ``last`` counted from 1; the index from 0.

    Raises
    ------
    PosematchError
        There are fewer than `LEAST_EPOCHS`.
    """
    rows = run.metrics
    column = f"val/{run.metric}"
    chosen = rows[(rows.index >= first - 1) & (rows.index <= last - 1)]
    chosen = chosen[chosen[column].notna()] if column in chosen else chosen.iloc[:0]
    if len(chosen) < LEAST_EPOCHS:
        raise PosematchError(
            f"{run.folder.path} has {len(chosen)} validated epochs between {first} and {last}, and"
            f" {LEAST_EPOCHS} are needed; set first and last, or train with"
            " experiment=loss_vs_metric."
        )
    return chosen


def figure(curves: Curves) -> Figure:
    """A panel per training loss: the loss it minimises and the metric, seeds thin, mean bold.

    A cross marks an epoch in which the loss fell and the metric fell.
    """
    number = len(curves.groups)
    drawn = Figure(figsize=(4.4 * number, 3.6), layout="constrained")
    axes = drawn.subplots(1, number, squeeze=False)[0]
    for axis, (name, group) in zip(axes, curves.groups.items(), strict=True):
        other = axis.twinx()
        runs = [curves.own(name, run) for run in group]
        for rows in runs:
            thin = {"linewidth": 0.8, "alpha": 0.45}
            axis.plot(rows["epoch"], rows["loss"], color=LOSS_COLOUR, **thin)
            other.plot(rows["epoch"], rows["metric"], color=METRIC_COLOUR, linestyle="--", **thin)
            fell = (rows["loss"].diff() < 0) & (rows["metric"].diff() < 0)
            other.plot(
                rows["epoch"][fell], rows["metric"][fell], "x", color=METRIC_COLOUR, markersize=6
            )
        mean = pd.concat(runs).groupby("epoch")[["loss", "metric"]].mean()
        axis.plot(mean.index, mean["loss"], color=LOSS_COLOUR, linewidth=2)
        other.plot(mean.index, mean["metric"], color=METRIC_COLOUR, linewidth=2, linestyle="--")
        axis.set_title(f"trained with {name}")
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_ylabel(f"validation {name}", color=LOSS_COLOUR)
        other.set_ylabel(f"{curves.metric} (dashed)", color=METRIC_COLOUR)
        axis.tick_params(axis="y", colors=LOSS_COLOUR)
        other.tick_params(axis="y", colors=METRIC_COLOUR)
        axis.grid(alpha=0.25)
    return drawn


def markdown(curves: Curves) -> str:
    """The consistency as tables, with how to read them."""
    first, last = curves.series["epoch"].min(), curves.series["epoch"].max()
    everybody = [run for group in curves.groups.values() for run in group]
    own = [
        [f"`{name}`", *(statistic_cell(curves, name, name, one) for one in STATISTICS)]
        for name in curves.groups
    ]
    text = [
        f"# Loss against {curves.metric}, epochs {first} to {last}\n",
        f"{recipe_line(everybody[0])}; {everybody[0].result['protocol']}; "
        + ", ".join(f"`{name}`: {seeds_of(group)}" for name, group in curves.groups.items())
        + f". {OVER_SEEDS}\n",
        "## Each training by the loss it minimises\n",
        markdown_table(
            ["training loss", "Spearman", "Kendall", "disagreed", "loss fell, metric fell"], own
        ),
        "Correlations of loss and metric over epochs: -1 if each fall of the loss is a rise of the"
        " metric. Disagreed: share of steps from one epoch to the next in which one got better and"
        " the other worse; last column: the part in which the loss fell and the metric fell.\n",
        "## Each measured loss (rows) in each training (columns): Spearman\n",
        _cross(curves, "spearman"),
        "## The same: share of steps in which the loss fell and the metric fell\n",
        _cross(curves, "loss_fell_metric_fell"),
        "A row that is bad in every column: that loss does not tell how well joints are localised,"
        " whoever was trained. A column that is bad in every row: that training's metric moves for"
        " other reasons, as noise between epochs. A loss that fixes the amplitude (`gaussian_mse`,"
        " `dot_mse`) means nothing on maps whose amplitude is free; `gaussian_mse_best_scale` is"
        " the Gaussian MSE of the training loss's mass at the factor that makes it least.\n",
    ]
    return "\n".join(text)


def statistic_cell(curves: Curves, training_loss: str, measured_loss: str, statistic: str) -> str:
    """One of `STATISTICS` with its interval, or a dash."""
    table = curves.table
    row = table[
        (table["training_loss"] == training_loss) & (table["measured_loss"] == measured_loss)
    ]
    return "-" if row.empty else interval_cell(row.iloc[0].to_dict(), statistic)


def _cross(curves: Curves, statistic: str) -> str:
    names = list(curves.groups)
    rows = [
        [f"`{measured}`", *(statistic_cell(curves, name, measured, statistic) for name in names)]
        for measured in curves.measured
    ]
    return markdown_table(["", *(f"`{name}`" for name in names)], rows)


def write_curves(curves: Curves, output: Path) -> list[Path]:
    """Write loss_curves.{png,svg,csv,md} and consistency.csv to a folder."""
    return [
        *save_figure(figure(curves), output / "loss_curves"),
        write_output(output / "loss_curves.csv", curves.series.to_csv(index=False)),
        write_output(output / "consistency.csv", curves.table.to_csv(index=False)),
        write_output(output / "loss_curves.md", markdown(curves)),
    ]
