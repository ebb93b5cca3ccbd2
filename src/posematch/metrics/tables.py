"""Figures as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich import box
from rich.table import Table

from posematch.metrics import oks, pckh

_PCKH_HEADINGS = {f"{pckh.PRIMARY}/{column}": column for column in pckh.COLUMNS} | {
    pckh.PRIMARY: "Mean",
    pckh.PLAIN_MEAN: "plain mean",
    "PCKh@0.1": "@0.1",
    "PCKh@0.11(legacy)": "@0.11 (legacy)",
}
_JOINT_PREFIX = f"{pckh.PRIMARY}/joint/"


def figures_table(figures: Mapping[str, float], title: str, caption: str) -> Table:
    """One row of figures under their published names.

    Parameters
    ----------
    figures
        What `PCKh` (percent) or `COCOKeypointAP` (fractions) compute. One that was left out shows
        as a dash.
    title
        What was measured.
    caption
        The protocol: without it a figure cannot be compared.
    """
    if pckh.PRIMARY in figures:
        return _table(
            _PCKH_HEADINGS.values(),
            [_cells((figures.get(name) for name in _PCKH_HEADINGS), decimals=2)],
            f"{title}, PCKh@0.5",
            caption,
        )
    row = _cells((figures.get(name) for name in oks.FIGURES), decimals=3)
    return _table(oks.FIGURES, [row], title, caption)


def joints_table(figures: Mapping[str, float], title: str, caption: str) -> Table:
    """One row per joint of `PCKh`'s figures, in the order of the skeleton."""
    rows = [
        [name.removeprefix(_JOINT_PREFIX).replace("_", " "), *_cells([figure], decimals=2)]
        for name, figure in figures.items()
        if name.startswith(_JOINT_PREFIX)
    ]
    return _table(["joint", pckh.PRIMARY], rows, title, caption)


def _cells(figures: Iterable[float | None], decimals: int) -> list[str]:
    return ["-" if figure is None else f"{figure:.{decimals}f}" for figure in figures]


def _table(headings: Iterable[str], rows: list[list[str]], title: str, caption: str) -> Table:
    # No frame and gaps of one character: eleven columns have to fit into 80 characters whole.
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    return table
