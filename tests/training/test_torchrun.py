"""Two processes that torchrun has started (gloo, CPU): one folder, also where they resume."""

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

# Slow enough for somebody to come between; how fast the machine is does not matter.
SLOW = """
import time
import lightning.pytorch as pl

class Slow(pl.Callback):
    def on_train_batch_end(self, *rest):
        time.sleep(0.3)
"""


@pytest.mark.slow
def test_a_stopped_training_goes_on_in_its_folder(tmp_path, drawn):
    """resume=auto from the beginning, as in a job that is queued again: the second process must not
    take the folder that the first one has just made for an unfinished run."""
    (tmp_path / "slow.py").write_text(SLOW)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        f"--log-dir={tmp_path / 'elastic'}",  # it would leave a folder in TMPDIR
        str(REPOSITORY / "scripts" / "train.py"), "resume=auto", f"data.root={drawn}",
        f"run_root={tmp_path / 'runs'}", "data.spec.train_photos=12", "data.spec.valid_photos=6",
        "data.input_size=[64,64]", "data.batch_size=4", "data.workers=0", "measure=none",
        "decoders=none", "pictures.every_n_epochs=0", "pictures.results=false",
        "trainer.accelerator=cpu", "trainer.strategy=ddp", "trainer.devices=2",
        "trainer.max_epochs=4", "+callbacks.slow._target_=slow.Slow",
    ]  # fmt: skip
    with (tmp_path / "said").open("w") as output:
        first = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=output,
                                 stderr=subprocess.STDOUT)  # fmt: skip
    ends = time.monotonic() + 300
    while not list(tmp_path.glob("runs/*/checkpoints/last.ckpt")):
        assert first.poll() is None, (tmp_path / "said").read_text()
        assert time.monotonic() < ends, (tmp_path / "said").read_text()
        time.sleep(0.2)
    first.send_signal(signal.SIGTERM)
    assert first.wait(120) != 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert not (folder / "result.json").exists()
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True,
                           timeout=300)  # fmt: skip
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("run folder:") == 1
    assert list((tmp_path / "runs").iterdir()) == [folder]
    assert list(pd.read_csv(folder / "metrics.csv").epoch) == [0, 1, 2, 3]
    assert len(json.loads((folder / "environment.json").read_text())["resumed"]) == 1
