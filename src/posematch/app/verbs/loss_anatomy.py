"""What every loss does to one heatmap: gradients, numbers, films.

posematch loss_anatomy output=FOLDER [only=[gaussian_mse,matching]] [films=false]
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posematch.app.commands import command
from posematch.app.settings import AtLeastOne, Positive
from posematch.console import say


@dataclass(frozen=True)
class Settings:
    """Keys of conf/loss_anatomy.yaml, which says what each is for."""

    losses: dict[str, Any]
    output: str
    only: Any
    data: dict[str, Any]
    films: bool
    steps: AtLeastOne
    every: AtLeastOne
    rate: Positive


@command("loss_anatomy")
def run(settings: Settings) -> None:
    """Write pictures, films and tables."""
    from posematch.app.objects import check_objects

    if settings.only is None:
        check_objects({"losses": settings.losses})
    from posematch.anatomy.report import chosen_losses, write_anatomy
    from posematch.training.build import build_loss

    losses = {
        name: build_loss(settings.losses[name], f"losses.{name}")
        for name in chosen_losses(list(settings.losses), settings.only)
    }
    output = Path(settings.output).expanduser()
    film = (settings.steps, settings.every, float(settings.rate)) if settings.films else None
    for file in write_anatomy(losses, output, film):
        say(str(file))
