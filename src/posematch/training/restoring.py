"""What of a stored training state is believed: nothing that a new training would not have.

A checkpoint comes from a stranger, or from a disk that failed. Before anything starts, each part of
it is held against the same part of the training that is about to go on: the same names, shapes,
kinds of value; what is unknown is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import lightning.pytorch as pl
import torch

from posematch.errors import PosematchError
from posematch.networks.checkpoints import read_checkpoint
from posematch.runs.folder import RunFolder
from posematch.training.callbacks import ExponentialMovingAverage
from posematch.training.divergence import first_nonfinite
from posematch.training.module import PoseModule

_MOST = 2**53  # counts above it are no counts


def read_training(
    folder: RunFolder, path: Path, trainer: pl.Trainer, module: PoseModule, total_steps: int
) -> dict[str, Any]:
    """The checked content of a checkpoint, as Lightning restores it.

    Parameters
    ----------
    folder
        The run that goes on.
    path
        Its ``last.ckpt`` or ``previous.ckpt``.
    trainer, module
        Of the training that is about to go on, untrained.
    total_steps
        Its optimizer steps.

    Raises
    ------
    PosematchError
        The file is missing, damaged or of another training; it names the part, and the checkpoint
        before it where that one is whole.
    """
    try:
        return _checked(path, trainer, module, total_steps)
    except PosematchError as error:
        before = folder.previous_checkpoint
        if path == before or not before.exists():
            raise
        try:
            content = _checked(before, trainer, module, total_steps)
        except PosematchError:
            raise error from None
        raise PosematchError(
            f"{_without_advice(error)}. The checkpoint before it is whole (step"
            f" {content['global_step']}): resume={before} goes on from there."
        ) from None


def _without_advice(error: PosematchError) -> str:
    """A sentence about a file that was named as a download, of one that was found in a run."""
    return str(error).removeprefix("checkpoint=").partition(";")[0].rstrip(".")


def _checked(
    path: Path, trainer: pl.Trainer, module: PoseModule, total_steps: int
) -> dict[str, Any]:
    content = read_checkpoint(path)
    try:
        return _state(content, trainer, module, total_steps)
    except _DoesNotFitError as error:
        raise PosematchError(
            f"{path} is not the checkpoint of this training: {error}; it is damaged, or of another"
            " version or run."
        ) from None


class _DoesNotFitError(Exception):
    """Which part of a checkpoint is not what it should be."""


def _state(
    content: Any, trainer: pl.Trainer, module: PoseModule, total_steps: int
) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        raise _DoesNotFitError("it holds no training state")
    wanted = ("epoch", "global_step", "state_dict", "loops", "callbacks", "optimizer_states",
              "lr_schedulers")  # fmt: skip
    for key in wanted:
        if key not in content:
            raise _DoesNotFitError(f"it lacks {key}")
    state: dict[str, Any] = {
        "pytorch-lightning_version": lightning.__version__,
        "epoch": _number(content["epoch"], "epoch"),
        "global_step": _number(content["global_step"], "global_step"),
    }
    own = module.state_dict()
    state["state_dict"] = _weights(own, content["state_dict"], "state_dict")
    fit_loop = _like(trainer.fit_loop.state_dict(), _at(content["loops"], "fit_loop"), "fit_loop")
    state["loops"] = {"fit_loop": fit_loop}
    optimizer = module.new_optimizer()
    schedule = module.new_schedule(optimizer, total_steps, 1)
    state["optimizer_states"] = [_optimizer(optimizer, module, content["optimizer_states"])]
    schedules = content["lr_schedulers"]
    if not isinstance(schedules, list) or len(schedules) != 1:
        raise _DoesNotFitError("lr_schedulers is no list of one")
    state["lr_schedulers"] = [_like(schedule.state_dict(), schedules[0], "lr_schedulers")]
    _check_length(schedule.state_dict(), state["lr_schedulers"][0])
    _check_counts(state)
    averages = [one for one in _callbacks(trainer) if isinstance(one, ExponentialMovingAverage)]
    if averages:
        state["current_model_state"] = _weights(
            own, content.get("current_model_state"), "current_model_state"
        )
        count = _at(content.get("averaging_state"), "n_averaged")
        if not isinstance(count, torch.Tensor) or count.numel() != 1 or count.is_floating_point():
            raise _DoesNotFitError("averaging_state.n_averaged is no count")
        state["averaging_state"] = {"n_averaged": count}
    # By their classes: a callback's own key may hold values that it learns when training begins.
    known = {type(one).__qualname__ for one in _callbacks(trainer)}
    stored = content["callbacks"]
    if not isinstance(stored, Mapping):
        raise _DoesNotFitError("callbacks is no mapping")
    state["callbacks"] = {
        key: value for key, value in stored.items() if str(key).partition("{")[0] in known
    }
    for name, value in content.items():
        if name == type(trainer.precision_plugin).__qualname__:  # the loss scale of 16-mixed
            state[name] = _like(trainer.precision_plugin.state_dict(), value, name)
    return state


def _check_length(own: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Raise unless a stored schedule is of a training of so many steps, where it says of how many.

    The configurations agree, and yet data of another size lie at data.root, or there are other
    devices: the stored schedule would go on in place of ours, and end before the training does.
    """
    there, here = stored.get("total_steps"), own.get("total_steps")
    if there != here:
        raise _DoesNotFitError(
            f"its schedule is of {there} optimizer steps and this training has {here} (are the data"
            " and the devices those of the run?)"
        )
    if stored.get("_schedule_phases") != own.get("_schedule_phases"):
        raise _DoesNotFitError("lr_schedulers has other phases")


