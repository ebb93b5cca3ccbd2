"""Look for what is wrong with a data set before it is trained on, and show it on one page.

    posematch check_data data=mpii data.root=FOLDER [output=FILE.html] [photos=all]
    posematch check_data --config-dir my_conf data=mine

Takes what posematch train takes to say which data. Prints a line for each kind of finding, and
writes a page with the worst examples. Ends with code 0 whatever it finds, and with 1 where it could
not look, as the reader's sentence says. See conf/check_data.yaml.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from posematch.app.commands import command
from posematch.console import PlainConsole, say

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from posematch.checks.photos import Tick


@dataclass(frozen=True)
class Settings:
    """Keys of conf/check_data.yaml besides those of the data."""

    output: str
    photos: Annotated[int, Field(ge=0, description="an integer of at least 0")] | Literal["all"]


@command("check_data")
def run(cfg: DictConfig) -> None:
    """Check, print, and write the page."""
    from posematch.app.objects import make, own_settings, plain
    from posematch.data.needed import check_data

    it: Settings = own_settings(Settings, cfg)
    given = plain(cfg)
    # Annotated people are checked, whoever found the boxes of a validation.
    data = {key: value for key, value in given["data"].items() if key != "sigma"}
    data["workers"] = 0
    if "detections" in data:
        data["detections"] = None
    check_data(data, training=True)
    from posematch.checks.checking import check
    from posematch.checks.page import write_page

    module = make(data, "data")
    module.prepare_data()
    everybody = [module.read(split) for split in ("train", "valid")]
    decode = None if it.photos == "all" else it.photos
    checked = check(everybody, decode, _progress)
    name, sigma = str(data.get("name", "data")), float(given["data"].get("sigma") or 2.0)
    page = write_page(checked, module, name, sigma, Path(it.output).expanduser())
    for people in everybody:
        if people.report is not None:
            say(f"{people.split}: {people.report.sentence()}.")
    say(*(finding.sentence() for finding in checked.findings))
    errors, warnings = checked.count("error"), checked.count("warning")
    say(f"Kinds of errors: {errors}, of warnings: {warnings}; with pictures: {page}")


@contextmanager
def _progress(name: str, count: int) -> Iterator[Tick]:
    """A bar on a terminal, and nothing in a file."""
    import sys

    from rich.progress import Progress

    console = PlainConsole(file=sys.stderr)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=count)
        yield lambda: bar.advance(task)
