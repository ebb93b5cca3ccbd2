"""Score a published prediction file.

    python scripts/evaluate.py predictions=FILE data=mpii|coco data.root=FOLDER

MPII needs only FOLDER/annot/gt_valid.mat; COCO only the annotations, data.valid_annotations
(relative to FOLDER).
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from posematch.cli import hydra_main
from posematch.config import check_type
from posematch.evaluation import evaluate_predictions
from posematch.metrics import PCKh
from posematch.metrics.tables import figures_table, joints_table


@hydra_main("evaluate")
def main(cfg: DictConfig) -> None:
    check_type("predictions", cfg.predictions, str)
    check_type("data.root", cfg.data.root, str)
    check_type("data.valid_annotations", cfg.data.get("valid_annotations"), str | None)
    predictions = Path(cfg.predictions).expanduser()
    evaluation = evaluate_predictions(
        predictions,
        cfg.data.name,
        Path(cfg.data.root).expanduser(),
        cfg.data.get("valid_annotations"),
    )
    figures, protocol = evaluation.figures, evaluation.protocol
    console = Console()
    console.print(figures_table({"": figures}, predictions.name, protocol))
    if PCKh.primary in figures:
        console.print(joints_table(figures, predictions.name, protocol))


if __name__ == "__main__":
    main()
