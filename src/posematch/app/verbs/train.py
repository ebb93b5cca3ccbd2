"""Train, validate and score.

    posematch train loss=matching data=mpii data.root=FOLDER [group=choice] [key=value]
    posematch train -m loss=gaussian_mse,dot_mse,matching seed=1,2
    posematch train experiment=ablation

Without arguments it trains on the embedded data set.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from posematch.app.commands import begins_sweep, command
from posematch.app.sentences import one_sentence_errors
from posematch.console import say, tell
from posematch.errors import PosematchError
from posematch.training import supervision

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console

    from posematch.training.run import TrainingResult

# What imports torch is imported where it is used: the process that only watches over a sweep
# lives as long as the sweep.


def run(arguments: Sequence[str]) -> None:
    """A training, or a sweep of several."""
    with one_sentence_errors():
        _check_candidate(arguments)
    if begins_sweep("train", arguments):
        _sweep([*arguments, *(["-m"] if not {"-m", "--multirun"} & set(arguments) else [])])
    else:
        _train(arguments)


def _check_candidate(arguments: Sequence[str]) -> None:
    """A candidate is a loss with a name, which another loss would be trained under."""
    chosen = dict(one.partition("=")[::2] for one in arguments if not one.startswith("-"))
    if chosen.get("candidate") not in (None, "null") and "loss" in chosen:
        raise PosematchError(
            f"candidate={chosen['candidate']} brings its own loss; leave out loss={chosen['loss']},"
            " or change the candidate's by loss.KEY=VALUE."
        )


@command("train")
def _train(cfg: DictConfig) -> float | None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.get().mode == RunMode.MULTIRUN:
        from posematch.training import sweep

        return sweep.run_job(cfg)
    check_training(cfg)
    from rich.console import Console

    console = Console()
    title = f"{cfg.loss.name} on {cfg.data.name}"
    if cfg.dry_run:
        from posematch.training import sweep

        console.print(sweep.outcomes_table([sweep.estimated(cfg, title)], ""))
        return None
    from posematch.metrics.tables import figures_table
    from posematch.training.run import train

    result = train(cfg)
    if result.first_process:
        console.print(figures_table(result.figures, title, result.protocol, result.metric))
        losses = "  ".join(f"{name} {value:.4g}" for name, value in result.losses.items())
        if curves := _curves(cfg, console, result):
            say(curves)
        console.print(f"validation losses of the last checkpoint: {losses}", highlight=False)
        console.print(f"run folder: {result.folder.path}", soft_wrap=True, highlight=False)
    return None


def _curves(cfg: DictConfig, console: Console, result: TrainingResult) -> str:
    """Loss and main figure by epoch in characters, where the terminal shows them or one asks."""
    asked = cfg.pictures.curves
    if asked == "auto":
        asked = console.is_terminal and console.encoding.startswith("utf")
    if not asked:
        return ""
    from posematch.training.results import read_curves, terminal_curves

    curves = read_curves(result.folder, cfg.loss.name, result.metric)
    return terminal_curves(curves, console.width)


def check_training(cfg: DictConfig) -> None:
    """Judge a training's configuration as far as that goes without importing what trains.

    Raises
    ------
    PosematchError
        A value of another type or out of its range, a name that nothing takes, a missing file.
    """
    from posematch.app.objects import check_objects, plain
    from posematch.app.settings import check_settings, weights_file
    from posematch.data.needed import check_data
    from posematch.runs.folder import run_to_resume
    from posematch.untrusted import check_weights, open_checkpoint

    check_settings(cfg)
    check_objects(cfg)
    check_data(plain(cfg.data), training=True)
    if cfg.checkpoint:
        open_checkpoint(Path(cfg.checkpoint).expanduser()).close()
    weights = weights_file(cfg)
    if weights is not None and not cfg.resume:  # a checkpoint that it goes on from has them all
        check_weights(weights)
    if cfg.resume and cfg.resume != "auto":
        run_to_resume(cfg.resume)


def _sweep(arguments: list[str]) -> None:
    """All jobs, then how they ended; exit code 1 if one of them failed or was stopped."""
    if not supervision.is_supervised():
        # -P: a folder that the command is given in is no place to import from.
        command = [sys.executable, "-P", "-m", "posematch", "train", *arguments]
        raise SystemExit(supervision.supervise(command))
    supervision.follow()
    from rich.console import Console

    from posematch.training import sweep

    name = sweep.begin_sweep(arguments)
    try:
        _train([*arguments, *sweep.search_defaults(arguments)])
    except ValueError:  # Optuna's, where not one of its trials has a figure
        if not sweep.outcomes():
            raise
    finally:
        ended = sweep.outcomes()
        sentence = sweep.end_of_sweep(ended)
        sweep.end_sweep()
        if ended:
            Console().print(sweep.outcomes_table(ended, name))
        if sentence:
            tell(sentence)
    if sentence:
        raise SystemExit(1)
