"""Two processes (gloo, CPU) are one training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from posematch.runs.folder import RunFolder
from posematch.runs.heatmaps import read_heatmaps

REPOSITORY = Path(__file__).resolve().parents[2]

# Writes the loss of every step of process 0, in full precision.
RECORDER = """
import lightning.pytorch as pl

class Record(pl.Callback):
    def __init__(self, file):
        self.file = file

    def on_train_batch_end(self, trainer, module, *rest):
        if trainer.is_global_zero:
            with open(self.file, "a") as file:
                print(repr(float(module.step_figures["train/loss"])), file=file)
"""


def test_a_fresh_training_of_two_processes(tmp_path, drawn):
    """Started by its own first process: the second one asks nobody for a folder to resume."""
    done = subprocess.run(
        [
            sys.executable, str(REPOSITORY / "scripts" / "train.py"), f"data.root={drawn}",
            f"run_root={tmp_path / 'runs'}", "loss=gaussian_mse", "data.spec.train_photos=12",
            "data.spec.valid_photos=7", "data.input_size=[64,64]", "data.workers=0",
            "data.batch_size=2", "backbone=small", "trainer.max_steps=1", "measure=none",
            "trainer.accelerator=cpu", "trainer.strategy=ddp", "trainer.devices=2",
        ],
        capture_output=True, text=True, cwd=tmp_path, timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "result.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "rate"), [("gaussian_mse", 1e-2), ("matching", 3e-5)])
def test_two_processes_are_one(tmp_path, drawn, loss, rate):
    """Same global batch, normalisation frozen: equal losses, equal tables, one folder.

    Losses differ by the order of float32 sums alone, 1e-7 a step. A chaotic training grows that
    without bound (measured: random weights without statistics, or Adam's division by small second
    moments, take it to 1e-3 in 50 steps, with one process and two alike in code). So the network is
    a trained one, whose statistics mean something, and the optimizer is SGD, where a gradient
    scaled wrongly would show in the loss, as it would not under Adam.
    """
    (tmp_path / "record.py").write_text(RECORDER)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}

    def run(root, *overrides):
        done = subprocess.run(
            [
                sys.executable, str(REPOSITORY / "scripts" / "train.py"), f"data.root={drawn}",
                f"run_root={root}", f"loss={loss}", "data.spec.train_photos=12",
                "data.spec.valid_photos=7", "data.input_size=[64,64]", "data.workers=0",
                "trainer.accelerator=cpu", "trainer.precision=32-true", *overrides,
            ],
            capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (folder,) = root.iterdir()
        return folder

    first = run(tmp_path / "first", "trainer.max_epochs=6", "data.batch_size=4", "measure=none")
    folders, losses = [], []
    for processes in (1, 2):
        file = tmp_path / f"losses{processes}"
        folders.append(
            run(
                tmp_path / f"runs{processes}", f"checkpoint={first / 'checkpoints' / 'last.ckpt'}",
                "backbone.freeze_norm=true", "trainer.strategy=ddp", f"trainer.devices={processes}",
                f"data.batch_size={4 // processes}", "data.valid_batch_size=2",
                "optimizer._target_=torch.optim.SGD", f"optimizer.lr={rate}",
                "trainer.max_steps=50", "trainer.max_epochs=-1",
                "+callbacks.record._target_=record.Record", f"+callbacks.record.file={file}",
            )
        )  # fmt: skip
        losses.append(np.loadtxt(file))
    assert len(losses[0]) == len(losses[1]) == 50
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    tables = [pd.read_parquet(max(folder.glob("predictions/*"))) for folder in folders]
    assert list(tables[0].person_id) == list(tables[1].person_id)
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    for name, figure in results[0]["figures"]["last"].items():
        assert f"{results[1]['figures']['last'][name]:.2f}" == f"{figure:.2f}", name
    assert results[0]["protocol"] == results[1]["protocol"]
    kept = [read_heatmaps(RunFolder(folder)) for folder in folders]
    for name in ("person_id", "crop_affine", "image"):
        assert np.array_equal(getattr(kept[0], name), getattr(kept[1], name)), name
    # Of 255: a value on the border between two levels may fall to either side.
    assert abs(kept[0].levels.astype(int) - kept[1].levels).max() <= 1
    # The last batch is one person's in one process and no batch at all in the other.
    assert tables[0].person_id.nunique() % 4 == 1
