"""From a composed configuration to the objects it names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig, OmegaConf

from posematch.config import make, plain
from posematch.data.datamodule import PoseDataModule
from posematch.errors import PosematchError
from posematch.losses import HeatmapLoss
from posematch.training.callbacks import RunRecorder, StopOnSignal, progress_callback
from posematch.training.module import PoseModule
from posematch.training.run_folder import RunFolder


def _resolve_automatic(cfg: DictConfig) -> None:
    """Replace what says ``auto`` by what it means here, so that the run's config tells."""
    if cfg.data.workers is None:
        cfg.data.workers = min(8, (os.cpu_count() or 2) // 2)
    if cfg.trainer.precision == "auto":
        cfg.trainer.precision = automatic_precision(cfg.trainer.accelerator)


def automatic_precision(accelerator: str) -> str:
    """``bf16-mixed`` where the device has bf16 arithmetic of its own, else ``32-true``."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return (
            "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
        )
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "32-true"
    # Without AVX512-BF16 or AMX a CPU emulates bf16, eight times slower than float32.
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if native else "32-true"


def build_datamodule(cfg: DictConfig) -> PoseDataModule:
    """The data module of ``cfg.data``."""
    _resolve_automatic(cfg)
    datamodule = make({k: v for k, v in plain(cfg.data).items() if k not in ("name", "sigma")})
    assert isinstance(datamodule, PoseDataModule)
    return datamodule


def build_loss(config: DictConfig) -> HeatmapLoss:
    """A loss of ``cfg.loss`` or ``cfg.measure``."""
    loss = make({k: v for k, v in plain(config).items() if k != "name"})
    assert isinstance(loss, HeatmapLoss)
    return loss


def build_module(cfg: DictConfig, datamodule: PoseDataModule) -> PoseModule:
    """Network, losses and decoder, tied together; ``cfg`` learns what its automatic values mean."""
    loss = build_loss(cfg.loss)
    if cfg.decoder.get("name") == "auto":
        cfg.decoder = OmegaConf.create(dict(loss.default_decoder))
    if cfg.backbone.head_init_bias is None:
        cfg.backbone.head_init_bias = loss.initial_bias
    return PoseModule(
        network=make(cfg.backbone, **{"num_joints": datamodule.skeleton.num_joints}),
        loss_name=cfg.loss.name,
        loss=loss,
        measured={name: build_loss(one) for name, one in cfg.measure.items()},
        decoder=make(cfg.decoder),
        optimizer=make(cfg.optimizer),
        schedule=make(cfg.schedule),
        input_size=datamodule.input_size,
        convention=datamodule.convention,
        flip_test=cfg.flip_test,
        channels_last=cfg.channels_last,
    )


def build_trainer(cfg: DictConfig) -> pl.Trainer:
    """The trainer of ``cfg.trainer``; it writes nothing yet, see `record_into`.

    Raises
    ------
    PosematchError
        Lightning cannot do what is asked for, such as ``gpu`` where there is none.
    """
    options = plain(cfg.trainer)
    if options["strategy"] == "ddp":
        # Buffers are broadcast before validation instead: validation's batches may differ in
        # number between processes, and a broadcast in each forward would wait forever.
        options["strategy"] = DDPStrategy(broadcast_buffers=False)
    progress = progress_callback()
    try:
        return pl.Trainer(
            **options,
            callbacks=[progress],
            enable_progress_bar=isinstance(progress, ProgressBar),
            enable_checkpointing=False,
            logger=make(cfg.logger) if cfg.logger else False,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise PosematchError(f"trainer: {' '.join(str(error).split())}") from error


def record_into(trainer: pl.Trainer, folder: RunFolder, metric_name: str) -> None:
    """Let the trainer write ``folder``: tables, predictions, the last and the best checkpoint."""
    common: dict[str, Any] = {"dirpath": folder.checkpoints, "enable_version_counter": False}
    trainer.callbacks += [  # type: ignore[attr-defined]
        RunRecorder(folder),
        StopOnSignal(folder),
        ModelCheckpoint(filename="best", monitor=f"val/{metric_name}", mode="max", **common),
        # One of its own: Lightning's save_last follows only when the best one changes.
        ModelCheckpoint(filename="last", save_on_train_epoch_end=True, **common),
    ]


def write_config(cfg: DictConfig, path: Path) -> None:
    """Write the resolved configuration."""
    path.write_text(OmegaConf.to_yaml(cfg, resolve=True), encoding="utf-8")
