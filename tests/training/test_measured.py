"""What a validation measures besides its figures, in a tiny training."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from posematch.decoding import Argmax
from posematch.metrics.columns import TERMS
from posematch.reports.ablation import own_decoder
from posematch.runs.finished import find_runs
from posematch.training.run import train

DECODERS = ["argmax", "barycentre", "dark", "quarter_offset", "soft_argmax", "udp"]


@pytest.mark.parametrize("loss", ["gaussian_mse", "matching"])
def test_every_validation_has_the_theorem_and_the_last_every_decoder(composed, loss):
    folder = train(composed(f"loss={loss}")).folder
    (run,) = find_runs([folder.path])
    assert (run.metrics["val/theorem/residual"] < 1e-9).all()
    terms = run.metrics[[f"val/theorem/{name}" for name in TERMS]]
    assert len(terms) == 2
    assert np.isfinite(terms).all(axis=None)
    assert terms["val/theorem/constant"].nunique() == 1  # one fixed set of joints
    # A best scale is no worse than any other, the map's own or none at all.
    own = run.metrics["val/loss/gaussian_mse"]
    best = run.metrics["val/loss/gaussian_mse_best_scale"]
    assert (best <= own * (1 + 1e-6)).all()
    assert (best > 0).all()
    assert not any("theorem" in name for name in run.figures)

    assert set(DECODERS) <= set(run.decoders)
    own_decoder_name = {"gaussian_mse": "quarter_offset", "matching": "barycentre"}[loss]
    assert own_decoder(run) == own_decoder_name
    for name in DECODERS:
        table = run.predictions(decoder=name)
        if name == own_decoder_name:
            pd.testing.assert_frame_equal(table.frame(), run.predictions().frame())
        else:
            assert not np.array_equal(table.joints_img, run.predictions().joints_img)
        files = list((folder.path / "predictions" / f"decoder={name}").iterdir())
        assert [one.name for one in files] == ["epoch=001.parquet"]


def test_others_read_the_maps_over_the_trainings_temperature(composed):
    """The same loss at temperature 1 measures what the training's own does."""
    folder = train(composed("loss=gaussian_mse", "loss.name=cold", "loss.temperature=0.1")).folder
    (run,) = find_runs([folder.path])
    own, other = run.metrics["val/loss/cold"], run.metrics["val/loss/gaussian_mse"]
    np.testing.assert_allclose(own, other, rtol=1e-6)


def test_only_the_last_validation_is_decoded_by_all(composed, monkeypatch):
    """However the training ends; one that stops early learns it after its last validation."""
    decoded = []
    decode = Argmax.__call__

    def counting(self, maps):
        decoded.append(len(maps))
        return decode(self, maps)

    monkeypatch.setattr(Argmax, "__call__", counting)
    early = ("callbacks=early_stopping", "callbacks.early_stopping.patience=1",
             "callbacks.early_stopping.min_delta=1000", "trainer.max_epochs=5")  # fmt: skip
    for ends, epoch in ((("trainer.max_epochs=3",), 2), (early, 1)):
        decoded.clear()
        folder = train(composed("measure=none", *ends)).folder
        (run,) = find_runs([folder.path])
        assert sum(decoded) == len(run.predictions())
        assert len(run.metrics) == epoch + 1
        names = [one.name for one in folder.path.glob("predictions/decoder=argmax/*")]
        assert names == [f"epoch={epoch:03}.parquet"]


def test_a_training_that_ends_between_validations(composed):
    folder = train(composed("trainer.max_epochs=3", "trainer.max_steps=7", "measure=none")).folder
    (run,) = find_runs([folder.path])
    assert len(run.predictions(decoder="argmax")) == len(run.predictions())
    assert run.metrics["val/theorem/residual"].iloc[-1] < 1e-9
