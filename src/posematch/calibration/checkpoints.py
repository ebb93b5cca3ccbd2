"""A calibration into a checkpoint: the file is whole before and after, and nothing else changes.

The record lies beside the weights that it is of, in one file, so that neither can be without the
other: a training that goes on writes a new file, of other weights and without it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from posematch.calibration.calibrating import Calibrated, calibrate_table
from posematch.calibration_record import Method
from posematch.errors import PosematchError
from posematch.files import replacing
from posematch.loading import load
from posematch.model_record import ModelRecord
from posematch.networks.checkpoint_files import RECORD
from posematch.networks.checkpoints import read_checkpoint
from posematch.runs.finished import Run, read_run
from posematch.runs.folder import held
from posematch.runs.named import check_finished
from posematch.runs.stored_config import checkpoint_file, is_of_run
from posematch.untrusted import own_file

_OURS = "network."  # what a training's state dict puts before the network's names


@dataclass(frozen=True)
class Task:
    """What a command names.

    Attributes
    ----------
    checkpoint
        The file whose weights are calibrated.
    run
        Folder of the finished run that trained them.
    """

    checkpoint: Path
    run: Path


def find_task(checkpoint: str, run: str | None) -> Task:
    """The file, and the run whose predictions are fitted on.

    Parameters
    ----------
    checkpoint
        A run folder (its last checkpoint), a checkpoint in one, or a file.
    run
        The run folder, for a file that lies elsewhere.

    Raises
    ------
    PosematchError
        There is no such file or no finished run, or nothing says of which run the file is.
    """
    file = checkpoint_file(checkpoint)
    if run is not None:
        folder = Path(run).expanduser()
    elif is_of_run(file):
        folder = file.absolute().parent.parent
        if Path(checkpoint).expanduser().is_dir():
            folder = Path(checkpoint).expanduser()
    else:
        raise PosematchError(
            f"checkpoint={checkpoint} lies in no run folder: name the run that trained it, whose"
            " predictions are fitted on, with run=FOLDER."
        )
    check_finished(folder)
    return Task(file, folder)


def calibrate_checkpoint(
    task: Task, method: Method, output: Path | None, trust: Sequence[str] = ()
) -> tuple[Calibrated, Path]:
    """Fit on the last predictions of a run, and write the record.

    Parameters
    ----------
    task
        As `find_task`.
    method
        Of the curve.
    output
        None: into the checkpoint itself, which a training still goes on from. A file: the weights
        and the model's record alone, as `posematch.load` takes them.
    trust
        As of `posematch.load`.

    Returns
    -------
    What was fitted, and the file that was written.

    Raises
    ------
    PosematchError
        The weights are not those of the run's last predictions, the run is being trained, the
        table cannot be fitted on, or the file cannot be written. Then every file is as it was.
    """
    run = read_run(task.run)
    if output is not None and output.is_file() and output.samefile(task.checkpoint):
        output = None
    try:
        # Nobody goes on training from the file that is about to be replaced.
        with held(run.folder) if output is None else contextlib.nullcontext():
            found, content = _calibrated(task, run, method, trust, whole=output is None)
            target = output or task.checkpoint
            with replacing(target) as file:
                torch.save(content, file)
    except (OSError, RuntimeError) as error:
        raise PosematchError(
            f"{output or task.checkpoint} cannot be written ({type(error).__name__}); name another"
            " file with output=FILE."
        ) from error
    return found, target


def _calibrated(
    task: Task, run: Run, method: Method, trust: Sequence[str], whole: bool
) -> tuple[Calibrated, dict[str, Any]]:
    """The fit, and the content of a checkpoint with it: whole, or the weights alone."""
    content = read_checkpoint(task.checkpoint)
    _check_same_training(task, run, content)
    model = load(task.checkpoint, trust)
    table, epoch = run.last_predictions, run.epochs[-1]
    if table.skeleton.joints != model.skeleton.joints:
        raise PosematchError(
            f"the predictions of {task.run} are of other joints than {task.checkpoint}."
        )
    found = calibrate_table(table, model.input_size, run.data, epoch, method)
    # Validated as a whole, as whoever reads the file will.
    record = ModelRecord.model_validate(
        {**model.record.model_dump(), "calibration": found.record.model_dump()}
    ).model_dump()
    if whole:
        return found, {**content, RECORD: record}
    weights = {f"network.{name}": one for name, one in model.network.state_dict().items()}
    return found, {"state_dict": weights, RECORD: record, "epoch": epoch}


def _check_same_training(task: Task, run: Run, content: Any) -> None:
    """Raise unless the weights are those that the run's last predictions were made by."""
    folder = run.folder
    last = own_file(folder.path, folder.last_checkpoint)
    same = last.is_file() and last.samefile(task.checkpoint)
    ended = content if same else read_checkpoint(last)
    steps = ended.get("global_step") if isinstance(ended, Mapping) else None
    predicted = run.epochs[-1] if run.epochs else None
    wanted = run.result["epoch"] - 1
    if predicted != wanted or steps not in (None, run.result["step"]):
        raise PosematchError(
            f"{folder.path} ended with epoch {wanted} (from 0) and step {run.result['step']}; its"
            f" last predictions are of epoch {predicted}, its last checkpoint is of step {steps}:"
            f" restore them, or go on with resume={folder.path}."
        )
    if same:
        return
    ours, theirs = (_network(one) for one in (content, ended))
    if ours.keys() != theirs.keys() or not all(torch.equal(ours[k], theirs[k]) for k in ours):
        raise PosematchError(
            f"checkpoint={task.checkpoint} does not hold the weights of {last}, which made the"
            " predictions that a calibration is fitted on; name the run that trained it."
        )


def _network(content: Any) -> dict[str, torch.Tensor]:
    """A network's weights by its own names."""
    weights = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    tensors = {str(k): one for k, one in weights.items() if isinstance(one, torch.Tensor)}
    ours = {k.removeprefix(_OURS): one for k, one in tensors.items() if k.startswith(_OURS)}
    return ours or tensors
