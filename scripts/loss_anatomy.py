"""What every loss does to one heatmap: gradients, numbers, films.

    python scripts/loss_anatomy.py output=FOLDER [only=[gaussian_mse,matching]] [films=false]

See conf/loss_anatomy.yaml.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from omegaconf import DictConfig
from pydantic import Field

from posematch.anatomy.report import chosen_losses, write_anatomy
from posematch.cli import hydra_main
from posematch.config import check_type
from posematch.console import say
from posematch.training.build import build_loss


@hydra_main("loss_anatomy")
def main(cfg: DictConfig) -> None:
    check_type("output", cfg.output, str)
    check_type("films", cfg.films, bool)
    at_least_one = Annotated[int, Field(ge=1, description="an integer of at least 1")]
    check_type("steps", cfg.steps, at_least_one)
    check_type("every", cfg.every, at_least_one)
    positive = Annotated[int | float, Field(gt=0, description="a positive number")]
    check_type("rate", cfg.rate, positive)
    losses = {
        name: build_loss(cfg.losses[name], f"losses.{name}")
        for name in chosen_losses(list(cfg.losses), cfg.only)
    }
    output = Path(cfg.output).expanduser()
    film = (cfg.steps, cfg.every, float(cfg.rate)) if cfg.films else None
    for file in write_anatomy(losses, output, film):
        say(str(file))


if __name__ == "__main__":
    main()
