"""A training small enough for a test: few drawn people, a small network, 64-pixel crops."""

from __future__ import annotations

import copy
import functools
import os
import signal
from pathlib import Path

import lightning.pytorch as pl
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from posematch.app.composition import register_resolvers
from posematch.training import run, stopping

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def _processes_once(processes_once):
    """In all tests of this folder."""


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """Folder that the drawn people of all training tests are written to, once."""
    return tmp_path_factory.mktemp("drawn")


# A real network whose step takes a quarter of HRNet-W18-small's, and a checkpoint a third: what
# these tests look at is around it. ``backbone=small`` in a test takes that one.
NETWORK = ("backbone.name=test_resnet", "backbone.head=deconv", "backbone.deconv_channels=8")


@functools.cache
def _composition(overrides: tuple[str, ...]):
    register_resolvers()
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        return compose(
            "train",
            overrides=[
                "data.spec.train_photos=12",
                "data.spec.valid_photos=6",
                "data.input_size=[64,64]",
                "data.batch_size=4",
                "data.workers=0",
                "trainer.accelerator=cpu",
                "trainer.max_epochs=2",
                "pictures.results=false",  # a second for each training
                *(() if "backbone=small" in overrides else NETWORK),
                *overrides,
            ],
        )


@pytest.fixture(scope="session")
def composed_in(drawn):
    """Compose conf/train.yaml for a tiny training in a folder, with more overrides.

    What is composed of the same overrides is composed once; paths are put in afterwards.
    """

    def make(folder: Path, *overrides: str):
        paths = {"data.root": str(drawn), "run_root": str(folder / "runs")}
        for one in overrides:
            key, _, value = one.partition("=")
            if key in paths or (key in ("resume", "checkpoint") and value[:1] in ("a", "/")):
                paths[key] = value
        others = tuple(one for one in overrides if one.partition("=")[0] not in paths)
        cfg = copy.deepcopy(_composition(others))
        for key, value in paths.items():
            OmegaConf.update(cfg, key, value)
        return cfg

    return make


@pytest.fixture
def composed(composed_in, tmp_path):
    """Compose conf/train.yaml for a tiny training in the test's folder, with more overrides."""
    return functools.partial(composed_in, tmp_path)


@pytest.fixture(scope="module")
def finished(composed_in, tmp_path_factory):
    """Trainings from start to end, by their overrides: each is made once, and is not changed."""
    made = {}

    def once(*overrides: str):
        if overrides not in made:
            made[overrides] = run.train(composed_in(tmp_path_factory.mktemp("once"), *overrides))
        return made[overrides]

    return once


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
