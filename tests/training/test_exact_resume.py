"""A training that died anywhere goes on as if it had not: weights, tables, predictions, to the bit.

Deaths are exceptions here, at chosen places; tests/torture kills real processes at random ones.
"""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch

from posematch.errors import PosematchError
from posematch.runs.folder import RunFolder
from posematch.training import run
from posematch.training.run import train


class DeathError(Exception):
    pass


class DieAt(pl.Callback):
    """Raises in a hook, at its n-th call, counted from 1."""

    def __init__(self, hook: str, call: int):
        self.left = call
        setattr(self, hook, self._die)

    def _die(self, *_):
        self.left -= 1
        if self.left == 0:
            raise DeathError


@pytest.fixture
def dies(monkeypatch):
    """Train until death in a hook."""

    def until(cfg, hook: str, call: int):
        build = run.build_trainer

        def mortal(*arguments):
            trainer = build(*arguments)
            trainer.callbacks.append(DieAt(hook, call))
            return trainer

        with monkeypatch.context() as patch:
            patch.setattr(run, "build_trainer", mortal)
            with pytest.raises(DeathError):
                train(cfg)

    return until


def assert_same(one, other):
    """Two finished runs' weights, moments, tables and predictions."""
    states = [
        torch.load(result.folder.last_checkpoint, weights_only=True) for result in (one, other)
    ]
    assert_same_tree(*states)
    assert one.folder.metrics.read_bytes() == other.folder.metrics.read_bytes()
    assert one.figures == other.figures
    files = [sorted(r.folder.path.glob("predictions/**/*.parquet")) for r in (one, other)]
    assert [f.name for f in files[0]] == [f.name for f in files[1]]
    for a, b in zip(*files, strict=True):
        pd.testing.assert_frame_equal(pd.read_parquet(a), pd.read_parquet(b), check_exact=True)
    best = [torch.load(result.folder.best_checkpoint, weights_only=True) for result in (one, other)]
    assert_same_tree(*best)


def assert_same_tree(a, b, where=""):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same_tree(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for index, pair in enumerate(zip(a, b, strict=True)):
            assert_same_tree(*pair, f"{where}.{index}")
    else:
        assert a == b or (a != a and b != b), where
    assert type(a) is type(b), where


PLACES = [
    ("on_train_batch_start", 1),  # the first checkpoint alone
    ("on_train_batch_end", 2),
    ("on_train_batch_end", 4),  # all of the epoch's steps are done, its validation is not
    ("on_validation_batch_end", 1),
    ("on_validation_end", 2),  # of the second epoch
    ("on_train_epoch_end", 1),
    ("on_train_epoch_start", 2),
    ("on_train_batch_end", 7),
]


@pytest.fixture(scope="module")
def undisturbed():
    """Trainings without a death, by their overrides; each is made once."""
    return {}


def check(composed, dies, undisturbed, place, *overrides):
    more = ("checkpoint_every_minutes=1e-9", *overrides)
    if more not in undisturbed:
        undisturbed[more] = train(composed(*more))
    dies(composed(*more), *place)
    resumed = train(composed("resume=auto", *more))
    assert resumed.folder != undisturbed[more].folder
    assert resumed.resumed
    assert_same(undisturbed[more], resumed)
    assert np.isfinite(pd.read_csv(resumed.folder.metrics)["train/loss"]).all()


# With workers, which read ahead, and without; two is more than the default here.
@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_death_changes_nothing(composed, dies, undisturbed, place, workers):
    check(composed, dies, undisturbed, place, f"data.workers={workers}")


@pytest.mark.parametrize("place", [PLACES[3], PLACES[7]], ids=str)
def test_death_changes_nothing_by_default(composed, dies, undisturbed, place):
    """As on two cores: one worker."""
    check(composed, dies, undisturbed, place, "data.workers=1")


VARIANTS = {
    "averaged weights": ["callbacks=ema"],
    "accumulated gradients": ["trainer.accumulate_grad_batches=3"],
    "ends inside an epoch": ["trainer.max_steps=6", "trainer.max_epochs=9"],
    "ends at an epoch's end": ["trainer.max_steps=8", "trainer.max_epochs=9"],
    "validates now and then": ["trainer.check_val_every_n_epoch=2"],
    "stops early": ["callbacks=early_stopping", "callbacks.early_stopping.patience=1"],
    "published schedule": ["schedule=hrnet", "trainer.max_epochs=2"],
    "two losses": ["loss=gaussian_then_matching", "loss.switch_epoch=1"],
    "occlusion": ["augmentation/appearance=all"],
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("place", [("on_validation_batch_end", 1), ("on_train_batch_end", 6)],
                         ids=str)  # fmt: skip
@pytest.mark.slow
def test_death_changes_nothing_in(composed, dies, undisturbed, place, variant):
    check(composed, dies, undisturbed, place, "data.workers=1", *VARIANTS[variant])


@pytest.mark.slow
def test_death_in_the_last_validation_of_max_steps(composed, dies, undisturbed):
    """The last checkpoint is of before a validation, and Lightning sees nothing left to train."""
    steps = ["data.workers=1", "trainer.max_steps=8", "trainer.max_epochs=9"]
    check(composed, dies, undisturbed, ("on_validation_batch_end", 3), *steps)


def test_previous_checkpoint_goes_on_exactly(composed, dies, undisturbed):
    """One step further back, where the last one is damaged; the sentence names it."""
    more = ("checkpoint_every_minutes=1e-9", "data.workers=1")
    if more not in undisturbed:
        undisturbed[more] = train(composed(*more))
    cfg = composed(*more)
    dies(cfg, "on_train_batch_end", 6)
    folders = [RunFolder(path) for path in Path(cfg.run_root).iterdir()]
    (folder,) = [one for one in folders if not one.result.exists()]
    content = bytearray(folder.last_checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    folder.last_checkpoint.write_bytes(content)
    with pytest.raises(PosematchError, match=r"last\.ckpt .*resume=\S+previous\.ckpt goes on"):
        train(composed("resume=auto", *more))
    before = folder.environment.read_bytes()
    resumed = train(composed(f"resume={folder.previous_checkpoint}", *more))
    assert before != folder.environment.read_bytes()
    assert_same(undisturbed[more], resumed)
