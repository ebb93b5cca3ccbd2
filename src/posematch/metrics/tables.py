"""Figures as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.table import Table

from posematch.console import printable
from posematch.metrics.columns import COLUMNS, FIGURES, NEARNESS, PLAIN_MEAN, PRIMARY

_PCKH_HEADINGS = {f"{PRIMARY}/{column}": column for column in COLUMNS} | {
    PRIMARY: "Mean",
    PLAIN_MEAN: "plain mean",
    "PCKh@0.1": "@0.1",
    "PCKh@0.11(legacy)": "@0.11 legacy",
}
_JOINT_PREFIX = f"{PRIMARY}/joint/"


def figures_table(
    rows: Mapping[str, Mapping[str, float]], title: str, caption: str, main: str = ""
) -> Table:
    """A row of figures under their published names for each thing that was scored.

    Parameters
    ----------
    rows
        What `PCKh` (percent) or `COCOKeypointAP` (fractions) compute, by what was scored. A figure
        that was left out shows as a dash.
    title
        What was measured.
    caption
        The protocol: without it a figure cannot be compared.
    main
        Name of the main figure; where it is none of COCO's ten, how near joints are comes first.
    """
    if any(PRIMARY in figures for figures in rows.values()):
        names, headings, decimals = list(_PCKH_HEADINGS), list(_PCKH_HEADINGS.values()), 2
        title = f"{title}, PCKh@0.5"
    elif main in NEARNESS:
        names, decimals = [*NEARNESS, "AP", "AP50", "AP75", "AR"], 3
        headings = [one.replace("EPE", "EPE px") if one == "EPE" else one for one in names]
    else:
        names, headings, decimals = list(FIGURES), list(FIGURES), 3
    cells = [
        [name, *_cells((figures.get(one) for one in names), decimals)]
        for name, figures in rows.items()
    ]
    # One row needs no name: eleven columns then fit into 80 characters.
    if len(cells) == 1:
        return plain_table(headings, [cells[0][1:]], title, caption)
    table = plain_table(["", *headings], cells, title, caption)
    table.columns[0].justify, table.columns[0].no_wrap = "left", True
    return table


def joints_table(figures: Mapping[str, float], title: str, caption: str) -> Table:
    """One row per joint of `PCKh`'s figures, in the order of the skeleton."""
    rows = [
        [name.removeprefix(_JOINT_PREFIX).replace("_", " "), *_cells([figure], decimals=2)]
        for name, figure in figures.items()
        if name.startswith(_JOINT_PREFIX)
    ]
    return plain_table(["joint", PRIMARY], rows, title, caption)


def _cells(figures: Iterable[float | None], decimals: int) -> list[str]:
    return ["-" if figure is None else f"{figure:.{decimals}f}" for figure in figures]


def plain_table(headings: Iterable[str], rows: list[list[str]], title: str, caption: str) -> Table:
    # No frame and gaps of one character: eleven columns have to fit into 80 characters whole.
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for heading in headings:
        # Folded at the space rather than cut off.
        table.add_column(heading.replace("(box)", " (box)").replace("  ", " "), justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def markdown_row(cells: Sequence[str]) -> str:
    """A line of a table, whatever the cells hold."""
    return f"| {' | '.join(printable(one).replace('|', chr(92) + '|') for one in cells)} |"
