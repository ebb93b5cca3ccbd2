"""One row a loss over several regimes: what of a map of losses holds in all of them."""

from __future__ import annotations

import pandas as pd

from posematch.reports.groups import markdown_table
from posematch.reports.loss_map import LossMap

_NONE = "-"


def across(table: LossMap) -> pd.DataFrame:
    """Losses by regimes, each at its best rate by its own decoder.

    Of a recipe with trainings of several lengths it is the longest.

    Returns
    -------
    Index ``loss``, best mean of the main figure less the baseline's first, losses that are not in
    all regimes last; a column of texts ``main / precise (rate)`` for each regime.
    """
    best = table.best()
    best = best[best["epochs"] == best.groupby("recipe")["epochs"].transform("max")]
    main, precise = table.figures[0], table.figures[-1]
    names = best["recipe"] + best["epochs"].map(", {} epochs".format)
    shown = [
        f"{row[main]:.1f} / {row[precise]:.1f} ({row['lr']:g}{'' if row['inside'] else '*'})"
        for _, row in best.iterrows()
    ]
    rows = best.assign(regime=names, values=shown, figure=best[main])
    wide = rows.pivot(index="loss", columns="regime")
    gaps = wide["figure"] - wide["figure"].loc[table.baseline]
    order = pd.DataFrame({"missing": gaps.isna().sum(axis=1), "gap": -gaps.mean(axis=1)})
    found = wide["values"].loc[order.sort_values(["missing", "gap"]).index]
    return pd.DataFrame(found.where(found.notna(), _NONE))


def markdown(table: LossMap) -> str:
    """A row a loss, a column a regime; empty where there is one regime."""
    if table.frame["recipe"].nunique() < 2:
        return ""
    found = across(table)
    main, precise = table.figures[0], table.figures[-1]
    numbers = [str(number) for number in range(1, len(found.columns) + 1)]
    rows = [
        [f"`{loss}`", *cells] for loss, cells in zip(found.index, found.to_numpy(), strict=True)
    ]
    legend = "\n".join(
        f"- {number}: {name}" for number, name in zip(numbers, found.columns, strict=True)
    )
    return (
        f"{main} / {precise} (rate) by regime:\n\n"
        + markdown_table(["loss", *numbers], rows)
        + f"\n{legend}\n\nPercent of the best rate by each loss's own decoder, in the order of the"
        f" mean distance to `{table.baseline}` at {main}; * a rate at the end of those that were"
        " tried.\n"
    )
