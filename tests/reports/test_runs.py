"""Run folders made by hand, read back, found and refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from folders import make_run, pckh_figures, random_people, with_errors

from posematch.errors import PosematchError
from posematch.runs.finished import (
    OF_THE_SEED,
    check_comparable,
    find_runs,
    people_difference,
    read_run,
)
from posematch.runs.predictions import PredictionTable

PEOPLE = random_people(photos=4)
of = PredictionTable.from_frame


def test_a_run_is_read_back(tmp_path):
    tables = {epoch: with_errors(PEOPLE, 1 / (epoch + 1), epoch) for epoch in (0, 1, 4)}
    run = read_run(make_run(tmp_path / "one", loss="matching", seed=7, predictions=tables))
    assert (run.loss, run.seed, run.data, run.metric) == ("matching", 7, "synthetic", "PCKh@0.5")
    assert run.epochs == [0, 1, 4]
    assert list(run.metrics.index) == run.epochs
    pd.testing.assert_frame_equal(run.last_predictions.frame(), tables[4])
    pd.testing.assert_frame_equal(run.predictions(1).frame(), tables[1])
    assert run.figures == pytest.approx(pckh_figures(tables[4]), abs=1e-12)
    assert run.metrics["val/PCKh@0.5"][0] == pckh_figures(tables[0])["PCKh@0.5"]
    with pytest.raises(PosematchError, match=r"no predictions of epoch 2; there are \[0, 1, 4\]"):
        run.predictions(2)


def test_runs_are_found_at_any_depth_once_and_in_order(tmp_path):
    for name in ("b", "sweep/c", "sweep/deep/a"):
        make_run(tmp_path / name, predictions={0: PEOPLE})
    make_run(tmp_path / "sweep" / "unfinished", predictions={0: PEOPLE}, finished=False)
    found = find_runs([tmp_path, tmp_path / "b", tmp_path / "sweep"])
    assert [run.folder.path.name for run in found] == ["a", "b", "c"]


def test_what_is_no_finished_run_is_told(tmp_path):
    make_run(tmp_path / "unfinished", predictions={0: PEOPLE}, finished=False)
    with pytest.raises(PosematchError, match="is not finished; finish it with resume="):
        find_runs([tmp_path / "unfinished"])
    with pytest.raises(PosematchError, match="holds no finished run"):
        find_runs([tmp_path])
    with pytest.raises(PosematchError, match="is no folder"):
        find_runs([tmp_path / "nothing"])


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "metrics.csv", "result.json"])
@pytest.mark.parametrize("content", ["", "][", "[1]"])
def test_a_damaged_run_is_told(tmp_path, name, content):
    path = make_run(tmp_path / "one", predictions={0: PEOPLE})
    (path / name).write_text(content)
    with pytest.raises(PosematchError, match=name) as caught:
        read_run(path)
    assert str(path) in str(caught.value)


def test_a_newer_run_is_refused(tmp_path):
    path = make_run(tmp_path / "one", predictions={0: PEOPLE})
    environment = json.loads((path / "environment.json").read_text())
    (path / "environment.json").write_text(json.dumps(environment | {"schema_version": 99}))
    with pytest.raises(PosematchError, match="newer posematch"):
        read_run(path)


def test_losses_and_seeds_may_differ(tmp_path):
    for seed, loss in enumerate(["gaussian_mse", "dot_mse", "matching"]):
        own = {"optimizer.lr": 10.0**-seed, "backbone.head_init_bias": float(seed)}
        make_run(tmp_path / loss, loss=loss, seed=seed, predictions={0: PEOPLE}, config=own)
    runs = find_runs([tmp_path])
    check_comparable(runs)
    with pytest.raises(PosematchError, match=r"loss.name is dot_mse in one and gaussian_mse"):
        check_comparable(runs, OF_THE_SEED)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"protocol": "another"}, "the protocols differ"),
        ({"metric": "AP", "figures": {"AP": 0.5}}, "the protocols differ"),
        ({"config": {"backbone.name": "hrnet_w48"}}, "backbone.name is small in one"),
        ({"config": {"data.input_size": [128, 128]}}, "data.input_size is"),
        ({"config": {"data.root": "elsewhere", "trainer.log_every_n_steps": 3}}, None),
        ({"predictions": {1: PEOPLE}}, "max_epochs is 1 in one and 2"),
        ({"predictions": {0: PEOPLE.iloc[:-16]}}, r"other people .* \(8 people and 16 joints, 7"),
    ],
)
def test_what_may_not_stand_in_one_table_is_refused(tmp_path, other, told):
    make_run(tmp_path / "a", predictions={0: PEOPLE})
    make_run(tmp_path / "b", **({"predictions": {0: PEOPLE}} | other))
    runs = find_runs([tmp_path])
    if told is None:
        return check_comparable(runs)
    with pytest.raises(PosematchError, match=f"a and b cannot be compared: .*{told}"):
        return check_comparable(runs)


@pytest.mark.parametrize(
    ("column", "told"),
    [("visible", "other joints are labelled"), ("true_y", "the true joints are in other places")],
)
def test_another_truth_is_told(column, told):
    other = PEOPLE.copy()
    row = int(np.flatnonzero(other["visible"] > 0)[3])
    other.loc[row, column] = 0
    assert people_difference(of(PEOPLE), of(other)) == told
    assert people_difference(of(PEOPLE), of(PEOPLE)) == ""


def test_places_of_joints_that_are_not_labelled_mean_nothing():
    other = PEOPLE.copy()
    other.loc[int(np.flatnonzero(other["visible"] == 0)[0]), "true_x"] = np.nan
    assert people_difference(of(PEOPLE), of(other)) == ""


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("config.yaml", lambda one: one | {"seed": "a"}, "seed"),
        ("config.yaml", lambda one: one | {"loss": {"name": "a|b\x1b"}}, "loss.name"),
        ("config.yaml", lambda one: one | {"data": [1]}, "data"),
        ("environment.json", lambda one: 3, "not a mapping"),
        ("environment.json", lambda one: one | {"schema_version": "1"}, "schema_version"),
        ("result.json", lambda one: one | {"figures": {"last": {"AP": "high"}}}, "AP"),
        ("result.json", lambda one: one | {"metric": "AP"}, "has no AP"),
        ("result.json", lambda one: one | {"protocol": None}, "protocol"),
    ],
)
def test_values_of_another_type_are_told(tmp_path, name, change, words):
    path = make_run(tmp_path / "one", predictions={0: PEOPLE})
    changed = change(yaml.safe_load((path / name).read_text()))
    (path / name).write_text(json.dumps(changed))
    with pytest.raises(PosematchError, match=f"{name} is damaged .*{words}"):
        read_run(path)


@pytest.mark.parametrize(
    "text", ["a,b\n1,2\n", "epoch,a\nx,1\n", "epoch,a\n0,b\n", "epoch\n0\n0\n", "," * 20_000]
)
def test_tables_that_are_none_by_epoch(tmp_path, text):
    path = make_run(tmp_path / "one", predictions={0: PEOPLE})
    (path / "metrics.csv").write_text(text)
    with pytest.raises(PosematchError, match=r"metrics\.csv is damaged"):
        read_run(path)


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv", "truth.json", "predictions"])
def test_links_that_lead_out_of_a_run_are_not_followed(tmp_path, name):
    path = make_run(tmp_path / "one", predictions={0: PEOPLE})
    (path / "truth.json").write_text("{}")
    (path / name).rename(tmp_path / name)
    (path / name).symlink_to(tmp_path / name)
    with pytest.raises(PosematchError, match="is a link that leads out of"):
        [read_run(path).truth, read_run(path).last_predictions]
