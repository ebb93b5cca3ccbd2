"""What the end of a training shows of it: ``results.png`` in the run folder, curves in a terminal.

Both are extras. What goes wrong with them is told, and the training is as finished without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posematch.console import tell
from posematch.metrics.columns import CHOICES, to_percent
from posematch.rendering import Picture, save_png
from posematch.runs.folder import EpochTable, RunFolder
from posematch.training.module import PoseModule

_DPI = 100
_CURVES_PX = (1000, 330)  # least width, height
_MOST_FIGURES = 3  # of the data set's, in one plot
_LEAST_COLUMNS, _MOST_COLUMNS, _LINES = 60, 110, 15  # of a terminal
_TICKS = 6
_WHITE = 255


@dataclass(frozen=True, eq=False)
class Curves:
    """A training's figures by epoch.

    Attributes
    ----------
    epochs
        (E,) counted from 1.
    columns
        (E,) by the names of metrics.csv; NaN where an epoch has none.
    loss, metric
        Names of the training loss and of the main figure.
    """

    epochs: NDArray[np.int64]
    columns: Mapping[str, NDArray[np.float64]]
    loss: str
    metric: str

    @property
    def losses(self) -> dict[str, NDArray[np.float64]]:
        """The training loss, in training and in validation."""
        wanted = {"training": "train/loss", "validation": f"val/loss/{self.loss}"}
        return self._there(wanted)

    @property
    def measured(self) -> dict[str, NDArray[np.float64]]:
        """Every loss on the validation maps, over its own first value."""
        names = [one for one in self.columns if one.startswith("val/loss/")]
        found = self._there({one.removeprefix("val/loss/"): one for one in names})
        return {name: values / _first(values) for name, values in found.items() if _first(values)}

    @property
    def figures(self) -> dict[str, NDArray[np.float64]]:
        """The main figure and those that stand beside it, in percent where they are shares."""
        beside = next((group for group in CHOICES.values() if self.metric in group), ())
        names = [self.metric, *(one for one in beside if one != self.metric)]
        found = self._there({one: f"val/{one}" for one in names})
        shown = list(found.items())[:_MOST_FIGURES]
        return {name: to_percent(name) * values for name, values in shown}

    def _there(self, names: Mapping[str, str]) -> dict[str, NDArray[np.float64]]:
        found = {name: self.columns[column] for name, column in names.items()
                 if column in self.columns}  # fmt: skip
        return {name: values for name, values in found.items() if np.isfinite(values).any()}


def read_curves(folder: RunFolder, loss: str, metric: str) -> Curves:
    """What a run's metrics.csv holds, which the training has just written."""
    rows = EpochTable(folder.metrics).rows
    names = [name for name in dict.fromkeys(key for row in rows for key in row) if name != "epoch"]
    columns = {name: np.array([float(row.get(name) or "nan") for row in rows]) for name in names}
    return Curves(np.array([int(row["epoch"]) + 1 for row in rows], int), columns, loss, metric)


def save_results(
    folder: RunFolder, module: PoseModule, people: int, reference: Mapping[str, float]
) -> None:
    """Write ``results.png``: curves over epochs, the worst people, and as many ordinary ones.

    In one process alone, after the last validation; tells what goes wrong, and raises nothing.

    Parameters
    ----------
    folder
        The run's, whose metrics.csv is there.
    module
        Its predictions are those of the last validation, its weights those that were scored.
    people
        How many of each kind, with their heatmaps.
    reference
        The main figure of what else was scored, such as the mean pose, by its name.
    """
    try:
        curves = read_curves(folder, module.loss_name, module.metric.primary)
        parts = _people(module, people)
        width = max(_CURVES_PX[0], *(part.shape[1] for part in parts), 0)
        if len(curves.epochs):
            parts.insert(0, curves_picture(curves, width, reference))
        if parts:
            save_png(folder.results, _below_one_another(parts))
    # Whatever it is: nobody's training is lost for a picture of it.
    except Exception as error:
        first = str(error).strip().partition("\n")[0].rstrip(".")
        tell(f"{folder.results} is not drawn ({type(error).__name__}: {first}).")


