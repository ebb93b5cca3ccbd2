"""The scripts of tables and figures, as they are called."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from folders import make_run, random_people, with_errors
from hydra.core.global_hydra import GlobalHydra

from posematch.app.commands import begins_sweep
from posematch.metrics.columns import TERMS

REPOSITORY = Path(__file__).resolve().parents[2]


def call(script: str, *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "scripts" / script), *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "200"}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environment, timeout=1200
    )


@pytest.fixture
def here(monkeypatch, capsys):
    """Call a script in this process: importing torch in another takes longer than the script."""

    def run(script: str, *arguments: str, folder: Path):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # put back afterwards
        GlobalHydra.instance().clear()
        code = 0
        try:
            runpy.run_path(str(REPOSITORY / "scripts" / script), run_name="__main__")
        except SystemExit as ended:
            code = int(ended.code or 0)
        told = capsys.readouterr()
        return subprocess.CompletedProcess([script], code, told.out, told.err)

    return run


@pytest.fixture
def runs(tmp_path):
    """Two runs of three epochs."""
    for loss in ("gaussian_mse", "matching"):
        columns = {"val/PCKh@0.5": [1.0, 2, 3], f"val/loss/{loss}": [3.0, 2, 1]}
        columns |= {f"val/theorem/{term}": [1.0, 1, 1] for term in TERMS}
        columns |= {"val/theorem/residual": [0.0, 0, 0]}
        make_run(
            tmp_path / "runs" / loss,
            loss=loss,
            predictions={2: with_errors(random_people(), 0.3)},
            metrics=pd.DataFrame(columns, index=range(3)),
        )
    return tmp_path


@pytest.mark.parametrize(
    ("script", "more", "csv", "figure"),
    [
        ("ablation_table.py", ["decoding=all", "draws=100"], "ablation.csv", None),
        ("loss_curves.py", ["first=1"], "consistency.csv", "loss_curves.svg"),
        ("theorem.py", [], "theorem.csv", "theorem.png"),
    ],
)
def test_a_script_prints_its_table_and_writes_its_files(here, runs, script, more, csv, figure):
    done = here(script, "runs=runs", "output=out/put", *more, folder=runs)
    assert done.returncode == 0, done.stderr
    assert "| `matching`" in done.stdout
    assert (runs / "out" / "put" / csv).exists()
    assert figure is None or (runs / "out" / "put" / figure).stat().st_size > 5000
    written = {Path(line).name for line in done.stdout.splitlines() if line.startswith("out/put")}
    assert written == {one.name for one in (runs / "out" / "put").iterdir()}
    assert sorted(one.name for one in runs.iterdir()) == ["out", "runs"]


def test_a_script_refuses_in_one_sentence(here, runs):
    make_run(runs / "runs" / "other", loss="kl", protocol="another protocol")
    refused = here("ablation_table.py", "runs=[runs]", folder=runs)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "gaussian_mse and other cannot be compared: the protocols differ" in refused.stderr
    missing = here("loss_curves.py", folder=runs)
    assert missing.stderr == "runs is not set: add runs=... to the command.\n"


@pytest.mark.parametrize(
    ("command", "sweep"),
    [
        (["experiment=ablation"], True),
        (["experiment=[cpu,loss_vs_metric]", "data=mpii", "loss=kl,js"], True),
        (["experiment=cpu"], False),
        (["experiment=ablation", "--cfg", "job"], False),
        (["experiment=ablation", "nothing=1"], False),  # training will say why
        (["-m", "seed=1,2"], True),
        (["loss=kl"], False),
    ],
)
def test_an_experiment_may_be_a_sweep(command, sweep):
    assert begins_sweep("train", command) is sweep


@pytest.mark.slow
def test_from_a_sweep_to_tables(tmp_path):
    """experiment=ablation as it is, on COCO's joints; the command line chooses other losses."""
    tiny = [
        "experiment=ablation", "loss=gaussian_mse,kl", "seed=3,4", "data.skeleton=coco",
        f"data.root={tmp_path / 'data'}", f"run_root={tmp_path / 'runs'}", "sweep=s",
        "data.spec.train_photos=12", "data.spec.valid_photos=6", "data.input_size=[64,64]",
        "data.batch_size=4", "data.workers=0", "trainer.accelerator=cpu", "trainer.max_epochs=3",
        "pictures.every_n_epochs=0",
    ]  # fmt: skip
    first = call("train.py", *tiny, folder=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    folders = list((tmp_path / "runs" / "s").glob("*/result.json"))
    assert len(folders) == 4
    again = call("train.py", *tiny, folder=tmp_path)
    assert again.stdout.count("skipped") == 4
    done = call("ablation_table.py", "runs=runs/s", "decoding=all", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "ablation" / "ablation.csv")
    assert list(table.figure.unique()) == ["AP", "AP50", "AP75", "AP(M)", "AP(L)", "AR"]
    assert set(table.loss) == {"gaussian_mse", "kl"}
    assert table.decoder.nunique() >= 4
    assert np.isfinite(table[table.figure == "AR"]["mean"]).all()
    for script in ("loss_curves.py", "theorem.py"):
        done = call(script, "runs=runs/s", "first=1", folder=tmp_path)
        assert done.returncode == 0, done.stderr
