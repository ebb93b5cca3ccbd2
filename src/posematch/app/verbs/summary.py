"""Tell what a network is and costs: sizes, parameters, arithmetic, memory, speed.

    posematch summary data=mpii loss=matching [what posematch train takes]
    posematch summary checkpoint=RUN_FOLDER [data.batch_size=32]

Nothing is written, no data are read and no weights fetched. What a training of yours takes, with
its data, loss and precision, is measured by posematch train dry_run=true. See conf/summary.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from posematch.app.commands import command
from posematch.console import PlainConsole, say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from omegaconf import DictConfig


@dataclass(frozen=True)
class Settings:
    """Keys of conf/summary.yaml besides those of a training."""

    checkpoint: str | None
    seconds: Annotated[int | float, Field(ge=0, description="a number of at least 0")]
    trust: str | list[str]


@command("summary")
def run(cfg: DictConfig) -> None:
    """Count, measure, print."""
    from posematch.app.objects import check_objects, own_settings
    from posematch.app.settings import check_settings
    from posematch.runs.stored_config import checkpoint_file
    from posematch.untrusted import open_checkpoint

    it: Settings = own_settings(Settings, cfg)
    check_settings(cfg)
    check_objects(cfg)
    if it.checkpoint is not None:
        open_checkpoint(checkpoint_file(it.checkpoint)).close()
    from posematch.loading import load
    from posematch.training.summary import configured_model, summary

    with PlainConsole(stderr=True).status("building the network") as status:
        model = configured_model(cfg) if it.checkpoint is None else load(it.checkpoint, it.trust)
        told = summary(model, cfg.data.batch_size, it.seconds, status.update)
    _print(told)


def _print(told: Mapping[str, str]) -> None:
    """A table on a terminal, lines elsewhere."""
    if not PlainConsole().is_terminal:
        say(*(f"{name:22}{value}" for name, value in told.items()))
        return
    from rich.table import Table

    table = Table(show_header=False)
    for name, value in told.items():
        table.add_row(name, value)
    say(table)
