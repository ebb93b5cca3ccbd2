"""A tiny finished run on drawn people, and evaluations of checkpoints inside this process."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from posematch.config import register_resolvers
from posematch.evaluation.checkpoints import evaluate_checkpoint
from posematch.evaluation.settings import check_read
from posematch.training.run import train

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = (
    "data.spec.train_photos=8",
    "data.spec.valid_photos=6",
    "data.input_size=[64,64]",
    "data.batch_size=4",
    "data.workers=0",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=1",
    "pictures.every_n_epochs=0",
    "measure=none",
    "loss=gaussian_mse",
)


def composed(config: str, *overrides: str):
    register_resolvers()
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        return compose(config, overrides=list(overrides))


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
def evaluate():
    """scripts/evaluate.py without its process."""

    def evaluate(*overrides: str):
        cfg = composed("evaluate", "trainer.accelerator=cpu", *overrides)
        check_read("checkpoint", overrides)
        return evaluate_checkpoint(cfg, overrides)

    return evaluate
