"""Sweeps whose jobs run on other machines: SLURM by submitit, and Ray, by Hydra's own plugins.

What the plugins leave open is here, on both sides:

    sweep    `adapt_launcher`: workers get the sweep's environment variables; the end of a job is
             read from SLURM's queue, since not every cluster keeps accounts, and a job that SLURM
             has ended is an outcome like others, where the plugin would wait for it or raise
    worker   `preemptible`: SLURM's warning ends the training with a checkpoint before the worker
             asks for its job to be queued again

A job that begins again, by SLURM's requeue or Ray's retry, is resumed as by the same command.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from posematch.console import tell
from posematch.training import supervision

_POLL_SECONDS = 5
_MOST_SILENT = 12  # looks in vain at the queue, while the sweep is being stopped
_CONFIRMED = 2  # looks at the queue that agree: a state may be one of passage, as NODE_FAIL is
_SHARED_DISK = 12  # looks that a result may take to be seen here, through a network's disk
_QUEUE = ["squeue", "--me", "--array", "--noheader", "--states=all", "--format=%i %T"]
_ENDED = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "DEADLINE",
          "OUT_OF_MEMORY", "REVOKED")  # fmt: skip

Ended = Callable[[str, str], None]


def adapt_launcher(config: DictConfig, ended: Ended) -> None:
    """Prepare the sweep's process and its launcher's configuration, before any job is started.

    Parameters
    ----------
    config
        Of the sweep, composed whole; changed in place. Other launchers' stay as they are.
    ended
        Called with a place (`place`) and a sentence for each job that SLURM ended without a word.
    """
    launcher = config.hydra.launcher
    name = str(launcher._target_).rpartition(".")[2]
    if name == "RayLauncher":
        with open_dict(launcher):
            own = {key: one for key, one in os.environ.items() if key.startswith("POSEMATCH_")}
            OmegaConf.update(
                launcher, "ray.init.runtime_env.env_vars", own, merge=True, force_add=True
            )
    elif name == "SlurmLauncher":
        # The signal that a training understands; read when submitit is imported, here and there.
        os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"
        tasks = int(launcher.nodes) * int(launcher.tasks_per_node)
        _watch_queue(Path(str(launcher.submitit_folder)), tasks, ended)


def place() -> str:
    """Where this process runs, if on a cluster: what its scheduler calls the job."""
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return ""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    number = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
    return f"SLURM job {number}"


def rank() -> int:
    """Which of a training's processes this one is, as Lightning counts them."""
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if name in os.environ:
            return int(os.environ[name])
    return 0


# ---------------------------------------------------------------------------------- in SLURM's job


@dataclass
class Warned:
    """The signals that a worker in SLURM got while its training ran."""

    signals: list[int] = field(default_factory=list)
    before: dict[int, Any] = field(default_factory=dict)

    def leave(self) -> None:
        """End this worker without a result, so that its job is queued again, or is cancelled.

        After SIGUSR1, the warning before the time limit, the worker asks for that itself; after
        SIGTERM whoever sent it has asked for one or the other.

        Raises
        ------
        SystemExit
            In good order.
        Exception
            Of submitit: it has been queued again as often as it may.
        """
        if signal.SIGUSR1 in self.signals and signal.SIGTERM not in self.signals and rank() == 0:
            self.before[signal.SIGUSR1](signal.SIGUSR1, None)
        raise SystemExit(128 + signal.SIGTERM)


@contextlib.contextmanager
def preemptible(stop: Path) -> Iterator[Warned]:
    """Around the process of a job: SLURM's signals stop its training in good order.

    submitit would leave at once, and take the training with it.

    Parameters
    ----------
    stop
        A file that makes the training stop once it is there (`supervision.watch_over_job`). SLURM
        signals the training, too, in most clusters; a file never counts as the second signal.
    """
    warned = Warned()
    if not place() or threading.current_thread() is not threading.main_thread():
        yield warned
        return

    stop.unlink(missing_ok=True)  # of a worker that was killed before it could remove it

    def note(number: int, frame: FrameType | None) -> None:
        warned.signals.append(number)
        stop.touch()

    warned.before = {one: signal.signal(one, note) for one in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield warned
    finally:
        for number, handler in warned.before.items():
            signal.signal(number, handler)
        stop.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------- in the sweep


def _watch_queue(folder: Path, tasks: int, ended: Ended) -> None:
    """Let submitit read the ends of jobs from the queue, instead of from accounts."""
    from submitit.core.utils import JobPaths
    from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

    class Queue(SlurmInfoWatcher):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(delay_s=_POLL_SECONDS)
            self.seen: dict[str, int] = {}
            self.silent = 0

        def update(self) -> None:
            self._last_status_check = time.time()
            self._num_calls += 1
            wanted = sorted(self._registered - self._finished)
            states = _states() if wanted else None
            if states is None:
                self.silent += supervision.stop_asked()
                if self.silent > _MOST_SILENT:
                    tell("SLURM's controller does not answer; its jobs stop by themselves.")
                    raise SystemExit(1)
                return
            if supervision.stop_asked():  # those that run look for it themselves
                waiting = [one for one in wanted if states.get(one) == "PENDING"]
                if waiting:
                    subprocess.run(["scancel", *waiting], check=False, capture_output=True)
            for job in wanted:
                if any(one.startswith(f"{job}_") for one in states):  # an array, not a job
                    self._finished.add(job)
                    continue
                state = states.get(job, "GONE")
                over = state in _ENDED or state == "GONE"
                self.seen[job] = self.seen.get(job, 0) + 1 if over else 0
                results = [JobPaths(folder, job, task).result_pickle for task in range(tasks)]
                wait = _SHARED_DISK if state in ("COMPLETED", "GONE") else _CONFIRMED
                if self.seen[job] >= (wait if _missing(results) else _CONFIRMED):
                    self._settle(job, state, _missing(results))

        def _settle(self, job: str, state: str, missing: list[Path]) -> None:
            self._info_dict[job] = {"State": "COMPLETED"}
            self._finished.add(job)
            if missing:
                ended(f"SLURM job {job}", _sentence(job, state))
            for one in missing:
                _write_result(one)

    SlurmJob.watcher = Queue()


def _missing(files: list[Path]) -> list[Path]:
    """Those of one folder that are not there."""
    try:
        # Which a network's disk asks its server for, unlike whether one file is there.
        there = {one.name for one in files[0].parent.iterdir()}
    except OSError:
        there = set()
    return [one for one in files if one.name not in there]


def _states() -> dict[str, str] | None:
    """State of each of the user's jobs; None where the controller does not answer."""
    try:
        said = subprocess.run(_QUEUE, check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [line.split() for line in said.stdout.splitlines()]
    return {row[0]: row[1] for row in rows if len(row) == 2}


def _sentence(job: str, state: str) -> str:
    if state == "GONE":
        return f"SLURM job {job} is not in the queue any more, and has left no word."
    memory = " (more memory: hydra.launcher.mem_gb)" if state == "OUT_OF_MEMORY" else ""
    return f"SLURM ended job {job}: {state}{memory}."


def _write_result(file: Path) -> None:
    """What submitit waits for and the plugin gives to Hydra, of a job that could not write it."""
    from hydra.core.utils import JobReturn, JobStatus

    nothing = JobReturn(status=JobStatus.COMPLETED)
    nothing.return_value = None
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".part")
    partial.write_bytes(pickle.dumps(("success", nothing)))
    partial.rename(file)
