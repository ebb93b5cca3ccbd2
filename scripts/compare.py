"""Compare two runs, or two prediction files: differences with intervals, people who differ most.

    python scripts/compare.py a=RUN b=RUN [output=FOLDER]
    python scripts/compare.py a=[RUN,RUN,RUN] b=FOLDER_OF_RUNS
    python scripts/compare.py a=ONE.mat b=OTHER.h5 data=mpii data.root=FOLDER

See conf/compare.yaml, or --help.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pydantic import Field

from posematch.cli import hydra_main
from posematch.config import check_type, plain
from posematch.console import say, tell
from posematch.reports.compare import compare, comparison_table, write_comparison
from posematch.reports.people_pictures import save_people
from posematch.statistics.sides import read_side, truths_below

_TYPES = {
    "a": str | list[str],
    "b": str | list[str],
    "truth": str | None,
    "output": str,
    "draws": Annotated[int, Field(ge=100, description="an integer of at least 100")],
    "level": Annotated[float, Field(gt=0, lt=1, description="a number between 0 and 1")],
    "resampling_seed": Annotated[int, Field(ge=0, description="an integer of at least 0")],
    "people": Annotated[int, Field(ge=0, description="an integer of at least 0")],
    "may_differ": list[str],
}


@hydra_main("compare")
def main(cfg: DictConfig) -> None:
    given = plain(cfg)
    for key, hint in _TYPES.items():
        check_type(key, given[key], hint)
    root = Path(cfg.data.root).expanduser()
    truth = Path(cfg.truth).expanduser() if cfg.truth else None
    truths = truths_below(root, given["data"], truth)
    a, b = (read_side(_paths(given[side]), truths) for side in "ab")
    comparison = compare(a, b, cfg.draws, cfg.resampling_seed, cfg.level, cfg.may_differ)
    output = Path(cfg.output).expanduser()
    write_comparison(comparison, output)
    # A run folder says where its photos were; only a folder that the command names is opened.
    named = any(one.startswith("data.root=") for one in HydraConfig.get().overrides.task)
    save_people(comparison, output, cfg.people, root if named else None)
    say(comparison_table(comparison, ("overall", "size")))
    say(f"By joint, people and pictures: {output}")
    if cfg.people and not named:
        tell("The pictures are without photos; data.root=FOLDER of the data set shows them.")


def _paths(given: str | list[str]) -> list[Path]:
    return [Path(name).expanduser() for name in ([given] if isinstance(given, str) else given)]


if __name__ == "__main__":
    main()
