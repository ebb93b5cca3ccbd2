"""Before and after, as a table for the terminal and the rows of a page."""

from __future__ import annotations

from rich.table import Table

from posematch.calibration.calibrating import Calibrated
from posematch.calibration.crossfit import FOLDS
from posematch.calibration.measuring import BRIER, ERROR, LOG_LOSS
from posematch.evaluation.reliability import BINS
from posematch.metrics.tables import plain_table
from posematch.statistics.intervals import Interval

HEADINGS = ("before", "after", "after - before")
PROTOCOL = (
    f"ECE: expected calibration error, mean over {FOLDS} folds of photos, {BINS} bins of equally"
    " many joints each. Floor: the ECE that a perfectly calibrated score would show on as many"
    " joints. After: each fold by a fit to the others. Brackets: 95 % intervals over photos."
)
_SHORT = {ERROR: "ECE", BRIER: "Brier score", LOG_LOSS: "log loss"}


def calibration_rows(found: Calibrated) -> dict[str, list[str]]:
    """Cells under `HEADINGS` by the name of the figure; AP in percent."""
    rows = {}
    for name in (ERROR, BRIER, LOG_LOSS):
        before, after, difference = found.reliability.figures[name]
        rows[_SHORT[name]] = [_told(before), _told(after), _told(difference, sign=True)]
        if name == ERROR:
            floors = [f"{one:.3f}" for one in found.reliability.floors]
            rows["ECE, floor"] = [*floors, "-"]
    if found.average_precision is not None:
        before_ap, after_ap, difference = found.average_precision
        told = _told(difference, sign=True, scale=100, decimals=2)
        rows["AP, %"] = [f"{100 * before_ap:.2f}", f"{100 * after_ap:.2f}", told]
    return rows


def calibration_table(found: Calibrated) -> Table:
    """What a calibration changes, with the protocol below."""
    rows = [[name, *cells] for name, cells in calibration_rows(found).items()]
    title = f"Scores as '{found.record.meaning}', {found.record.curve.method}"
    table = plain_table(["", *HEADINGS], rows, title, PROTOCOL)
    table.columns[0].justify = "left"
    return table


def _told(one: Interval, sign: bool = False, scale: float = 1, decimals: int = 3) -> str:
    value, low, high = (
        f"{round(scale * x, decimals) + 0.0:{'+' * sign}.{decimals}f}"
        for x in (one.value, one.low, one.high)
    )
    return f"{value} [{low}, {high}]"
