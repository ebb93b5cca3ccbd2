"""One training, from a composed configuration to a finished run folder."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from posematch.app.settings import check_settings
from posematch.console import say, tell
from posematch.data.datamodule import PoseDataModule
from posematch.errors import PosematchError
from posematch.files import write_json
from posematch.metrics import metric_for
from posematch.model import PoseModel
from posematch.networks.backbone_weights import BackboneWeights
from posematch.networks.checkpoints import load_weights
from posematch.networks.heatmap_network import HeatmapNetwork
from posematch.networks.normalisation import chosen_normalisation
from posematch.processes import temporary_folder
from posematch.runs.folder import (
    EpochTable,
    RunFolder,
    best_of,
    check_space,
    checkpoint_to_resume,
    environment,
    environment_differences,
    folder_to_resume,
    held,
    new_run_folder,
    read_config,
    upgraded,
)
from posematch.runs.stored_config import checkpoint_file
from posematch.training import stopping
from posematch.training.baselines import mean_pose_figures
from posematch.training.build import (
    build_datamodule,
    build_module,
    build_trainer,
    check_optimizer,
    record_into,
    take_weights,
    tell_normalisation,
    write_config,
)
from posematch.training.callbacks import recorder_of
from posematch.training.checkpoints import keeper_of
from posematch.training.loggers import finish_wandb
from posematch.training.module import PoseModule, training_length
from posematch.training.processes import ProcessEndedError, failures_told
from posematch.training.restoring import read_training
from posematch.training.results import save_results
from posematch.training.stopping import InterruptedTrainingError
from posematch.untrusted import read_json


@dataclass(frozen=True)
class TrainingResult:
    """What `train` has to tell.

    Attributes
    ----------
    folder
        The run's folder.
    figures
        Metric's figures by what was scored: ``mean pose`` of the training people, ``untrained``
        (with ``validate_first``), and ``last`` checkpoint.
    losses
        Validation losses of the last checkpoint, by name.
    protocol
        One line that says how the figures were made.
    metric
        Name of the main figure.
    first_process
        Whether this process is the one that prints.
    resumed
        Whether it went on from a checkpoint.
    """

    folder: RunFolder
    figures: dict[str, dict[str, float]]
    losses: dict[str, float]
    protocol: str
    metric: str
    first_process: bool
    resumed: bool


_RUN_FOLDER_VARIABLE = "POSEMATCH_RUN_FOLDER"


def train(cfg: DictConfig) -> TrainingResult:
    """Train, validate and score by a configuration of ``conf/train.yaml``.

    Raises
    ------
    PosematchError
        A bad input, told in one sentence; `InterruptedTrainingError` after Ctrl-C or SIGTERM.
    """
    quiet_libraries()
    check_settings(cfg)
    try:
        with stopping.watched(quiet=_rank() != 0), temporary_folder():
            return _train(cfg)
    except KeyboardInterrupt:
        left = f"; {cfg.resume} is as it was" if cfg.resume not in (None, "auto") else ""
        raise InterruptedTrainingError(f"Stopped before training began{left}.") from None


def _train(cfg: DictConfig) -> TrainingResult:
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    datamodule = build_datamodule(cfg)
    # What the command says wrongly is told before a data set is drawn or read.
    trainer = build_trainer(cfg)
    check_optimizer(cfg)
    datamodule.prepare_data()
    datamodule.setup("fit")
    if _rank() == 0:
        say(*datamodule.told_readings())
    automatic = cfg.backbone.get("normalisation") == "auto"
    module = build_module(cfg, datamodule)
    if cfg.checkpoint:
        loaded = load_weights(module.network, checkpoint_file(cfg.checkpoint))
        for sentence in loaded.told(cfg.checkpoint):
            rank_zero_only(print)(sentence)
        if loaded.bgr:  # said in the run's config.yaml only where it is not the rule
            OmegaConf.update(cfg, "backbone.color", "bgr", force_add=True)
        tell_normalisation(cfg, module.model)  # that of the weights that came in
    # What can go wrong with the inputs has gone wrong by here: no empty folder is left behind.
    # Weights and two moments of every parameter in float32: the last checkpoint, the one before it,
    # the best one, and the one that is being written.
    check_space(run_root(cfg), 4 * 12 * sum(p.numel() for p in module.network.parameters()))
    resumable = _same_for_all(trainer, lambda: _folder_to_resume(cfg, automatic))
    # A checkpoint that a training goes on from has all weights.
    weights = take_weights(cfg, module.model) if resumable is None else None
    if weights is not None:
        rank_zero_only(say)(weights.told())
    folder, resumed = _choose_folder(cfg, resumable)
    if resumed and automatic:
        _keep_normalisation(folder, cfg, module.model)
    with held(folder) if trainer.is_global_zero else contextlib.nullcontext():
        try:
            return _record(folder, resumed, cfg, trainer, module, datamodule, weights)
        except InterruptedTrainingError:
            _remove_beginning(folder, trainer)
            raise
        except PosematchError as error:
            failed_at_once = not resumed and trainer.global_step == 0
            failed_at_once &= not isinstance(error, ProcessEndedError)  # told to be resumed
            _remove_beginning(folder, trainer, failed_at_once and not folder.divergence.exists())
            raise
        except BaseException:
            _remove_beginning(folder, trainer)
            raise


def _remove_beginning(folder: RunFolder, trainer: pl.Trainer, anyway: bool = False) -> None:
    """Remove a run folder with nothing to go on from: no step was done, or none was kept."""
    if trainer.is_global_zero and (anyway or not any(folder.checkpoints.glob("*.ckpt"))):
        shutil.rmtree(folder.path, ignore_errors=True)


def _record(
    folder: RunFolder,
    resumed: bool,
    cfg: DictConfig,
    trainer: pl.Trainer,
    module: PoseModule,
    datamodule: PoseDataModule,
    weights: BackboneWeights | None,
) -> TrainingResult:
    assert datamodule.valid is not None
    if trainer.is_global_zero and not resumed:
        write_config(cfg, folder.config)
    metric_name = metric_for(datamodule.valid, module.main_figure).primary
    failed = True
    try:
        record_into(trainer, folder, metric_name, cfg)
        with failures_told(trainer, folder):
            result = _train_into(folder, resumed, cfg, trainer, module, datamodule, weights)
        failed = False
    finally:
        finish_wandb(trainer.loggers, module.figures, failed, folder.metrics, metric_name)
    return result


def _train_into(
    folder: RunFolder,
    resumed: bool,
    cfg: DictConfig,
    trainer: pl.Trainer,
    module: PoseModule,
    datamodule: PoseDataModule,
    weights: BackboneWeights | None,
) -> TrainingResult:
    assert datamodule.train is not None
    assert datamodule.valid is not None
    checkpoint = None
    if resumed:
        checkpoint = _take_checkpoint(cfg, folder, trainer, module, datamodule)
    if trainer.is_global_zero:
        now = environment(cfg.seed, str(trainer.strategy.root_device))
        if weights is not None:
            now["backbone_weights"] = {"path": str(weights.path), "sha256": weights.sha256}
        _write_environment(folder, now)
    figures = {}
    # Of a part of the people it would stand next to figures of other people.
    if cfg.trainer.limit_val_batches is None or str(cfg.trainer.limit_val_batches) == "1.0":
        figures["mean pose"] = mean_pose_figures(datamodule.train, datamodule.valid)
    stopping.in_order(True)
    with _told_when_stopped(trainer):
        if cfg.validate_first and not resumed:
            trainer.validate(module, datamodule=datamodule, verbose=False)
            recorder_of(trainer).untrained = _metric_figures(module)
        _fit(trainer, module, datamodule, checkpoint)
        decoded = module.decoders_step == trainer.global_step or not module.decoders
        if module.figures_step != trainer.global_step or not decoded:
            # max_steps may end a training between two validations; early stopping after one that
            # did not know that it was the last.
            trainer.validate(module, datamodule=datamodule, verbose=False)
    if untrained := recorder_of(trainer).untrained:
        figures["untrained"] = untrained
    figures["last"] = _metric_figures(module)
    losses = {
        name.removeprefix("val/loss/"): value
        for name, value in module.figures.items()
        if name.startswith("val/loss/")
    }
    if trainer.is_global_zero:
        write_json(
            folder.result,
            {
                "epoch": trainer.current_epoch,
                "step": trainer.global_step,
                "metric": module.metric.primary,
                "figures": figures,
                "losses": losses,
                "protocol": module.metric.protocol,
            },
        )
        # After the run is finished: a picture of it that takes long, or fails, changes nothing.
        if cfg.pictures.get("results", False):  # runs of earlier versions do not say
            main = module.metric.primary
            others = {name: one[main] for name, one in figures.items() if main in one}
            others.pop("last", None)
            save_results(folder, module, cfg.pictures.people, others)
    return TrainingResult(
        folder,
        figures,
        losses,
        module.metric.protocol,
        module.metric.primary,
        trainer.is_global_zero,
        resumed,
    )


def _take_checkpoint(
    cfg: DictConfig,
    folder: RunFolder,
    trainer: pl.Trainer,
    module: PoseModule,
    datamodule: PoseDataModule,
) -> Path:
    """Check the checkpoint and what else a resumed training needs, before anything starts."""
    path = checkpoint_to_resume(str(cfg.resume), folder)
    datamodule.trainer = trainer  # as in the fit: an epoch's batches are shared by its processes
    steps, _ = training_length(trainer, datamodule.train_batches())
    content = read_training(folder, path, trainer, module, steps)
    epochs = EpochTable(folder.metrics).epochs
    begun = content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    missing = sorted(set(range(begun)) - set(epochs))
    if missing:
        raise PosematchError(
            f"{folder.metrics} has no row of epoch {missing[0]}, and {path.name} is of"
            f" {begun} epochs; restore the table, or start a new run."
        )
    keeper = keeper_of(trainer)
    if keeper.state_key not in content["callbacks"]:  # of an earlier version
        keeper.best = best_of(folder.metrics, keeper.metric)
    files: Any = trainer.strategy.checkpoint_io
    files.take(path, content)
    return path


@contextlib.contextmanager
def _told_when_stopped(trainer: pl.Trainer) -> Iterator[None]:
    keeper = keeper_of(trainer)
    try:
        yield
    except SystemExit:
        # What Lightning makes of a KeyboardInterrupt.
        if not stopping.requested():
            raise
        raise InterruptedTrainingError(keeper.told_when_stopped(at_once=True)) from None
    except KeyboardInterrupt:
        raise InterruptedTrainingError(keeper.told_when_stopped(at_once=True)) from None


def _fit(
    trainer: pl.Trainer, module: PoseModule, datamodule: PoseDataModule, checkpoint: Path | None
) -> None:
    try:
        trainer.fit(
            module,
            datamodule=datamodule,
            ckpt_path=checkpoint,
            # Checkpoints come from strangers: tensors and plain values, never pickled objects.
            weights_only=True,
        )
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if checkpoint is None or keeper_of(trainer).kept:
            raise
        # Before the first step: something in it that `read_training` knows nothing of.
        detail = str(error).strip().split("\n")[0]
        raise PosematchError(
            f"{checkpoint} cannot be resumed ({type(error).__name__}: {detail}); it is damaged, or"
            " of another version."
        ) from error


def _write_environment(folder: RunFolder, now: dict[str, Any]) -> None:
    """Write environment.json; a resumed run keeps its first one and adds to it."""
    content = now
    if folder.environment.exists():
        content = read_json(folder.environment)
        if not isinstance(content, dict) or not isinstance(content.get("resumed", []), list):
            raise PosematchError(f"{folder.environment} is no record of a run; restore it.")
        before = [content, *content.get("resumed", [])][-1]
        for what, then, today in environment_differences(before, now):
            tell(f"{what} was {then} and is {today}: figures may differ in their last digits.")
        content.setdefault("resumed", []).append(now)
    write_json(folder.environment, content)


def _metric_figures(module: PoseModule) -> dict[str, float]:
    return {
        name.removeprefix("val/"): value
        for name, value in module.figures.items()
        if not name.startswith("val/loss/")
    }


def _rank() -> int:
    return int(getattr(rank_zero_only, "rank", 0) or 0)


def run_root(cfg: DictConfig) -> Path:
    """Folder that run folders are made in: ``run_root``, in a sweep the sweep's own below it."""
    root = Path(cfg.run_root).expanduser()
    return root / cfg.sweep if cfg.sweep else root


