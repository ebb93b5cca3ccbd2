"""What a training writes down, shows, and does when it is interrupted."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, RichProgressBar, WeightAveraging
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from rich.console import Console

from posematch.app.settings import nearest
from posematch.data.people import OKSTruth
from posematch.errors import PosematchError
from posematch.files import write_json
from posematch.metrics import metric_for
from posematch.metrics.columns import lower_is_better
from posematch.rendering import save_png
from posematch.runs.folder import EpochTable, RunFolder
from posematch.runs.truth import write_truth
from posematch.training.baselines import mean_pose_figures
from posematch.training.gathering import PredictionStore
from posematch.training.loggers import PICTURES, takes_values
from posematch.training.module import PoseModule


class RunRecorder(pl.Callback):
    """Writes metrics.csv, timing.csv, truth and predictions of every validation (process 0).

    Predictions by further decoders are those of the validation after which the training ended; a
    training that was interrupted has none yet.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._metrics = EpochTable(folder.metrics)
        self._timing = EpochTable(folder.timing)
        self._started = time.perf_counter()
        self._train_seconds = 0.0
        self._images = 0
        self._validated_epoch = -1
        # (sum, count) over the epoch's steps; in the checkpoint, so that a training resumed inside
        # an epoch reports the whole of it.
        self._sums: dict[str, tuple[torch.Tensor | float, int]] = {}
        self.untrained: dict[str, float] = {}  # figures of `validate_first`

    def state_dict(self) -> dict[str, Any]:
        sums = {
            name: (torch.as_tensor(total, dtype=torch.float64), count)
            for name, (total, count) in self._sums.items()
        }
        return {"sums": sums, "untrained": self.untrained}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        sums = {str(k): tuple(v) for k, v in dict(state_dict["sums"]).items()}
        for total, count in sums.values():
            if not isinstance(total, torch.Tensor) or total.numel() != 1 or type(count) is not int:
                raise ValueError("its sums over the epoch are damaged")
        self._sums = {name: (float(total), count) for name, (total, count) in sums.items()}
        self.untrained = {
            str(name): float(value) for name, value in dict(state_dict.get("untrained", {})).items()
        }

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, PoseModule)
        people = pl_module.valid_people
        if trainer.is_global_zero and isinstance(people.truth, OKSTruth):
            write_truth(self.folder.truth, people)
        readings = getattr(trainer.datamodule, "readings", {})  # type: ignore[attr-defined]
        if trainer.is_global_zero and readings:
            told = {split: report.plain() for split, report in readings.items()}
            write_json(self.folder.reading, told)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Inside an epoch a resumed training goes on without on_train_epoch_start.
        self._started = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.perf_counter()
        self._train_seconds = 0.0
        self._images = 0
        self._sums = {}

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, PoseModule)
        figures = pl_module.step_figures
        for name, value in figures.items():
            if isinstance(value, torch.Tensor):  # of a step's first batches
                value = value.detach().double()  # stays on its device: no waiting for it here
            before, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (before + value, count + 1)
        self._images += len(batch["crop"]) * trainer.world_size
        self._train_seconds = time.perf_counter() - self._started
        if takes_values(trainer):
            self._log(trainer, pl_module, figures, len(batch["crop"]))

    def _log(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        figures: Mapping[str, torch.Tensor | float],
        size: int,
    ) -> None:
        pl_module.log_dict(
            {name: _to_log(value) for name, value in figures.items() if name != "train/loss"}
            | {"train/learning_rate": torch.tensor(_learning_rate(trainer))},
            batch_size=size,
        )
        if "train/loss" in figures:  # nothing is known of a step that was skipped
            pl_module.log(
                "train/loss", _to_log(figures["train/loss"]), prog_bar=True, batch_size=size
            )
        pl_module.log(
            "train/images_per_second",
            torch.tensor(self._images / self._train_seconds),
            prog_bar=True,
            batch_size=size,
        )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, PoseModule)
        pl_module.predictions.gather()
        # Before the first step it is the untrained network that was scored.
        if trainer.global_step == 0:
            return
        after = trainer.state.fn == "validate"  # the training: the loop counts its epochs
        self._validated_epoch = pl_module.epochs_begun - 1 if after else trainer.current_epoch
        if trainer.is_global_zero:
            if after:
                self._metrics.write(self._validated_epoch, pl_module.figures | pl_module.opinions)
            self._write_predictions(trainer, pl_module, pl_module.predictions)
        if after:
            self._write_by_decoder(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, PoseModule)
        if pl_module.decoders_step == trainer.global_step:  # else a validation follows
            self._write_by_decoder(trainer, pl_module)

    def _write_by_decoder(self, trainer: pl.Trainer, module: PoseModule) -> None:
        for name, store in module.predictions_by_decoder.items():
            store.gather()  # a collective
            if trainer.is_global_zero:
                self._write_predictions(trainer, module, store, name)

    def _write_predictions(
        self,
        trainer: pl.Trainer,
        module: PoseModule,
        store: PredictionStore,
        name: str | None = None,
    ) -> None:
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        table = store.table(module.valid_people, datamodule.root)
        table.write(self.folder.predictions(self._validated_epoch, name))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, PoseModule)
        if not trainer.is_global_zero:
            return
        row = self._train_row(trainer, pl_module)
        if pl_module.figures_step == trainer.global_step:
            row |= pl_module.figures | pl_module.opinions
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

    def _train_row(self, trainer: pl.Trainer, module: PoseModule) -> dict[str, float | int]:
        return {
            "step": trainer.global_step,
            "train/learning_rate": _learning_rate(trainer),
            "train/skipped_steps": module.skipped_steps,
            **{name: float(total) / count for name, (total, count) in self._sums.items()},
        }


