"""Train, validate and score.

    python scripts/train.py loss=matching data=mpii data.root=FOLDER [group=choice] [key=value]
    python scripts/train.py -m loss=gaussian_mse,dot_mse,matching seed=1,2
    python scripts/train.py experiment=ablation

Without arguments it trains on the embedded data set. See conf/train.yaml, or --help.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from posematch.cli import begins_sweep, hydra_main
from posematch.console import tell
from posematch.training import supervision

# What imports torch is imported where it is used: the process that only watches over a sweep
# lives as long as the sweep.

CONF = Path(__file__).resolve().parents[1] / "conf"


@hydra_main("train")
def main(cfg: DictConfig) -> float | None:
    from rich.console import Console

    from posematch.config import check_settings
    from posematch.metrics.tables import figures_table
    from posematch.training import sweep
    from posematch.training.run import train

    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return sweep.run_job(cfg)
    check_settings(cfg)
    console = Console()
    if cfg.dry_run:
        title = f"{cfg.loss.name} on {cfg.data.name}"
        console.print(sweep.outcomes_table([sweep.estimated(cfg, title)], ""))
        return None
    result = train(cfg)
    if result.first_process:
        title = f"{cfg.loss.name} on {cfg.data.name}"
        console.print(figures_table(result.figures, title, result.protocol))
        losses = "  ".join(f"{name} {value:.4g}" for name, value in result.losses.items())
        console.print(f"validation losses of the last checkpoint: {losses}", highlight=False)
        console.print(f"run folder: {result.folder.path}", soft_wrap=True, highlight=False)
    return None


def main_of_sweep() -> None:
    """All jobs, then how they ended; exit code 1 if one of them failed or was stopped."""
    if not supervision.is_supervised():
        raise SystemExit(supervision.supervise([sys.executable, __file__, *sys.argv[1:]]))
    supervision.follow()
    from rich.console import Console

    from posematch.training import sweep

    name = sweep.begin_sweep(sys.argv[1:])
    sys.argv += sweep.search_defaults(sys.argv[1:])
    try:
        main()
    except ValueError:  # Optuna's, where not one of its trials has a figure
        if not sweep.outcomes():
            raise
    finally:
        ended = sweep.outcomes()
        sentence = sweep.end_of_sweep(ended)
        sweep.end_sweep()
        if ended:
            Console().print(sweep.outcomes_table(ended, name))
        if sentence:
            tell(sentence)
    if sentence:
        raise SystemExit(1)


if __name__ == "__main__":
    if begins_sweep("train", CONF, sys.argv[1:]):
        if not {"-m", "--multirun"} & set(sys.argv[1:]):
            sys.argv.append("-m")
        main_of_sweep()
    else:
        main()
