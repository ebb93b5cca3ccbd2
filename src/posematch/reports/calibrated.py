"""The page's section on calibration: what scores say before and after, for each training loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from posematch.calibration.calibrating import Calibrated, calibrate_table
from posematch.calibration.tables import PROTOCOL
from posematch.reports.report_plots import Plot, reliability_plots
from posematch.reports.report_tables import Table, calibration_table
from posematch.runs.finished import Run


@dataclass(frozen=True)
class CalibrationSection:
    """What the template shows.

    Attributes
    ----------
    plots
        A reliability diagram for each loss.
    table
        Figures before and after.
    meaning
        Of a calibrated score.
    protocol
        How it was measured.
    """

    plots: list[Plot]
    table: Table
    meaning: str
    protocol: str


def calibration_section(groups: Mapping[str, Sequence[Run]], draws: int) -> CalibrationSection:
    """Of the first seed of each loss: fits to the folds of a large data set take seconds.

    Parameters
    ----------
    groups
        Runs by loss.
    draws
        Resamplings of the photos, for intervals.

    Raises
    ------
    PosematchError
        As `calibrate_table`.
    """
    found = {loss: _calibrated(runs[0], draws) for loss, runs in groups.items()}
    first = next(iter(found.values()))
    return CalibrationSection(
        reliability_plots(found), calibration_table(found), first.record.meaning, PROTOCOL
    )


def _calibrated(run: Run, draws: int) -> Calibrated:
    height, width = run.config["data"]["input_size"]
    table, epoch = run.last_predictions, run.epochs[-1]
    return calibrate_table(table, (height, width), run.data, epoch, draws=draws)
