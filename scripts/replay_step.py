"""Compute a step of a training again whose loss or gradient was not finite.

    python scripts/replay_step.py run=RUN_FOLDER [step=N]

A training skips such a step and leaves what reproduces it in RUN_FOLDER/divergence/. See
conf/replay_step.yaml.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig
from rich.table import Table

from posematch.cli import hydra_main
from posematch.config import check_type
from posematch.console import say
from posematch.training.replay import replay


@hydra_main("replay_step")
def main(cfg: DictConfig) -> None:
    for key, hint in {"run": str, "step": int | None, "device": str}.items():
        check_type(key, cfg.get(key, "???"), hint)
    found = replay(Path(cfg.run).expanduser(), cfg.step, cfg.device)
    table = Table("person", "maps", "loss", "gradient", title=f"{found.file}: not finite")
    for person, *fine in found.people:
        table.add_row(str(person), *("" if one else "no" for one in fine))
    say(table)
    say(
        f"epoch {found.epoch}, step {found.step}: loss {found.loss:.6g}, gradient norm"
        f" {found.gradient_norm:.6g}",
        f"Reproduced: the {found.cause} is NaN or infinite here, too."
        if found.reproduced
        else f"Not reproduced: in the training the {found.cause} was NaN or infinite.",
    )


if __name__ == "__main__":
    main()
