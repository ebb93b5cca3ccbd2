"""Sweeps by the real script: one process, folder, csv and W&B run per job."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from posematch.files import locked

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = [
    "data.spec.train_photos=12", "data.spec.valid_photos=6", "data.input_size=[64,64]",
    "data.batch_size=4", "data.workers=0", "trainer.accelerator=cpu", "measure=none",
    "pictures.every_n_epochs=0",
]  # fmt: skip

# A user's callback that brings trouble once: as long as its flag lies there.
TROUBLE = """
import os, signal
from pathlib import Path
import lightning.pytorch as pl
from posematch.errors import PosematchError

class Trouble(pl.Callback):
    def __init__(self, flags, loss, seed):
        self.flag = Path(flags) / f"{loss}-{seed}"

    def on_train_batch_end(self, trainer, *rest):
        if trainer.current_epoch == 2 and self.flag.exists():
            kind = self.flag.read_text()
            self.flag.unlink()
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise PosematchError("Made to fail.")
"""


def script(tmp_path, drawn, *overrides):
    return [sys.executable, str(REPOSITORY / "scripts" / "train.py"), *overrides,
            f"data.root={drawn}", f"run_root={tmp_path / 'runs'}", *TINY]  # fmt: skip


def environment(tmp_path):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "POSEMATCH_"))}
    # posematch too, where it is found by this variable.
    path = os.pathsep.join([str(tmp_path), *sys.path])
    return env | {"NETRC": str(tmp_path / "none"), "PYTHONPATH": path, "COLUMNS": "200"}


def run(tmp_path, drawn, *overrides):
    return subprocess.run(
        script(tmp_path, drawn, *overrides), capture_output=True, text=True, cwd=tmp_path,
        env=environment(tmp_path), timeout=900,
    )  # fmt: skip


def outcomes(sweep):
    told = [json.loads(file.read_text()) for file in sweep.glob("jobs/*.json")]
    return sorted(one["status"] for one in told)


@pytest.mark.slow
def test_sweep_survives_a_killed_and_a_failed_job(tmp_path, drawn):
    """Three losses x two seeds under joblib; one job killed -9, one made to fail."""
    (tmp_path / "trouble.py").write_text(TROUBLE)
    flags = tmp_path / "flags"
    flags.mkdir()
    (flags / "dot_mse-1").write_text("kill")
    (flags / "matching-2").write_text("fail")
    command = [
        "-m", "loss=gaussian_mse,dot_mse,matching", "seed=1,2", "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2", "trainer.max_epochs=4", "logger=wandb",
        "+callbacks.trouble._target_=trouble.Trouble", f"+callbacks.trouble.flags={flags}",
        "+callbacks.trouble.loss=${loss.name}", "+callbacks.trouble.seed=${seed}",
    ]  # fmt: skip
    first = run(tmp_path, drawn, *command)
    assert first.returncode == 1
    assert "Made to fail." in first.stdout
    assert "Killed by signal 9" in first.stdout
    assert "Traceback" not in first.stdout + first.stderr
    (sweep,) = (tmp_path / "runs").iterdir()
    assert outcomes(sweep) == ["failed"] * 2 + ["finished"] * 4
    again = run(tmp_path, drawn, *command)
    assert again.returncode == 0, again.stdout + again.stderr
    assert outcomes(sweep) == ["resumed"] * 2 + ["skipped"] * 4
    folders = sorted(file.parent for file in sweep.glob("*/result.json"))
    assert len(folders) == len(list(sweep.glob("*/config.yaml"))) == 6
    for folder in folders:
        assert list(pd.read_csv(folder / "metrics.csv").epoch) == [0, 1, 2, 3]
        # A job that was cut off and resumed leaves two parts of one W&B run.
        parts = list(folder.glob("wandb/offline-run-*/run-*.wandb"))
        assert len({part.name for part in parts}) == 1
        resumed = "resumed" in json.loads((folder / "environment.json").read_text())
        assert len(parts) == 1 + resumed
    assert sum("resumed" in (f / "environment.json").read_text() for f in folders) == 2


@pytest.mark.slow
def test_dry_run_estimates_each_job_and_writes_no_run(tmp_path, drawn):
    done = run(tmp_path, drawn, "-m", "loss=gaussian_mse,matching", "dry_run=true")
    assert done.returncode == 0, done.stderr
    assert "loss=gaussian_mse" in done.stdout
    assert "GiB" in done.stdout
    assert not list((tmp_path / "runs").glob("*/*/config.yaml"))


@pytest.mark.slow
def test_optuna_searches(tmp_path, drawn):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    search = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "trainer.max_epochs=3",
              "optimizer.lr=tag(log,interval(1e-7,1e-2))"]  # fmt: skip
    done = run(tmp_path, drawn, *search)
    assert done.returncode == 0, done.stdout + done.stderr
    (sweep,) = (tmp_path / "runs").iterdir()
    assert len(list(sweep.glob("*/result.json"))) == 3
    best = (sweep / "optimization_results.yaml").read_text()
    metrics = [json.loads(f.read_text())["figures"]["last"]["PCKh@0.5"]
               for f in sweep.glob("*/result.json")]  # fmt: skip
    assert f"best_value: {max(metrics)}" in best
    assert len(set(metrics)) > 1  # or any direction would do
    # The same search again has the same trials, which are there.
    assert run(tmp_path, drawn, *search).returncode == 0
    assert outcomes(sweep) == ["skipped"] * 3


def test_sweep_with_a_path_for_a_name_makes_no_folder(tmp_path, drawn):
    refused = run(tmp_path, drawn, "-m", "seed=1,2", "sweep=../out")
    assert refused.returncode == 1
    assert refused.stderr.startswith("sweep=../out must be a name")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_killed_sweep_stops_its_job_with_a_checkpoint(tmp_path, drawn):
    script = str(REPOSITORY / "scripts" / "train.py")
    length = ["-m", "seed=1,2", "trainer.max_epochs=500"]
    command = [
        sys.executable, script, *length, f"data.root={drawn}", f"run_root={tmp_path}", *TINY
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=tmp_path)
    until = time.monotonic() + 120
    while not (rows := list(tmp_path.glob("*/*/metrics.csv"))):
        assert time.monotonic() < until
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()

    def told():
        return [json.loads(file.read_text())["status"] for file in tmp_path.glob("*/jobs/*.json")]

    while told() != ["stopped"]:  # and until then "running"
        assert time.monotonic() < until
        time.sleep(0.1)
    assert (rows[0].parent / "checkpoints" / "last.ckpt").exists()


@pytest.mark.slow
def test_second_process_of_a_sweep_is_refused_unless_the_first_ones_user_is_gone(tmp_path, drawn):
    jobs = tmp_path / "runs" / "held" / "jobs"
    jobs.mkdir(parents=True)
    command = ["-m", "seed=1", "sweep=held", "dry_run=true"]
    with locked(jobs / "sweep.lock") as lock:
        lock.write(f"{os.getpid()} {socket.gethostname()}".encode())
        lock.flush()
        refused = run(tmp_path, drawn, *command)
        assert refused.returncode == 1
        assert refused.stdout == ""
        assert len(refused.stderr.splitlines()) == 1
        assert f"(process {os.getpid()} on {socket.gethostname()})" in refused.stderr
    assert list(jobs.iterdir()) == []
    gone = subprocess.Popen(["true"])
    gone.wait()
    with locked(jobs / "sweep.lock") as lock:
        lock.write(f"{gone.pid} {socket.gethostname()}".encode())
        lock.flush()
        waiting = subprocess.Popen(script(tmp_path, drawn, *command), env=environment(tmp_path),
                                   stderr=subprocess.PIPE, text=True)  # fmt: skip
        assert waiting.stderr is not None
        assert "still stops its jobs; waiting for it" in waiting.stderr.readline()
    waiting.communicate(timeout=300)
    assert waiting.returncode == 0
