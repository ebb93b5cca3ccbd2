"""A comparison of runs as one page of HTML that opens without a network.

    python scripts/report.py runs=FOLDER [output=FILE.html] [baseline=LOSS]

Reads run folders (and photos, below data_root alone) and nothing else. See conf/report.yaml.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from omegaconf import DictConfig
from pydantic import Field

from posematch.cli import hydra_main
from posematch.config import check_type
from posematch.console import say, tell
from posematch.reports.report import ReportSettings, write_report
from posematch.runs.finished import find_runs, run_paths


@hydra_main("report")
def main(cfg: DictConfig) -> None:
    paths = run_paths(cfg.get("runs", "???"))
    for key in ("output", "title"):
        check_type(key, cfg[key], str)
    for key in ("baseline", "data_root"):
        check_type(key, cfg[key], str | None)
    epoch = Annotated[int, Field(ge=1, description="an epoch, counted from 1")]
    check_type("first", cfg.first, epoch)
    check_type("last", cfg.last, epoch)
    check_type(
        "draws", cfg.draws, Annotated[int, Field(ge=100, description="an integer of at least 100")]
    )
    check_type(
        "joints", cfg.joints, Annotated[int, Field(ge=0, description="an integer of at least 0")]
    )
    positive = Annotated[int | float, Field(gt=0, description="a positive number")]
    check_type("near", cfg.near, positive | None)
    settings = ReportSettings(
        title=cfg.title,
        baseline=cfg.baseline,
        first=cfg.first,
        last=cfg.last,
        draws=cfg.draws,
        joints=cfg.joints,
        near=cfg.near,
        data_root=Path(cfg.data_root).expanduser() if cfg.data_root else None,
    )
    say(str(write_report(find_runs(paths), Path(cfg.output).expanduser(), settings)))
    if cfg.joints and not cfg.data_root:
        tell("The figures are without photos; data_root=FOLDER of the data set shows them.")


if __name__ == "__main__":
    main()
