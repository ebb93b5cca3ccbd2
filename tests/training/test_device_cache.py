"""A training whose crops are made on the device (here a CPU): the losses of one without."""

from __future__ import annotations

import pandas as pd
import pytest

from posematch.training.run import train

LIGHT = ("backbone=small", "loss=gaussian_mse", "trainer.precision=32-true", "measure=none",
         "decoders=none", "data.cache=true", "trainer.max_epochs=2")  # fmt: skip


@pytest.mark.parametrize("workers", [0, 1])
def test_losses_are_the_same_to_the_rounding_of_crops(composed, tmp_path, workers):
    """Here and there a pixel differs by a grey level."""
    tables = []
    for on_device in ("true", "false"):
        cfg = composed(*LIGHT, f"data.device_cache={on_device}", f"data.workers={workers}",
                       f"run_root={tmp_path / on_device}")  # fmt: skip
        tables.append(pd.read_csv(train(cfg).folder.path / "metrics.csv"))
    on_device, by_loader = tables
    first = ["train/loss", "val/loss/gaussian_mse"]
    assert on_device[first].to_numpy() == pytest.approx(by_loader[first].to_numpy(), rel=1e-2)


def test_a_validation_that_is_the_first_one(composed, tmp_path):
    """After the last epoch, by `Trainer.validate`: its crops are put there in inference mode."""
    cfg = composed(*LIGHT, "trainer.check_val_every_n_epoch=1000", "data.workers=0",
                   "data.device_cache=true", f"run_root={tmp_path}")  # fmt: skip
    result = train(cfg)
    assert 0 <= result.figures["last"][result.metric] <= 100
