"""Train what a run trained once more, and say whether it came out the same, to the bit.

    python scripts/rerun.py run=RUN_FOLDER [data.root=FOLDER] [run_root=FOLDER]

Exit code 1 if anything differs. See conf/rerun.yaml, or --help.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from posematch.cli import hydra_main
from posematch.config import check_type
from posematch.console import say
from posematch.evaluation.settings import trusted_packages
from posematch.training.rerun import differences_table, rerun


@hydra_main("rerun")
def main(cfg: DictConfig) -> None:
    check_type("run", cfg.get("run", "???"), str)
    check_type("run_root", cfg.run_root, str)
    for key in ("data.root", "checkpoint"):
        check_type(key, OmegaConf.select(cfg, key), str | None)
    again = rerun(
        Path(cfg.run).expanduser(),
        cfg.run_root,
        cfg.data.root,
        cfg.checkpoint,
        trusted_packages(cfg.trust),
    )
    if again is None:
        return  # not the first process
    if again.environment:
        say(differences_table(again.environment))
    else:
        say("The environments are the same: versions, device, threads, code.")
    say(f"run folder: {again.folder.path}")
    if again.results:
        say(f"Not the same: {'; '.join(again.results)}.")
        raise SystemExit(1)
    say("The same, to the bit: weights, metrics.csv, predictions.")


if __name__ == "__main__":
    main()
