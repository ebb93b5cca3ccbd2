"""SLURM for real: a sweep by submitit, jobs queued again and killed; processes by srun.

These are the commands of docs/scaling.md, of small trainings.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import loopback
import pandas as pd
import pytest
from loopback import cluster, queue, until

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN = [sys.executable, str(REPOSITORY / "scripts" / "train.py")]
TINY = [
    "data.spec.train_photos=12", "data.spec.valid_photos=6", "data.input_size=[64,64]",
    "data.batch_size=4", "data.workers=0", "trainer.accelerator=cpu", "measure=none",
    "pictures.every_n_epochs=0", "pictures.results=false", "decoders=none",
]  # fmt: skip

# Slow enough for somebody to come between; how fast the machine is does not matter.
SLOW = """
import time
import lightning.pytorch as pl

class Slow(pl.Callback):
    def on_train_batch_end(self, *rest):
        time.sleep(0.3)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(loopback.missing()), reason=loopback.missing() or "it is there"),
]


@pytest.fixture
def slurm(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    with cluster(tmp_path / "slurm") as environment:
        kept = {k: v for k, v in environment.items() if not k.startswith("POSEMATCH_")}
        path = os.pathsep.join([str(tmp_path), *sys.path])
        yield kept | {"PYTHONPATH": path, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}


def sweep_command(tmp_path):
    return [
        *TRAIN, "-m", "seed=1,2,3", "sweep=cluster", "hydra/launcher=submitit_slurm",
        "hydra.launcher.timeout_min=60", "hydra.launcher.cpus_per_task=1",
        "trainer.max_epochs=6", f"run_root={tmp_path / 'runs'}", f"data.root={tmp_path / 'data'}",
        "+callbacks.slow._target_=slow.Slow", *TINY,
    ]  # fmt: skip


def told(jobs):
    ended = [json.loads(file.read_text()) for file in jobs.glob("*.json")]
    return {one["job"].split()[0]: one for one in ended}


@contextlib.contextmanager
def swept(command, tmp_path, environment):
    """A sweep in a process of its own, which is not left waiting for jobs if the test fails."""
    with (tmp_path / "said").open("w") as output:
        sweep = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=output,
                                 stderr=subprocess.STDOUT)  # fmt: skip
    try:
        yield sweep
    finally:
        for _ in range(3):  # in order, at once, and killed
            if sweep.poll() is None:
                sweep.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    sweep.wait(20)


def worker_of(job: dict) -> int:
    """Process of the worker that trains a job: the parent of the process that does."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if b"posematch.training.sweep" in words and job["job"].encode() in words:
            return int(fields[1])
    raise AssertionError(f"nobody trains {job}")


def test_sweep_with_a_job_queued_again_and_a_killed_one(tmp_path, slurm):
    """Three jobs; one is queued again, and goes on exactly; one's worker is killed, and told."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    command, jobs = sweep_command(tmp_path), tmp_path / "runs" / "cluster" / "jobs"
    with swept(command, tmp_path, slurm) as sweep:

        def trained():
            assert sweep.poll() is None, (tmp_path / "said").read_text()
            rows = (tmp_path / "runs").glob("cluster/*/metrics.csv")
            return sum(len(file.read_text().splitlines()) > 1 for file in rows) == 3

        until(trained, "three first epochs", 300)
        running = told(jobs)
        assert {one["status"] for one in running.values()} == {"running"}
        again = running["seed=1"]["place"].removeprefix("SLURM job ")
        killed = running["seed=2"]
        subprocess.run(["scontrol", "requeue", again], env=slurm, check=True)
        os.kill(worker_of(killed), signal.SIGKILL)
        assert sweep.wait(600) == 1
    said = (tmp_path / "said").read_text()
    assert "Traceback" not in said
    assert "Some jobs failed; the same command runs those again." in said
    ended = told(jobs)
    assert {key: one["status"] for key, one in ended.items()} == {
        "seed=1": "resumed", "seed=2": "failed", "seed=3": "finished",
    }  # fmt: skip
    assert ended["seed=2"]["sentence"].startswith("SLURM ended job ")
    repeated = subprocess.run(command, cwd=tmp_path, env=slurm, capture_output=True, text=True)
    assert repeated.returncode == 0, repeated.stdout + repeated.stderr
    after = {key: one["status"] for key, one in told(jobs).items()}
    assert after["seed=1"] == after["seed=3"] == "skipped"
    assert after["seed=2"] in ("resumed", "finished")  # as a checkpoint was written or not
    folders = [file.parent for file in (tmp_path / "runs").glob("cluster/*/config.yaml")]
    assert len(folders) == 3
    for folder in folders:
        assert list(pd.read_csv(folder / "metrics.csv").epoch) == list(range(6))
    undisturbed = [*TRAIN, "seed=1", "trainer.max_epochs=6", f"run_root={tmp_path / 'alone'}",
                   f"data.root={tmp_path / 'data'}", *TINY]  # fmt: skip
    subprocess.run(undisturbed, env=slurm, check=True, capture_output=True)
    (alone,) = (tmp_path / "alone").glob("*/metrics.csv")
    resumed = Path(ended["seed=1"]["folder"]) / "metrics.csv"
    assert resumed.read_text() == alone.read_text()


def test_warning_before_the_time_limit_queues_again(tmp_path, slurm):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    command = [one.replace("seed=1,2,3", "seed=1") for one in sweep_command(tmp_path)]
    jobs = tmp_path / "runs" / "cluster" / "jobs"
    with swept(command, tmp_path, slurm) as sweep:
        until(lambda: list(tmp_path.glob("runs/cluster/*/checkpoints/last.ckpt")), "a checkpoint")
        number = told(jobs)["seed=1"]["place"].removeprefix("SLURM job ")
        subprocess.run(["scancel", "--signal=USR1", number], env=slurm, check=True)
        assert sweep.wait(600) == 0, (tmp_path / "said").read_text()
    assert told(jobs)["seed=1"]["status"] == "resumed"
    assert queue(slurm) == {number: "COMPLETED"}


def test_two_processes_of_srun_are_one_training(tmp_path, slurm):
    command = ["srun", "--ntasks=2", "--ntasks-per-node=2", "--kill-on-bad-exit=1", *TRAIN,
               "resume=auto", "trainer.strategy=ddp", "trainer.devices=2", "trainer.max_epochs=1",
               f"run_root={tmp_path / 'runs'}", f"data.root={tmp_path / 'data'}",
               *TINY]  # fmt: skip
    done = subprocess.run(command, env=slurm, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("run folder:") == 1
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "result.json").exists()
