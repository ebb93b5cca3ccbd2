"""Score a checkpoint: a run's, or another project's weights, on any data with joints in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
import torch
from omegaconf import DictConfig

from posematch.config import SETTINGS, check_type
from posematch.data.crops import Batch
from posematch.data.datamodule import PoseDataModule
from posematch.decoding import first_maps
from posematch.errors import PosematchError
from posematch.evaluation.common_joints import common_joints, people_of
from posematch.evaluation.scores import Evaluation, Part, score
from posematch.evaluation.settings import (
    checkpoint_file,
    copied,
    run_config,
    settings_of,
    trusted_packages,
)
from posematch.metrics.compactness import map_compactness
from posematch.networks.checkpoints import load_weights, maps_in
from posematch.networks.complexity import complexity
from posematch.processes import temporary_folder
from posematch.runs.folder import RunFolder
from posematch.runs.truth import read_truth
from posematch.skeletons import SKELETONS, Skeleton
from posematch.training.build import build_datamodule, build_loss, build_module, build_trainer
from posematch.training.module import PoseModule
from posematch.training.processes import failures_told
from posematch.training.run import quiet_libraries
from posematch.untrusted import own_file


class Scorer(PoseModule):
    """A `PoseModule` that decodes the validation people and measures nothing itself."""

    trained: Skeleton
    told: list[str]  # sentences about the weights

    @property
    def skeleton(self) -> Skeleton:
        return self.trained

    def setup(self, stage: str) -> None:
        """The truth may have other joints than the network: scored afterwards."""

    def on_validation_epoch_start(self) -> None:
        self.predictions.reset()

    def validation_step(self, batch: Batch, batch_index: int) -> torch.Tensor | None:
        if not bool(batch["counted"].any()):
            return None
        _, maps = self.maps(batch["crop"])
        joints_hm, scores = self.decode(maps)
        columns = None
        if self.trained.joints == self.valid_people.skeleton.joints:
            firsts = first_maps(maps, self.loss.channels_per_joint)
            compactness = map_compactness(firsts, self.joints_hm(batch), batch["visible"])
            columns = compactness._asdict()
        joints_img = self.joints_img(joints_hm, batch)
        self.predictions.update(batch["person_id"], joints_img, scores, columns)
        return maps

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
    run = run_config(checkpoint, trusted_packages(cfg.trust))
    folder = checkpoint.absolute().parent.parent
    settings = settings_of(cfg, run, overrides, folder / "config.yaml")
    for key in ("flip_test", "channels_last", "compile"):
        check_type(key, settings.get(key), bool)
    check_type("silence_minutes", settings.get("silence_minutes", 10), SETTINGS["silence_minutes"])
    variants = _box_variants(str(cfg.boxes), settings.data.get("detections"))
    trained = _trained_skeleton(checkpoint, settings, run, RunFolder(folder))
    parts: list[Part] = []
    notes: tuple[str, ...] = ()
    trainer: pl.Trainer | None = None
    with temporary_folder() as scratch:
        for name, detections in variants:
            if "detections" in settings.data:
                settings.data.detections = detections
            datamodule = build_datamodule(settings)
            module = _loaded(settings, datamodule, trained, checkpoint)
            trainer = trainer or build_trainer(settings)
            with failures_told(trainer):
                trainer.validate(module, datamodule=datamodule, verbose=False)
            if not trainer.is_global_zero:
                continue
            part_folder = scratch / name
            part_folder.mkdir(exist_ok=True)
            label = name if len(variants) > 1 else ""
            parts.append(_scored(module, datamodule, label, part_folder))
            notes = notes or _notes(settings, module, checkpoint, run)
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


def _trained_skeleton(
    checkpoint: Path, settings: DictConfig, run: DictConfig | None, folder: RunFolder
) -> Skeleton:
    """Joints of the network: its run's, or those that its last layer has room for."""
    if run is not None:
        if run.data.get("own_skeleton") and folder.truth.is_file():
            # Not from the annotations: on a run folder's word no other file is opened.
            return read_truth(own_file(folder.path, folder.truth)).oks.skeleton
        of_run = copied(run)
        of_run.trainer = settings.trainer
        of_run.data.root = settings.data.root
        return build_datamodule(of_run).skeleton
    maps = maps_in(checkpoint)
    data = build_datamodule(settings).skeleton
    channels = build_loss(settings.loss).channels_per_joint
    if maps is None or maps == channels * data.num_joints:
        return data
    for skeleton in SKELETONS.values():
        if maps == channels * skeleton.num_joints:
            return skeleton
    raise PosematchError(
        f"checkpoint={checkpoint} makes {maps} maps; the data has {data.num_joints} joints, and no"
        " other skeleton here has so many."
    )


def _loaded(
    settings: DictConfig, datamodule: PoseDataModule, trained: Skeleton, checkpoint: Path
) -> Scorer:
    common_joints(trained, datamodule.skeleton)  # none: told before anything is computed
    datamodule.prepare_data()
    datamodule.setup("validate")
    module = build_module(settings, datamodule, Scorer, trained.num_joints, trains=False)
    assert isinstance(module, Scorer)
    module.trained = trained
    module.told = load_weights(module.network, checkpoint, new_head=False).told(checkpoint)
    return module


def _scored(module: Scorer, datamodule: PoseDataModule, name: str, folder: Path) -> Part:
    people = datamodule.valid
    assert people is not None
    label, notes, decoded = "", [], None
    if people.skeleton.joints != module.trained.joints:
        common = common_joints(module.trained, people.skeleton)
        notes.append(common.told(module.trained, people.skeleton))
        label = f"{common.skeleton.num_joints} common joints"
        decoded = common.trained
        people = people_of(people, common, folder)
    table = module.predictions.table(people, datamodule.root, decoded)
    return score(people, table, label=label, name=name, notes=notes)


def _notes(
    settings: DictConfig, module: Scorer, checkpoint: Path, run: DictConfig | None
) -> tuple[str, ...]:
    flip = "no flip test"
    if module.flip_test:
        how = {"hrnet": "shifted by one pixel", "udp": "not shifted"}[module.convention]
        flip = f"flip test (mirrored maps {how})"
    decoder = settings.decoder.get("name") or str(settings.decoder._target_).rpartition(".")[2]
    height, width = module.input_size
    shown = "/".join(checkpoint.parts[-3:] if run is not None else checkpoint.parts[-1:])
    return (
        f"{shown}: {module.network.name}, {complexity(module.network, module.input_size)}.",
        f"crops of {height} x {width}, convention {module.convention}, decoder {decoder}, {flip}.",
        *module.told,
    )
