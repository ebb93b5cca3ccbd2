"""From a composed configuration to the objects it names."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities import rank_zero_warn
from omegaconf import DictConfig, OmegaConf

from posematch.app.objects import check_arguments, make, plain
from posematch.app.settings import weights_file
from posematch.app.signatures import signature_of
from posematch.data.datamodule import PoseDataModule
from posematch.errors import PosematchError
from posematch.files import write_text
from posematch.losses import HeatmapLoss, MapsMeaning
from posematch.model import PoseModel
from posematch.model_record import ModelRecord
from posematch.networks.backbone_weights import BackboneWeights, load_backbone
from posematch.networks.heatmap_network import HeatmapNetwork
from posematch.processes import available_cores
from posematch.runs.folder import RunFolder
from posematch.runs.stored_config import without_sources
from posematch.skeletons import Skeleton
from posematch.training.callbacks import (
    PictureRecorder,
    RunRecorder,
    progress_callback,
)
from posematch.training.checkpoints import CheckpointFiles, CheckpointKeeper
from posematch.training.divergence import SkippedSteps
from posematch.training.graphs import CudaGraphs
from posematch.training.heatmap_recorder import HeatmapRecorder
from posematch.training.loggers import build_loggers
from posematch.training.module import PoseModule
from posematch.training.processes import Processes


def _resolve_automatic(cfg: DictConfig) -> None:
    """Replace what says ``auto`` by what it means here, so that the run's config tells."""
    if cfg.data.workers is None:
        cfg.data.workers = automatic_workers(cfg.trainer.accelerator, cfg.trainer.devices)
    if cfg.trainer.precision == "auto":
        cfg.trainer.precision = automatic_precision(cfg.trainer.accelerator)