def _check_counts(state: Mapping[str, Any]) -> None:
    """Raise unless all parts count the same number of optimizer steps and epochs."""
    loop = state["loops"]["fit_loop"]
    steps = {
        "global_step": state["global_step"],
        "the loop": loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"][
            "total"
        ]["completed"],
        "the schedule": state["lr_schedulers"][0].get("last_epoch"),
    }
    if len(set(steps.values())) > 1:
        told = ", ".join(f"{where} {count}" for where, count in steps.items())
        raise _DoesNotFitError(f"its parts count different optimizer steps ({told})")
    for where, counts in (
        ("epochs", loop["epoch_progress"]["current"]),
        ("batches", loop["epoch_loop.batch_progress"]["current"]),
    ):
        # Those that were begun, and of them those that were ended.
        if not counts["ready"] >= counts["processed"] >= counts["completed"]:
            raise _DoesNotFitError(f"its loop has ended more {where} than it has begun")


def _callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    return list(trainer.callbacks)  # type: ignore[attr-defined]


def _weights(own: Mapping[str, torch.Tensor], stored: Any, where: str) -> dict[str, torch.Tensor]:
    if not isinstance(stored, Mapping):
        raise _DoesNotFitError(f"{where} is no mapping of names to tensors")
    found: dict[str, torch.Tensor] = {}
    for name, tensor in own.items():
        value = stored.get(name)
        if not isinstance(value, torch.Tensor) or value.shape != tensor.shape:
            raise _DoesNotFitError(f"{where} lacks {name} of shape {tuple(tensor.shape)}")
        if value.dtype.is_floating_point != tensor.dtype.is_floating_point or value.is_complex():
            raise _DoesNotFitError(f"{name} of {where} is {value.dtype}, not {tensor.dtype}")
        found[name] = value
    if unknown := next((name for name in stored if name not in own), None):
        raise _DoesNotFitError(f"{where} has {unknown} besides")
    if spoilt := first_nonfinite(found.items()):
        raise _DoesNotFitError(f"{spoilt} of {where} is NaN or infinite")
    return found


def _optimizer(optimizer: torch.optim.Optimizer, module: PoseModule, stored: Any) -> dict[str, Any]:
    if not isinstance(stored, list) or len(stored) != 1:
        raise _DoesNotFitError("optimizer_states is no list of one")
    own = optimizer.state_dict()
    groups = _like(
        own["param_groups"], _at(stored[0], "param_groups"), "optimizer_states.param_groups"
    )
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    state = _at(stored[0], "state")
    if not isinstance(state, Mapping):
        raise _DoesNotFitError("optimizer_states.state is no mapping")
    names = module.names_of_moments(optimizer) if state else set()
    checked: dict[int, dict[str, Any]] = {}
    for index, moments in state.items():
        where = f"optimizer_states.state.{index}"
        if type(index) is not int or not 0 <= index < len(parameters):
            raise _DoesNotFitError(f"{where} belongs to no weight")
        if not isinstance(moments, Mapping) or set(moments) != names:
            raise _DoesNotFitError(f"{where} has not the moments {', '.join(sorted(names))}")
        for name, value in moments.items():
            if isinstance(value, torch.Tensor):
                fits = value.numel() == 1 or value.shape == parameters[index].shape
                # Infinite may be what overflowed: the square of a large, finite gradient.
                if not fits or not value.is_floating_point() or bool(value.isnan().any()):
                    raise _DoesNotFitError(f"{where}.{name} does not fit its weight")
            elif value is not None:
                _number(value, f"{where}.{name}")
        checked[index] = dict(moments)
    if state and len(state) != len(parameters):
        raise _DoesNotFitError("optimizer_states.state has not all weights")
    return {"state": checked, "param_groups": groups}


def _at(mapping: Any, key: str) -> Any:
    if not isinstance(mapping, Mapping) or key not in mapping:
        raise _DoesNotFitError(f"it lacks {key}")
    return mapping[key]


def _number(value: Any, where: str) -> Any:
    # NaN is in no range; an integer may be larger than any float, so none is made of it.
    if type(value) not in (int, float) or not -_MOST <= value <= _MOST:
        raise _DoesNotFitError(f"{where} is no number")
    return value


def _like(own: Any, stored: Any, where: str) -> Any:
    """The stored value if it is of the kind of ours, without what ours does not have."""
    if isinstance(own, Mapping):
        if not isinstance(stored, Mapping):
            raise _DoesNotFitError(f"{where} is no mapping")
        for key in own:
            if key not in stored:
                raise _DoesNotFitError(f"{where} lacks {key}")
        return {key: _like(value, stored[key], f"{where}.{key}") for key, value in own.items()}
    if isinstance(own, list | tuple):
        if not isinstance(stored, list | tuple) or len(stored) != len(own):
            raise _DoesNotFitError(f"{where} is no list of {len(own)}")
        pairs: Sequence[tuple[Any, Any]] = list(zip(own, stored, strict=True))
        values = [_like(a, b, f"{where}.{place}") for place, (a, b) in enumerate(pairs)]
        return tuple(values) if isinstance(own, tuple) else values
    if isinstance(own, bool) or own is None:
        if not (isinstance(stored, bool) or stored is None):
            raise _DoesNotFitError(f"{where} is neither true, false nor nothing")
        return stored
    if isinstance(own, int | float):
        number = _number(stored, where)
        if isinstance(own, int) and (type(stored) is not int or (stored < 0 <= own)):
            # Lightning's and the schedules' counts; a step's place may be a float in either.
            raise _DoesNotFitError(f"{where} is no count")
        return number
    if isinstance(own, str):
        if own != stored:
            raise _DoesNotFitError(f"{where} is {stored!r}, not {own}")
        return stored
    raise _DoesNotFitError(f"{where} is of an unknown kind")
