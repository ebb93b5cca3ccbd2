"""Configurations of tiny trainings and of evaluations, for the tests."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_dir

from posematch.app.composition import register_resolvers

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
