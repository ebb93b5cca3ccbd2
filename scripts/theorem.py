"""Theorem 1's risks and inner products by epoch.

    python scripts/theorem.py runs=FOLDER [output=FOLDER] [first=1] [last=15]

Reads run folders and nothing else. See conf/theorem.yaml.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from omegaconf import DictConfig
from pydantic import Field

from posematch.cli import hydra_main
from posematch.config import check_type
from posematch.console import say
from posematch.reports.theorem import markdown, theorem_of, write_theorem
from posematch.runs.finished import find_runs, run_paths


@hydra_main("theorem")
def main(cfg: DictConfig) -> None:
    paths = run_paths(cfg.get("runs", "???"))
    check_type("output", cfg.output, str)
    epoch = Annotated[int, Field(ge=1, description="an epoch, counted from 1")]
    check_type("first", cfg.first, epoch)
    check_type("last", cfg.last, epoch | None)
    theorem = theorem_of(find_runs(paths), cfg.first, cfg.last or sys.maxsize)
    files = write_theorem(theorem, Path(cfg.output).expanduser())
    say(markdown(theorem), *map(str, files))


if __name__ == "__main__":
    main()
