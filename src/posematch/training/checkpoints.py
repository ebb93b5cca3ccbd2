"""Checkpoints of a run: when they are written, how, and what of them is believed when one resumes.

``checkpoints/last.ckpt`` is written when training starts, every few minutes inside an epoch,
before a validation, at an epoch's end and when the training is asked to stop; ``previous.ckpt`` is
the one before it. Each is whole or not there (`posematch.files`), carries a CRC-32 of every tensor,
and holds tensors and plain values alone: no path is stored, so none can be followed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loops.evaluation_loop import RestartStage
from lightning.pytorch.loops.progress import _BatchProgress
from lightning.pytorch.trainer.states import TrainerFn

from posematch.errors import PosematchError
from posematch.files import link, replacing
from posematch.runs.folder import RunFolder
from posematch.training import stopping
from posematch.training.divergence import first_nonfinite
from posematch.training.module import PoseModule
from posematch.training.stopping import InterruptedTrainingError


class CheckpointFiles(CheckpointIO):
    """Writes in one piece beside the target; reads what was checked before, and nothing else."""

    def __init__(self) -> None:
        self._checked: dict[str, dict[str, Any]] = {}

    def take(self, path: Path, content: dict[str, Any]) -> None:
        """Hold a checked content, for the one time that Lightning asks for it."""
        self._checked = {str(path): content}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        try:
            with replacing(Path(path)) as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:
            # What torch's writer makes of a disk that is full.
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return self._checked.pop(str(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        raise NotImplementedError("checkpoints are replaced, never removed")


class CheckpointKeeper(Checkpoint):
    """Keeps the run's last, previous and best checkpoint, and stops a training with one.

    Parameters
    ----------
    folder
        The run's.
    metric
        Column whose highest value is the best.
    every_minutes
        Longest time between two checkpoints inside an epoch; None for none there.
    """

    def __init__(self, folder: RunFolder, metric: str, every_minutes: float | None) -> None:
        self.folder = folder
        self.metric = metric
        self.every_minutes = every_minutes
        self.best: float | None = None
        self.kept = ""  # what last.ckpt is of, in words
        self._before_validation = False
        self._epoch_ended = False
        self._steps = 0
        self._most_steps: int | None = None
        self._written = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "before_validation": self._before_validation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        best, before = state_dict.get("best"), state_dict.get("before_validation")
        if not (best is None or isinstance(best, float)) or not isinstance(before, bool):
            raise ValueError("its record of the best checkpoint is damaged")
        self.best, self._before_validation = best, before

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # Lightning's counters depend on the hook that a checkpoint is written in, and some places
        # are not resumed exactly: say one of three places that are.
        loops = checkpoint["loops"]["fit_loop"]
        if not self._before_validation:
            _set_between_batches(loops, self._epoch_ended)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._most_steps = None
        if self._before_validation and 0 <= trainer.max_steps <= self._steps:
            # Lightning would see nothing left to do; the validation is, and the epoch's end.
            self._most_steps = trainer.max_steps
            trainer.fit_loop.epoch_loop.max_steps = self._steps + 1

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._steps = int(checkpoint["global_step"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _claim_signals(trainer)
        loop = trainer.fit_loop
        if not loop.restarting:
            self.save(trainer)
            return
        self.kept = _place(trainer)
        # Lightning makes the loader's iterator before it has brought its counters into order, and
        # loader workers begin to read ahead with it: the first batches would be others.
        assert loop._data_fetcher is not None
        iter(loop._data_fetcher)
        if self._before_validation:
            # The epoch's batches are done: go on with its validation, which Lightning would skip.
            loop.epoch_loop.val_loop._restart_stage = RestartStage.RESTARTED_MID_EVALUATION
        elif not loop.epoch_loop.batch_progress.current.completed:
            # An epoch from its first batch on is like any other; Lightning would take no batches
            # done for a multiple of its validation interval, and count a step more.
            loop.epoch_loop.restarting = False
        self._before_validation = False
        self._written = time.monotonic()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # At the start of a batch all earlier ones are completed. Gradients that wait for more
        # batches are in no checkpoint: only between two optimizer steps.
        if batch_idx % trainer.accumulate_grad_batches:
            return
        together = trainer.strategy.reduce_boolean_decision
        due = self.every_minutes is not None and (
            time.monotonic() - self._written >= 60 * self.every_minutes
        )
        if not together(due or stopping.requested(), all=False):
            return
        self.save(trainer)
        if together(stopping.requested(), all=False):
            raise self._stopped()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _claim_signals(trainer)
        if trainer.state.fn == TrainerFn.FITTING:
            self._before_validation = True
            try:
                self.save(trainer)
            finally:
                self._before_validation = False

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # The checkpoint before this validation, or after the training, holds all there is to keep.
        if trainer.strategy.reduce_boolean_decision(stopping.requested(), all=False):
            raise self._stopped()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, PoseModule)
        if self._most_steps is not None:
            trainer.fit_loop.epoch_loop.max_steps = self._most_steps
        better = False
        if pl_module.figures_step == trainer.global_step:
            figure = pl_module.figures.get(self.metric)
            better = figure is not None and (self.best is None or figure > self.best)
            self.best = figure if better else self.best
        self._epoch_ended = True
        try:
            self.save(trainer)
        finally:
            self._epoch_ended = False
        if better and trainer.is_global_zero:
            link(self.folder.last_checkpoint, self.folder.best_checkpoint)

    def save(self, trainer: pl.Trainer) -> None:
        """Write last.ckpt; a collective, between two optimizer steps."""
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        last = self.folder.last_checkpoint
        if trainer.is_global_zero:
            self._check_finite(checkpoint, trainer)
            # The previous one keeps its name until the new one has it: last.ckpt is always there.
            if last.exists():
                link(last, self.folder.previous_checkpoint)
            trainer.strategy.checkpoint_io.save_checkpoint(checkpoint, last)
        trainer.strategy.barrier("posematch.checkpoint")
        self.kept = _place(trainer)
        self._written = time.monotonic()

    def _check_finite(self, checkpoint: Mapping[str, Any], trainer: pl.Trainer) -> None:
        # With averaged weights those are the state dict, and the network's own beside it.
        own = checkpoint.get("current_model_state", {})
        name = first_nonfinite(itertools.chain(checkpoint["state_dict"].items(), own.items()))
        if name is None:
            return
        kept = "nothing was kept yet"
        if self.folder.last_checkpoint.exists():
            kept = f"{self.folder.last_checkpoint} keeps the weights of {self.kept}"
        raise PosematchError(
            f"{name} has become NaN or infinite by {_place(trainer)} and is not saved; {kept}."
            " Lower optimizer.lr or set trainer.gradient_clip_val."
        )

    def _stopped(self) -> InterruptedTrainingError:
        return InterruptedTrainingError(self.told_when_stopped())

    def told_when_stopped(self, at_once: bool = False) -> str:
        """What a stopped training has kept, and how to go on."""
        if not self.folder.last_checkpoint.exists():
            return "Stopped before the first checkpoint; the run folder is removed."
        return (
            f"Stopped{' at once' * at_once}; {self.kept} is kept. Repeat the command with"
            f" resume={self.folder.path} to go on there."
        )


def keeper_of(trainer: pl.Trainer) -> CheckpointKeeper:
    """The trainer's."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next(one for one in callbacks if isinstance(one, CheckpointKeeper))


def _claim_signals(trainer: pl.Trainer) -> None:
    # Lightning has just put a handler of its own over ours, by which it stops with no checkpoint.
    stopping.claim_signals()
    trainer._signal_connector.received_sigterm = False


def _place(trainer: pl.Trainer) -> str:
    return f"epoch {trainer.current_epoch + 1}, step {trainer.global_step}"


def _set_between_batches(loops: dict[str, Any], epoch_ended: bool) -> None:
    """Say that all batches begun are done, or that the next epoch is about to begin."""
    loop = "epoch_loop."
    inside = [
        loops[f"{loop}batch_progress"],
        loops[f"{loop}scheduler_progress"],
        *loops[f"{loop}automatic_optimization.optim_progress"]["optimizer"].values(),
    ]
    for progress in inside:
        for counts in (progress["current"], progress["total"]):
            done = counts["completed"]
            if epoch_ended and counts is progress["current"]:
                done = 0
            counts.update(dict.fromkeys(counts, done))
    inside[0]["is_last_batch"] = False
    validation = loops[f"{loop}val_loop.batch_progress"]
    validation.update(_BatchProgress().state_dict())
    if epoch_ended:
        for counts in loops["epoch_progress"].values():
            counts["completed"] = counts["processed"]
