"""A workspace and a report at Weights & Biases for the runs of a sweep.

    posematch wandb_dashboard runs=runs/SWEEP project=my-project
    posematch wandb_dashboard runs=runs/SWEEP output=dashboard.json

The runs are those that were trained with logger=wandb; their folders here say what they logged.
The second line needs neither key nor network: it writes what the first one would send.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from posematch.app.commands import command
from posematch.console import say
from posematch.files import write_json


@dataclass(frozen=True)
class Settings:
    """Keys of conf/wandb_dashboard.yaml, which says what each is for."""

    runs: str | list[str]
    project: str
    entity: str | None
    title: str
    output: str | None


@command("wandb_dashboard")
def run(settings: Settings) -> None:
    """Make workspace and report, or write what they would be."""
    from posematch.runs.named import folders_of_runs

    paths = folders_of_runs(settings.runs)
    from posematch.reports.dashboard import logged_names, publish, specification
    from posematch.runs.finished import find_runs

    names = logged_names(find_runs(paths))
    if settings.output:
        output = Path(settings.output).expanduser()
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(output, specification(names, settings.project, settings.title))
        say(str(output))
        return
    for address in publish(names, settings.project, settings.entity, settings.title):
        say(address)
