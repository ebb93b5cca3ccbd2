"""A comparison of runs as one page of HTML that opens without a network.

    posematch report runs=FOLDER [output=FILE.html] [baseline=LOSS]

Reads run folders (and photos, below data_root alone) and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from posematch.app.commands import command
from posematch.app.settings import AtLeastZero, Draws, Epoch, Positive
from posematch.console import say, tell


@dataclass(frozen=True)
class Settings:
    """Keys of conf/report.yaml, which says what each is for."""

    runs: str | list[str]
    output: str
    title: str
    baseline: str | None
    first: Epoch
    last: Epoch
    draws: Draws
    joints: AtLeastZero
    near: Positive | None
    data_root: str | None


@command("report")
def run(settings: Settings) -> None:
    """Write the page."""
    from posematch.runs.named import folders_of_runs

    paths = folders_of_runs(settings.runs)
    from posematch.reports.report import ReportSettings, write_report
    from posematch.runs.finished import find_runs

    it = ReportSettings(
        title=settings.title,
        baseline=settings.baseline,
        first=settings.first,
        last=settings.last,
        draws=settings.draws,
        joints=settings.joints,
        near=settings.near,
        data_root=Path(settings.data_root).expanduser() if settings.data_root else None,
    )
    runs = find_runs(paths)
    say(str(write_report(runs, Path(settings.output).expanduser(), it)))
    if settings.joints and not settings.data_root:
        tell("The figures are without photos; data_root=FOLDER of the data set shows them.")