def _people(module: PoseModule, number: int) -> list[Picture]:
    """The worst people of the last validation and those around the median, by their mean error."""
    table = module.predictions.table(module.valid_people)
    labelled = table.labelled.sum(axis=1)
    errors = np.where(table.labelled, table.errors, 0).sum(axis=1) / np.maximum(labelled, 1)
    known = np.flatnonzero((labelled > 0) & np.isfinite(errors))
    if not len(known):
        return []  # boxes of a detector, whose people nobody labelled
    order = known[np.argsort(-errors[known], kind="stable")]
    worst = order[:number]
    middle = max(len(order) // 2 - number // 2, len(worst))
    chosen = [("worst", row) for row in worst] + [
        ("median", row) for row in order[middle : middle + number]
    ]
    place = {one.person_id: index for index, one in enumerate(module.valid_people.people)}
    captions = [
        f"{kind}: {int(table.person_ids[row])}, {errors[row]:.2f} {table.unit}"
        for kind, row in chosen
    ]
    return [module.picture([place[int(table.person_ids[row])] for _, row in chosen], captions)]


def curves_picture(curves: Curves, width_px: int, reference: Mapping[str, float]) -> Picture:
    """Three plots side by side: the training loss, every measured loss, the data set's figures.

    Parameters
    ----------
    curves
        At least one epoch.
    width_px
        Of the picture.
    reference
        As of `save_results`: dashed lines beside the figures.
    """
    # It takes a second to import, which nobody waits for before the end.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from posematch.plots import figure_picture

    figure = Figure((width_px / _DPI, _CURVES_PX[1] / _DPI), layout="constrained")
    plots: list[tuple[str, dict[str, NDArray[np.float64]]]] = [
        (f"{curves.loss}, the training loss", curves.losses),
        ("losses on the validation maps, over their first", curves.measured),
        ("figures of the validation people, %", curves.figures),
    ]
    plots = [(title, lines) for title, lines in plots if lines]
    for axes, (title, lines) in zip(
        np.ravel(figure.subplots(1, max(len(plots), 1))), plots, strict=False
    ):
        for name, values in lines.items():
            there = np.isfinite(values)
            axes.plot(curves.epochs[there], values[there], marker=".", ms=4, lw=1.3, label=name)
        if lines is plots[-1][1]:
            for name, value in reference.items():
                axes.axhline(to_percent(curves.metric) * value, color="0.6", ls="--", lw=1,
                             label=f"{curves.metric} of {name}")  # fmt: skip
        elif _spans(lines):
            axes.set_yscale("log")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("epoch", fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=7, framealpha=0.6)
    return figure_picture(figure, _DPI)


def _spans(lines: Mapping[str, NDArray[np.float64]]) -> bool:
    """Whether values are positive and of different orders of magnitude."""
    values = np.concatenate(list(lines.values()))
    values = values[np.isfinite(values)]
    return bool(values.min() > 0 and values.max() > 5 * values.min())


def _first(values: NDArray[np.float64]) -> float:
    return float(values[np.isfinite(values)][0])


def _below_one_another(parts: Sequence[Picture]) -> Picture:
    """Pictures in a column, on white."""
    width = max(part.shape[1] for part in parts)
    padded = [
        np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0)), constant_values=_WHITE)
        for part in parts
    ]
    return np.concatenate(padded)


def terminal_curves(curves: Curves, columns: int) -> str:
    """The training loss and the main figure by epoch, in characters.

    Parameters
    ----------
    curves
        Of a training.
    columns
        Width of the terminal.

    Returns
    -------
    Lines; nothing of fewer than two epochs, or where there is no room.
    """
    figure = (
        {curves.metric: curves.figures[curves.metric]} if curves.metric in curves.figures else {}
    )
    plots: list[tuple[str, dict[str, Any]]] = [
        (f"{curves.loss} by epoch", curves.losses),
        (f"{curves.metric} by epoch", figure),
    ]
    plots = [one for one in plots if one[1]]
    if len(curves.epochs) < 2 or columns < _LEAST_COLUMNS or not plots:
        return ""
    import plotext

    plotext.clear_figure()
    plotext.plot_size(min(columns, _MOST_COLUMNS), _LINES)
    plotext.subplots(1, len(plots))
    for place, (title, lines) in enumerate(plots, 1):
        one = plotext.subplot(1, place)
        one.theme("clear")  # the terminal's own colours
        for (name, values), marker in zip(lines.items(), ("braille", "dot"), strict=False):
            there = np.isfinite(values)
            label = name if len(lines) > 1 else None
            one.plot(
                curves.epochs[there].tolist(), values[there].tolist(), marker=marker, label=label
            )
        one.title(title)
        one.xticks(_whole_ticks(curves.epochs))
    built = str(plotext.uncolorize(plotext.build()))
    plotext.clear_figure()
    return built.rstrip()


def _whole_ticks(epochs: NDArray[np.int64]) -> list[int]:
    """Some of the epochs, evenly spaced."""
    step = max(1, -(-len(epochs) // _TICKS))
    return [int(one) for one in epochs[::step]]
