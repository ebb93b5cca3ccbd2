"""Folds of a training's people are compared together."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from folders import make_run, random_people, with_errors

from posematch.errors import PosematchError
from posematch.reports.compare import compare
from posematch.reports.loss_map import markdown, measure
from posematch.runs.finished import find_runs
from posematch.statistics.intervals import paired_intervals
from posematch.statistics.sides import read_side
from posematch.statistics.truths import Truths

EVERYBODY = random_people(photos=60)


def part_of(table, fold, folds=3):
    """A fold of the table, its people numbered from 0 as held-out ones are."""
    images = np.sort(table["image_id"].unique())
    chosen = images[fold * len(images) // folds : (fold + 1) * len(images) // folds]
    part = table[table["image_id"].isin(chosen)].copy()
    part["person_id"] -= part["person_id"].min()
    return part


def make(folder, loss, error, seeds=(0, 1, 2), folds=(0, 1, 2), **config):
    for seed in seeds:
        whole = with_errors(EVERYBODY, error, seed)
        for fold in folds:
            make_run(
                folder / loss / f"{seed}_{fold}", loss=loss, seed=seed,
                predictions={0: part_of(whole, fold)},
                config={"data.holdout": 1 / 3, "data.fold": fold, **config},
            )  # fmt: skip
    return folder / loss


def side(*paths):
    return read_side(list(paths), Truths())


def test_as_if_all_had_been_held_out_at_once(tmp_path):
    a = make(tmp_path / "folds", "gaussian_mse", 0.5)
    b = make(tmp_path / "folds", "matching", 0.4)
    found = compare(side(a), side(b), draws=200).figures.set_index("figure").loc["PCKh@0.5"]
    whole = [
        [
            make_run(
                tmp_path / "whole" / loss / str(seed), loss=loss, seed=seed,
                predictions={0: with_errors(EVERYBODY, error, seed)},
            )
            for seed in (0, 1, 2)
        ]
        for loss, error in (("gaussian_mse", 0.5), ("matching", 0.4))
    ]  # fmt: skip
    tables = [side(*paths).predictions for paths in whole]
    expected = paired_intervals(tables[0], tables[1], ["PCKh@0.5"], 200)["PCKh@0.5"]
    assert found["difference"] == pytest.approx(expected.value)
    # The same photos in another order: the draws are others, the interval is as wide.
    width = expected.high - expected.low
    assert found["high"] - found["low"] == pytest.approx(width, rel=0.25)


def test_the_names_say_so(tmp_path):
    one = side(make(tmp_path, "matching", 0.4))
    assert one.name == "matching (seeds 0, 1, 2, 3 folds)"
    assert [len(table) for table in one.predictions] == [120] * 3
    assert [table.seed for table in one.predictions] == [0, 1, 2]
    assert len(np.unique(one.predictions[0].person_ids)) == 120


def test_a_fold_is_missing(tmp_path):
    make(tmp_path, "matching", 0.4, seeds=(0,), folds=(0, 1, 2))
    make(tmp_path, "matching", 0.4, seeds=(1,), folds=(0, 2))
    with pytest.raises(PosematchError, match="seed 1 has the folds 0, 2, other seeds 0, 1, 2"):
        side(tmp_path / "matching")


def test_folds_of_two_recipes(tmp_path):
    make(tmp_path, "matching", 0.4, folds=(0, 1))
    make(tmp_path, "matching", 0.4, folds=(2,), **{"optimizer.lr": 0.5})
    other = side(make(tmp_path, "gaussian_mse", 0.4))
    with pytest.raises(PosematchError, match=r"optimizer\.lr is 0\.001 in one fold and 0\.5"):
        compare(other, side(tmp_path / "matching"), draws=50)


def test_other_folds(tmp_path):
    a = make(tmp_path / "a", "matching", 0.4, folds=(0, 1))
    b = make(tmp_path / "b", "gaussian_mse", 0.4, folds=(0, 2))
    with pytest.raises(PosematchError, match="cannot be compared"):
        compare(side(a), side(b), draws=50)


def test_average_precision_has_one_truth(tmp_path):
    from posematch.skeletons import COCO

    people = random_people(photos=20, skeleton=COCO)
    for fold in (0, 1):
        make_run(
            tmp_path / str(fold), metric="AP", figures={"AP": 0.5},
            predictions={0: part_of(people, fold, 2)}, metrics=pd.DataFrame({"val/AP": [0.5]}),
            config={"data.holdout": 0.5, "data.fold": fold},
        )  # fmt: skip
    with pytest.raises(PosematchError, match="compare fold by fold"):
        side(tmp_path)


def test_by_a_further_decoder(tmp_path):
    """What is compared is another table, and the name says which."""
    for seed in (0, 1):
        run = make_run(tmp_path / str(seed), seed=seed, predictions={0: EVERYBODY})
        better = run / "predictions" / "decoder=mode" / "epoch=000.parquet"
        better.parent.mkdir()
        with_errors(EVERYBODY, 0.1, seed).to_parquet(better)
    own, read = read_side([tmp_path], Truths()), read_side([tmp_path], Truths(), "mode")
    assert read.name == "gaussian_mse (seeds 0, 1, mode)"
    assert not np.allclose(own.predictions[1].joints_img, read.predictions[1].joints_img)
    with pytest.raises(PosematchError, match="no predictions by the decoder dark; there are mode"):
        read_side([tmp_path], Truths(), "dark")
    with pytest.raises(PosematchError, match="is a prediction file, which has no further decoders"):
        read_side([run / "predictions" / "epoch=000.parquet"], Truths(), "mode")


def test_a_map_of_folds_is_one_training_a_seed(tmp_path):
    a = make(tmp_path / "folds", "gaussian_1", 0.5)
    b = make(tmp_path / "folds", "relaxed", 0.4)
    table = measure(find_runs([tmp_path / "folds"]), "gaussian_1", 200)
    assert sorted(table.frame["seed"]) == [0, 0, 1, 1, 2, 2]
    assert "33% of the training people held out, 3 folds" in markdown(table)
    assert "6 trainings of 2 losses" in markdown(table)
    row = table.best().set_index("loss").loc["relaxed"]
    expected = compare(side(a), side(b), draws=200).figures.set_index("figure").loc["PCKh@0.5"]
    told = [row[f"PCKh@0.5 {end}"] for end in ("less", "low", "high")]
    assert told == pytest.approx(expected[["difference", "low", "high"]].tolist(), abs=5e-5)


def test_a_map_needs_the_same_folds_of_all(tmp_path):
    make(tmp_path, "gaussian_1", 0.5)
    make(tmp_path, "relaxed", 0.4, folds=(0, 2))
    with pytest.raises(PosematchError, match=r"relaxed at rate .* has the folds 0, 2, others 0, 1"):
        measure(find_runs([tmp_path]), "gaussian_1", 200)


def test_a_maps_folds_are_of_one_recipe(tmp_path):
    make(tmp_path, "gaussian_1", 0.5)
    make(tmp_path, "relaxed", 0.4, folds=(0, 1), **{"loss.sigma": 1.0})
    make(tmp_path / "third", "relaxed", 0.4, folds=(2,), **{"loss.sigma": 2.0})
    with pytest.raises(PosematchError, match=r"seed 0: loss.sigma is 1.0 in one fold and 2.0"):
        measure(find_runs([tmp_path]), "gaussian_1", 200)
