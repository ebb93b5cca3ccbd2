"""The paper's Table 1: training losses by the data set's figures, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from posematch.app.settings import nearest
from posematch.errors import PosematchError
from posematch.files import write_output
from posematch.metrics.columns import COLUMNS, NEARNESS, PRIMARY, lower_is_better, to_percent
from posematch.reports.groups import (
    by_loss,
    markdown_table,
    recipe_line,
    with_limits,
)
from posematch.runs.finished import Run
from posematch.runs.predictions import PredictionTable
from posematch.statistics.figures import of_photos
from posematch.statistics.intervals import LEAST_SEEDS, Interval, paired_intervals

# Figures of the table by their published headings; all in percent.
PCKH_COLUMNS = {column: f"{PRIMARY}/{column}" for column in COLUMNS} | {
    "Mean": PRIMARY,
    "Mean@0.1": "PCKh@0.1",
}
# Those of the paper's Table 1.
AP_COLUMNS = {name: name for name in ("AP", "AP50", "AP75", "AP(M)", "AP(L)", "AR")}
# Of joints of one's own.
OWN_COLUMNS = {
    "OKS": "OKS", "PCK@0.2 (box)": "PCK@0.2(box)", "PCK@0.1 (box)": "PCK@0.1(box)",
    "EPE px": "EPE", "AP": "AP", "AP50": "AP50", "AR": "AR",
}  # fmt: skip
DECIMALS = 1
_COCO_NOTE = (
    "The paper's baseline of 77.1 AP equals the published HRNet-W48 384 x 288 figure on the boxes"
    " of the stronger person detector (AP_H 65.1), not that of the usual one (AP_H 56.4: 76.3): our"
    " inference. Figures on other boxes are not comparable with it."
)


@dataclass(frozen=True, eq=False)
class Row:
    """A training loss under a decoder.

    Attributes
    ----------
    loss, decoder
        Names.
    own
        Whether it is the decoder the runs were scored with.
    seeds
        Of the runs, ascending.
    values
        (seeds, figures) percent.
    differences
        By heading, this row less the baseline, percent; empty for the baseline itself.
    """

    loss: str
    decoder: str
    own: bool
    seeds: list[int]
    values: np.ndarray
    differences: dict[str, Interval]

    @property
    def means(self) -> np.ndarray:
        return np.asarray(self.values.mean(axis=0))

    @property
    def spreads(self) -> np.ndarray:
        """Standard deviations over seeds; NaN of one seed."""
        if len(self.values) < 2:
            return np.full(self.values.shape[1], np.nan)
        return np.asarray(self.values.std(axis=0, ddof=1))


@dataclass(frozen=True, eq=False)
class Ablation:
    """The table.

    Attributes
    ----------
    headings
        Of its columns of figures.
    rows
        The baseline first.
    protocol
        How the figures were made, in sentences.
    """

    headings: list[str]
    rows: list[Row]
    protocol: list[str]

    @property
    def baseline(self) -> Row:
        return self.rows[0]

    def best(self) -> np.ndarray:
        """(rows, figures) which cells are the highest of their column as they are printed.

        None of a column whose cells are all the same.
        """
        shown = np.round(np.stack([row.means for row in self.rows]), DECIMALS)
        low = np.array([lower_is_better(one.split()[0]) for one in self.headings])
        highest = shown == np.where(low, np.nanmin(shown, axis=0), np.nanmax(shown, axis=0))
        return np.asarray(highest & ~highest.all(axis=0))

    def frame(self) -> pd.DataFrame:
        """One row per loss, decoder and figure, in percent, unrounded.

        With ``difference_std`` where two seeds are too few for an interval over them, see
        `posematch.statistics.intervals.Interval.seeds_std`.
        """
        entries: list[dict[str, Any]] = []
        best = self.best()
        for number, row in enumerate(self.rows):
            for place, heading in enumerate(self.headings):
                difference = row.differences.get(heading)
                missing = float("nan")
                entries.append(
                    {
                        "loss": row.loss,
                        "decoder": row.decoder,
                        "own_decoder": row.own,
                        "figure": heading,
                        "seeds": len(row.seeds),
                        "mean": row.means[place],
                        "std": row.spreads[place],
                        "best": best[number, place],
                        "difference": difference.value if difference else missing,
                        "low": difference.low if difference else missing,
                        "high": difference.high if difference else missing,
                        "better": difference.better if difference else missing,
                        "difference_std": difference.seeds_std if difference else None,
                    }
                )
        frame = pd.DataFrame(entries)
        # Where seeds are part of the interval, or there is one, there is none to tell.
        return (
            frame if frame["difference_std"].notna().any() else frame.drop(columns="difference_std")
        )


def ablation(
    runs: Sequence[Run],
    baseline: str = "gaussian_mse",
    decoder: str = "auto",
    draws: int = 2000,
    seed: int = 0,
) -> Ablation:
    """The table of comparable runs.

    Parameters
    ----------
    runs
        One per loss and seed.
    baseline
        Training loss that the others are compared with.
    decoder
        ``auto``: each loss under its own decoder; a name: all losses under that one; ``all``: each
        loss under its own and under every other that its runs have. The baseline is under its own,
        unless a decoder is named.
    draws, seed
        Of the bootstrap over photos.

    Raises
    ------
    PosematchError
        Runs are not comparable; there is no run of the baseline or no prediction by the decoder.
    """
    groups = by_loss(runs)
    if baseline not in groups:
        raise PosematchError(
            f"baseline={baseline}: no run was trained with it, only with"
            f" {', '.join(groups)}{nearest(baseline, groups)}."
        )
    columns = (
        PCKH_COLUMNS if runs[0].metric.startswith("PCKh")
        else OWN_COLUMNS if runs[0].metric in NEARNESS
        else AP_COLUMNS
    )  # fmt: skip
    columns = {k: v for k, v in columns.items() if all(v in run.figures for run in runs)}
    names = list(columns.values())
    scale = np.array([to_percent(name) for name in names])
    chosen = [
        (loss, groups[loss], name)
        for loss in sorted(groups, key=lambda loss: loss != baseline)
        for name in _decoders(groups[loss], decoder)
    ]
    reference: list[PredictionTable] = []
    rows = []
    for loss, group, name in chosen:
        own = name == own_decoder(group[0])
        predictions = [
            run.last_predictions if own else run.predictions(decoder=name) for run in group
        ]
        reference = reference or predictions
        if own:
            values = [[run.figures[one] for one in names] for run in group]
        else:
            values = [_figures(one, names) for one in predictions]
        found: dict[str, Interval] = {}
        if predictions is not reference:
            found = paired_intervals(reference, predictions, names, draws, seed)
        differences = {
            heading: _scaled(found[figure], to_percent(figure))
            for heading, figure in columns.items()
            if figure in found
        }
        rows.append(
            Row(
                loss,
                name,
                own,
                [run.seed for run in group],
                scale * np.array(values, dtype=np.float64),
                differences,
            )
        )
    return Ablation(list(columns), rows, _protocol(groups, rows[0], draws))


def own_decoder(run: Run) -> str:
    """Name of the decoder a run was scored with, as in conf/decoder where it is one of those.

    A loss names its decoder by what differs from the defaults, so the first one that says nothing
    else is meant.
    """
    own = run.config["decoder"]
    for name, other in run.config.get("decoders", {}).items():
        if own.items() <= other.items():
            return str(name)
    return str(own.get("_target_", own.get("name"))).rpartition(".")[2]


def _decoders(group: Sequence[Run], asked: str) -> list[str]:
    own = own_decoder(group[0])
    if asked in ("auto", own):
        return [own]
    there = [name for name in group[0].decoders if all(name in run.decoders for run in group)]
    if asked == "all":
        return [own, *(name for name in there if name != own)]
    if asked not in there:
        raise PosematchError(
            f"decoding={asked}: the runs of {group[0].loss} have no predictions by it, only by"
            f" {', '.join([own, *there])}{nearest(asked, there)}."
        )
    return [asked]


def _figures(one: PredictionTable, names: Sequence[str]) -> list[float]:
    return [float(value) for value in of_photos(one, names)(np.ones((1, len(one.photos))))[0]]


def _scaled(interval: Interval, scale: float) -> Interval:
    told = {name: getattr(interval, name) for name in ("value", "low", "high", "seeds_std")}
    return replace(interval, **{name: scale * one for name, one in told.items() if one is not None})


def _protocol(groups: dict[str, list[Run]], baseline: Row, draws: int) -> list[str]:
    """Sentences under the table."""
    first = next(iter(groups.values()))[0]
    everybody = [run for group in groups.values() for run in group]
    flip = "with" if first.config.get("flip_test", True) else "without"
    lines = [
        f"{recipe_line(first)}, last checkpoint, {flip} flip test; {first.result['protocol']}."
    ]
    seeds = {loss: [run.seed for run in group] for loss, group in groups.items()}
    if len({tuple(one) for one in seeds.values()}) == 1:
        lines.append(f"Seeds of every loss: {_listed(baseline.seeds)}.")
    else:
        lines.append(
            "Seeds: " + "; ".join(f"{loss}: {_listed(own)}" for loss, own in seeds.items()) + "."
        )
    rates = {run.loss: run.config["optimizer"]["lr"] for run in everybody}
    if len(set(rates.values())) == 1:
        lines.append(f"Learning rate of every loss: {next(iter(rates.values())):g}.")
    else:
        told = "; ".join(f"{loss}: {rate:g}" for loss, rate in rates.items())
        lines.append(f"Learning rates: {told}.")
    spread = "mean over seeds ± standard deviation" if len(baseline.seeds) > 1 else "one seed"
    lines.append(
        f"Percent, {spread}; best of each column in bold. Differences: less {baseline.loss}"
        f" ({baseline.decoder}), with 95 % intervals by paired bootstrap over photos ({draws}"
        " draws)" + _about_seeds(seeds.values())
    )
    if first.data == "coco":
        lines.append(_COCO_NOTE)
    return lines


def _about_seeds(seeds: Iterable[Sequence[int]]) -> str:
    """What the intervals say of seeds; ends the sentence on them."""
    counts = {len(one) for one in seeds}
    if max(counts) == 1:
        return "; nothing about seeds."
    if any(1 < count < LEAST_SEEDS for count in counts):
        return (
            "; two seeds are too few for an interval over seeds, so the standard deviation over"
            " them stands beside it (seeds ±)."
        )
    return " and Student's t over seeds."


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _cells(table: Ablation, bold: str) -> list[list[str]]:
    """Figures of each row as text; ``bold`` has the place of a bold cell's text at ``{}``."""
    best = table.best()
    return [
        [
            "-"
            if np.isnan(mean)
            else (bold if best[number, place] else "{}").format(_mean(mean, row.spreads[place]))
            for place, mean in enumerate(row.means)
        ]
        for number, row in enumerate(table.rows)
    ]


