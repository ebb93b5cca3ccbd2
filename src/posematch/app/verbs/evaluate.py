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

    from posematch.evaluation import Evaluation


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
        from posematch.evaluation.checkpoints import evaluate_checkpoint

        return evaluate_checkpoint(cfg, overrides)
    evaluation = _of_files(cfg, source)
    if cfg.output:
        evaluation.write(Path(cfg.output).expanduser())
    return evaluation


def _of_files(cfg: DictConfig, source: str) -> Evaluation:
    from posematch.evaluation import evaluate_predictions, evaluate_run

    if source == "run":
        return evaluate_run(Path(cfg.run).expanduser())
    for key in ("root", "valid_annotations", "detections"):
        check_type(f"data.{key}", cfg.data.get(key), str if key == "root" else str | None)
    return evaluate_predictions(
        Path(cfg.predictions).expanduser(),
        cfg.data.name,
        Path(cfg.data.root).expanduser(),
        cfg.data.get("valid_annotations"),
        cfg.data.get("detections"),
    )
