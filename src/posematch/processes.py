"""What the processes of a run owe each other: none outlives the one that started it."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing.process
import os
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from posematch.errors import PosematchError
from posematch.files import locked, remove_unless_held

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, by whatever; on Linux.

    It does so even where this process is stopped or hangs outside Python. Elsewhere a loader's
    worker looks after its parent by itself, every few seconds.

    Parameters
    ----------
    parent
        Process id, to be told by the parent: it may be dead already.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def available_cores() -> int:
    """Processor cores that this process may use: of its affinity, and of its container's quota."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        cores = min(cores, max(1, int(quota) // int(period)))  # "max" is no number
    return max(1, cores)


_TEMPORARY, _IN_USE = "posematch-", "in-use"
_YOUNG_SECONDS = 60.0
# Bytes of a socket's name (sun_path), without its last zero.
_MOST_OF_A_SOCKET = 107 if sys.platform == "linux" else 103
_SHORT_ROOTS = ("/tmp", "/var/tmp", "/dev/shm")


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder of this process's own for all that it and its children put into TMPDIR.

    Whatever libraries leave there goes with it: loader workers that are killed leave sockets, W&B
    its drafts. A killed process cannot tidy up; the next one does it.
    """
    root = Path(tempfile.gettempdir())
    _sweep(root)
    folder, lock = _own_folder(root)
    before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
    of_process = multiprocessing.process.current_process()._config  # type: ignore[attr-defined]
    try:
        with lock:
            tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
            with _sockets(folder) as sockets:
                # Where multiprocessing's are made, by loader workers, too.
                of_process["tempdir"] = str(sockets)
                yield folder
    finally:
        tempfile.tempdir = before
        of_process.pop("tempdir", None)
        if variable is None:
            os.environ.pop("TMPDIR", None)
        else:
            os.environ["TMPDIR"] = variable
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(root: Path) -> None:
    """Remove what killed processes have left of `temporary_folder`."""
    for other in root.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError):
            used = other / _IN_USE
            there = other.lstat()
            mine = stat.S_ISDIR(there.st_mode) and os.access(other, os.W_OK)
            # Without its mark it may be in the making.
            old = used.exists() or time.time() - there.st_mtime > _YOUNG_SECONDS
            if not (mine and old and _is_temporary(other)):
                continue
            if not used.exists():
                other.rmdir()
            else:
                remove_unless_held(other, _IN_USE)


@contextlib.contextmanager
def _sockets(folder: Path) -> Iterator[Path]:
    """Where sockets are made: in ``folder``, or in a place of a shorter name.

    The kernel takes names of 107 bytes, and a TMPDIR of a cluster's job may leave too few of them.
    A loader's worker that cannot make its socket would say nothing, and the training wait for it.
    """
    if _has_room(folder):
        yield folder
        return
    own = f"{_TEMPORARY}{'x' * 8}"
    roots = [Path(one) for one in _SHORT_ROOTS if _has_room(Path(one) / own)]
    root = next((one for one in roots if one.is_dir() and os.access(one, os.W_OK)), None)
    if root is None:
        raise PosematchError(
            f"The folder for temporary files, {folder.parent}, has too long a name for the sockets"
            " of loader workers; set TMPDIR to one of at most 55 characters."
        )
    _sweep(root)
    short, lock = _own_folder(root)
    try:
        with lock:
            yield short
    finally:
        shutil.rmtree(short, ignore_errors=True)


def _has_room(folder: Path) -> bool:
    return len(os.fsencode(folder)) + len("/pymp-xxxxxxxx/listener-xxxxxxxx") <= _MOST_OF_A_SOCKET


def _own_folder(root: Path) -> tuple[Path, contextlib.ExitStack]:
    """A new folder and its lock; made again where another process swept it before it was locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=root))
        stack = contextlib.ExitStack()
        with contextlib.suppress(FileNotFoundError):
            stack.enter_context(locked(folder / _IN_USE))
            return folder, stack


def _is_temporary(folder: Path) -> bool:
    """Whether `temporary_folder` made it: the name that mkdtemp gives, and its mark or nothing."""
    named = len(folder.name) == len(_TEMPORARY) + 8
    return named and ((folder / _IN_USE).exists() or not any(folder.iterdir()))


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped, as by SIGSTOP or a debugger; False where nobody can tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    # The name, in parentheses, may hold anything.
    return text.rpartition(")")[2].split()[0] in ("T", "t")
