"""Training losses by figure, as Markdown, LaTeX and csv.

    python scripts/ablation_table.py runs=FOLDER [output=FOLDER] [baseline=LOSS]
        [decoding=auto|NAME|all]

Reads run folders and nothing else. See conf/ablation_table.yaml.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from omegaconf import DictConfig
from pydantic import Field

from posematch.cli import hydra_main
from posematch.config import check_type
from posematch.console import say
from posematch.reports.ablation import ablation, markdown, write_ablation
from posematch.runs.finished import find_runs, run_paths


@hydra_main("ablation_table")
def main(cfg: DictConfig) -> None:
    paths = run_paths(cfg.get("runs", "???"))
    for key in ("output", "baseline", "decoding"):
        check_type(key, cfg[key], str)
    some = Annotated[int, Field(ge=100, description="an integer of at least 100")]
    check_type("draws", cfg.draws, some)
    table = ablation(find_runs(paths), cfg.baseline, cfg.decoding, cfg.draws)
    files = write_ablation(table, Path(cfg.output).expanduser())
    say(markdown(table), *map(str, files))


if __name__ == "__main__":
    main()
