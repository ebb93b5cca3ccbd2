"""Compare two runs, or two prediction files: differences with intervals, people who differ most.

posematch compare a=RUN b=RUN [output=FOLDER]
posematch compare a=[RUN,RUN,RUN] b=FOLDER_OF_RUNS
posematch compare a=ONE.mat b=OTHER.h5 data=mpii data.root=FOLDER
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from posematch.app.commands import command
from posematch.app.settings import AtLeastZero, Draws
from posematch.console import say, tell

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass(frozen=True)
class Settings:
    """Keys of conf/compare.yaml besides those of the data."""

    a: str | list[str]
    b: str | list[str]
    decoder_a: str | None
    decoder_b: str | None
    truth: str | None
    output: str
    draws: Draws
    level: Annotated[float, Field(gt=0, lt=1, description="a number between 0 and 1")]
    resampling_seed: AtLeastZero
    people: AtLeastZero
    may_differ: list[str]


@command("compare")
def run(cfg: DictConfig) -> None:
    """Write the comparison and the pictures, and print the first."""
    from hydra.core.hydra_config import HydraConfig

    from posematch.app.objects import own_settings, plain
    from posematch.statistics.truths import truths_below

    it: Settings = own_settings(Settings, cfg)
    root = Path(cfg.data.root).expanduser()
    truth = Path(it.truth).expanduser() if it.truth else None
    truths = truths_below(root, plain(cfg.data), truth)
    sides = [_paths(it.a), _paths(it.b)]
    for paths in sides:
        truths.check(paths)
    from posematch.reports.compare import compare, comparison_table, write_comparison
    from posematch.reports.people_pictures import save_people
    from posematch.statistics.sides import read_side

    decoders = (it.decoder_a, it.decoder_b)
    a, b = (read_side(paths, truths, by) for paths, by in zip(sides, decoders, strict=True))
    comparison = compare(a, b, it.draws, it.resampling_seed, it.level, it.may_differ)
    output = Path(it.output).expanduser()
    write_comparison(comparison, output)
    # A run folder says where its photos were; only a folder that the command names is opened.
    named = any(one.startswith("data.root=") for one in HydraConfig.get().overrides.task)
    save_people(comparison, output, it.people, root if named else None)
    say(comparison_table(comparison, ("overall", "size")))
    say(f"By joint, people and pictures: {output}")
    if it.people and not named:
        tell("The pictures are without photos; data.root=FOLDER of the data set shows them.")


def _paths(given: str | list[str]) -> list[Path]:
    return [Path(name).expanduser() for name in ([given] if isinstance(given, str) else given)]
