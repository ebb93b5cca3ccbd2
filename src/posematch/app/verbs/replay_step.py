"""Compute a step of a training again whose loss or gradient was not finite.

    posematch replay_step run=RUN_FOLDER [step=N]

A training skips such a step and leaves what reproduces it in RUN_FOLDER/divergence/. See
conf/replay_step.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from posematch.app.commands import command
from posematch.console import say


@dataclass(frozen=True)
class Settings:
    """Keys of conf/replay_step.yaml, which says what each is for."""

    run: str
    step: int | None
    device: str
    trust: str | list[str]


@command("replay_step")
def run(settings: Settings) -> None:
    """Compute the step, and print whose people were not finite."""
    from posematch.evaluation.settings import trusted_packages
    from posematch.runs.named import dump_of

    run_folder = Path(settings.run).expanduser()
    dump_of(run_folder, settings.step)
    from rich.table import Table

    from posematch.training.replay import replay

    trusted = trusted_packages(settings.trust)
    found = replay(run_folder, settings.step, settings.device, trusted)
    table = Table("person", "maps", "loss", "gradient", title=f"{found.file}: not finite")
    for person, *fine in found.people:
        table.add_row(str(person), *("" if one else "no" for one in fine))
    say(table)
    say(
        f"epoch {found.epoch}, step {found.step}: loss {found.loss:.6g}, gradient norm"
        f" {found.gradient_norm:.6g}",
        f"Reproduced: the {found.cause} is NaN or infinite here, too."
        if found.reproduced
        else f"Not reproduced: in the training the {found.cause} was NaN or infinite.",
    )
