"""Several processes that train as one, and what is told when one of them dies or falls silent.

The first process starts the others and speaks for all: it finds out who died, ends the rest and
tells it in one sentence. The others tell their own errors only, such as a photo that one of them
could not read. A process that the kernel stopped, or that hangs, is killed.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from posematch.console import tell
from posematch.errors import PosematchError
from posematch.processes import end_with_parent, is_stopped
from posematch.runs.folder import RunFolder

_PARENT_VARIABLE = "POSEMATCH_FIRST_PROCESS"
# How long the first process waits for another one's end, which tells why it stopped to answer, and
# the others for the first one to end them. An error takes its time: loaders are ended before.
_FIRST_WAITS_SECONDS = 15.0
_OTHERS_WAIT_SECONDS = 45.0
# torch.distributed's words, where the class says no more than RuntimeError, as it does of gloo.
_OF_OTHERS = re.compile(
    r"gloo|nccl|Connection (closed|reset)|Broken pipe|Timed out waiting|[Ss]ocket [Tt]imeout"
    r"|wait timeout|TCPStore|ProcessGroup",
    re.IGNORECASE,
)
_TIMED_OUT = re.compile(r"timed out|timeout", re.IGNORECASE)
_SHARED_MEMORY = re.compile(r"Bus error|shared memory|shm|/torch_\d+", re.IGNORECASE)


class Processes(DDPStrategy):
    """Data-parallel training, a process for each device.

    Parameters
    ----------
    silence_minutes
        A process that does not take part for so long ends the training.
    """

    def __init__(self, silence_minutes: float) -> None:
        # Buffers are broadcast once, before a validation, instead of in each step's forward pass.
        # A loader that waits as long for its worker says more about it, and so may speak first.
        patience = 1.1 * timedelta(minutes=silence_minutes)
        super().__init__(broadcast_buffers=False, timeout=patience)
        self.silence_minutes = silence_minutes
        parent = os.environ.get(_PARENT_VARIABLE)
        self.others: Others | None = None  # in the process that started them
        self.started_by: int | None = int(parent) if parent else None
        if self.started_by is not None:
            end_with_parent(self.started_by)

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = _Launcher(self)


class _Launcher(_SubprocessScriptLauncher):
    """Lightning's, which repeats the command, but for what becomes of the processes.

    Lightning's own observer kills the first process, too, before it could say why.
    """

    def __init__(self, strategy: Processes) -> None:
        environment = strategy.cluster_environment
        assert environment is not None
        super().__init__(environment, strategy.num_processes, strategy.num_nodes)
        self._strategy = strategy

    def launch(
        self,
        function: Callable[..., Any],
        *args: Any,
        trainer: pl.Trainer | None = None,
        **kwargs: Any,
    ) -> Any:
        self.cluster_environment.validate_settings(self.num_processes, self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            os.environ[_PARENT_VARIABLE] = str(os.getpid())
            try:
                self._call_children_scripts()
            finally:
                del os.environ[_PARENT_VARIABLE]
            self._strategy.others = Others(self.procs)
        _set_num_threads_if_needed(self.num_processes)
        return function(*args, **kwargs)


class Others:
    """The processes that the first one started; watched while it may wait for them in vain."""

    def __init__(self, started: list[subprocess.Popen[bytes]]) -> None:
        self.started = started
        self.folder: RunFolder | None = None
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="other-processes").start()

    def dead(self) -> tuple[int, subprocess.Popen[bytes]] | None:
        """Rank and process of one that failed: a killed one before one that told its error."""
        ended = [(rank, one) for rank, one in enumerate(self.started, 1) if one.poll()]
        return min(ended, key=lambda one: one[1].returncode, default=None)

    def stopped(self) -> tuple[int, subprocess.Popen[bytes]] | None:
        """Rank and process of one that is stopped."""
        every = ((rank, one) for rank, one in enumerate(self.started, 1) if is_stopped(one.pid))
        return next(every, None)

    def kill(self) -> None:
        """End them all, also those that are stopped or hang."""
        self._over.set()
        for one in self.started:
            one.kill()
        for one in self.started:
            one.wait()

    def sentence(self, silent_minutes: float | None) -> str:
        """Which of them is the reason that the first process cannot go on, and why.

        ``silent_minutes``: how long it had waited; None where a connection broke.
        """
        deadline = time.monotonic() + _FIRST_WAITS_SECONDS
        number = len(self.started) + 1
        while time.monotonic() < deadline:
            if (dead := self.dead()) is not None:
                return _end_sentence(*dead, number)
            if silent_minutes is not None and (stopped := self.stopped()) is not None:
                rank, process = stopped
                return (
                    f"Process {rank} of {number} (pid {process.pid}, counted from 0) is stopped and"
                    f" has not answered for {silent_minutes:g} minutes (silence_minutes); all of"
                    " them were ended."
                )
            time.sleep(0.1)
        if silent_minutes is None:
            return f"The connection to another of the {number} processes broke; all were ended."
        return (
            f"One of the other {number - 1} processes has not answered for {silent_minutes:g}"
            " minutes (silence_minutes); all were ended."
        )

    def _watch(self) -> None:
        """Speak and end for the first process where it hangs outside Python, as in NCCL."""
        while self.dead() is None:
            if self._over.wait(1.0):
                return
        if self._over.wait(2 * _FIRST_WAITS_SECONDS):
            return
        tell(f"{self.sentence(None)} {_advice(self.folder)}")
        self.kill()
        if self.folder is not None and not any(self.folder.checkpoints.glob("*.ckpt")):
            shutil.rmtree(self.folder.path, ignore_errors=True)
        os._exit(1)


class ProcessEndedError(PosematchError):
    """Another process or a worker is gone or silent: no fault of the configuration."""


@contextmanager
def failures_told(trainer: pl.Trainer, folder: RunFolder | None = None) -> Iterator[None]:
    """Around all that a trainer does: the end of another process or of a worker as a sentence.

    Whatever the error is, nothing that this process started is left running.

    Parameters
    ----------
    trainer
        Of `posematch.training.build.build_trainer`.
    folder
        Of the run, which may be resumed; None where there is none.

    Raises
    ------
    ProcessEndedError
        In place of the errors that `sentence_of` knows.
    """
    strategy: Any = trainer.strategy
    try:
        if others := getattr(strategy, "others", None):
            others.folder = folder
        yield
    except BaseException as error:
        sentence = sentence_of(error, strategy) if isinstance(error, Exception) else None
        if isinstance(strategy, Processes) and strategy.others is not None:
            strategy.others.kill()
        _end_workers()
        if sentence is None:
            raise
        # The first process says how to go on, for all.
        advice = "" if getattr(strategy, "started_by", None) else _advice(folder)
        raise ProcessEndedError(f"{sentence} {advice}".rstrip()) from error


def _end_workers() -> None:
    """Kill the loaders' workers, also those that are stopped, and let PyTorch forget them.

    It watches them by SIGCHLD and would raise for those that were killed, somewhere later.
    """
    workers = multiprocessing.active_children()
    if not workers:
        return
    # Not by blocking the signal, which other threads would get, and PyTorch by them.
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGCHLD, lambda *_: None) if main else None
    try:
        for worker in workers:
            worker.kill()
        for one in gc.get_objects():
            if type(one) is _MultiProcessingDataLoaderIter:
                one._shutdown_workers()
    finally:
        if before is not None:
            signal.signal(signal.SIGCHLD, before)


def sentence_of(error: Exception, strategy: object = None) -> str | None:
    """What to tell of a RuntimeError by which torch says that a process or a worker is gone.

    Parameters
    ----------
    error
        Of a data loader or of torch.distributed; None is told of others.
    strategy
        The trainer's, which knows the other processes.

    Raises
    ------
    SystemExit
        In another process than the first, which tells and ends this one.
    """
    if not isinstance(error, RuntimeError):
        return None
    text = str(error)
    if "DataLoader" in text:
        return _loader_sentence(text)
    if not isinstance(strategy, Processes):
        return None
    if not isinstance(error, torch.distributed.DistError) and not _OF_OTHERS.search(text):
        return None
    silent = strategy.silence_minutes if _TIMED_OUT.search(text) else None
    if strategy.others is not None:
        return strategy.others.sentence(silent)
    if strategy.started_by is not None:
        _leave_to(strategy.started_by, silent)
    if silent is None:
        return "The connection to another process of this training broke, as one of them ended."
    return f"Another process has not answered for {silent:g} minutes (silence_minutes)."


def _leave_to(first: int, silent_minutes: float | None) -> None:
    """Wait to be ended by the first process; where it does not, it is the one that is silent."""
    deadline = time.monotonic() + _OTHERS_WAIT_SECONDS
    while time.monotonic() < deadline and os.getppid() == first:
        if silent_minutes is not None and is_stopped(first):
            break
        time.sleep(0.1)
    if silent_minutes is not None and os.getppid() == first:
        tell(
            f"The first process (pid {first}) has not answered for {silent_minutes:g} minutes"
            " (silence_minutes); it is killed, and with it the others. Repeat the command with"
            " resume=auto to go on from the last checkpoint."
        )
        os.kill(first, signal.SIGKILL)
    raise SystemExit(1)


def _end_sentence(rank: int, process: subprocess.Popen[bytes], number: int) -> str:
    who = f"Process {rank} of {number} (pid {process.pid}, counted from 0)"
    if process.returncode > 0:
        return f"{who} ended with an error, told above; the others were ended, too."
    name = signal.Signals(-process.returncode).name
    memory = " (out of memory?)" if name == "SIGKILL" else ""
    return f"{who} was ended by {name}{memory}; the others were ended, too."


def _loader_sentence(text: str) -> str | None:
    """Of a worker that is gone or silent; None for an error of the code in it."""
    if found := re.search(r"DataLoader timed out after (\d+(?:\.\d+)?) seconds", text):
        return (
            f"A data loader's worker has not answered for {float(found[1]) / 60:g} minutes"
            " (silence_minutes): it was stopped, or the photos' disk hangs."
        )
    if _SHARED_MEMORY.search(text):
        return (
            "A data loader's worker ran out of shared memory (/dev/shm); lower data.workers or"
            " data.batch_size, or give the container more (docker: --shm-size)."
        )
    if found := re.search(
        r"worker \(pid\(?s?\)? ([\d, ]+)\) (exited unexpectedly|is killed)", text
    ):
        return (
            f"A data loader's worker (pid {found[1]}) was killed, out of memory? If so lower"
            " data.workers or data.batch_size."
        )
    return None


def _advice(folder: RunFolder | None) -> str:
    if folder is None:
        return "Repeat the command."
    if folder.last_checkpoint.exists():
        return f"Repeat the command with resume={folder.path} to go on from the last checkpoint."
    return "There is nothing to go on from yet; repeat the command."
