"""Runs by training loss, and what every table and figure of them shares."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from posematch.errors import PosematchError
from posematch.metrics.tables import markdown_row
from posematch.runs.finished import OF_THE_SEED, Run, check_comparable
from posematch.statistics.intervals import LEAST_SEEDS, Interval

_PAPERS_ORDER = ("gaussian_mse", "dot_mse", "matching")


def by_loss(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Comparable runs by the name of their training loss, seeds ascending.

    The paper's losses come first, in its order, then the others by name.

    Raises
    ------
    PosematchError
        The runs are not comparable, two of one loss have the same seed, or runs of one loss differ
        in more than the seed.
    """
    check_comparable(runs)
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (_place(run.loss), run.loss, run.seed)):
        groups.setdefault(run.loss, []).append(run)
    for name, group in groups.items():
        for first, second in itertools.pairwise(group):
            if first.seed == second.seed:
                raise PosematchError(
                    f"{first.folder.path.name} and {second.folder.path.name} are both of {name}"
                    f" with seed {first.seed}; name one of them in runs=[...], or give their losses"
                    " different names (loss.name)."
                )
        check_comparable(group, OF_THE_SEED)
    return groups


def _place(loss: str) -> int:
    return _PAPERS_ORDER.index(loss) if loss in _PAPERS_ORDER else len(_PAPERS_ORDER)


def seeds_of(runs: Sequence[Run]) -> str:
    """``seeds 0, 1, 2``."""
    return f"seed{'s' * (len(runs) > 1)} {', '.join(str(run.seed) for run in runs)}"


def recipe_line(run: Run) -> str:
    """What all runs of a comparison have in common, in one line."""
    data, backbone = run.config["data"], run.config["backbone"]
    height, width = data["input_size"]
    weights = ""
    if "pretrained" in backbone:
        weights = ", ImageNet weights" if backbone["pretrained"] else ", random weights"
    if backbone.get("weights"):
        weights = f", weights of {Path(str(backbone['weights'])).name}"
    return (
        f"{data['name']}, {backbone.get('name', 'own network')}{weights}, {height} x {width},"
        f" {run.result['epoch']} epochs"
    )


# Of `interval_over_seeds`, for captions.
OVER_SEEDS = (
    "Intervals: 95 % by Student's t over seeds; two seeds are too few for one, ± is their standard"
    " deviation; none with one seed, or where all agree."
)


def interval_over_seeds(values: Sequence[float], least: float, most: float) -> Interval:
    """Mean over seeds and its 95 % interval by Student's t, cut to [least, most].

    Returns
    -------
    Interval
        Limits are NaN for fewer than `LEAST_SEEDS`, where some have ``seeds_std`` instead, and
        where all agree exactly: that tells no spread. All NaN where a seed has no value.
    """
    sample = np.asarray(values, dtype=np.float64)
    mean, none = float(sample.mean()) if len(sample) else float("nan"), float("nan")
    if len(sample) < 2 or not np.isfinite(sample).all() or np.ptp(sample) == 0:
        return Interval(mean, none, none, none)
    if len(sample) < LEAST_SEEDS:
        return Interval(mean, none, none, none, seeds_std=float(sample.std(ddof=1)))
    half = float(stats.t.ppf(0.975, len(sample) - 1) * stats.sem(sample))
    return Interval(mean, max(mean - half, least), min(mean + half, most), none)


def interval_columns(name: str, interval: Interval) -> dict[str, float]:
    """An interval as columns ``name``, ``name_low``, ``name_high``, of two seeds ``name_std``."""
    columns = {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return columns if interval.seeds_std is None else columns | {f"{name}_std": interval.seeds_std}


def interval_cell(row: Mapping[Hashable, Any], name: str) -> str:
    """What `interval_columns` put into a row of a table, in words."""
    std = row.get(f"{name}_std", float("nan"))
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return with_limits(value, low, high, 2, seeds_std=std if np.isfinite(std) else None)


def with_limits(
    value: float,
    low: float,
    high: float,
    decimals: int,
    sign: bool = False,
    seeds_std: float | None = None,
) -> str:
    """``0.91 [0.85, 0.97]``; without limits where there are none, a dash without a value.

    With a spread over seeds that the limits say nothing of: ``0.91 [0.85, 0.97], seeds ± 0.04``.
    """
    if not np.isfinite(value):
        return "-"

    def shown(number: float) -> str:
        # Adding 0 makes -0.0 a 0.0.
        return f"{round(number, decimals) + 0.0:{'+' * sign}.{decimals}f}"

    limits = f" [{shown(low)}, {shown(high)}]" if np.isfinite([low, high]).all() else ""
    seeds = f", seeds ± {seeds_std:.{decimals}f}" if seeds_std is not None else ""
    return f"{shown(value)}{limits}{seeds}"


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """First column to the left, the others to the right."""
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return "".join(f"{markdown_row(row)}\n" for row in (headings, rule, *rows))
