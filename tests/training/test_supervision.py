"""Who tells whom that a sweep is to stop; small processes take the place of Hydra and training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SUPERVISOR = """
import sys
from posematch.training.supervision import supervise
sys.exit(supervise([sys.executable, "-c", *sys.argv[1:]]))
"""
# A sweep that starts one job, waits for it, and ends as its job has.
SWEEP = """
import os, subprocess, sys
from pathlib import Path
from posematch.training import supervision
supervision.follow()
folder, job = Path(sys.argv[1]), sys.argv[2]
supervision.stop_by(folder / "stop")
(folder / "sweep").write_text(str(os.getpid()))
code = subprocess.run([sys.executable, "-c", job, str(folder)]).returncode
(folder / "asked").write_text(str(supervision.stop_asked()))
sys.exit(code)
"""
# A job that writes down what it is told, as often as it is told, and ends at the first time.
JOB = """
import os, signal, sys, threading
from pathlib import Path
from posematch.training import supervision
folder, end = Path(sys.argv[1]), threading.Event()
for one in supervision.SIGNALS:
    signal.signal(one, signal.default_int_handler)
def stop(reason, at_once):
    (folder / "told").write_text(f"{reason}, {at_once}")
    end.set()
supervision.watch_over_job(stop)
(folder / "job").write_text(str(os.getpid()))
end.wait()
sys.exit(3)
"""
STUBBORN = JOB.replace("    end.set()\n", "")


def until(what, seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < ends
        time.sleep(0.02)


def written(file: Path) -> bool:
    return file.exists() and file.read_text() != ""


def pid_of(file: Path) -> int:
    until(lambda: written(file))
    return int(file.read_text())


def ended(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.fixture
def start(tmp_path):
    def started(job: str = JOB, ignored: bool = False) -> subprocess.Popen[str]:
        def ignore() -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL)

        return subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, SWEEP, str(tmp_path), job],
            stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=ignore,
        )  # fmt: skip

    return started


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_asks_the_jobs_once_and_waits(start, tmp_path, number):
    process = start()
    job = pid_of(tmp_path / "job")
    os.killpg(process.pid, number)  # as a terminal's Ctrl-C: to all of the command's group
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 3  # the sweep's own
    assert (tmp_path / "told").read_text() == "The sweep stops, False"
    assert (tmp_path / "asked").read_text() == "True"
    assert said.startswith("Stopping the jobs")
    assert len(said.splitlines()) == 1
    assert ended(job)


def test_a_signal_to_everybody_stops_neither_sweep_nor_supervisor_before_the_jobs(start, tmp_path):
    """As SLURM signals every process of a step; the job itself decides what its signal means."""
    process = start()
    pid_of(tmp_path / "job")
    os.kill(pid_of(tmp_path / "sweep"), signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 3
    assert (tmp_path / "told").read_text() == "The sweep stops, False"


def test_a_second_signal_says_at_once_and_a_third_kills(start, tmp_path):
    process = start(STUBBORN)
    job = pid_of(tmp_path / "job")
    process.send_signal(signal.SIGTERM)
    until(lambda: written(tmp_path / "told"))
    process.send_signal(signal.SIGTERM)
    until(lambda: (tmp_path / "told").read_text() == "The sweep stops, True")
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "Traceback" not in said
    assert ended(job)


def test_killed_supervisor(start, tmp_path):
    process = start()
    job, sweep = pid_of(tmp_path / "job"), pid_of(tmp_path / "sweep")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until(lambda: ended(job) and ended(sweep))
    assert (tmp_path / "told").read_text() == "The sweep stops, False"


def test_killed_sweep(start, tmp_path):
    process = start()
    job = pid_of(tmp_path / "job")
    os.kill(pid_of(tmp_path / "sweep"), signal.SIGKILL)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert said.startswith("The sweep's process was killed by signal 9")
    assert len(said.splitlines()) == 1
    assert (tmp_path / "told").read_text() == "The sweep was killed, False"
    assert ended(job)


def test_both_killed(start, tmp_path):
    process = start()
    job, sweep = pid_of(tmp_path / "job"), pid_of(tmp_path / "sweep")
    process.send_signal(signal.SIGKILL)
    os.kill(sweep, signal.SIGKILL)
    process.communicate()
    until(lambda: ended(job))
    assert (tmp_path / "told").read_text().endswith(", False")


def test_in_a_scripts_background_ctrl_c_stays_ignored_and_sigterm_works(start, tmp_path):
    process = start(ignored=True)
    pid_of(tmp_path / "job")
    os.killpg(process.pid, signal.SIGINT)
    os.killpg(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert len(said.splitlines()) == 1  # one signal counted, not two
    assert (tmp_path / "told").read_text() == "The sweep stops, False"
