"""Time and memory of a training, estimated from a few of its own steps; no run is written."""

from __future__ import annotations

import itertools
import resource
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ProgressBar
from omegaconf import DictConfig, OmegaConf, open_dict

from posematch.app.settings import check_settings
from posematch.networks.checkpoints import load_weights
from posematch.processes import temporary_folder
from posematch.runs.stored_config import checkpoint_file
from posematch.training.build import build_datamodule, build_module, build_trainer, take_weights
from posematch.training.callbacks import EpochLines
from posematch.training.module import limited

_STEPS = 6  # the first two warm up and are left out
_WARM_UP = 2


@dataclass(frozen=True)
class Estimate:
    """What a training would take.

    Attributes
    ----------
    epochs, steps
        Its length; optimizer steps.
    seconds_per_step, seconds_per_validation
        Median measured; a validation's from a few of its batches.
    hours
        All of it.
    memory_gib
        Peak: of the GPU, or of the process where there is none.
    """

    epochs: int
    steps: int
    seconds_per_step: float
    seconds_per_validation: float
    hours: float
    memory_gib: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


class _Clock(pl.Callback):
    def __init__(self) -> None:
        self.train: list[float] = []
        self.valid: list[float] = []

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_train_start(self, *_: Any) -> None:
        self.train.append(self._now())

    def on_train_batch_end(self, *_: Any) -> None:
        self.train.append(self._now())

    def on_validation_start(self, *_: Any) -> None:
        self.valid.append(self._now())

    def on_validation_batch_end(self, *_: Any) -> None:
        self.valid.append(self._now())


@temporary_folder()
def estimate(cfg: DictConfig) -> Estimate:
    """Run a few steps of a training and of its validation."""
    check_settings(cfg)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    datamodule = build_datamodule(cfg)
    datamodule.prepare_data()
    datamodule.setup("fit")
    module = build_module(cfg, datamodule)
    take_weights(cfg, module.model)
    if cfg.checkpoint:
        load_weights(module.network, checkpoint_file(cfg.checkpoint))
    short = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    assert isinstance(short, DictConfig)
    accumulate = cfg.trainer.accumulate_grad_batches
    with open_dict(short):
        short.trainer.update(
            max_steps=-(-_STEPS // accumulate),
            max_epochs=_STEPS,  # a split may hold less than that many batches
            limit_val_batches=3,
            check_val_every_n_epoch=1,
            profiler=None,
        )
    trainer = build_trainer(short)
    clock = _Clock()
    # The configured ones take time and memory, too; progress is nobody's business here.
    shown = (ProgressBar, EpochLines)
    others = [one for one in trainer.callbacks if not isinstance(one, shown)]  # type: ignore[attr-defined]
    trainer.callbacks = [*others, clock]  # type: ignore[attr-defined]
    trainer.fit(module, datamodule=datamodule)
    trainer.validate(module, datamodule=datamodule, verbose=False)

    def per_batch(stamps: list[float], warm_up: int) -> float:
        steps = [late - early for early, late in itertools.pairwise(stamps)]
        return statistics.median(steps[warm_up:] or steps)

    batches = limited(len(datamodule.train_dataloader()), cfg.trainer.limit_train_batches)
    valid_batches = limited(len(datamodule.val_dataloader()), cfg.trainer.limit_val_batches)
    step = per_batch(clock.train, _WARM_UP)
    validation = per_batch(clock.valid[-4:], 1) * valid_batches
    per_epoch = max(1, -(-batches // accumulate))
    steps, epochs = cfg.trainer.max_steps, cfg.trainer.max_epochs
    if steps is None or steps < 0:
        steps = epochs * per_epoch
    else:
        steps = min(steps, epochs * per_epoch) if epochs and epochs > 0 else steps
        epochs = -(-steps // per_epoch)
    validations = max(1, epochs // cfg.trainer.check_val_every_n_epoch)
    seconds = steps * accumulate * step + validations * validation
    if trainer.strategy.root_device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:  # KiB on Linux, bytes on macOS
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak *= 1 if sys.platform == "darwin" else 1024
    return Estimate(epochs, steps, step * accumulate, validation, seconds / 3600, peak / 2**30)
