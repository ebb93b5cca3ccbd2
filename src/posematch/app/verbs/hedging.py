"""Where trained networks put their mass: on the joint, on its twin, or between both.

    posematch hedging runs=FOLDER [output=FOLDER]

Runs each run's last checkpoint on its validation people; one run of each loss. See
conf/hedging.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from posematch.app.commands import command
from posematch.console import say


@dataclass(frozen=True)
class Settings:
    """Keys of conf/hedging.yaml, which says what each is for."""

    runs: str | list[str]
    output: str
    trust: str | list[str]


@command("hedging")
def run(settings: Settings) -> None:
    """Write the table, and print it."""
    from posematch.evaluation.settings import trusted_packages
    from posematch.runs.named import finished_folders, folders_of_runs

    folders = finished_folders(folders_of_runs(settings.runs))
    trusted = trusted_packages(settings.trust)
    from rich.progress import Progress

    from posematch.reports.hedging import markdown, write_hedging

    output = Path(settings.output).expanduser()
    with Progress(transient=True) as progress:
        task = progress.add_task("runs", total=len(folders))
        table = write_hedging(folders, output, trusted, lambda folder: progress.advance(task))
    say(markdown(table), str(output / "hedging.csv"), str(output / "hedging.md"))
