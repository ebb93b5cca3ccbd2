"""Tables of docs/results/which_loss.md are those of the csv files beside it."""

from __future__ import annotations

import runpy
from pathlib import Path

import pandas as pd
import pytest

from posematch.reports import budgets, hedging, regimes
from posematch.reports.loss_map import markdown, read_maps

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
PAGE = (RESULTS / "which_loss.md").read_text("utf-8")
FOLDER = RESULTS / "which_loss"


MAPS = {
    "drawn": "gaussian_1",
    "imagenet": "gaussian_1",
    "imagenet_192": "gaussian_1",
    "height": "gaussian_1",
    "random": "gaussian_1",
}
FINALS = {
    "finals": "gaussian_2",
    **dict.fromkeys(
        ("finals_drawn", "height_finals", "random_finals", "folds_drawn", "lspet"), "gaussian_1"
    ),
}


def read(name, baseline="gaussian_1"):
    return read_maps([FOLDER / name / "loss_map.csv"], baseline)


@pytest.mark.parametrize(
    ("name", "baseline"),
    [
        *MAPS.items(),
        *FINALS.items(),
        ("budget", "gaussian_1"),
        ("random_30", "gaussian_1"),
        ("cliff", "relaxed_05"),
        ("hrnet_drawn", "gaussian_mse"),
        ("hrnet_temperatures", "gaussian_mse"),
        ("trials", "relaxed_05_t01"),
    ],
)
def test_a_maps_table_is_its_csvs(name, baseline):
    table = read(name, baseline)
    more = [text for text in (budgets.markdown(table), regimes.markdown(table)) if text]
    expected = "\n".join([markdown(table), *more])
    assert (FOLDER / name / "loss_map.md").read_text("utf-8") == expected


def test_the_pages_temperatures():
    assert regimes.markdown(read("height")) in PAGE


def test_the_pages_one_table():
    files = [FOLDER / name / "loss_map.csv" for name in ("imagenet_192", "imagenet", "drawn")]
    assert regimes.markdown(read_maps(files, "gaussian_1")) in PAGE


@pytest.mark.parametrize(("name", "baseline"), FINALS.items())
def test_the_pages_finalists(name, baseline):
    assert markdown(read(name, baseline)) in PAGE


def test_the_pages_line_over_lengths():
    assert budgets.markdown(read("budget")) in PAGE


def test_the_pages_mechanism():
    table = pd.read_csv(FOLDER / "drawn" / "hedging.csv")
    assert hedging.markdown(table) in PAGE
    assert hedging.markdown(table) == (FOLDER / "drawn" / "hedging.md").read_text("utf-8")


def test_the_finals_mechanism():
    table = pd.read_csv(FOLDER / "random_finals" / "hedging.csv")
    text = (FOLDER / "random_finals" / "hedging.md").read_text("utf-8")
    assert hedging.markdown(table) == text


@pytest.mark.parametrize(
    ("file", "sign"),
    [
        ("finals/best_decoder", 1),
        ("finals/relaxed_less_cross_entropy", 1),
        ("finals_drawn/relaxed_less_cross_entropy", 1),
        *(
            (f"height_finals/{name}_{regime}", 1)
            for name in (
                "relaxed_best_decoder",
                "longest_best_decoder",
                "relaxed_less_cross_entropy",
            )
            for regime in ("mpii", "drawn")
        ),
        *(
            (f"random_finals/{name}", 1)
            for name in (
                "relaxed_best_decoder",
                "cross_entropy_best_decoder",
                "longest_best_decoder",
                "relaxed_less_cross_entropy",
                "longest_less_cross_entropy",
            )
        ),
        ("random_30/relaxed_best_decoder", 1),
        *(
            (f"folds_drawn/{name}", 1)
            for name in (
                "relaxed_best_decoder",
                "longest_best_decoder",
                "relaxed_less_cross_entropy",
            )
        ),
        ("finals_drawn/best_decoder", -1),  # the page says how far it is behind
        ("finals_drawn/likelihood_longest_less_best_decoder", -1),
    ],
)
def test_the_pages_comparisons(file, sign):
    rows = pd.read_csv(FOLDER / f"{file}.csv").query("part == 'overall'").set_index("figure")
    words = " ".join(PAGE.split())
    for figure in ("PCKh@0.5", "PCKh@0.1"):
        row = rows.loc[figure]
        low, high = sorted(sign * row[["low", "high"]])
        shown = ("{:.1f} [{:.1f}, {:.1f}]", "{:+.1f} [{:+.1f}, {:+.1f}]")[sign > 0]
        assert shown.format(sign * row["difference"], low, high) in words


def test_the_pages_first_table():
    made = runpy.run_path(str(RESULTS.parent / "which_loss_table.py"))
    assert made["markdown"]() in PAGE


@pytest.mark.parametrize("name", ["finals_drawn", "random_finals"])
def test_the_pages_calibration(name):
    table = pd.read_csv(FOLDER / name / "calibration.csv")
    means = table.groupby(["figure", "loss"])[["as_it_comes", "fitted"]].mean().loc["ece"]
    words = " ".join(PAGE.split())
    for loss, row in means.iterrows():
        assert f"`{loss}` {row['as_it_comes']:.3f} and {row['fitted']:.3f}" in words


def test_nothing_is_left_to_fill_in():
    assert "{{" not in PAGE
