"""The functions of ``import posematch``: the verbs, for programs and notebooks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from posematch.app.commands import compose

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from posematch.evaluation.scores import Evaluation
    from posematch.runs.finished import Run
    from posematch.training.run import TrainingResult

Paths = str | os.PathLike[str]


def train(cfg: DictConfig) -> TrainingResult:
    """Train, validate and score, as ``posematch train``.

    Parameters
    ----------
    cfg
        Of `posematch.compose`.

    Raises
    ------
    PosematchError
        A value that does not fit, or a file that is missing or damaged.
    """
    from posematch.app.verbs.train import check_training

    check_training(cfg)
    from posematch.training.run import train as train_run

    return train_run(cfg)


def evaluate(
    checkpoint: Paths | None = None,
    *,
    predictions: Paths | None = None,
    run: Paths | None = None,
    overrides: Sequence[str] = (),
) -> Evaluation | None:
    """Score a checkpoint, a prediction file or a run, as ``posematch evaluate``.

    Parameters
    ----------
    checkpoint
        File of weights, or a run folder.
    predictions
        File of another project, or posematch's own.
    run
        Run folder, whose own predictions are scored.
    overrides
        Further ones, such as ``["data=mpii", "data.root=FOLDER"]``.

    Returns
    -------
    Figures by every convention; None in each process but the first.

    Raises
    ------
    PosematchError
        Not exactly one of the three is given, or one cannot be read.
    """
    from posematch.app.verbs.evaluate import evaluated

    sources = {"checkpoint": checkpoint, "predictions": predictions, "run": run}
    said = [*overrides, *(f"{key}={_quoted(one)}" for key, one in sources.items() if one)]
    return evaluated(compose(said, "evaluate"), said)


def read_runs(folders: Paths | Iterable[Paths]) -> list[Run]:
    """Finished runs of a folder, or of several, at any depth.

    Raises
    ------
    PosematchError
        A folder is not there, or holds no finished run.
    """
    from posematch.runs.finished import find_runs

    several = [folders] if isinstance(folders, str | os.PathLike) else folders
    return find_runs(Path(one).expanduser() for one in several)


def _quoted(path: Paths) -> str:
    """As Hydra reads it back, whatever is in it: backslashes count only before a quote."""
    text = re.sub(r"(\\*)('|$)", lambda it: 2 * it[1] + "\\'" * bool(it[2]), os.fspath(path))
    return f"'{text}'"
