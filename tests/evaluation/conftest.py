"""A tiny finished run on drawn people, and evaluations of checkpoints inside this process."""

from __future__ import annotations

from pathlib import Path

import pytest
from compositions import TINY, composed

from posematch.evaluation.checkpoints import evaluate_checkpoint
from posematch.evaluation.settings import check_read
from posematch.training.run import train


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    return tmp_path_factory.mktemp("drawn")


@pytest.fixture(scope="session")
def run_of(tmp_path_factory, drawn):
    """Train on drawn people for an epoch; the run's folder. Once for each choice of overrides."""
    made: dict[tuple[str, ...], Path] = {}

    def make(*overrides: str) -> Path:
        if overrides not in made:
            root = tmp_path_factory.mktemp("runs")
            cfg = composed("train", f"data.root={drawn}", f"run_root={root}", *TINY, *overrides)
            made[overrides] = train(cfg).folder.path
        return made[overrides]

    return make


@pytest.fixture(scope="session")
def evaluate(drawn):
    """scripts/evaluate.py without its process; the data are where `run_of` drew them."""

    def evaluate(*overrides: str):
        if not any(one.startswith("data.root=") for one in overrides):
            overrides = (*overrides, f"data.root={drawn}")
        cfg = composed("evaluate", "trainer.accelerator=cpu", *overrides)
        check_read("checkpoint", overrides)
        return evaluate_checkpoint(cfg, overrides)

    return evaluate
