"""The example package, installed as a user's would be, trained, logged and swept."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "examples" / "own_package"
OWN = ["loss=cross_entropy", "data=marionettes", "backbone=plain", "decoder=power_barycentre"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Folder that pip installed the package into; from a copy, since a build leaves files."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    subprocess.run(["cp", "-r", str(PACKAGE), str(source)], check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
         "--disable-pip-version-check", "--target", str(folder / "site"), str(source)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return folder / "site"


@pytest.fixture
def run(installed, tmp_path):
    def run(*overrides: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
        environment |= {"PYTHONPATH": str(installed), "NETRC": str(tmp_path / "none")}
        return subprocess.run(
            [sys.executable, str(REPOSITORY / "scripts" / "train.py"), *overrides,
             "--config-dir", str(PACKAGE / "conf"), f"run_root={tmp_path / 'runs'}",
             "trainer.accelerator=cpu"],
            capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300,
        )  # fmt: skip

    return run


def test_own_loss_data_network_and_decoder_train_and_are_logged(run, tmp_path):
    """Everything of one's own at once; every joint found after a few epochs on 40 drawn photos."""
    done = run(*OWN, "trainer.max_epochs=6", "logger=tensorboard")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    metrics = pd.read_csv(folder / "metrics.csv")
    losses = [f"val/loss/{name}" for name in ("cross_entropy", "gaussian_mse", "matching")]
    assert metrics[losses].notna().all(axis=None)
    assert metrics["train/loss"].iloc[-1] < 0.5 * metrics["train/loss"].iloc[0]
    result = json.loads((folder / "result.json").read_text())
    assert result["figures"]["last"]["AP"] > result["figures"]["mean pose"]["AP"]
    table = pd.read_parquet(max(folder.glob("predictions/*")))
    assert set(table.joint) == {"head", "left_hand", "right_hand", "left_foot", "right_foot"}
    assert list(folder.glob("tensorboard/events*"))
    assert list(folder.glob("figures/*.png"))


def test_own_loss_on_the_embedded_data_keeps_its_own_decoder(run, tmp_path):
    done = run(
        "loss=cross_entropy", "trainer.max_steps=1", "data.spec.train_photos=12",
        "data.spec.valid_photos=4", "data.input_size=[64,64]", "data.batch_size=4", "measure=none",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    config = next((tmp_path / "runs").glob("*/config.yaml")).read_text()
    assert "posematch.decoding.Barycentre" in config


def test_typo_in_own_configuration_is_a_sentence(run):
    done = run(*OWN, "loss.temprature=2")
    assert done.returncode == 1
    assert done.stderr == (
        "loss.temprature is no key of the configuration; the nearest is loss.temperature.\n"
    )


@pytest.mark.slow
def test_own_loss_is_swept_and_measured_on_every_network(run, tmp_path):
    done = run("-m", "loss=gaussian_mse,cross_entropy", *OWN[1:3], "trainer.max_epochs=1",
               "logger=wandb", "measure=mine")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    results = list((tmp_path / "runs").glob("*/*/result.json"))
    assert len(results) == 2
    for file in results:
        assert np.isfinite(json.loads(file.read_text())["losses"]["cross_entropy"])
    assert len(list((tmp_path / "runs").glob("*/*/wandb/offline-run-*/*.wandb"))) == 2


def test_the_document_shows_the_code_that_is_tested():
    text = (REPOSITORY / "docs" / "add_a_loss.md").read_text()
    loss, loss_yaml, measure_yaml = re.findall(r"```(?:python|yaml)\n(.*?)```", text, re.DOTALL)
    assert loss == (PACKAGE / "src/posematch_example/losses.py").read_text()
    assert loss_yaml == (PACKAGE / "conf/loss/cross_entropy.yaml").read_text()
    assert measure_yaml == (PACKAGE / "conf/measure/mine.yaml").read_text()
    code = [line for line in loss.splitlines() if line.strip()]
    assert len(code) <= 23, "a new loss in twenty lines, and imports"
