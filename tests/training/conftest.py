"""A training small enough for a test: few drawn people, a small network, 64-pixel crops."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from posematch.config import register_resolvers

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """Folder that the drawn people of all training tests are written to, once."""
    return tmp_path_factory.mktemp("drawn")


@pytest.fixture
def composed(drawn, tmp_path):
    """Compose conf/train.yaml for a tiny training, with more overrides."""
    register_resolvers()

    def make(*overrides: str):
        with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
            return compose(
                "train",
                overrides=[
                    f"data.root={drawn}",
                    f"run_root={tmp_path / 'runs'}",
                    "data.spec.train_photos=12",
                    "data.spec.valid_photos=6",
                    "data.input_size=[64,64]",
                    "data.batch_size=4",
                    "data.workers=0",
                    "trainer.accelerator=cpu",
                    "trainer.max_epochs=2",
                    *overrides,
                ],
            )

    return make
