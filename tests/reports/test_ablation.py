"""The table of losses, from run folders with chosen predictions."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from folders import make_run, random_people, with_errors

from posematch.errors import PosematchError
from posematch.reports.ablation import (
    AP_COLUMNS,
    Ablation,
    Row,
    ablation,
    latex,
    markdown,
    write_ablation,
)
from posematch.runs.finished import find_runs
from posematch.runs.folder import RunFolder
from posematch.runs.predictions import PredictionTable
from posematch.statistics.intervals import Interval, paired_interval

PEOPLE = random_people()
OWN = {"decoder": {"_target_": "posematch.decoding.QuarterOffset"},
       "decoders": {"quarter_offset": {"_target_": "posematch.decoding.QuarterOffset",
                                        "edge_rule": "hrnet"}},
       "backbone.pretrained": False, "flip_test": True}  # fmt: skip


def shifted(heads: float, share: float = 1.0) -> pd.DataFrame:
    """The true joints, moved to the right by so many head sizes in a share of the photos."""
    table = PEOPLE.copy()
    photos = np.unique(table["image_id"])
    moved = table["image_id"].isin(photos[: round(share * len(photos))])
    table["x"] += moved * heads * table["head_size_img"]
    return table


def run(path: Path, loss: str, table: pd.DataFrame, seed: int = 0, **more) -> Path:
    config = OWN | more.pop("config", {})
    return make_run(path, loss=loss, seed=seed, predictions={0: table}, config=config, **more)


def cell(table: Ablation, loss: str, figure: str, decoder: str | None = None) -> pd.Series:
    frame = table.frame()
    rows = frame[(frame["loss"] == loss) & (frame["figure"] == figure)]
    if decoder:
        rows = rows[rows["decoder"] == decoder]
    (one,) = (row for _, row in rows.iterrows())
    return one


@pytest.fixture
def runs(tmp_path):
    """Gaussian: all right. Dot: 0.2 heads off everywhere. Matching: 0.8 off in a quarter."""
    run(tmp_path / "c", "matching", shifted(0.8, share=0.25))
    run(tmp_path / "b", "dot_mse", shifted(0.2))
    run(tmp_path / "a", "gaussian_mse", shifted(0.0))
    return tmp_path


def test_figures_bold_cells_and_order(runs):
    table = ablation(find_runs([runs]), draws=200)
    assert [row.loss for row in table.rows] == ["gaussian_mse", "dot_mse", "matching"]
    assert cell(table, "gaussian_mse", "Mean")["mean"] == 100
    assert cell(table, "dot_mse", "Mean")["mean"] == 100
    assert cell(table, "dot_mse", "Mean@0.1")["mean"] == 0
    assert 60 < cell(table, "matching", "Mean")["mean"] < 90  # a quarter of the photos
    best = table.frame().set_index(["figure", "loss"])["best"]
    assert best["Mean"].to_dict() == {"gaussian_mse": True, "dot_mse": True, "matching": False}
    assert best["Mean@0.1"].to_dict() == {"gaussian_mse": True, "dot_mse": False, "matching": False}
    text = markdown(table)
    row = next(
        line for line in text.splitlines() if line.startswith("| `dot_mse` (quarter_offset)")
    )
    assert row.count("**100.0**") == 8  # seven joints and their mean
    assert row.endswith("| 0.0 |")
    assert "everybody" in text  # the protocol
    alone = ablation(find_runs([runs / "a", runs / "b"]), draws=200).frame()
    assert not alone[alone["figure"] == "Mean"]["best"].any()  # 100 both: nobody is best


def test_differences_are_those_of_the_statistics(runs):
    table = ablation(find_runs([runs]), draws=200)
    certain = cell(table, "dot_mse", "Mean@0.1")
    # Every photo falls from 100 to 0: no draw says anything else.
    assert (certain["difference"], certain["low"], certain["high"]) == (-100, -100, -100)
    assert certain["better"] == 0
    by_hand = paired_interval(find_runs([runs / "a"]), find_runs([runs / "c"]), "PCKh@0.5", 200)
    found = cell(table, "matching", "Mean")
    assert list(found[["difference", "low", "high"]]) == pytest.approx(
        [by_hand.value, by_hand.low, by_hand.high], rel=1e-12
    )
    assert found["low"] < found["difference"] < found["high"] < 0
    assert np.isnan(cell(table, "gaussian_mse", "Mean")["difference"])
    assert "[-100.0, -100.0]" in markdown(table)


def test_mean_and_spread_over_seeds(tmp_path):
    for seed, share in enumerate((0.0, 0.5)):
        run(tmp_path / f"g{seed}", "gaussian_mse", shifted(0.2, share), seed)
        run(tmp_path / f"m{seed}", "matching", shifted(0.0), seed)
    table = ablation(find_runs([tmp_path]), baseline="matching", draws=200)
    assert [row.loss for row in table.rows] == ["matching", "gaussian_mse"]
    figures = [one.figures["PCKh@0.1"] for one in find_runs([tmp_path / "g0", tmp_path / "g1"])]
    found = cell(table, "gaussian_mse", "Mean@0.1")
    assert found["mean"] == pytest.approx(np.mean(figures))
    # The sample's standard deviation of two values.
    assert found["std"] == pytest.approx(abs(figures[0] - figures[1]) / np.sqrt(2))
    text = markdown(table)
    assert "Seeds of every loss: 0, 1." in text
    # Two seeds have no interval: their spread stands beside that of the photos, and is told.
    assert found["difference_std"] == pytest.approx(found["std"], rel=1e-9)  # the other is perfect
    assert f"], seeds ± {found['difference_std']:.1f} |" in text
    assert "two seeds are too few for an interval over seeds" in text
    assert "Student" not in text
    assert rf"$, seeds $\pm {found['difference_std']:.1f}$" in latex(table)


def test_decoders(runs):
    with pytest.raises(PosematchError, match="no predictions by it, only by quarter_offset"):
        ablation(find_runs([runs]), decoder="dark")
    for name in "abc":
        folder = RunFolder(runs / name)
        PredictionTable.from_frame(shifted(0.05)).write(folder.predictions(0, "dark"))
    PredictionTable.from_frame(shifted(0.7)).write(RunFolder(runs / "c").predictions(0, "dsnt"))
    by_dark = ablation(find_runs([runs]), decoder="dark", draws=200)
    assert {row.decoder for row in by_dark.rows} == {"dark"}
    assert not any(row.own for row in by_dark.rows)
    assert cell(by_dark, "dot_mse", "Mean@0.1")["mean"] == 100
    everything = ablation(find_runs([runs]), decoder="all", draws=200)
    assert [(row.loss, row.decoder) for row in everything.rows] == [
        ("gaussian_mse", "quarter_offset"), ("gaussian_mse", "dark"),
        ("dot_mse", "quarter_offset"), ("dot_mse", "dark"),
        ("matching", "quarter_offset"), ("matching", "dark"), ("matching", "dsnt"),
    ]  # fmt: skip
    # Also the baseline's other decoder is compared with its own.
    assert cell(everything, "gaussian_mse", "Mean@0.1", "dark")["difference"] == 0
    assert cell(everything, "matching", "Mean", "dsnt")["difference"] == -100
    with pytest.raises(PosematchError, match="nearest is dark"):
        ablation(find_runs([runs]), decoder="drak")


def test_coco_has_the_papers_columns_and_its_note():
    row = Row("gaussian_mse", "quarter_offset", True, [0], np.array([[77.12] * 6]), {})
    better = {name: Interval(1.0, 0.5, 1.5, 1.0) for name in AP_COLUMNS}
    other = Row("matching", "barycentre", True, [0], np.array([[78.8] * 6]), better)
    text = markdown(Ablation(list(AP_COLUMNS), [row, other], ["How."]))
    assert "| AP | AP50 | AP75 | AP(M) | AP(L) | AR |" in text
    assert "| `matching` (barycentre) |" + " **78.8** |" * 6 in text
    assert "+1.0 [+0.5, +1.5]" in text


def test_latex_is_balanced_and_escaped(runs):
    text = latex(ablation(find_runs([runs]), draws=200))
    assert r"gaussian\_mse" in text
    assert not re.search(r"(?<!\\)_", text)
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert rule in text
    body = [line for line in text.splitlines() if line.endswith(r"\\") and "&" in line]
    assert len({line.count("&") for line in body}) == 1
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert r"\textbf{100.0}" in text


def test_what_cannot_be_compared(runs):
    everything = find_runs([runs])
    with pytest.raises(PosematchError, match=r"baseline=gausian_mse: .*nearest is gaussian_mse"):
        ablation(everything, baseline="gausian_mse")
    run(runs / "d", "matching", shifted(0.1))
    with pytest.raises(PosematchError, match="c and d are both of matching with seed 0"):
        ablation(find_runs([runs]))
    shutil.rmtree(runs / "d")
    run(runs / "d", "kl", with_errors(random_people(seed=9), 0.1))
    with pytest.raises(PosematchError, match=r"a and d cannot be compared: .*true joints|labelled"):
        ablation(find_runs([runs]))
    shutil.rmtree(runs / "d")
    run(runs / "d", "kl", shifted(0.1), config={"trainer.max_epochs": 9})
    with pytest.raises(PosematchError, match=r"trainer\.max_epochs is 1 in one and 9"):
        ablation(find_runs([runs]))


def test_remade_bit_for_bit(runs, tmp_path_factory):
    """Also without checkpoints and W&B folder, and from a copy of the runs."""
    for folder in ("checkpoints", "wandb"):
        (runs / "a" / folder).mkdir()
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    written = write_ablation(ablation(find_runs([runs]), draws=200), first)
    for folder in ("checkpoints", "wandb"):
        (runs / "a" / folder).rmdir()
    write_ablation(ablation(find_runs([runs]), draws=200), second)
    assert [one.name for one in written] == ["ablation.md", "ablation.tex", "ablation.csv"]
    for one in written:
        assert one.read_bytes() == (second / one.name).read_bytes()
