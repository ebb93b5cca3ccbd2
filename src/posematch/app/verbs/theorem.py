"""Theorem 1's risks and inner products by epoch.

    posematch theorem runs=FOLDER [output=FOLDER] [first=1] [last=15]

Reads run folders and nothing else.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from posematch.app.commands import command
from posematch.app.settings import Epoch
from posematch.console import say


@dataclass(frozen=True)
class Settings:
    """Keys of conf/theorem.yaml, which says what each is for."""

    runs: str | list[str]
    output: str
    first: Epoch
    last: Epoch | None


@command("theorem")
def run(settings: Settings) -> None:
    """Write the terms by epoch, and print them."""
    from posematch.runs.named import folders_of_runs

    paths = folders_of_runs(settings.runs)
    from posematch.reports.theorem import markdown, theorem_of, write_theorem
    from posematch.runs.finished import find_runs

    runs = find_runs(paths)
    theorem = theorem_of(runs, settings.first, settings.last or sys.maxsize)
    files = write_theorem(theorem, Path(settings.output).expanduser())
    say(markdown(theorem), *map(str, files))
