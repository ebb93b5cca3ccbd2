"""Many losses at several learning rates: who is where, from run folders or from the csv of them.

Unlike `posematch.reports.ablation`, which compares losses whose rates are chosen, this chooses: a
loss stands for its best rate, and whether that lies between others is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from posematch.app.settings import nearest
from posematch.errors import PosematchError
from posematch.files import write_output
from posematch.metrics.columns import to_percent
from posematch.plots import save_figure
from posematch.reports.ablation import own_decoder
from posematch.reports.groups import markdown_table, recipe_line, with_limits
from posematch.runs.finished import Run, check_comparable
from posematch.runs.predictions import PredictionTable
from posematch.statistics.figures import of_photos
from posematch.statistics.intervals import paired_intervals
from posematch.statistics.sides import check_folds, fold_of, of_folds

# The main figure, by which a rate is the best, and the one of precise joints, by data set.
_FIGURES = {
    "PCKh@0.5": ("PCKh@0.5", "PCKh@0.2", "PCKh@0.1"),
    "AP": ("AP", "AP50", "AP75"),
    "OKS": ("OKS", "PCK@0.2(box)", "PCK@0.1(box)"),
}
BASELINE = "gaussian_1"  # of conf/candidate
_NUMBERS = ["epochs", "lr", "seed", "steps", "dead_share"]
_KEYS = ["recipe", "loss", "decoder", "own", "baseline", *_NUMBERS]
_DECIMALS = 1
_MAIN_COLOUR, _PRECISE_COLOUR, _PALE = "#1b6ca8", "#c8501e", 0.35


@dataclass(frozen=True, eq=False)
class LossMap:
    """What runs of many losses scored.

    Attributes
    ----------
    frame
        A row per run and decoder: ``recipe`` (what the runs have in common) and ``epochs``,
        ``loss``, ``lr``, ``seed``, ``steps`` (of the optimizer), ``decoder``, ``own`` (whether it
        is the loss's), ``dead_share`` (joints without a positive pixel in the last epoch; NaN
        where nobody counted), ``baseline``, the figures in percent, and in rows of a loss's best
        rate, own decoder and first seed each figure's difference to the baseline as
        ``<figure> less``, ``... low``, ``... high``.
    baseline
        Name of the loss that the others are compared with.
    """

    frame: pd.DataFrame
    baseline: str

    @property
    def figures(self) -> list[str]:
        """Names, the main one first."""
        more = (" less", " low", " high")
        return [str(c) for c in self.frame if c not in _KEYS and not str(c).endswith(more)]

    def only(self, losses: Sequence[str]) -> LossMap:
        """Some of the losses.

        Raises
        ------
        PosematchError
            There is no such loss.
        """
        there = list(dict.fromkeys(self.frame["loss"]))
        for one in (*losses, self.baseline):
            if one not in there:
                raise PosematchError(
                    f"only={one}: no run was trained with it{nearest(one, there)}."
                )
        chosen = {*losses, self.baseline}
        return LossMap(self.frame[self.frame["loss"].isin(chosen)].copy(), self.baseline)

    def best(self) -> pd.DataFrame:
        """A row per recipe, length and loss: its best rate under its own decoder, over seeds.

        With ``inside`` (whether lower and higher rates were tried) and ``rates`` (main figure by
        rate), in descending order of the main figure.
        """
        main, rows = self.figures[0], []
        own = self.frame[self.frame["own"]]
        for (recipe, epochs, loss), group in own.groupby(["recipe", "epochs", "loss"]):
            by_rate = group.groupby("lr")[main].mean()
            rate = by_rate.idxmax()
            chosen = group[group["lr"] == rate]
            there = chosen.dropna(subset=[f"{main} less"]) if f"{main} less" in chosen else chosen
            told = there.iloc[0] if len(there) else chosen.iloc[0]
            rows.append(
                {
                    **told.to_dict(),
                    **chosen[self.figures].mean().to_dict(),
                    "recipe": recipe, "epochs": epochs, "loss": loss, "lr": rate,
                    "seeds": len(chosen),
                    "dead_share": chosen["dead_share"].mean(),
                    "inside": by_rate.index.min() < rate < by_rate.index.max(),
                    "rates": by_rate,
                }
            )  # fmt: skip
        order = ["recipe", "epochs", main]
        return pd.DataFrame(rows).sort_values(order, ascending=[True, True, False])

    def best_decoder(self, row: pd.Series) -> pd.Series:
        """Figures of a row of `best` by the decoder that is best by the main and the last one."""
        keys = ["recipe", "epochs", "loss", "lr"]
        rows = self.frame[(self.frame[keys] == row[keys]).all(axis=1)]
        by_decoder = rows.groupby("decoder")[self.figures].mean()
        both = by_decoder.iloc[:, 0] + by_decoder.iloc[:, -1]
        return by_decoder.iloc[int(both.to_numpy().argmax())]


def measure(runs: Sequence[Run], baseline: str, draws: int = 2000) -> LossMap:
    """Score runs by all decoders that they have, and their losses' best rates in pairs.

    Parameters
    ----------
    runs
        One per recipe, loss, rate and seed, or one for each fold of the training people
        (``data.holdout``, ``data.fold``), which then count as one training.
    baseline
        Training loss that the others are compared with.
    draws
        Of the bootstrap over photos.

    Raises
    ------
    PosematchError
        Two runs are of the same loss, rate and seed; runs of one recipe cannot be compared, or
        have other folds; there is none of the baseline; the data sets' main figures differ.
    """
    metrics = {run.metric for run in runs}
    if len(metrics) != 1 or not metrics <= set(_FIGURES):
        raise PosematchError(
            f"runs are scored by {', '.join(sorted(metrics)) or 'nothing'}; name runs of one of"
            f" {', '.join(_FIGURES)}."
        )
    figures = _FIGURES[metrics.pop()]
    rows: list[dict[str, Any]] = []
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((_recipe(run), int(run.result["epoch"])), []).append(run)
    trained: list[list[_Training]] = []
    for (recipe, _), group in groups.items():
        trained.append(_trainings(recipe, group))
        rows += [row for one in trained[-1] for row in _rows(one, figures)]
    table = LossMap(pd.DataFrame(rows).assign(baseline=baseline), baseline)
    _check_one_each(table.frame)
    for trainings in trained:
        _add_differences(table, trainings, draws)
    # What the csv holds is what everything is drawn from.
    scores = [str(name) for name in table.frame if name not in _KEYS]
    table.frame[scores] = table.frame[scores].round(4)
    return table


def _recipe(run: Run) -> str:
    held_out = run.config["data"].get("holdout", 0)
    people = f", {held_out:.0%} of the training people held out" if held_out else ""
    common, _, _ = recipe_line(run).rpartition(", ")  # without the epochs
    return f"{common}{people}"


@dataclass(frozen=True, eq=False)
class _Training:
    """A loss at a rate with a seed: a run, or one for each fold."""

    recipe: str
    runs: list[Run]

    @property
    def loss(self) -> str:
        return self.runs[0].loss

    @property
    def lr(self) -> float:
        return _rate(self.runs[0])

    @property
    def seed(self) -> int:
        return self.runs[0].seed

    @property
    def epochs(self) -> int:
        return int(self.runs[0].result["epoch"])

    def predictions(self, decoder: str | None = None) -> PredictionTable:
        """By the runs' own decoder, or by another."""
        (found,) = of_folds(self.runs, decoder)
        return found


