"""A training small enough for a test: few drawn people, a small network, 64-pixel crops."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import lightning.pytorch as pl
import pytest
from hydra import compose, initialize_config_dir

from posematch.config import register_resolvers
from posematch.training import run, stopping

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


class StopAt(pl.Callback):
    """A scheduler's SIGTERM during one training step (a background's Ctrl-C is ignored)."""

    def __init__(self, batches):
        self.left = batches

    def on_train_batch_end(self, trainer, *rest):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def train_until(monkeypatch):
    """Train, get SIGTERM during the batch of that number, counted from 1."""

    def until(cfg, batches: int):
        build = run.build_trainer

        def with_ctrl_c(*arguments):
            trainer = build(*arguments)
            trainer.callbacks.append(StopAt(batches))
            return trainer

        with monkeypatch.context() as patch:
            patch.setattr(run, "build_trainer", with_ctrl_c)
            with pytest.raises(stopping.InterruptedTrainingError, match="resume="):
                run.train(cfg)

    return until
