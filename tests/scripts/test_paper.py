"""`make paper` (docs/getting_started.md) with tiny trainings, killed and begun again.

Killed in the middle it goes on and repeats no finished job.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = [
    "data.spec.train_photos=12", "data.spec.valid_photos=6", "data.input_size=[64,64]",
    "data.batch_size=4", "data.workers=0", "trainer.accelerator=cpu", "trainer.max_epochs=4",
    "pictures.every_n_epochs=4",
]  # fmt: skip
JOBS = 6


def finished(sweep: Path) -> dict[Path, int]:
    """When the results of finished runs were written."""
    return {file.parent: file.stat().st_mtime_ns for file in sweep.glob("*/result.json")}


@pytest.mark.slow
def test_killed_and_started_again(tmp_path):
    command = [sys.executable, str(REPOSITORY / "scripts" / "paper.py"), *TINY,
               f"data.root={tmp_path / 'data'}", f"run_root={tmp_path / 'runs'}"]  # fmt: skip
    sweep = tmp_path / "runs" / "paper"
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    ends = time.monotonic() + 600
    while time.monotonic() < ends and first.poll() is None:
        begun = {file.parents[1] for file in sweep.glob("*/checkpoints/last.ckpt")}
        if finished(sweep) and begun - finished(sweep).keys():
            break
        time.sleep(0.2)
    # Outright: its workers and their jobs live on.
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = finished(sweep)
    assert 0 < len(done) < JOBS
    again = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Traceback" not in again.stderr
    assert again.stdout.count("skipped") >= len(done)
    after = finished(sweep)
    assert len(after) == len(list(sweep.glob("*/config.yaml"))) == JOBS
    assert done.items() <= after.items()
    made = {str(one.relative_to(sweep / "paper")) for one in (sweep / "paper").rglob("*.*")}
    assert made >= {
        "ablation.md", "ablation.tex", "ablation.csv", "loss_curves.png", "loss_curves.csv",
        "consistency.csv", "theorem.png", "theorem.csv", "heatmaps_dot_mse/failures.png",
        "heatmaps_matching/choices.csv", "report.html",
    }  # fmt: skip
    rows = (sweep / "paper" / "loss_curves.csv").read_text().splitlines()
    assert rows[0].startswith("training_loss,seed,epoch")
    # Once more: nothing is trained, and the tables are the same to the byte.
    files = sorted((sweep / "paper").rglob("*.csv"))
    before = [file.read_bytes() for file in files]
    subprocess.run(command, check=True, capture_output=True, timeout=900)
    assert finished(sweep) == after
    assert [file.read_bytes() for file in files] == before


@pytest.mark.slow
def test_a_misspelt_key_ends_in_one_sentence(tmp_path):
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "paper.py"), "trainer.max_epoch=1",
         f"run_root={tmp_path}"],
        capture_output=True, text=True, env=dict(os.environ), timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert "trainer.max_epochs" in done.stderr
    assert len(done.stderr.splitlines()) == 1