def _rate(run: Run) -> float:
    return float(run.config["optimizer"]["lr"])


def _trainings(recipe: str, runs: Sequence[Run]) -> list[_Training]:
    """Runs of one recipe and length, those of several folds put together."""
    folds = sorted({fold_of(run) for run in runs})
    for fold in folds:
        check_comparable([run for run in runs if fold_of(run) == fold])
    if len(folds) < 2:
        return [_Training(recipe, [run]) for run in runs]
    found: dict[tuple[str, float, int], list[Run]] = {}
    for run in sorted(runs, key=fold_of):
        found.setdefault((run.loss, _rate(run), run.seed), []).append(run)
    for (loss, rate, seed), own in found.items():
        name = f"{loss} at rate {rate:g} with seed {seed}"
        there = [fold_of(run) for run in own]
        if there != folds:
            raise PosematchError(
                f"{name} has the folds {', '.join(map(str, there))}, others"
                f" {', '.join(map(str, folds))}; name one run for each of them in runs=[...]."
            )
        check_folds(own, name)
    by_folds = f"{recipe}, {len(folds)} folds"
    return [_Training(by_folds, own) for own in found.values()]


def _rows(one: _Training, figures: Sequence[str]) -> list[dict[str, Any]]:
    first = one.runs[0]
    own = own_decoder(first)
    shares = [_dead_share(run) for run in one.runs]
    common = {
        "recipe": one.recipe, "epochs": one.epochs, "loss": one.loss, "lr": one.lr,
        "seed": one.seed, "steps": int(first.result["step"]),
        "dead_share": float(np.mean(shares)),
    }  # fmt: skip
    scale = np.array([to_percent(name) for name in figures])
    others = [
        decoder
        for decoder in first.decoders
        if decoder != own and all(decoder in run.decoders for run in one.runs)
    ]
    rows = []
    for decoder in [own, *others]:
        found = one.predictions(None if decoder == own else decoder)
        values = scale * of_photos(found, figures)(np.ones((1, len(found.photos))))[0]
        told = dict(zip(figures, map(float, values), strict=True))
        rows.append(common | {"decoder": decoder, "own": decoder == own} | told)
    return rows


