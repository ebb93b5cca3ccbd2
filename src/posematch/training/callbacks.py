"""What a training writes down, shows, and does when it is interrupted."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from rich.console import Console

from posematch.training.module import PoseModule
from posematch.training.predictions import predictions_table, write_predictions
from posematch.training.run_folder import EpochTable, RunFolder


class RunRecorder(pl.Callback):
    """Writes metrics.csv, timing.csv and the predictions of every validation (process 0)."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._metrics = EpochTable(folder.metrics)
        self._timing = EpochTable(folder.timing)
        self._started = time.perf_counter()
        self._train_seconds = 0.0
        self._images = 0
        # Sums over the epoch's steps; in the checkpoint, so that a training resumed inside an
        # epoch reports the whole of it.
        self._sums: dict[str, torch.Tensor] = {}
        self._steps = 0

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self._sums, "steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._sums, self._steps = dict(state_dict["sums"]), state_dict["steps"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Inside an epoch a resumed training goes on without on_train_epoch_start.
        self._started = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.perf_counter()
        self._train_seconds = 0.0
        self._images = 0
        self._sums, self._steps = {}, 0

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, PoseModule)
        values = {"train/loss": outputs["loss"]} | {
            f"train/{pl_module.loss_name}/{name}": value
            for name, value in pl_module.loss.health.items()
        }
        for name, value in values.items():
            value = value.detach().double()  # stays on its device: no waiting for it here
            self._sums[name] = (
                self._sums[name].to(value.device) + value if name in self._sums else value
            )
        self._steps += 1
        self._images += len(batch["crop"]) * trainer.world_size
        self._train_seconds = time.perf_counter() - self._started
        pl_module.log(
            "img/s", self._images / self._train_seconds, prog_bar=True, logger=False, batch_size=1
        )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, PoseModule)
        ids, joints_img, scores = pl_module.predictions.gather()
        # Before the first step it is the untrained network that was scored.
        if not trainer.is_global_zero or trainer.global_step == 0:
            return
        epoch = trainer.current_epoch
        if trainer.state.fn == "validate":  # after the training: the loop counts its epochs
            epoch = pl_module.epochs_begun - 1
            self._metrics.write(epoch, pl_module.figures)
        table = predictions_table(pl_module.valid_people, ids, joints_img, scores)
        write_predictions(self.folder.predictions(epoch), table)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, PoseModule)
        if not trainer.is_global_zero:
            return
        row: dict[str, float | int] = {
            "step": trainer.global_step,
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            **{name: float(total) / self._steps for name, total in self._sums.items()},
        }
        if pl_module.figures_step == trainer.global_step:
            row |= pl_module.figures
        self._metrics.write(trainer.current_epoch, row)
        total = time.perf_counter() - self._started
        self._timing.write(
            trainer.current_epoch,
            {
                "train_seconds": self._train_seconds,
                "validation_seconds": total - self._train_seconds,
                "images_per_second": self._images / max(self._train_seconds, 1e-9),
            },
        )


class StopOnSignal(pl.Callback):
    """Ctrl-C and SIGTERM stop between two steps, with a checkpoint that resumes exactly there.

    A validation that runs is finished first. A second signal stops at once; then training resumes
    from the last checkpoint written.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.requested = False
        self._previous: dict[int, Any] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._request)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print("\nStopping after this step (again to stop at once) ...", file=sys.stderr, flush=True)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # At the start of a batch the loops count all earlier ones as completed and not this one.
        if trainer.strategy.reduce_boolean_decision(self.requested, all=False):
            trainer.save_checkpoint(self.folder.last_checkpoint)
            raise KeyboardInterrupt

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


class EpochLines(pl.Callback):
    """One line per epoch where no terminal can show a progress bar."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        shown: Mapping[str, Any] = trainer.progress_bar_metrics
        values = "  ".join(
            f"{name} {float(value):.4g}" for name, value in shown.items() if "_step" not in name
        )
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?"
        print(f"epoch {trainer.current_epoch + 1}/{epochs}  {values}", flush=True)


def progress_callback() -> pl.Callback:
    """A bar with loss, metric and speed on a terminal, else a line per epoch."""
    if Console().is_terminal:
        return RichProgressBar(theme=RichProgressBarTheme(metrics_format=".4g"), leave=False)
    return EpochLines()