def _mean(mean: float, spread: float) -> str:
    shown = f"{mean:.{DECIMALS}f}"
    return shown if np.isnan(spread) else f"{shown} ± {spread:.{DECIMALS}f}"


def _differences(table: Ablation) -> list[list[str]]:
    return [
        [
            with_limits(one.value, one.low, one.high, DECIMALS, sign=True, seeds_std=one.seeds_std)
            for one in (row.differences[heading] for heading in table.headings)
        ]
        for row in table.rows
        if row.differences
    ]


def _names(table: Ablation, code: str) -> list[str]:
    """Losses as `code` sets them; with their decoders where a loss has several."""
    several = len({row.loss for row in table.rows}) < len(table.rows)
    return [
        code.format(row.loss)
        + (f", {row.decoder}{' (own)' if row.own else ''}" if several else f" ({row.decoder})")
        for row in table.rows
    ]


def markdown(table: Ablation) -> str:
    """Both tables, the protocol under them."""
    names = _names(table, "`{}`")
    figures = [[name, *cells] for name, cells in zip(names, _cells(table, "**{}**"), strict=True)]
    parts = [markdown_table(["loss (decoder)", *table.headings], figures)]
    compared = [n for n, row in zip(names, table.rows, strict=True) if row.differences]
    if compared:
        rows = [[n, *cells] for n, cells in zip(compared, _differences(table), strict=True)]
        baseline = f"`{table.baseline.loss}` ({table.baseline.decoder})"
        parts.append(markdown_table([f"less {baseline}", *table.headings], rows))
    return "\n".join([*parts, " ".join(table.protocol) + "\n"])