def _dead_share(run: Run) -> float:
    """Of the last epoch that tells it; of a loss made of losses the last one's."""
    columns = [name for name in run.metrics if str(name).endswith("/dead_share")]
    told = np.asarray(run.metrics[columns[-1]].dropna(), np.float64) if columns else np.empty(0)
    return float(told[-1]) if len(told) else float("nan")


def _check_one_each(frame: pd.DataFrame) -> None:
    of_run = frame[frame["own"]]
    again = of_run[of_run.duplicated(["recipe", "epochs", "loss", "lr", "seed"])]
    if len(again):
        row = again.iloc[0]
        raise PosematchError(
            f"two runs are of {row['loss']} at rate {row['lr']:g} with seed {row['seed']}"
            f" ({row['recipe']}, {row['epochs']} epochs); name one of them in runs=[...],"
            " or give their losses different names (loss.name)."
        )


def _add_differences(table: LossMap, trainings: Sequence[_Training], draws: int) -> None:
    recipe, epochs = trainings[0].recipe, trainings[0].epochs
    best = table.best()
    best = best[(best["recipe"] == recipe) & (best["epochs"] == epochs)].set_index("loss")
    if table.baseline not in best.index:
        raise PosematchError(
            f"baseline={table.baseline}: no run was trained with it ({recipe}, {epochs} epochs),"
            " only with"
            f" {', '.join(best.index)}{nearest(table.baseline, list(best.index))}."
        )

    def chosen(loss: str) -> list[PredictionTable]:
        rate = best.loc[loss, "lr"]
        return [one.predictions() for one in trainings if (one.loss, one.lr) == (loss, rate)]

    reference, frame = chosen(table.baseline), table.frame
    for loss in best.index:
        if loss == table.baseline:
            continue
        group = chosen(loss)
        found = paired_intervals(reference, group, table.figures, draws)
        row = (frame["recipe"] == recipe) & (frame["epochs"] == epochs) & frame["own"]
        row &= frame["loss"] == loss
        row &= (frame["lr"] == best.loc[loss, "lr"]) & (frame["seed"] == group[0].seed)
        for figure, interval in found.items():
            scale = to_percent(figure)
            for end, value in (("less", interval.value), ("low", interval.low)):
                frame.loc[row, f"{figure} {end}"] = scale * value
            frame.loc[row, f"{figure} high"] = scale * interval.high


def read_maps(files: Iterable[Path], baseline: str | None = None) -> LossMap:
    """What `write_map` wrote, of one or several; trainings that stand in two files count once.

    Parameters
    ----------
    files
        Measured against one baseline, by the same figures.
    baseline
        What that is to be; None takes the files'.

    Raises
    ------
    PosematchError
        A file is none, lacks a column or rows, or says another baseline or other figures; two
        files tell different figures of one training.
    """
    frames: list[pd.DataFrame] = []
    for file in files:
        try:
            frame = pd.read_csv(file)
        except (OSError, ValueError) as error:
            raise PosematchError(f"csv={file} cannot be read: {error}.") from error
        missing = [name for name in _KEYS if name not in frame]
        if missing or len(frame.columns) == len(_KEYS):
            raise PosematchError(
                f"csv={file} is none of loss_map's: it has no column {', '.join(missing)}."
            )
        _check_values(file, frame, frames, baseline)
        frames.append(frame)
    table = LossMap(pd.concat(frames, ignore_index=True), str(frames[0]["baseline"].iloc[0]))
    of_training = [name for name in table.frame if name in _KEYS or name in table.figures]
    table = LossMap(table.frame.drop_duplicates(of_training, ignore_index=True), table.baseline)
    _check_one_each(table.frame)
    return table


def _check_values(
    file: Path, frame: pd.DataFrame, others: Sequence[pd.DataFrame], baseline: str | None
) -> None:
    numbers = [*_NUMBERS, *(name for name in frame if name not in _KEYS)]
    wrong = [name for name in numbers if not pd.api.types.is_numeric_dtype(frame[name])]
    if wrong or frame.empty or frame[["epochs", "lr", "seed"]].isna().any(axis=None):
        raise PosematchError(
            f"csv={file} is damaged: {', '.join(map(str, wrong)) or 'epochs, lr or seed'} must hold"
            " numbers."
        )
    told = [str(one) for one in dict.fromkeys(frame["baseline"])]
    wanted = (
        baseline
        if baseline is not None
        else str(others[0]["baseline"].iloc[0])
        if others
        else told[0]
    )
    if told != [wanted] or wanted not in set(frame["loss"]):
        raise PosematchError(
            f"csv={file} holds differences to {' and '.join(told)}, not to baseline={wanted}; give"
            f" baseline={told[0]}, or measure the runs again."
        )
    if others and set(others[0]) != set(frame):
        raise PosematchError(f"csv={file} has other figures than the csv before it.")


