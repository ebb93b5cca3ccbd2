"""Score a checkpoint: a run's, or another project's weights, on any data with joints in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from omegaconf import DictConfig, OmegaConf

from posematch.app.settings import SETTINGS, check_type
from posematch.data.common_joints import common_joints, people_of
from posematch.data.crops import Batch
from posematch.data.datamodule import PoseDataModule
from posematch.errors import PosematchError
from posematch.evaluation.scores import Evaluation, Part, score
from posematch.evaluation.settings import (
    is_named,
    run_of_record,
    settings_of,
    trusted_packages,
)
from posematch.loading import record_of_run
from posematch.metrics.compactness import map_compactness
from posematch.model import PoseModel
from posematch.model_record import read_record
from posematch.networks.checkpoints import load_weights, maps_in, read_checkpoint
from posematch.networks.compiling import compile_network
from posematch.networks.complexity import complexity
from posematch.processes import temporary_folder
from posematch.runs.stored_config import checkpoint_file, run_config
from posematch.skeletons import SKELETONS, Skeleton
from posematch.training.build import (
    build_datamodule,
    build_loss,
    build_model,
    build_trainer,
    resolve_by_loss,
)
from posematch.training.gathering import PredictionStore
from posematch.training.processes import failures_told
from posematch.training.run import quiet_libraries


class Scorer(pl.LightningModule):
    """Decodes the validation people by a model, over all processes; measures nothing itself."""

    def __init__(self, model: PoseModel) -> None:
        super().__init__()
        self.model = model
        self.predictions = PredictionStore()

    def on_validation_epoch_start(self) -> None:
        self.predictions.reset()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        if not bool(batch["counted"].any()):
            return
        found = self.model.estimate(batch["crop"], batch["crop_affine"])
        assert found.joints_img is not None
        columns = None
        datamodule: PoseDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        assert datamodule.valid is not None
        # The truth may have other joints than the network: scored afterwards.
        if self.model.skeleton.joints == datamodule.valid.skeleton.joints:
            joints_hm = self.model.joints_hm(batch["joints_crop"])
            compactness = map_compactness(found.maps, joints_hm, batch["visible"])
            columns = compactness._asdict()
        self.predictions.update(batch["person_id"], found.joints_img, found.scores, columns)

    def on_validation_epoch_end(self) -> None:
        self.predictions.gather()  # a collective


def evaluate_checkpoint(cfg: DictConfig, overrides: Sequence[str]) -> Evaluation | None:
    """Score ``checkpoint=`` by a configuration of conf/evaluate.yaml.

    Parameters
    ----------
    cfg
        As composed.
    overrides
        Of the command; the configuration of the checkpoint's run gives way to them.

    Returns
    -------
    Evaluation, or None in all processes but the first.

    Raises
    ------
    PosematchError
        A bad input, told in one sentence.
    """
    quiet_libraries()
    checkpoint = checkpoint_file(cfg.checkpoint)
    trust = trusted_packages(cfg.trust)
    run = run_config(checkpoint, trust)
    content = read_checkpoint(checkpoint)
    record = read_record(content, checkpoint, trust)
    stored = run if run is not None or record is None else run_of_record(record, cfg)
    folder = checkpoint.absolute().parent.parent
    settings = settings_of(cfg, stored, overrides, folder / "config.yaml")
    record = record or record_of_run(checkpoint, content, trust, str(settings.data.root))
    for key in ("flip_test", "channels_last", "compile"):
        check_type(key, settings.get(key), SETTINGS[key])
    check_type("silence_minutes", settings.get("silence_minutes", 10), SETTINGS["silence_minutes"])
    variants = _box_variants(str(cfg.boxes), settings.data.get("detections"))
    loss = build_loss(settings.loss)
    meaning = loss.meaning
    if record is not None and not is_named("loss", overrides):
        meaning = record.maps.meaning
        if run is None and settings.decoder.get("name") == "auto":
            settings.decoder = OmegaConf.create(record.decoder)
    resolve_by_loss(settings, loss)
    if record is not None:
        trained = record.skeleton.skeleton
    else:
        data = build_datamodule(settings).skeleton
        trained = _skeleton_by_maps(checkpoint, content, meaning.channels_per_joint, data)
    parts: list[Part] = []
    notes: tuple[str, ...] = ()
    trainer: pl.Trainer | None = None
    with temporary_folder() as scratch:
        for name, detections in variants:
            if "detections" in settings.data:
                settings.data.detections = detections
            datamodule = build_datamodule(settings)
            common_joints(trained, datamodule.skeleton)  # none: told before anything is computed
            datamodule.prepare_data()
            datamodule.setup("validate")
            model = build_model(settings, meaning, trained, datamodule)
            loaded = load_weights(model.network, checkpoint, new_head=False, content=content)
            compile_network(model.network, settings.compile)
            module = Scorer(model)
            trainer = trainer or build_trainer(settings)
            with failures_told(trainer):
                trainer.validate(module, datamodule=datamodule, verbose=False)
            if not trainer.is_global_zero:
                continue
            part_folder = scratch / name
            part_folder.mkdir(exist_ok=True)
            label = name if len(variants) > 1 else ""
            parts.append(_scored(module, datamodule, label, part_folder))
            read = datamodule.told_readings()[:1]
            notes = notes or (
                *_notes(settings, model, checkpoint, run, loaded.told(checkpoint)),
                *read,
            )
        if not parts:
            return None
        name = checkpoint.name if run is None else str(run.loss.name)
        evaluation = Evaluation(f"{name} on {settings.data.name}", tuple(parts), notes)
        if cfg.output:
            # Here, since truths of common joints are in the scratch folder.
            evaluation.write(Path(cfg.output).expanduser())
    return evaluation


def _box_variants(boxes: str, detections: str | None) -> list[tuple[str, str | None]]:
    """What is scored: (name, detector's file or None) each."""
    if boxes not in ("all", "gt", "detector"):
        raise PosematchError(f"boxes={boxes} must be gt, detector or all.")
    if detections is None:
        if boxes == "detector":
            raise PosematchError("boxes=detector needs a detector's file: data.detections=FILE.")
        return [("gt", None)]
    variants = [("gt", None), ("detector", detections)]
    return [one for one in variants if boxes in ("all", one[0])]


def _skeleton_by_maps(checkpoint: Path, content: Any, channels: int, data: Skeleton) -> Skeleton:
    """Joints of a network that does not say them: those that its last layer has room for."""
    maps = maps_in(checkpoint, content)
    if maps is None or maps == channels * data.num_joints:
        return data
    for skeleton in SKELETONS.values():
        if maps == channels * skeleton.num_joints:
            return skeleton
    raise PosematchError(
        f"checkpoint={checkpoint} makes {maps} maps; the data has {data.num_joints} joints, and no"
        " other skeleton here has so many."
    )


def _scored(module: Scorer, datamodule: PoseDataModule, name: str, folder: Path) -> Part:
    people = datamodule.valid
    assert people is not None
    label, notes, decoded = "", [], None
    if people.skeleton.joints != module.model.skeleton.joints:
        common = common_joints(module.model.skeleton, people.skeleton)
        notes.append(common.told(module.model.skeleton, people.skeleton))
        label = f"{common.skeleton.num_joints} common joints"
        decoded = common.trained
        people = people_of(people, common, folder)
    table = module.predictions.table(people, datamodule.root, decoded)
    return score(people, table, label=label, name=name, notes=notes)


def _notes(
    settings: DictConfig,
    model: PoseModel,
    checkpoint: Path,
    run: DictConfig | None,
    told: Sequence[str],
) -> tuple[str, ...]:
    flip = "no flip test"
    if model.flip_test:
        how = {"hrnet": "shifted by one pixel", "udp": "not shifted"}[model.convention]
        flip = f"flip test (mirrored maps {how})"
    decoder = settings.decoder.get("name") or str(settings.decoder._target_).rpartition(".")[2]
    height, width = model.input_size
    shown = "/".join(checkpoint.parts[-3:] if run is not None else checkpoint.parts[-1:])
    return (
        f"{shown}: {settings.backbone.name}, {complexity(model.network, model.input_size)}.",
        f"crops of {height} x {width}, convention {model.convention}, decoder {decoder}, {flip}.",
        *told,
    )
