"""How a sweep is stopped, however it ends: who tells whom, and who notices whose death.

    supervisor      the process that the user started: gets the signals, waits until all are gone
      sweep         Hydra; in a session of its own, so that a terminal's Ctrl-C reaches only the
        worker      supervisor; under a parallel launcher jobs are started by its workers
          job       the training

The supervisor tells the sweep through a pipe. The pipe's end tells that the supervisor was killed,
at once, on every system and without the doubts of a process number, which may be another's by then.
The sweep tells its jobs through a file in its ``jobs/``, which workers need not pass on, and which
a job looks for: a request that way is no signal, so it never counts as a second one, even where
SLURM signals every process itself. Jobs and workers notice the death of the sweep by their session,
whose number no other process can get while they are in it.

Sweep and workers ignore signals themselves: they end when their jobs have.

This module imports nothing large: the supervisor lives as long as the sweep.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from posematch.console import tell

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_PIPE_VARIABLE = "POSEMATCH_SWEEP_PIPE"  # set by the supervisor for the sweep
_STOP_VARIABLE = "POSEMATCH_SWEEP_STOP"  # set by the sweep for workers and jobs: the file
JOB_STOP_VARIABLE = "POSEMATCH_JOB_STOP"  # set by a worker for its job: the job's own file
_PROCESS_VARIABLE = "POSEMATCH_SWEEP_PROCESS"  # the sweep's number
_WATCHER = "posematch sweep watcher"
_POLL_SECONDS = 0.5
_GRACE_SECONDS = 10.0  # between "at once" and SIGKILL
_ORPHANS_SECONDS = 300.0  # jobs of a killed sweep write their checkpoints
IN_ORDER, AT_ONCE = "in order", "at once"

# -------------------------------------------------------------------------------------- supervisor


def supervise(command: Sequence[str]) -> int:
    """Run a sweep and pass signals on to its jobs; returns when no process of it is left.

    The first Ctrl-C, SIGTERM or SIGUSR1 stops the jobs with checkpoints, the second at once, the
    third (or a grace period after the second) kills. A signal that this process was started to
    ignore, as Ctrl-C in a script's background, stays ignored.

    Returns
    -------
    The exit code.
    """
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    before = {one: signal.getsignal(one) for one in SIGNALS}
    for one, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(one, ask)
    read, write = os.pipe()
    try:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            env=os.environ | {_PIPE_VARIABLE: str(read)},
            pass_fds=(read,),
            start_new_session=True,
            preexec_fn=_ignore_signals,
        ) as process:
            os.close(read)
            return _wait(process, write, asked)
    finally:
        os.close(write)
        for one, handler in before.items():
            signal.signal(one, handler)


def _ignore_signals() -> None:
    for one in SIGNALS:
        signal.signal(one, signal.SIG_IGN)


def _wait(process: subprocess.Popen[bytes], pipe: int, asked: list[int]) -> int:
    told = 0
    kill_at = float("inf")
    code = None
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            ended = process.wait(_POLL_SECONDS / 5)
            if code is None:
                code = ended
                kill_at = min(kill_at, time.monotonic() + _left_behind(code))
        if code is not None:
            if not _group_lives(process.pid):
                return 1 if code < 0 else code
            time.sleep(_POLL_SECONDS / 5)
        while told < len(asked):
            told += 1
            if told == 1:
                tell("Stopping the jobs, each with a checkpoint (again to stop at once) ...")
            elif told == 2:
                tell("Stopping at once ...")
                kill_at = time.monotonic() + _GRACE_SECONDS
            else:
                kill_at = 0.0
            with contextlib.suppress(OSError):  # the sweep has ended
                os.write(pipe, b"!")
        if time.monotonic() > kill_at:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            kill_at = float("inf")


def _left_behind(code: int) -> float:
    """Seconds that what a sweep has left behind may live on."""
    if code >= 0:
        return _GRACE_SECONDS  # nothing, or what a user's code has started
    tell(
        f"The sweep's process was killed by signal {-code}{' (out of memory?)' * (code == -9)}; its"
        " jobs stop with checkpoints, and the same command goes on."
    )
    return _ORPHANS_SECONDS


def _group_lives(group: int) -> bool:
    """Whether a process of the group is left that has not ended."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, _, its_group = status.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                return True
    return not Path("/proc/self/stat").exists()


