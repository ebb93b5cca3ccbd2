"""Train what a run trained once more, and say whether it came out the same, to the bit.

    posematch rerun run=RUN_FOLDER [data.root=FOLDER] [run_root=FOLDER]

Exit code 1 if anything differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from posematch.app.commands import command
from posematch.console import say


@dataclass(frozen=True)
class Data:
    """Where the data set is."""

    root: str | None


@dataclass(frozen=True)
class Backbone:
    """Where the weights are that its backbone started from."""

    weights: str | None


@dataclass(frozen=True)
class Settings:
    """Keys of conf/rerun.yaml, which says what each is for."""

    run: str
    data: Data
    checkpoint: str | None
    backbone: Backbone
    run_root: str
    trust: str | list[str]


@command("rerun")
def run(settings: Settings) -> None:
    """Train, compare, and end with code 1 if anything differs."""
    from posematch.evaluation.settings import trusted_packages
    from posematch.runs.named import run_to_repeat
    from posematch.untrusted import check_weights, open_checkpoint

    run = Path(settings.run).expanduser()
    run_to_repeat(run)
    if settings.checkpoint:
        open_checkpoint(Path(settings.checkpoint).expanduser()).close()
    weights = settings.backbone.weights
    if weights:
        check_weights(Path(weights).expanduser())
    from posematch.training.rerun import differences_table, rerun

    again = rerun(
        run,
        settings.run_root,
        settings.data.root,
        settings.checkpoint,
        trusted_packages(settings.trust),
        weights,
    )
    if again is None:
        return  # not the first process
    if again.environment:
        say(differences_table(again.environment))
    else:
        say("The environments are the same: versions, device, threads, code.")
    say(f"run folder: {again.folder.path}")
    if again.results:
        say(f"Not the same: {'; '.join(again.results)}.")
        raise SystemExit(1)
    say("The same, to the bit: weights, metrics.csv, predictions.")