def _folder_to_resume(cfg: DictConfig, automatic: bool) -> RunFolder | None:
    """The run that ``resume`` means, if any.

    ``automatic``: the command leaves the normalisation open, which a resumed run has decided.
    """
    asked = cfg.copy()
    if automatic:
        OmegaConf.update(asked, "backbone.normalisation", "auto", merge=False)
    return folder_to_resume(str(cfg.resume), run_root(cfg), asked) if cfg.resume else None


def _same_for_all(trainer: pl.Trainer, choose: Callable[[], RunFolder | None]) -> RunFolder | None:
    """What the first process chooses, where torchrun or SLURM has started all of them at once.

    By itself a later one would take the folder that the first one has just made for an unfinished
    run. Processes that the first one starts know its folder.
    """
    strategy: Any = trainer.strategy
    cluster = getattr(strategy, "cluster_environment", None)
    # Lightning's own launcher looks like another's in the processes that it has started.
    started_here = getattr(strategy, "started_by", None) is not None
    if trainer.world_size == 1 or started_here or cluster is None:
        return choose()
    if not cluster.creates_processes_externally:
        return choose()
    with failures_told(trainer):
        strategy.setup_environment()
        chosen = choose() if trainer.is_global_zero else None
        path: str = strategy.broadcast(str(chosen.path) if chosen else "")
    return RunFolder(Path(path)) if path else None