def markdown(table: LossMap) -> str:
    """A table for each recipe and length, best loss first."""
    figures = table.figures
    parts = []
    own = table.frame[table.frame["own"]]
    for (recipe, epochs), group in table.best().groupby(["recipe", "epochs"], sort=False):
        runs = own[(own["recipe"] == recipe) & (own["epochs"] == epochs)]
        rows = [_cells(table, row) for _, row in group.iterrows()]
        headings = [
            "loss (decoder)", "rate", *figures,
            f"{figures[0]} less `{table.baseline}`", f"{figures[-1]} less", "best decoder",
            "dead joints", f"{figures[0]} by rate",
        ]  # fmt: skip
        parts.append(
            f"{recipe}, {epochs} epochs; {len(runs)} trainings of {len(group)} losses.\n\n"
            + markdown_table(headings, rows)
        )
    parts.append(
        "Percent of the best rate by each loss's own decoder; * a rate at the end of those that"
        " were tried. Differences with 95 % intervals by paired bootstrap over photos, with"
        " Student's t over seeds where there are three or more. The best decoder is that of the"
        f" highest sum of {figures[0]} and {figures[-1]}.\n"
    )
    return "\n".join(parts)


def _cells(table: LossMap, row: pd.Series) -> list[str]:
    figures = table.figures
    read = table.best_decoder(row)
    by_rate = "; ".join(f"{rate:g}: {value:.1f}" for rate, value in row["rates"].items())

    def less(figure: str) -> str:
        value = row.get(f"{figure} less", np.nan)
        low, high = row.get(f"{figure} low", np.nan), row.get(f"{figure} high", np.nan)
        return with_limits(value, low, high, _DECIMALS, sign=True)

    dead = row["dead_share"]
    return [
        f"`{row['loss']}` ({row['decoder']})",
        f"{row['lr']:g}{'' if row['inside'] else '*'}",
        *(f"{row[name]:.{_DECIMALS}f}" for name in figures),
        less(figures[0]),
        less(figures[-1]),
        f"{read.name}: {read.iloc[0]:.{_DECIMALS}f} / {read.iloc[-1]:.{_DECIMALS}f}",
        "-" if np.isnan(dead) else f"{dead:.0%}",
        by_rate,
    ]


def draw(table: LossMap) -> Figure:
    """A column of losses for each recipe and length: main figure and precise one, pale the rest."""
    best, figures = table.best(), table.figures
    groups = list(best.groupby(["recipe", "epochs"], sort=False))
    most = max(len(rows) for _, rows in groups)
    drawn = Figure(figsize=(6.2 * len(groups), 0.24 * most + 1.6), layout="constrained")
    own = table.frame[table.frame["own"]]
    every_axes = drawn.subplots(1, len(groups), squeeze=False)[0]
    for axes, ((recipe, epochs), group) in zip(every_axes, groups, strict=True):
        rows = group.iloc[::-1]
        places = dict(zip(rows["loss"], range(len(rows)), strict=True))
        every = own[(own["recipe"] == recipe) & (own["epochs"] == epochs)]
        reference = rows[rows["loss"] == table.baseline]
        for figure, colour in ((figures[0], _MAIN_COLOUR), (figures[-1], _PRECISE_COLOUR)):
            axes.scatter(
                every[figure], every["loss"].map(places), s=9, color=colour, alpha=_PALE, lw=0
            )
            axes.scatter(rows[figure], range(len(rows)), s=26, color=colour, label=figure, lw=0)
            for value in reference[figure]:
                axes.axvline(value, color=colour, lw=0.7, ls=":")
        axes.set_yticks(range(len(rows)), rows["loss"], fontsize=7)
        axes.set_ylim(-0.7, most - 0.3)
        axes.set_title(in_lines(f"{recipe}, {epochs} epochs"), fontsize=8)
        axes.set_xlabel("percent")
        axes.grid(axis="x", lw=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7, loc="lower right", frameon=False)
    return drawn


def in_lines(text: str) -> str:
    """A recipe as a heading of two lines."""
    words = text.split(", ")
    middle = (len(words) + 1) // 2
    return ",\n".join([", ".join(words[:middle]), ", ".join(words[middle:])])


def write_map(table: LossMap, output: Path, more: str = "") -> list[Path]:
    """Write loss_map.csv, .md (with ``more`` at its end), .png and .svg.

    Raises
    ------
    PosematchError
        ``output`` cannot be written to.
    """
    csv = table.frame.to_csv(index=False, lineterminator="\n")
    return [
        write_output(output / "loss_map.csv", csv),
        write_output(output / "loss_map.md", markdown(table) + (f"\n{more}" if more else "")),
        *save_figure(draw(table), output / "loss_map"),
    ]
