"""A workspace and a report at Weights & Biases for the runs of a sweep.

    python scripts/wandb_dashboard.py runs=runs/SWEEP project=my-project
    python scripts/wandb_dashboard.py runs=runs/SWEEP output=dashboard.json

The runs are those that were trained with logger=wandb; their folders here say what they logged.
The second line needs neither key nor network: it writes what the first one would send.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from posematch.cli import hydra_main
from posematch.config import check_type
from posematch.console import say
from posematch.files import write_json
from posematch.reports.dashboard import logged_names, publish, specification
from posematch.runs.finished import find_runs, run_paths


@hydra_main("wandb_dashboard")
def main(cfg: DictConfig) -> None:
    for key in ("project", "title"):
        check_type(key, cfg.get(key), str)
    for key in ("entity", "output"):
        check_type(key, cfg.get(key), str | None)
    names = logged_names(find_runs(run_paths(cfg.runs)))
    if cfg.output:
        output = Path(cfg.output).expanduser()
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(output, specification(names, cfg.project, cfg.title))
        say(str(output))
        return
    for address in publish(names, cfg.project, cfg.entity, cfg.title):
        say(address)


if __name__ == "__main__":
    main()
