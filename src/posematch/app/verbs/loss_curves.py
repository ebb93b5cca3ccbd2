"""Loss and metric by epoch, and how consistent they are.

    posematch loss_curves runs=FOLDER [output=FOLDER] [first=2] [last=15]

Reads run folders and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from posematch.app.commands import command
from posematch.app.settings import Epoch
from posematch.console import say


@dataclass(frozen=True)
class Settings:
    """Keys of conf/loss_curves.yaml, which says what each is for."""

    runs: str | list[str]
    output: str
    first: Epoch
    last: Epoch


@command("loss_curves")
def run(settings: Settings) -> None:
    """Write curves and consistency, and print them."""
    from posematch.runs.named import folders_of_runs

    paths = folders_of_runs(settings.runs)
    from posematch.reports.curves import curves_of, markdown, write_curves
    from posematch.runs.finished import find_runs

    curves = curves_of(find_runs(paths), settings.first, settings.last)
    files = write_curves(curves, Path(settings.output).expanduser())
    say(markdown(curves), *map(str, files))
