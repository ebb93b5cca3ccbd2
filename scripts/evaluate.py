"""Score a checkpoint, a prediction file or a run, by every convention side by side.

    python scripts/evaluate.py checkpoint=RUN_FOLDER [data=coco data.root=FOLDER] [decoder=dark]
    python scripts/evaluate.py checkpoint=FILE.pth backbone=hrnet_w32 data=coco data.root=FOLDER
    python scripts/evaluate.py predictions=FILE data=mpii|coco data.root=FOLDER
    python scripts/evaluate.py run=RUN_FOLDER

A run's checkpoint is scored on the run's own data and by its own settings unless the command says
otherwise. Of prediction files MPII needs only FOLDER/annot/gt_valid.mat, COCO the annotations. See
conf/evaluate.yaml.
"""

from __future__ import annotations

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from posematch.cli import hydra_main
from posematch.config import check_type
from posematch.console import say
from posematch.evaluation import Evaluation, evaluate_predictions, evaluate_run
from posematch.evaluation.settings import check_read, source_of


@hydra_main("evaluate")
def main(cfg: DictConfig) -> None:
    overrides = HydraConfig.get().overrides.task
    source = source_of(cfg)
    check_read(source, overrides)
    output = Path(cfg.output).expanduser() if cfg.output else None
    if source == "checkpoint":
        # Here, since it brings lightning and the networks, which take seconds to import.
        from posematch.evaluation.checkpoints import evaluate_checkpoint

        evaluation = evaluate_checkpoint(cfg, overrides)
        if evaluation is None:
            return  # not the first process
    else:
        evaluation = _of_files(cfg, source)
        if output is not None:
            evaluation.write(output)
    say(*evaluation.tables(), *evaluation.notes)
    if output is not None:
        say(f"written to {output}")


def _of_files(cfg: DictConfig, source: str) -> Evaluation:
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


if __name__ == "__main__":
    main()