# ------------------------------------------------------------------------------------------- sweep

_changing = threading.Lock()
_asked_for = 0


def is_supervised() -> bool:
    """Whether this process is a sweep that a supervisor has started."""
    return _PIPE_VARIABLE in os.environ


def follow() -> None:
    """Listen to the supervisor; called first of all by the sweep."""
    pipe = int(os.environ.pop(_PIPE_VARIABLE))
    os.set_inheritable(pipe, False)
    threading.Thread(target=_follow, args=(pipe,), daemon=True).start()


def _follow(pipe: int) -> None:
    global _asked_for
    while True:
        said = os.read(pipe, 1)  # nothing: the supervisor is dead
        with _changing:
            _asked_for = _asked_for + 1 if said else max(1, _asked_for)
            _write_stop()
        if not said:
            return


def stop_by(file: Path) -> None:
    """Name the file that tells this sweep's jobs to stop."""
    with _changing:
        os.environ[_STOP_VARIABLE] = str(file)
        os.environ[_PROCESS_VARIABLE] = str(os.getpid())
        _write_stop()


def _write_stop() -> None:
    file = os.environ.get(_STOP_VARIABLE)
    if file and _asked_for:
        with contextlib.suppress(OSError):
            # Not in one piece with a rename: a full disk must not keep jobs from stopping.
            Path(file).touch()
            Path(file).write_text(AT_ONCE if _asked_for > 1 else IN_ORDER, encoding="utf-8")


def stop_asked() -> bool:
    """Whether the sweep is to start no further job, as seen by itself and by its workers."""
    with _changing:
        if _asked_for:
            return True
    return bool(_said()) or abandoned()


def is_sweep() -> bool:
    """Whether this process is the sweep itself, not a worker of it."""
    return os.environ.get(_PROCESS_VARIABLE) == str(os.getpid())


def _said() -> str:
    """What the sweep's file says; empty without one."""
    file = os.environ.get(_STOP_VARIABLE)
    try:
        return (Path(file).read_text(encoding="utf-8") or IN_ORDER) if file else ""
    except OSError:
        return ""


def _preempted() -> bool:
    """Whether this job alone is to stop, for its cluster."""
    file = os.environ.get(JOB_STOP_VARIABLE)
    return file is not None and Path(file).exists()


# ------------------------------------------------------------------------------- workers and jobs


def abandoned() -> bool:
    """Whether the sweep that this process belongs to was killed."""
    sweep = int(os.environ.get(_PROCESS_VARIABLE, "0"))
    if not sweep or os.getsid(0) != sweep:
        return False  # a launcher that starts jobs elsewhere looks after them itself
    try:
        os.kill(sweep, 0)
    except ProcessLookupError:
        return True
    return False


def end_when_abandoned(busy: threading.Lock) -> None:
    """End this worker once the sweep is dead and its job has ended; it would wait for more.

    Parameters
    ----------
    busy
        Held while the worker runs a job. Called again, nothing changes.
    """
    if any(one.name == _WATCHER for one in threading.enumerate()):
        return

    def watch() -> None:
        while not abandoned():
            time.sleep(_POLL_SECONDS)
        with busy:
            os._exit(1)

    threading.Thread(target=watch, name=_WATCHER, daemon=True).start()


def watch_over_job(stop: Callable[[str, bool], None]) -> None:
    """Call ``stop(reason, at_once)`` when this job is to end; again and again, until it does."""
    parent = os.getppid()

    def watch() -> None:
        while True:
            said = _said()
            if said:
                stop("The sweep stops", said == AT_ONCE)
            elif _preempted():
                stop("The cluster takes the machine back", False)
            elif os.getppid() != parent or abandoned():
                stop("The sweep was killed", False)
            time.sleep(_POLL_SECONDS)

    threading.Thread(target=watch, daemon=True).start()
