"""The dashboard asks for nothing but what a real run logged."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from wandb_files import read_wandb

from posematch.app.composition import register_resolvers
from posematch.reports.dashboard import logged_names, sections, specification
from posematch.runs.finished import find_runs
from posematch.training.run import train

pytest.importorskip("wandb_workspaces")
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that logged to W&B, offline."""
    register_resolvers()
    root = tmp_path_factory.mktemp("dashboard")
    overrides = [
        f"data.root={root / 'data'}", f"run_root={root / 'runs'}", "data.spec.train_photos=12",
        "data.spec.valid_photos=6", "data.input_size=[64,64]", "data.batch_size=4",
        "data.workers=0", "trainer.accelerator=cpu", "trainer.max_epochs=2",
        "trainer.log_every_n_steps=1", "pictures.every_n_epochs=1", "logger=wandb", "sweep=s1",
    ]  # fmt: skip
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=overrides)
    with pytest.MonkeyPatch.context() as patch:
        # Not by WANDB_MODE, which wandb reads once in a process.
        for name in ("WANDB_API_KEY", "WANDB_MODE"):
            patch.delenv(name, raising=False)
        patch.setenv("NETRC", str(root / "none"))
        return train(cfg).folder.path


@pytest.fixture(scope="module")
def names(folder):
    return logged_names(find_runs([folder]))


def asked_for(tree, key=""):
    """Every name of something logged in a specification: axes, metrics, columns, media, tables."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == "panels" and isinstance(value, dict):
                continue  # W&B's names of tabs
            yield from asked_for(value, name)
        if tree.get("name") == "tableKey":
            yield tree["value"]
        if tree.get("name") == "summaryTable" and "value" in tree:
            yield tree["value"]
    elif isinstance(tree, list):
        for one in tree:
            yield from asked_for(one, key)
    elif isinstance(tree, str) and key in ("xAxis", "yAxis", "metrics", "mediaKeys", "columnOrder"):
        yield tree.removeprefix("summary:")


def test_every_name_is_one_that_training_logged(folder, names):
    rows, _, summary, runs, _ = read_wandb(folder)
    # A picture and a table are logged as the fields of a record below their name.
    logged = {*set().union(*rows), *summary}
    logged |= {one.rpartition("/")[0] for one in logged}
    config = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    made = specification(names, "project", "title")
    asked = set(asked_for(made)) - {"_step"}  # the axis of what has none of its own
    asked_config = {one for one in asked if one.startswith("config:")}
    attributes = {one for one in asked if one.startswith("run:")}
    assert asked - asked_config - attributes <= logged
    # Both ways: what the issue asks to be shown is asked for.
    tables = {"tables/joints", "tables/losses"}
    shown = json.dumps(made)
    assert asked >= {"val/PCKh@0.5", "epoch", "val/heatmaps", "train/loss"}
    assert asked >= {one for one in logged if re.match(r"val/PCKh@0.5/joint/|val/loss/", one)}
    assert {f"charts/loss_against_metric/{one}_table" for one in ("matching", "dot_mse")} <= asked
    assert tables <= logged
    assert all(one in shown for one in tables)
    for one in asked_config:
        first, _, rest = one.removeprefix("config:").partition(".value")
        value = config[first]
        for key in rest.split(".")[1:]:
            value = value[key]


def test_a_name_that_is_not_logged_is_found(names):
    """The walk of the test above sees every kind of panel that names something."""
    kinds = {type(panel).__name__ for one in sections(names) for panel in one.panels}
    assert kinds == {"LinePlot", "ScatterPlot", "BarPlot", "CustomChart", "MediaBrowser",
                     "RunComparer", "WeavePanelSummaryTable"}  # fmt: skip
    panels = [
        {"xAxis": "a", "metrics": ["b"]},
        {"yAxis": "summary:c"},
        {"mediaKeys": ["d"]},
        {"name": "tableKey", "value": "e"},
    ]
    found = set(asked_for({"panels": panels}))
    assert found == {"a", "b", "c", "d", "e"}


def test_both_views_stand_by_sweep_and_loss(names):
    made = specification(names, "project", "title")
    by = [{"section": "run", "name": "group"}, {"section": "config", "name": "loss.value.name"}]
    assert made["workspace"]["spec"]["section"]["runSets"][0]["grouping"] == by
    grids = [one for one in made["report"]["spec"]["blocks"] if one["type"] == "panel-grid"]
    assert grids
    assert all(one["metadata"]["runSets"][0]["grouping"] == by for one in grids)
    titles = [
        one["name"] for one in made["workspace"]["spec"]["section"]["panelBankConfig"]["sections"]
    ]
    assert titles == ["Metric", "Losses by epoch", "Loss against metric", "Consistency", "Joints",
                      *(["Theorem 1"] if names.theorem else []), "Heatmaps", "Training",
                      "Runs"]  # fmt: skip


def dashboard(folder, tmp_path, *overrides):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    environment["NETRC"] = str(tmp_path / "none")
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "wandb_dashboard.py"), f"runs={folder}",
         *overrides],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip


@pytest.mark.slow
def test_the_specification_as_a_file(folder, tmp_path):
    file = tmp_path / "made" / "dashboard.json"
    done = dashboard(folder, tmp_path, f"output={file}", "project=p")
    assert (done.returncode, done.stderr) == (0, "")
    made = json.loads(file.read_text())
    assert made.keys() == {"workspace", "report"}
    assert made["workspace"]["project"] == "p"


@pytest.mark.slow
def test_without_a_key_one_sentence_says_what_to_do(folder, tmp_path):
    done = dashboard(folder, tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"W&B: no API key .*wandb login.*output=FILE\.\n", done.stderr)
