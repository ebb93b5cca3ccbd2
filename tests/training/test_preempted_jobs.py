"""A sweep's job that SLURM ends before it has a word to say; no SLURM, but its signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

WORKER = """
import sys
from pathlib import Path
from posematch.training import sweep
print(sweep._in_a_process(Path(sys.argv[1]), "seed=1", 1))
"""


def until(what, seconds: float = 120):
    ends = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < ends
        time.sleep(0.01)
    return found


def job_with_handlers(worker: int) -> int | None:
    """The worker's job, once SIGTERM interrupts it; it imports then, and trains long after."""
    try:
        for one in Path(f"/proc/{worker}/task/{worker}/children").read_text().split():
            # Until it is a program of its own it has the worker's words, and handlers.
            if b"-m\0posematch.training.sweep" in Path(f"/proc/{one}/cmdline").read_bytes():
                status = Path(f"/proc/{one}/status").read_text()
                caught = int(status.partition("SigCgt:")[2].split()[0], 16)
                if caught >> (signal.SIGTERM - 1) & 1:
                    return int(one)
    except OSError:
        pass
    return None


@pytest.mark.parametrize("blow", [signal.SIGTERM, signal.SIGKILL])
def test_a_job_that_is_ended_while_it_begins_is_stopped_and_not_failed(tmp_path, blow):
    """Its worker, warned, leaves it to SLURM: a failed one would not be started again."""
    stem = tmp_path / "job"
    stem.with_suffix(".yaml").write_text("{}")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("POSEMATCH_", "SLURM"))}
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(stem)], stdout=subprocess.PIPE, text=True,
        env=kept | {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "7"},
    )  # fmt: skip
    job = until(lambda: job_with_handlers(worker.pid))
    worker.send_signal(signal.SIGTERM)
    until(stem.with_suffix(".stop").exists)
    os.kill(job, blow)
    said = worker.communicate(timeout=120)[0]
    assert worker.returncode == 128 + signal.SIGTERM, said
    told = json.loads(stem.with_suffix(".json").read_text())
    assert (told["status"], told["place"]) == ("stopped", "SLURM job 7")
    assert not stem.with_suffix(".stop").exists()