def latex(table: Ablation) -> str:
    """The same for a paper; needs the package booktabs."""
    names = [_escaped(name) for name in _names(table, "{}")]
    headings = [_escaped(heading) for heading in table.headings]
    lines = [
        "% \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\begin{{tabular}}{{l{'r' * len(headings)}}}",
        "\\toprule",
        _latex_row(["Loss (decoder)", *headings]),
        "\\midrule",
    ]
    for name, cells in zip(names, _cells(table, "\\textbf{{{}}}"), strict=True):
        lines.append(_latex_row([name, *(_escaped(cell, keep="\\{}") for cell in cells)]))
    compared = [n for n, row in zip(names, table.rows, strict=True) if row.differences]
    if compared:
        columns = len(headings) + 1
        title = f"Less {_escaped(table.baseline.loss)}, with 95\\,\\% intervals"
        lines += ["\\midrule", f"\\multicolumn{{{columns}}}{{l}}{{\\emph{{{title}}}}} \\\\"]
        for name, cells in zip(compared, _differences(table), strict=True):
            lines.append(_latex_row([name, *(_latex_difference(cell) for cell in cells)]))
    lines += ["\\bottomrule", "\\end{tabular}"]
    lines += [f"\\caption{{{_escaped(' '.join(table.protocol))}}}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def _latex_difference(cell: str) -> str:
    """``$+1.0 [+0.5, +1.5]$``, with what is said of seeds behind it."""
    limits, seeds, spread = cell.partition(", seeds ± ")
    return f"${limits}$" + (rf", seeds $\pm {spread}$" if seeds else "")


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _escaped(text: str, keep: str = "") -> str:
    special = {
        **{one: f"\\{one}" for one in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"$<$",
        ">": r"$>$",
        "±": r"$\pm$",
    }
    escaped = "".join(one if one in keep else special.get(one, one) for one in text)
    return escaped.replace("$<$=", r"$\leq$")


def write_ablation(table: Ablation, output: Path) -> list[Path]:
    """Write ablation.{md,tex,csv} to a folder."""
    return [
        write_output(output / "ablation.md", markdown(table)),
        write_output(output / "ablation.tex", latex(table)),
        write_output(output / "ablation.csv", table.frame().to_csv(index=False)),
    ]
