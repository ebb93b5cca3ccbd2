"""Many losses at several learning rates: a table, a figure and their csv.

    posematch loss_map runs=FOLDER|csv=FILE [output=FOLDER] [baseline=LOSS]

Reads run folders, or what it wrote of them, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from posematch.app.commands import command
from posematch.app.settings import Draws
from posematch.console import say
from posematch.errors import PosematchError


@dataclass(frozen=True)
class Settings:
    """Keys of conf/loss_map.yaml, which says what each is for."""

    runs: str | list[str] | None
    csv: str | list[str] | None
    output: str
    baseline: str | None
    only: list[str] | None
    draws: Draws


@command("loss_map")
def run(settings: Settings) -> None:
    """Write the map, and print its table."""
    if (settings.runs is None) == (settings.csv is None):
        raise PosematchError("loss_map reads runs=FOLDER or csv=FILE: say one of them.")
    from posematch.runs.named import folders_of_runs

    paths = folders_of_runs(settings.runs) if settings.runs is not None else []
    from posematch.plots import save_figure
    from posematch.reports import budgets, regimes
    from posematch.reports.loss_map import BASELINE, markdown, measure, read_maps, write_map

    if settings.csv is not None:
        files = [settings.csv] if isinstance(settings.csv, str) else settings.csv
        table = read_maps([Path(one).expanduser() for one in files], settings.baseline)
    else:
        from posematch.runs.finished import find_runs

        table = measure(find_runs(paths), settings.baseline or BASELINE, settings.draws)
    if settings.only is not None:
        table = table.only(settings.only)
    output = Path(settings.output).expanduser()
    more = [text for text in (budgets.markdown(table), regimes.markdown(table)) if text]
    written = write_map(table, output, "\n".join(more))
    if (drawn := budgets.draw(table)) is not None:
        written += save_figure(drawn, output / "loss_budgets")
    say(markdown(table), *more, *map(str, written))
