"""Losses over the length of the training: who gains on whom, and where that would lead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from scipy import stats

from posematch.reports.groups import markdown_table, with_limits
from posematch.reports.loss_map import LossMap, in_lines

LEAST_BUDGETS = 3  # of which a line and the doubt about it are told
AHEAD = 4  # times the longest training: how far the line is drawn out
_COLOURS = ("#1b6ca8", "#c8501e", "#3a8f4d", "#7b4fa3", "#8a6d1d", "#555555", "#c2408a")


def frontier(table: LossMap) -> pd.DataFrame:
    """How far each loss is behind the baseline at each length, and the line through that.

    The line is fitted by least squares in the logarithm of the length. It is an extrapolation,
    which nothing but further trainings can prove.

    Returns
    -------
    A row per recipe, loss and figure of those losses that were trained, like the baseline, at
    `LEAST_BUDGETS` lengths or more: ``recipe``, ``loss``, ``figure``, ``epochs`` and ``behind``
    (lists), ``slope`` (points a doubling) with ``slope_low`` and ``slope_high``, and ``ahead``,
    ``ahead_low``, ``ahead_high``: what the loss would be behind at `AHEAD` times the longest,
    with 95 % limits of a prediction (Student's t). Points; negative: in front.
    """
    best, rows = table.best(), []
    for recipe, group in best.groupby("recipe", sort=False):
        reference = group[group["loss"] == table.baseline].set_index("epochs")
        for loss, own in group[group["loss"] != table.baseline].groupby("loss", sort=False):
            of_loss = own.set_index("epochs").sort_index()
            lengths = of_loss.index.intersection(reference.index)
            if len(lengths) < LEAST_BUDGETS:
                continue
            for figure in (table.figures[0], table.figures[-1]):
                behind = (reference[figure] - of_loss[figure]).loc[lengths].to_numpy(np.float64)
                line = _line(np.log2(lengths.to_numpy(np.float64)), behind)
                rows.append(
                    {
                        "recipe": recipe, "loss": loss, "figure": figure,
                        "epochs": lengths.tolist(), "behind": behind.tolist(), **line,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def _line(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    fit = stats.linregress(x, y)
    free = len(x) - 2
    t = stats.t.ppf(0.975, free)
    rest = y - (fit.intercept + fit.slope * x)
    noise = float(np.sqrt((rest**2).sum() / free))
    far = x.max() + np.log2(AHEAD)
    spread = ((x - x.mean()) ** 2).sum()
    half = t * noise * np.sqrt(1 + 1 / len(x) + (far - x.mean()) ** 2 / spread)
    ahead = float(fit.intercept + fit.slope * far)
    return {
        "slope": float(fit.slope),
        "slope_low": float(fit.slope - t * fit.stderr),
        "slope_high": float(fit.slope + t * fit.stderr),
        "ahead": ahead,
        "ahead_low": float(ahead - half),
        "ahead_high": float(ahead + half),
    }


def markdown(table: LossMap) -> str:
    """The frontier's table; empty where no loss was trained at enough lengths."""
    found = frontier(table)
    if not len(found):
        return ""
    rows = []
    for _, row in found.iterrows():
        told = "; ".join(f"{e}: {b:.1f}" for e, b in zip(row["epochs"], row["behind"], strict=True))
        rows.append(
            [
                f"`{row['loss']}`",
                row["figure"],
                told,
                with_limits(row["slope"], row["slope_low"], row["slope_high"], 1, sign=True),
                with_limits(row["ahead"], row["ahead_low"], row["ahead_high"], 1, sign=True),
            ]
        )
    headings = [
        "loss", "figure", f"points behind `{table.baseline}` by epochs", "a doubling",
        f"at {AHEAD} times the longest",
    ]  # fmt: skip
    return (
        f"Over the length of the training, {'; '.join(dict.fromkeys(found['recipe']))}.\n\n"
        + markdown_table(headings, rows)
        + "\nThe line is fitted in the logarithm of the epochs; limits are of a prediction, 95 %,"
        " by Student's t over the lengths: an extrapolation, no measurement.\n"
    )


def draw(table: LossMap) -> Figure | None:
    """Main and precise figure over epochs, a line a loss; None where there are too few lengths."""
    best = table.best()
    lengths = best.groupby("recipe")["epochs"].nunique()
    recipes = [one for one in dict.fromkeys(best["recipe"]) if lengths[one] >= LEAST_BUDGETS]
    if not recipes:
        return None
    figures = (table.figures[0], table.figures[-1])
    drawn = Figure(figsize=(8.4, 3.4 * len(recipes)), layout="constrained")
    for row, recipe in zip(drawn.subplots(len(recipes), 2, squeeze=False), recipes, strict=True):
        group = best[best["recipe"] == recipe]
        counts = group.groupby("loss")["epochs"].nunique()
        chosen = [one for one in dict.fromkeys(group["loss"]) if counts[one] >= LEAST_BUDGETS]
        for axes, figure in zip(row, figures, strict=True):
            for number, loss in enumerate(sorted(chosen)):
                own = group[group["loss"] == loss].sort_values("epochs")
                axes.plot(
                    own["epochs"], own[figure], marker="o", ms=4, lw=1.4, label=loss,
                    color=_COLOURS[number % len(_COLOURS)],
                )  # fmt: skip
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.set_xticks(sorted(group[group["loss"].isin(chosen)]["epochs"].unique()))
            axes.set_xlabel("epochs")
            axes.set_ylabel(figure)
            axes.grid(lw=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        row[0].set_title(in_lines(str(recipe)), fontsize=8)
        row[1].legend(fontsize=7, frameon=False)
    return drawn
