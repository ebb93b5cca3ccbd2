"""Loss and metric by epoch, and how consistent they are.

    python scripts/loss_curves.py runs=FOLDER [output=FOLDER] [first=2] [last=15]

Reads run folders and nothing else. See conf/loss_curves.yaml.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from omegaconf import DictConfig
from pydantic import Field

from posematch.cli import hydra_main
from posematch.config import check_type
from posematch.console import say
from posematch.reports.curves import curves_of, markdown, write_curves
from posematch.runs.finished import find_runs, run_paths


@hydra_main("loss_curves")
def main(cfg: DictConfig) -> None:
    paths = run_paths(cfg.get("runs", "???"))
    check_type("output", cfg.output, str)
    epoch = Annotated[int, Field(ge=1, description="an epoch, counted from 1")]
    check_type("first", cfg.first, epoch)
    check_type("last", cfg.last, epoch)
    curves = curves_of(find_runs(paths), cfg.first, cfg.last)
    files = write_curves(curves, Path(cfg.output).expanduser())
    say(markdown(curves), *map(str, files))


if __name__ == "__main__":
    main()
