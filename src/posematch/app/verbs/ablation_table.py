"""Training losses by figure, as Markdown, LaTeX and csv.

    posematch ablation_table runs=FOLDER [output=FOLDER] [baseline=LOSS]
        [decoding=auto|NAME|all]

Reads run folders and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from posematch.app.commands import command
from posematch.app.settings import Draws
from posematch.console import say


@dataclass(frozen=True)
class Settings:
    """Keys of conf/ablation_table.yaml, which says what each is for."""

    runs: str | list[str]
    output: str
    baseline: str
    decoding: str
    draws: Draws


@command("ablation_table")
def run(settings: Settings) -> None:
    """Write the table, and print it."""
    from posematch.runs.named import folders_of_runs

    paths = folders_of_runs(settings.runs)
    from posematch.reports.ablation import ablation, markdown, write_ablation
    from posematch.runs.finished import find_runs

    runs = find_runs(paths)
    table = ablation(runs, settings.baseline, settings.decoding, settings.draws)
    files = write_ablation(table, Path(settings.output).expanduser())
    say(markdown(table), *map(str, files))
