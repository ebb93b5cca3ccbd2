"""Score a checkpoint, a prediction file or a run, by every convention side by side.

    posematch evaluate checkpoint=RUN_FOLDER [data=coco data.root=FOLDER] [decoder=dark]
    posematch evaluate checkpoint=FILE.pth backbone=hrnet_w32 data=coco data.root=FOLDER
    posematch evaluate predictions=FILE data=mpii|coco data.root=FOLDER
    posematch evaluate run=RUN_FOLDER

A run's checkpoint is scored on the run's own data and by its own settings unless the command says
otherwise. Of prediction files MPII needs only FOLDER/annot/gt_valid.mat, COCO the annotations. See
conf/evaluate.yaml.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from posematch.app.commands import command
from posematch.app.settings import check_type
from posematch.console import say

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from posematch.evaluation.scores import Evaluation


@command("evaluate")
def run(cfg: DictConfig) -> None:
    """Print the tables, and write them where ``output`` says."""
    from hydra.core.hydra_config import HydraConfig

    evaluation = evaluated(cfg, HydraConfig.get().overrides.task)
    if evaluation is None:
        return  # not the first process
    say(*evaluation.tables(), *evaluation.notes)
    if cfg.output:
        say(f"written to {Path(cfg.output).expanduser()}")


def evaluated(cfg: DictConfig, overrides: Sequence[str]) -> Evaluation | None:
    """What a configuration of ``posematch evaluate`` names is scored, and written to ``output``.

    ``overrides``: what the command itself says, which wins over the run's own configuration.
    Returns None in each process but the first.
    """
    from posematch.app.objects import check_objects
    from posematch.evaluation.settings import check_read, source_of

    source = source_of(cfg)
    check_read(source, overrides)
    if source == "checkpoint":
        check_objects(cfg)
        _check_checkpoint(cfg)
        from posematch.evaluation.checkpoints import evaluate_checkpoint

        return evaluate_checkpoint(cfg, overrides)
    evaluation = _of_files(cfg, source)
    if cfg.output:
        evaluation.write(Path(cfg.output).expanduser())
    return evaluation


def _of_files(cfg: DictConfig, source: str) -> Evaluation:
    from posematch.data import matlab, mpii
    from posematch.data.predictions import check_there
    from posematch.runs.named import check_finished, check_table
    from posematch.runs.truth import COCO_VALID_ANNOTATIONS, changed

    if source == "run":
        folder = Path(cfg.run).expanduser()
        check_finished(folder)
        from posematch.evaluation.files import evaluate_run

        return evaluate_run(folder)
    for key in ("root", "valid_annotations", "detections"):
        check_type(f"data.{key}", cfg.data.get(key), str if key == "root" else str | None)
    check_type("data.oks_sigmas", cfg.data.get("oks_sigmas"), Sequence[float] | None)
    predictions, root = Path(cfg.predictions).expanduser(), Path(cfg.data.root).expanduser()
    if predictions.suffix == ".parquet":
        check_table(predictions)
    elif cfg.data.name == "mpii":
        matlab.check_there(mpii.truth_file(root))
        check_there(predictions, "mpii")
    elif cfg.data.name == "coco" or predictions.suffix == ".json":
        check_there(predictions, "coco")
        changed(root / (cfg.data.get("valid_annotations") or COCO_VALID_ANNOTATIONS))
    from posematch.evaluation.files import evaluate_predictions

    return evaluate_predictions(
        predictions,
        cfg.data.name,
        root,
        cfg.data.get("valid_annotations"),
        cfg.data.get("detections"),
        cfg.data.get("oks_sigmas"),
    )


def _check_checkpoint(cfg: DictConfig) -> None:
    """Refuse a checkpoint that is not there; and of one by itself, data that are not."""
    from posematch.app.objects import plain
    from posematch.data.needed import check_data
    from posematch.runs.stored_config import checkpoint_file, is_of_run
    from posematch.untrusted import open_checkpoint

    checkpoint = checkpoint_file(cfg.checkpoint)
    open_checkpoint(checkpoint).close()
    if not is_of_run(checkpoint):
        boxes = {"detections": None} if cfg.boxes == "gt" else {}
        check_data(plain(cfg.data) | boxes, training=False)
