"""AP of a real training is recomputed from its run folder, the data set being gone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from posematch.metrics.columns import FIGURES
from posematch.runs.finished import read_run
from posematch.statistics.figures import of_photos
from posematch.training import run


def test_ap_without_the_data_set(composed, tmp_path):
    cfg = composed(
        f"data.root={tmp_path / 'data'}",
        "data.skeleton=coco",
        "data.spec.train_photos=12",
        "data.spec.valid_photos=5",
        "trainer.max_epochs=1",
        "measure=none",
        "loss=gaussian_mse",
    )
    result = run.train(cfg)
    shutil.rmtree(Path(cfg.data.root))
    finished = read_run(result.folder.path)
    one = finished.last_predictions
    found = dict(zip(FIGURES, of_photos(one, FIGURES)(np.ones((1, 5)))[0], strict=True))
    assert {name: found[name] for name in finished.figures if name in found} == pytest.approx(
        {name: finished.figures[name] for name in FIGURES if name in finished.figures}, abs=1e-12
    )


def test_a_training_scored_by_pckh_writes_no_truth(composed):
    cfg = composed("trainer.max_steps=1", "measure=none", "loss=gaussian_mse")
    assert not run.train(cfg).folder.truth.exists()
