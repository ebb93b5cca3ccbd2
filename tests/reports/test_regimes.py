"""Losses over several regimes: one row each, at their best rates."""

from __future__ import annotations

import pandas as pd

from posematch.reports import regimes
from posematch.reports.loss_map import LossMap


def a_map(*rows):
    names = ["recipe", "epochs", "loss", "lr", "PCKh@0.5", "PCKh@0.2", "PCKh@0.1"]
    frame = pd.DataFrame(rows, columns=names)
    frame = frame.assign(seed=0, steps=10, decoder="argmax", own=True, dead_share=float("nan"))
    return LossMap(frame, "gaussian_1")


TABLE = a_map(
    ("drawn", 6, "gaussian_1", 0.004, 40.0, 10.0, 3.0),
    ("drawn", 6, "wing", 0.001, 41.0, 12.0, 4.0),
    ("drawn", 6, "wing", 0.004, 46.0, 13.0, 3.5),
    ("drawn", 6, "wing", 0.016, 45.0, 13.0, 3.9),
    ("drawn", 3, "wing", 0.004, 90.0, 90.0, 90.0),  # a shorter training stands for nothing
    ("mpii", 20, "gaussian_1", 0.004, 70.0, 30.0, 9.0),
    ("mpii", 20, "wing", 0.004, 60.0, 20.0, 8.0),
    ("mpii", 20, "paper", 0.004, 75.0, 20.0, 8.0),
)


def test_a_row_a_loss_a_column_a_regime():
    found = regimes.across(TABLE)
    # Means of the gaps to the baseline: wing (+6 - 10) / 2; paper is not in all of them.
    assert list(found.index) == ["gaussian_1", "wing", "paper"]
    assert list(found.columns) == ["drawn, 6 epochs", "mpii, 20 epochs"]
    assert found.loc["wing"].tolist() == ["46.0 / 3.5 (0.004)", "60.0 / 8.0 (0.004*)"]
    assert found.loc["paper"].tolist() == ["-", "75.0 / 8.0 (0.004*)"]


def test_what_is_written():
    text = regimes.markdown(TABLE)
    assert "| `wing` | 46.0 / 3.5 (0.004) | 60.0 / 8.0 (0.004*) |" in text
    assert "- 2: mpii, 20 epochs" in text


def test_one_regime_needs_no_second_table():
    only = TABLE.frame[TABLE.frame["recipe"] == "drawn"]
    assert regimes.markdown(LossMap(only, "gaussian_1")) == ""
