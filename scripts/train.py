"""Train, validate and score.

    python scripts/train.py loss=matching data=mpii data.root=FOLDER [group=choice] [key=value]

Without arguments it trains on the embedded data set. See conf/train.yaml.
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig
from rich.console import Console

from posematch.cli import one_sentence_errors
from posematch.config import register_resolvers
from posematch.metrics.tables import figures_table
from posematch.training.run import train

register_resolvers()


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(cfg: DictConfig) -> None:
    with one_sentence_errors(debug=cfg.debug):
        result = train(cfg)
        if not result.first_process:
            return
        console = Console()
        title = f"{cfg.loss.name} on {cfg.data.name}"
        console.print(figures_table(result.figures, title, result.protocol))
        losses = "  ".join(f"{name} {value:.4g}" for name, value in result.losses.items())
        console.print(f"validation losses of the last checkpoint: {losses}", highlight=False)
        console.print(f"run folder: {result.folder.path}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