def automatic_workers(accelerator: str, devices: int | str | list[int]) -> int:
    """Loader processes of one process of a training.

    On a GPU a process's share of the cores but the one that trains, at most 16; on a CPU, where
    training itself takes all cores, half of them, at most 8.
    """
    cores = available_cores()
    if accelerator == "cpu" or not torch.cuda.is_available():
        return min(8, cores // 2)
    # A launcher that starts the processes says how many there are; SLURM gives each its cores.
    together = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    if not together and "SLURM_NTASKS" not in os.environ:
        together = len(devices) if isinstance(devices, list) else _number(devices) or -1
        together = torch.cuda.device_count() if together < 0 else together
    return max(1, min(16, cores // max(1, together) - 1))


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
    datamodule = make({k: v for k, v in plain(cfg.data).items() if k != "sigma"}, "data")
    assert isinstance(datamodule, PoseDataModule)
    datamodule.silence_seconds = 60 * _silence_minutes(cfg)
    return datamodule


def _silence_minutes(cfg: DictConfig) -> float:
    minutes: float = cfg.get("silence_minutes", 10)  # runs of earlier versions do not say
    return minutes


def build_loss(config: DictConfig, key: str = "loss") -> HeatmapLoss:
    """A loss of ``cfg.loss`` or ``cfg.measure``; ``key`` says which."""
    loss = make(config, key)
    assert isinstance(loss, HeatmapLoss)
    return loss


def build_module(cfg: DictConfig, datamodule: PoseDataModule) -> PoseModule:
    """Model and losses, tied together; ``cfg`` learns what its automatic values mean."""
    loss = build_loss(cfg.loss)
    resolve_by_loss(cfg, loss)
    model = build_model(cfg, loss.meaning, datamodule.skeleton, datamodule)
    tell_normalisation(cfg, model)
    return PoseModule(
        model=model,
        loss_name=cfg.loss.name,
        loss=loss,
        measured=_measurable(cfg, loss.channels_per_joint),
        optimizer=make(cfg.optimizer, "optimizer"),
        schedule=make(cfg.schedule, "schedule"),
        compiled=cfg.compile,
        reference_batch_size=cfg.reference_batch_size,
        sigma=cfg.data.sigma,
        decoders={name: make(one, f"decoders.{name}") for name, one in cfg.decoders.items()},
        metric=cfg.get("metric", "auto"),  # runs of earlier versions do not say
    )


def check_optimizer(cfg: DictConfig) -> None:
    """See that the optimizer takes the values of its configuration.

    Raises
    ------
    PosematchError
        It does not, such as a negative learning rate.
    """
    try:
        make(cfg.optimizer, "optimizer")([{"params": [torch.nn.Parameter(torch.zeros(1))]}])
    except ValueError as error:
        raise PosematchError(f"optimizer: {str(error).rstrip('.')}.") from error


def tell_normalisation(cfg: DictConfig, model: PoseModel) -> None:
    """Let ``cfg`` say in numbers how the network is normalised, if it says so itself."""
    if model.normalisation is not None:
        plain_values = model.normalisation.plain()
        OmegaConf.update(cfg, "backbone.normalisation", plain_values, merge=False, force_add=True)


def resolve_by_loss(cfg: DictConfig, loss: HeatmapLoss) -> None:
    """Replace the decoder ``auto`` and a head's bias of null by the loss's own."""
    if cfg.decoder.get("name") == "auto":
        cfg.decoder = OmegaConf.create(dict(loss.decoder_config()))
    if cfg.backbone.get("head_init_bias", 0) is None:
        cfg.backbone.head_init_bias = loss.initial_bias


def build_model(
    cfg: DictConfig, meaning: MapsMeaning, skeleton: Skeleton, datamodule: PoseDataModule
) -> PoseModel:
    """The model of ``cfg.backbone`` and ``cfg.decoder``, untrained, for the data's crops.

    ``skeleton`` is the network's, which may not be the data's. No file of weights is opened, see
    `take_weights`.
    """
    backbone = plain(cfg.backbone)
    record = ModelRecord.of(
        backbone=backbone,
        decoder=plain(cfg.decoder),
        meaning=meaning,
        skeleton=skeleton,
        input_size=datamodule.input_size,
        convention=datamodule.convention,
        flip_test=cfg.flip_test,
        channels_last=cfg.channels_last,
    )
    return PoseModel.of(record, without_sources(backbone) if weights_file(cfg) else backbone)


def take_weights(cfg: DictConfig, model: PoseModel) -> BackboneWeights | None:
    """Give the model's backbone the values of ``backbone.weights``, if that names a file.

    Raises
    ------
    PosematchError
        As `posematch.networks.backbone_weights.load_backbone`.
    """
    file = weights_file(cfg)
    if file is None:
        return None
    assert isinstance(model.network, HeatmapNetwork)
    return load_backbone(model.network.backbone, model.network.name, file)


def _measurable(cfg: DictConfig, channels: int) -> dict[str, HeatmapLoss]:
    """The losses of ``cfg.measure`` that a network with so many maps a joint can be measured by."""
    measured = {name: build_loss(one, f"measure.{name}") for name, one in cfg.measure.items()}
    for name in [name for name, one in measured.items() if one.channels_per_joint > 1]:
        needed = measured[name].channels_per_joint
        if needed != channels:
            rank_zero_warn(
                f"measure.{name} is left out: it is defined on {needed} maps a joint, and"
                f" loss={cfg.loss.name} trains a network with {channels}."
            )
            del measured[name]
    return measured


def build_trainer(cfg: DictConfig) -> pl.Trainer:
    """The trainer of ``cfg.trainer``; it writes nothing yet, see `record_into`.

    Raises
    ------
    PosematchError
        Devices that are not there, or what Lightning cannot do.
    """
    options = plain(cfg.trainer)
    graphs = CudaGraphs(cfg.trainer.get("cuda_graphs") or False)  # earlier runs do not say
    options.pop("cuda_graphs", None)
    check_arguments(signature_of(pl.Trainer), options, "trainer")
    several = check_devices(options["accelerator"], options["devices"])
    several = several or (options.get("num_nodes") or 1) > 1
    if options["strategy"] == "ddp" or (options["strategy"] == "auto" and several):
        options["strategy"] = Processes(_silence_minutes(cfg))
        if options["accelerator"] == "cpu" or not torch.cuda.is_available():
            options["sync_batchnorm"] = False  # DDP refuses its layers there
    progress = progress_callback()
    callbacks = [make(one, f"callbacks.{name}") for name, one in cfg.callbacks.items()]
    # With deterministic algorithms torch would fill each new buffer first, to find who reads what
    # nobody wrote: a pass over memory, or a launch, for each of a loss's and a layer's.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # Lightning's hint wherever SLURM is installed; who wants srun reads docs/scaling.md.
    warnings.filterwarnings("ignore", message="The `srun` command is available")
    try:
        return pl.Trainer(
            **options,
            callbacks=[progress, *callbacks, graphs],
            plugins=[CheckpointFiles()],
            enable_progress_bar=isinstance(progress, ProgressBar),
            enable_checkpointing=False,
            logger=False,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise PosematchError(f"trainer: {' '.join(str(error).split()).rstrip('.!')}.") from error


def check_devices(accelerator: str, devices: int | str | list[int]) -> bool:
    """Whether a training runs in several processes; refuses devices that are not there.

    Processes on a CPU, which share its cores, run only where ``accelerator`` is ``cpu`` by name:
    without a GPU they are hardly what was meant.

    Parameters
    ----------
    accelerator, devices
        ``trainer.accelerator`` and ``trainer.devices``.

    Raises
    ------
    PosematchError
        More devices than there are, or several where there is no GPU.
    """
    said = f"trainer.devices={devices}"
    number = _number(devices)
    if accelerator == "cpu":
        if number is None or number < 1:
            raise PosematchError(f"{said} must be a number of processes with accelerator=cpu.")
        return number > 1
    if accelerator not in ("auto", "gpu", "cuda"):
        return isinstance(devices, list) or (number or 1) > 1  # Lightning knows the others
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if present == 0:
        if accelerator == "auto" and torch.backends.mps.is_available():
            return False
        if accelerator == "auto" and devices in (1, "1", "auto"):
            return False
        raise PosematchError(
            f"{said if accelerator == 'auto' else f'trainer.accelerator={accelerator}'}: there is"
            " no GPU here; set trainer.accelerator=cpu and trainer.devices to the number of"
            " processes to train on the CPU."
        )
    places: Sequence[int] = range(number or 0)
    if number == -1 or devices == "auto":
        places = range(present)
    elif isinstance(devices, list):
        places = devices
    elif isinstance(devices, str) and "," in devices:
        places = [int(one) for one in devices.split(",") if one.strip().isdigit()]
    if missing := [one for one in places if not 0 <= one < present]:
        there = "is 1 GPU" if present == 1 else f"are {present} GPUs"
        raise PosematchError(
            f"{said}: there {there} here, counted from 0, and none is number {missing[0]}; set"
            f" trainer.devices to at most {present}, or to -1 for all."
        )
    return len(places) > 1


def _number(devices: int | str | list[int]) -> int | None:
    """A plain number of devices; None for ``auto`` and lists."""
    if isinstance(devices, str) and devices.strip().lstrip("-").isdigit():
        return int(devices)
    return devices if isinstance(devices, int) else None


def record_into(trainer: pl.Trainer, folder: RunFolder, metric_name: str, cfg: DictConfig) -> None:
    """Let the trainer write ``folder``: tables, predictions, pictures, checkpoints, logs."""
    trainer.loggers = build_loggers(cfg, folder, metric_name)
    profiler: Any = trainer.profiler  # type: ignore[attr-defined]
    if cfg.trainer.profiler:
        profiler.dirpath, profiler.filename = folder.path / "profile", cfg.trainer.profiler
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if cfg.pictures.every_n_epochs > 0 and cfg.pictures.people > 0:
        # First, while an averaging callback still has the averaged weights in the network.
        callbacks.insert(
            0, PictureRecorder(folder, cfg.pictures.every_n_epochs, cfg.pictures.people)
        )
    if cfg.pictures.heatmaps_of > 0:
        callbacks.append(HeatmapRecorder(folder, cfg.pictures.heatmaps_of))
    keeper = CheckpointKeeper(folder, f"val/{metric_name}", cfg.checkpoint_every_minutes)
    callbacks += [
        SkippedSteps(folder, cfg.max_skipped_steps, keeper.save),
        RunRecorder(folder),
        keeper,
    ]


def write_config(cfg: DictConfig, path: Path) -> None:
    """Write the resolved configuration."""
    write_text(path, OmegaConf.to_yaml(cfg, resolve=True))
