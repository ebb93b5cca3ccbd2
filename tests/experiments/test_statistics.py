"""Intervals of differences, over photos and seeds."""

from __future__ import annotations

import numpy as np
import pytest
from folders import make_run, pckh_figures, random_people, with_errors

from posematch.experiments.figures import Predicted, of_photos
from posematch.experiments.runs import find_runs
from posematch.experiments.statistics import (
    paired_interval,
)

TABLE = with_errors(random_people(), 0.4, seed=1)


def test_once_every_photo_is_the_figure_of_the_metric():
    """Every figure of PCKh, to the last bit but for the order of sums."""
    figures = pckh_figures(TABLE)
    measured = of_photos(Predicted("one", TABLE), list(figures))(np.ones((1, 20)))[0]
    assert dict(zip(figures, measured, strict=True)) == pytest.approx(figures, abs=1e-12)


def test_a_run_is_compared(tmp_path):
    make_run(tmp_path / "a", seed=0)
    make_run(tmp_path / "b", seed=0, predictions={0: with_errors(random_people(), 0.3, seed=5)})
    a, b = find_runs([tmp_path])
    found = paired_interval([a], [b], "PCKh@0.5")
    assert found.value == pytest.approx(b.figures["PCKh@0.5"] - a.figures["PCKh@0.5"])
    assert found.low < found.value < found.high
    assert found.better > 0.97
    assert paired_interval([b], [a], "PCKh@0.5").high == pytest.approx(-found.low)