def _choose_folder(cfg: DictConfig, resumed: RunFolder | None) -> tuple[RunFolder, bool]:
    """The run's folder and whether it is resumed; only the first process makes one."""
    root = run_root(cfg)
    if resumed is not None:
        folder = resumed
    elif _rank() == 0:
        folder = new_run_folder(root, f"{cfg.data.name}_{cfg.backbone.name}_{cfg.loss.name}")
    else:
        # Told by the process that launched this one; under another launcher the path is only a
        # name here, since this process writes nothing.
        return RunFolder(Path(os.environ.get(_RUN_FOLDER_VARIABLE, root))), False
    os.environ[_RUN_FOLDER_VARIABLE] = str(folder.path)
    return folder, resumed is not None


def _keep_normalisation(folder: RunFolder, cfg: DictConfig, model: PoseModel) -> None:
    """Go on with the run's own: ImageNet's in runs of before there was a choice."""
    stored = upgraded(read_config(folder.config))["backbone"]
    if isinstance(model.network, HeatmapNetwork):
        chosen = chosen_normalisation(stored.get("normalisation"), model.network.name)
        model.network.normalise_by(chosen)
        tell_normalisation(cfg, model)


def quiet_libraries() -> None:
    """Silence what tells a user nothing about this training."""
    for pattern in (
        ".*does not have many workers.*",
        # Ours is: the sampler reads the loop's place (posematch.data.crops.EpochSampler).
        ".*your dataloader is not resumable.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*isinstance\\(treespec, LeafSpec\\).*",
        # max_steps may end a training before its first validation.
        ".*could not find the monitored key.*",
        ".*lr_scheduler.step.*before.*optimizer.step.*",
        ".*smaller than the logging interval.*",
        ".*in eval mode at the start of training.*",  # backbone.freeze_norm
        ".*was called before the ``update`` method.*",  # a process that has nobody to score
        ".*recommended to use .*sync_dist=True.*",  # every process has the figures of all
        ".*broadcast_buffers. is deprecated.*",
    ):
        warnings.filterwarnings("ignore", pattern)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
