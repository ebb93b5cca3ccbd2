"""Ray for real: a local cluster, a sweep of three jobs, of which one's worker is killed.

This is the command of docs/scaling.md, of small trainings.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

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

pytestmark = pytest.mark.slow


def processes():
    """Command line, parent and session of all that runs, by process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] not in "ZX":
            found[int(folder.name)] = (words, int(fields[1]), int(fields[3]))
    return found


def told(jobs):
    ended = [json.loads(file.read_text()) for file in jobs.glob("*.json")]
    return {one["job"].split()[0]: one for one in ended}


def test_sweep_with_a_killed_worker(tmp_path):
    """Ray starts the job again, and it goes on exactly; no process of Ray's is left."""
    pytest.importorskip("ray.exceptions")  # not this folder, which has its name
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    (tmp_path / "slow.py").write_text(SLOW)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("POSEMATCH_", "RAY_"))}
    environment = kept | {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "COLUMNS": "200",
        "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1",
        "TMPDIR": "/tmp",  # names of Ray's sockets must be short
    }  # fmt: skip
    ray_files = tmp_path.parents[1] / f"ray-{os.getpid()}"
    command = [
        *TRAIN, "-m", "seed=1,2,3", "sweep=cluster", "hydra/launcher=ray",
        "+hydra.launcher.ray.init.num_cpus=3", f"+hydra.launcher.ray.init._temp_dir={ray_files}",
        "+hydra.launcher.ray.init.include_dashboard=false",
        "trainer.max_epochs=6", f"run_root={tmp_path / 'runs'}", f"data.root={tmp_path / 'data'}",
        "+callbacks.slow._target_=slow.Slow", *TINY,
    ]  # fmt: skip
    jobs = tmp_path / "runs" / "cluster" / "jobs"
    with (tmp_path / "said").open("w") as output:
        sweep = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=output,
                                 stderr=subprocess.STDOUT)  # fmt: skip
    try:
        ends = time.monotonic() + 300
        tables = "runs/cluster/*/metrics.csv"
        while sum(len(one.read_text().splitlines()) > 1 for one in tmp_path.glob(tables)) < 3:
            assert sweep.poll() is None, (tmp_path / "said").read_text()
            assert time.monotonic() < ends, (tmp_path / "said").read_text()
            time.sleep(0.5)
        job = told(jobs)["seed=2"]["job"]
        (worker,) = [
            parent for words, parent, _ in processes().values()
            if "posematch.training.sweep" in words and job in words
        ]  # fmt: skip
        os.kill(worker, signal.SIGKILL)
        assert sweep.wait(600) == 0, (tmp_path / "said").read_text()
    finally:
        for _ in range(3):  # in order, at once, and killed
            if sweep.poll() is None:
                sweep.terminate()
                try:
                    sweep.wait(30)
                except subprocess.TimeoutExpired:
                    continue
    said = (tmp_path / "said").read_text()
    assert "Traceback" not in said
    assert {key: one["status"] for key, one in told(jobs).items()} == {
        "seed=1": "finished", "seed=2": "resumed", "seed=3": "finished",
    }  # fmt: skip
    folders = [file.parent for file in tmp_path.glob("runs/cluster/*/config.yaml")]
    assert len(folders) == 3
    for folder in folders:
        assert list(pd.read_csv(folder / "metrics.csv").epoch) == list(range(6))
    undisturbed = [*TRAIN, "seed=2", "trainer.max_epochs=6", f"run_root={tmp_path / 'alone'}",
                   f"data.root={tmp_path / 'data'}", *TINY]  # fmt: skip
    subprocess.run(undisturbed, env=environment, check=True, capture_output=True)
    (alone,) = tmp_path.glob("alone/*/metrics.csv")
    resumed = Path(told(jobs)["seed=2"]["folder"]) / "metrics.csv"
    assert resumed.read_text() == alone.read_text()
    assert not [words for words, *_ in processes().values() if str(ray_files) in words]
