"""Heatmaps of two runs next to each other, at the joints where they differ most.

    python scripts/qualitative.py a=RUN b=RUN output=FOLDER [data_root=FOLDER]

Reads the run folders (and photos, below data_root alone) and nothing else. See
conf/qualitative.yaml.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from omegaconf import DictConfig
from pydantic import Field

from posematch.cli import hydra_main
from posematch.config import check_type
from posematch.console import say, tell
from posematch.reports.panels import write_figures
from posematch.reports.qualitative import crop_reader, one_run, read_pair


@hydra_main("qualitative")
def main(cfg: DictConfig) -> None:
    for key in ("a", "b", "output"):
        check_type(key, cfg.get(key, "???"), str)
    at_least_one = Annotated[int, Field(ge=1, description="an integer of at least 1")]
    check_type("joints", cfg.joints, at_least_one)
    positive = Annotated[int | float, Field(gt=0, description="a positive number")]
    check_type("near", cfg.near, positive | None)
    check_type("data_root", cfg.data_root, str | None)
    a, b = (one_run(Path(cfg[key]).expanduser(), key) for key in ("a", "b"))
    pair = read_pair(a, b)
    crop = None
    if cfg.data_root:
        root = Path(cfg.data_root).expanduser()
        crop = crop_reader(pair, root)
        if crop is None:
            tell(f"No photos of these people below {root}; the figures are without them.")
    else:
        tell("The figures are without photos; data_root=FOLDER of the data set shows them.")
    for file in write_figures(pair, Path(cfg.output).expanduser(), cfg.joints, cfg.near, crop):
        say(str(file))


if __name__ == "__main__":
    main()
