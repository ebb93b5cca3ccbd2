"""The map of losses over rates: from run folders, and again from its csv."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from folders import make_run, random_people, with_errors

from posematch.errors import PosematchError
from posematch.reports import budgets
from posematch.reports.loss_map import draw, markdown, measure, read_maps, write_map
from posematch.runs.finished import find_runs
from posematch.runs.predictions import PredictionTable
from posematch.statistics.intervals import paired_intervals

PEOPLE = random_people(photos=40)
# Errors in heads by loss and rate: the lower, the better.
ERRORS = {
    ("gaussian_1", 0.001): 0.5, ("gaussian_1", 0.004): 0.3, ("gaussian_1", 0.016): 0.6,
    ("relaxed", 0.001): 0.4, ("relaxed", 0.004): 0.25, ("relaxed", 0.016): 0.2,
    ("paper", 0.004): 1.0,
}  # fmt: skip


def make(folder, loss, rate, error, seed=0, **config):
    table = with_errors(PEOPLE, error, seed)
    metrics = pd.DataFrame({"val/PCKh@0.5": [1.0], f"train/{loss}/dead_share": [error / 2]})
    path = make_run(
        folder / f"{loss}_{rate}_{seed}", loss=loss, seed=seed, predictions={0: table},
        metrics=metrics, config={"optimizer.lr": rate, **config},
    )  # fmt: skip
    other = path / "predictions" / "decoder=argmax" / "epoch=000.parquet"
    other.parent.mkdir()
    PredictionTable.from_frame(with_errors(PEOPLE, 0.8 * error, seed)).write(other)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("map")
    for (loss, rate), error in ERRORS.items():
        make(folder, loss, rate, error)
    return folder


@pytest.fixture(scope="module")
def table(runs):
    return measure(find_runs([runs]), "gaussian_1", draws=200)


def test_a_loss_stands_for_its_best_rate(table):
    best = table.best().set_index("loss")
    assert list(best.index) == ["relaxed", "gaussian_1", "paper"]
    assert best["lr"].to_dict() == {"relaxed": 0.016, "gaussian_1": 0.004, "paper": 0.004}
    # Only the Gaussian's best rate has a lower and a higher one beside it.
    assert best["inside"].to_dict() == {"relaxed": False, "gaussian_1": True, "paper": False}
    assert best.loc["paper", "dead_share"] == 0.5


def test_figures_are_the_runs(table, runs):
    by_run = {(r.loss, r.config["optimizer"]["lr"]): r for r in find_runs([runs])}
    own = table.frame[table.frame["own"]]
    assert len(own) == len(ERRORS)
    for _, row in own.iterrows():
        told = by_run[row["loss"], row["lr"]].figures
        for figure in ("PCKh@0.5", "PCKh@0.1"):
            assert row[figure] == pytest.approx(told[figure], abs=5e-5)  # as it is written


def test_differences_are_paired(table, runs):
    by_run = {(r.loss, r.config["optimizer"]["lr"]): r for r in find_runs([runs])}
    found = paired_intervals(
        [by_run["gaussian_1", 0.004]], [by_run["relaxed", 0.016]], ["PCKh@0.5"], 200
    )["PCKh@0.5"]
    row = table.best().set_index("loss").loc["relaxed"]
    told = [row[f"PCKh@0.5 {end}"] for end in ("less", "low", "high")]
    assert told == pytest.approx([found.value, found.low, found.high], abs=5e-5)
    assert found.low > 0


def test_the_other_decoder_reads_better(table):
    (row,) = (row for _, row in table.best().iterrows() if row["loss"] == "paper")
    read = table.best_decoder(row)
    assert read.name == "argmax"
    assert read["PCKh@0.5"] > row["PCKh@0.5"]


def test_seeds_are_averaged(runs, tmp_path):
    for seed in (0, 1, 2):
        make(tmp_path, "gaussian_1", 0.004, 0.3 + 0.1 * seed, seed)
        make(tmp_path, "relaxed", 0.004, 0.2, seed)
    table = measure(find_runs([tmp_path]), "gaussian_1", draws=100)
    best = table.best().set_index("loss")
    assert best["seeds"].to_dict() == {"relaxed": 3, "gaussian_1": 3}
    own = table.frame[table.frame["own"] & (table.frame["loss"] == "gaussian_1")]
    assert best.loc["gaussian_1", "PCKh@0.5"] == pytest.approx(own["PCKh@0.5"].mean(), abs=5e-5)


def test_the_csv_gives_the_same(table, tmp_path):
    write_map(table, tmp_path / "a")
    again = read_maps([tmp_path / "a" / "loss_map.csv"], "gaussian_1")
    assert markdown(again) == markdown(table)
    write_map(again, tmp_path / "b")
    for name in ("loss_map.csv", "loss_map.md", "loss_map.png", "loss_map.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_some_losses(table):
    some = table.only(["paper"])
    assert list(some.best()["loss"]) == ["gaussian_1", "paper"]
    with pytest.raises(PosematchError, match=r"only=papers: .*paper"):
        table.only(["papers"])


def test_two_recipes_stand_side_by_side(runs, tmp_path):
    make(tmp_path, "gaussian_1", 0.004, 0.3, **{"backbone.name": "other"})
    make(tmp_path, "paper", 0.001, 0.5, **{"backbone.name": "other"})
    table = measure(find_runs([runs, tmp_path]), "gaussian_1", draws=100)
    assert len(draw(table).axes) == 2
    assert markdown(table).count("| loss (decoder)") == 2


@pytest.fixture(scope="module")
def lengths(tmp_path_factory):
    """Losses at several lengths; a run of `make_run` lasts as many epochs as its last table."""
    folder = tmp_path_factory.mktemp("lengths")
    for epochs, base, loss in ((1, 0.9, 1.2), (2, 0.7, 0.9), (4, 0.5, 0.6), (8, 0.4, 0.4)):
        for name, error in (("gaussian_1", base), ("paper", loss)):
            make_run(
                folder / f"{name}_{epochs}", loss=name,
                predictions={epochs - 1: with_errors(PEOPLE, error)},
            )  # fmt: skip
    return measure(find_runs([folder]), "gaussian_1", draws=50)


class TestLengths:
    def test_a_line_through_what_it_is_behind(self, lengths):
        found = budgets.frontier(lengths).set_index("figure").loc["PCKh@0.5"]
        own = lengths.frame[lengths.frame["own"]].pivot(index="epochs", columns="loss")["PCKh@0.5"]
        behind = own["gaussian_1"] - own["paper"]
        assert found["epochs"] == [1, 2, 4, 8]
        assert found["behind"] == pytest.approx(behind.tolist())
        slope, intercept = np.polyfit([0, 1, 2, 3], behind, 1)
        assert found["slope"] == pytest.approx(slope)
        assert found["ahead"] == pytest.approx(intercept + 5 * slope)  # 32 epochs
        assert found["ahead_low"] < found["ahead"] < found["ahead_high"]

    def test_the_limits_hold_what_comes(self):
        """Of lines with normal noise 95 predictions in 100 hold, within three standard errors."""
        generator = np.random.default_rng(0)
        x = np.arange(4.0)
        held = 0
        for _ in range(1000):
            noise = generator.normal(size=5)
            line = budgets._line(x, 2 + 3 * x + noise[:4])
            held += line["ahead_low"] <= 2 + 3 * 5 + noise[4] <= line["ahead_high"]
        assert abs(held - 950) < 3 * np.sqrt(1000 * 0.95 * 0.05)

    def test_figure_and_table(self, lengths):
        drawn = budgets.draw(lengths)
        assert drawn is not None
        assert len(drawn.axes) == 2
        assert budgets.markdown(lengths).count("`paper`") == 2
        assert markdown(lengths).count("| loss (decoder)") == 4

    def test_one_length_has_none(self, runs):
        table = measure(find_runs([runs]), "gaussian_1", draws=50)
        assert budgets.draw(table) is None
        assert budgets.markdown(table) == ""


class TestRefused:
    def test_no_baseline(self, runs):
        with pytest.raises(PosematchError, match=r"baseline=gaussian_2: no run .* gaussian_1"):
            measure(find_runs([runs]), "gaussian_2")

    def test_two_of_one_rate(self, runs, tmp_path):
        make(tmp_path, "paper", 0.004, 0.5)
        with pytest.raises(PosematchError, match=r"two runs are of paper at rate 0\.004"):
            measure(find_runs([runs, tmp_path]), "gaussian_1")

    def test_not_comparable(self, runs, tmp_path):
        make(tmp_path, "paper", 0.001, 0.5, **{"schedule._target_": "other"})
        with pytest.raises(PosematchError, match=r"cannot be compared: schedule"):
            measure(find_runs([runs, tmp_path]), "gaussian_1")

    @pytest.mark.parametrize("text", ["a,b\n1,2\n", "", "\x00"])
    def test_another_csv(self, text, tmp_path):
        (tmp_path / "x.csv").write_text(text)
        with pytest.raises(PosematchError, match=r"x\.csv"):
            read_maps([tmp_path / "x.csv"], "gaussian_1")

    def test_a_csv_of_another_baseline(self, table, tmp_path):
        write_map(table, tmp_path)
        with pytest.raises(
            PosematchError, match="differences to gaussian_1, not to baseline=paper"
        ):
            read_maps([tmp_path / "loss_map.csv"], "paper")
        assert read_maps([tmp_path / "loss_map.csv"]).baseline == "gaussian_1"

    @pytest.mark.parametrize(
        "spoil",
        [lambda frame: frame.iloc[:0], lambda frame: frame.assign(lr="fast")],
        ids=["no rows", "no number"],
    )
    def test_a_damaged_csv(self, table, tmp_path, spoil):
        spoil(table.frame).to_csv(tmp_path / "x.csv", index=False)
        with pytest.raises(PosematchError, match=r"x\.csv is damaged"):
            read_maps([tmp_path / "x.csv"])

    def test_csv_of_other_figures(self, table, tmp_path):
        table.frame.to_csv(tmp_path / "a.csv", index=False)
        table.frame.rename(columns={"PCKh@0.5": "AP"}).to_csv(tmp_path / "b.csv", index=False)
        with pytest.raises(PosematchError, match=r"b\.csv has other figures"):
            read_maps([tmp_path / "a.csv", tmp_path / "b.csv"])

    def test_a_training_in_two_csv(self, table, tmp_path):
        """It counts once, and must be the same in both."""
        table.frame.to_csv(tmp_path / "a.csv", index=False)
        few = table.only(["paper"]).frame
        few.to_csv(tmp_path / "b.csv", index=False)
        both = read_maps([tmp_path / "a.csv", tmp_path / "b.csv"])
        assert len(both.frame) == len(table.frame)
        few.assign(**{"PCKh@0.5": 1.0}).to_csv(tmp_path / "b.csv", index=False)
        with pytest.raises(PosematchError, match="two runs are of"):
            read_maps([tmp_path / "a.csv", tmp_path / "b.csv"])

    def test_no_csv(self, tmp_path):
        with pytest.raises(PosematchError, match=r"cannot be read"):
            read_maps([tmp_path / "x.csv"], "gaussian_1")
