"""Tables of docs/results/which_loss.md are those of the csv files beside it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from posematch.reports import budgets, hedging
from posematch.reports.loss_map import markdown, read_maps

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
PAGE = (RESULTS / "which_loss.md").read_text("utf-8")
FOLDER = RESULTS / "which_loss"


@pytest.mark.parametrize("name", ["drawn", "imagenet", "budget"])
def test_a_maps_table_is_its_csvs(name):
    table = read_maps([FOLDER / name / "loss_map.csv"], "gaussian_1")
    lengths = budgets.markdown(table)
    expected = markdown(table) + (f"\n{lengths}" if lengths else "")
    assert (FOLDER / name / "loss_map.md").read_text("utf-8") == expected


@pytest.mark.parametrize("name", ["drawn", "imagenet"])
def test_the_pages_rows_are_the_maps(name):
    """The page shows some of the losses, each as in the whole map."""
    table = read_maps([FOLDER / name / "loss_map.csv"], "gaussian_1")
    some = [one for one in dict.fromkeys(table.frame["loss"]) if f"| `{one}` (" in PAGE]
    assert "gaussian_1" in some
    assert markdown(table.only(some)) in PAGE


def test_the_pages_line_over_lengths():
    table = read_maps([FOLDER / "budget" / "loss_map.csv"], "gaussian_1")
    assert budgets.markdown(table) in PAGE


def test_the_pages_mechanism():
    table = pd.read_csv(FOLDER / "drawn" / "hedging.csv")
    assert hedging.markdown(table) in PAGE
    assert hedging.markdown(table) == (FOLDER / "drawn" / "hedging.md").read_text("utf-8")