def recorder_of(trainer: pl.Trainer) -> RunRecorder:
    """The trainer's."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next(one for one in callbacks if isinstance(one, RunRecorder))


def _to_log(value: torch.Tensor | float) -> torch.Tensor:
    """As Lightning takes it without copying it to the device, which is to wait for that."""
    return value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=torch.float64)


def _learning_rate(trainer: pl.Trainer) -> float:
    return float(trainer.optimizers[0].param_groups[0]["lr"])


class PictureRecorder(pl.Callback):
    """Heatmaps and skeletons of the same validation people, predicted and true (process 0).

    Parameters
    ----------
    folder
        The run's; pictures go to its ``figures/epoch=NNN.png``.
    every_n_epochs
        How often; the last epoch always.
    people
        How many, the first of the validation split.
    """

    def __init__(self, folder: RunFolder, every_n_epochs: int, people: int) -> None:
        self.folder = folder
        self.every_n_epochs = every_n_epochs
        self.people = people

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, PoseModule)
        epoch = trainer.current_epoch + 1
        due = epoch % self.every_n_epochs == 0 or epoch == trainer.max_epochs
        if not (due and trainer.is_global_zero and trainer.state.fn == "fit"):
            return
        people = min(self.people, len(pl_module.valid_people.people))
        picture = pl_module.picture(range(people))
        save_png(self.folder.figure(trainer.current_epoch), picture)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                # Into the row of this epoch's figures.
                logger.log_image(PICTURES, [picture], step=trainer.global_step)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(
                    PICTURES, picture, trainer.global_step, dataformats="HWC"
                )


class ExponentialMovingAverage(WeightAveraging):
    """Averages the weights over steps; validation, checkpoints and scores use the average.

    Parameters
    ----------
    decay
        Weight of the old average in each step; (1 + n) / (10 + n) while that is less, so that the
        first random weights do not stay in it.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise PosematchError(f"callbacks.ema.decay={decay} must lie in [0, 1).")

        def average(old: torch.Tensor, new: torch.Tensor, updates: Any) -> torch.Tensor:
            weight = min(decay, (1 + int(updates)) / (10 + int(updates)))
            if not old.is_floating_point():
                return new
            # lerp leaves equal values as they are: constants (mean, std) are averaged, too, and in
            # no checkpoint, so a resumed training would have them without their rounding errors.
            return torch.lerp(old, new, 1 - weight)

        super().__init__(avg_fn=average)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, PoseModule)
        if pl_module.step_skipped:  # its weights are in the average already
            self._latest_update_step = trainer.global_step
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


class StopEarly(EarlyStopping):
    """Stops when a figure no longer improves.

    Parameters
    ----------
    monitor
        A ``val/`` column of metrics.csv (losses and distances are minimised, all else maximised),
        or ``auto``: the data set's main metric.
    patience
        Validations without improvement.
    min_delta
        Least change that counts.
    """

    def __init__(self, monitor: str = "auto", patience: int = 10, min_delta: float = 0.0) -> None:
        low = monitor.startswith("val/loss/") or lower_is_better(monitor.removeprefix("val/"))
        mode = "min" if low else "max"
        super().__init__(monitor, mode=mode, patience=patience, min_delta=min_delta)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, PoseModule)
        if self.monitor == "auto":
            main = metric_for(pl_module.valid_people, pl_module.main_figure).primary
            self.monitor = f"val/{main}"
        # Lightning would tell after the first epoch.
        names = [f"val/{one}" for one in mean_pose_figures(*2 * [pl_module.valid_people])]
        names += [f"val/loss/{one}" for one in pl_module.measured]
        if self.monitor not in names:
            raise PosematchError(
                f"callbacks.early_stopping.monitor={self.monitor} is not measured"
                f"{nearest(self.monitor, names)}."
            )
        super().setup(trainer, pl_module, stage)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if self.stopped_epoch:
            print(
                f"Stopped early: {self.monitor} has not improved for {self.patience} validations.",
                file=sys.stderr,
            )


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
