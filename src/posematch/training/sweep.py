"""The jobs of a multirun: each in a process of its own, skipped if done, resumed if cut off.

A job is its composed configuration, written below the sweep's folder and trained by
``python -m posematch.training.sweep JOB.yaml``. So one job's death, memory, signals, W&B run and
DDP processes are nobody else's, under every launcher.

    <run_root>/<sweep>/jobs/<id>.yaml   configuration
                       jobs/<id>.json   how it ended, see `Outcome`
                       jobs/<id>.log    what it printed, under a parallel launcher
                       jobs/*.lock      held by who runs the sweep, and who trains a job
                       jobs/*.stop      tells the jobs of a sweep to stop
                       <run folders>

How all of them are stopped: `posematch.training.supervision`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from posematch.app.objects import plain
from posematch.app.sentences import one_sentence_errors
from posematch.app.settings import SETTINGS, check_type
from posematch.console import tell
from posematch.errors import PosematchError
from posematch.files import locked, write_json, write_text
from posematch.processes import available_cores
from posematch.training import clusters, stopping, supervision
from posematch.untrusted import read_json

if TYPE_CHECKING:  # it imports torch, which a command that is wrong can do without
    from posematch.runs.folder import RunFolder

SWEEP_VARIABLE = "POSEMATCH_SWEEP"
_RUN_VARIABLE = "POSEMATCH_SWEEP_RUN"  # a name of this one process of the sweep
_FOLDER_VARIABLE = "POSEMATCH_RUN_FOLDER"  # what a training sets once it has one
_STOPPED = "Stopped; the same command again goes on."
_busy = threading.Lock()  # this worker runs a job


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes
    ----------
    job
        Its overrides.
    status
        ``finished``, ``resumed`` (and finished), ``skipped`` (was finished before), ``failed``,
        ``stopped``, ``estimated``; ``running`` of one that still does, or was killed.
    sentence
        What went wrong.
    folder
        Run folder.
    metric_name, metric
        Main figure of the last checkpoint.
    seconds
        The job took.
    estimate
        Of a dry run.
    run
        Which process of the sweep it was.
    place
        What a cluster's scheduler calls the job, see `posematch.training.clusters.place`.
    """

    job: str
    status: str
    sentence: str = ""
    folder: str = ""
    metric_name: str = ""
    metric: float | None = None
    seconds: float = 0.0
    estimate: dict[str, float] = field(default_factory=dict)
    run: str = ""
    place: str = ""


def begin_sweep(arguments: Sequence[str]) -> str:
    """Name the sweep after its command, so that the same command finds it again."""
    named = [one.partition("=")[2] for one in arguments if one.startswith("sweep=")]
    own = sorted(
        one
        for one in arguments
        if not one.startswith(("-", "run_root=", "hydra", "dry_run=", "sweep=", "debug="))
    )
    if named:
        with one_sentence_errors():
            check_type("sweep", named[-1], SETTINGS["sweep"])
    name = named[-1] if named else f"sweep-{_short_hash(' '.join(own))}"
    os.environ[SWEEP_VARIABLE] = name
    os.environ[_RUN_VARIABLE] = secrets.token_hex(4)
    os.environ.pop(_FOLDER_VARIABLE, None)
    return name


_held = contextlib.ExitStack()  # the sweep's lock; not in the callback, which workers get pickled
_jobs: Path | None = None


class OneProcess(Callback):
    """Hydra's moment between composition and the first job: the sweep is this process's alone."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        global _jobs
        if not config.sweep or _RUN_VARIABLE not in os.environ:
            return  # not begun by the script; its jobs will tell
        with one_sentence_errors():
            _jobs = _jobs_folder(config)
            _held.enter_context(_sweep_held(_jobs))
        for pattern in ("*.stop", "slurm-job-*.json"):  # of sweeps that were killed, or before
            for old in _jobs.glob(pattern):
                old.unlink(missing_ok=True)
        supervision.stop_by(_jobs / f"{os.environ[_RUN_VARIABLE]}.stop")
        clusters.adapt_launcher(config, _ended_by_cluster)


def _jobs_folder(cfg: DictConfig) -> Path:
    jobs = Path(cfg.run_root).expanduser() / str(cfg.sweep) / "jobs"
    try:
        jobs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PosematchError(
            f"The sweep's folder {jobs} cannot be made ({error.strerror}); set run_root."
        ) from error
    return jobs


@contextlib.contextmanager
def _sweep_held(jobs: Path) -> Iterator[None]:
    """The sweep for this process alone; waits for one whose user's process is gone.

    Raises
    ------
    PosematchError
        Another process runs it.
    """
    lock = jobs / "sweep.lock"
    said = False

    def waiting() -> None:
        nonlocal said
        if supervision.stop_asked():
            raise KeyboardInterrupt
        process, _, host = _note(lock).partition(" ")
        if process.isdecimal() and host == socket.gethostname() and not _lives(int(process)):
            if not said:
                tell("A killed process of this sweep still stops its jobs; waiting for it.")
            said = True
            return
        holder = f" (process {process} on {host})" if process else ""
        raise PosematchError(
            f"{jobs.parent} is being run by another process{holder}; wait for it, stop it, or name"
            " another sweep=NAME."
        )

    with locked(lock, waiting) as file:
        file.truncate(0)
        file.write(f"{os.getppid()} {socket.gethostname()}".encode())  # the supervisor's
        file.flush()
        yield


def _note(lock: Path) -> str:
    """What the holder has written into its lock; empty in the moment before it does."""
    for _ in range(20):
        with contextlib.suppress(OSError):
            if note := lock.read_text(encoding="utf-8", errors="replace"):
                return note
        time.sleep(0.05)
    return ""


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _ended_by_cluster(place: str, sentence: str) -> None:
    """Tell of a job that its scheduler ended without a word of its own."""
    assert _jobs is not None
    mine = ((file, _read(file)) for file in _jobs.glob("*.json"))
    its = [(file, one) for file, one in mine if one is not None and one.place == place]
    # One that was cancelled before it began has no name yet.
    name = place.lower().replace(" ", "-")
    file, known = its[0] if its else (_jobs / f"{name}.json", Outcome(place, "running"))
    if known.status not in ("running", "stopped"):
        return
    status = "stopped" if supervision.stop_asked() else "failed"
    run = os.environ[_RUN_VARIABLE]
    told = replace(known, status=status, sentence=sentence, place=place, run=run)
    write_json(file, asdict(told))


def end_sweep() -> None:
    """Leave nothing behind that only a running sweep needs."""
    if _jobs is not None:
        (_jobs / f"{os.environ[_RUN_VARIABLE]}.stop").unlink(missing_ok=True)
    _held.close()


def search_defaults(arguments: Sequence[str]) -> list[str]:
    """What a search by Optuna needs to be told unless the command tells it.

    Its plugin minimises by default, gives up at the first failed trial, and draws other trials each
    time, so that no job of a repeated search would be found finished.
    """
    if "hydra/sweeper=optuna" not in arguments:
        return []
    grid = "hydra/sweeper/sampler=grid" in arguments
    defaults = {
        "hydra.sweeper.direction": "maximize",
        "hydra.sweeper.max_failure_rate": "1.0",
        "hydra.sweeper.n_jobs": "1",
        **({} if grid else {"hydra.sweeper.sampler.seed": "0"}),
    }
    said = {one.partition("=")[0] for one in arguments}
    return [f"{key}={value}" for key, value in defaults.items() if key not in said]


def run_job(cfg: DictConfig) -> float | None:
    """Train one job of a sweep; never raises for what went wrong in it.

    Returns
    -------
    Its main figure, for sweepers that search; None if there is none.
    """
    outcome = None
    if not supervision.stop_asked():
        outcome = _busy_with(cfg)
    if supervision.stop_asked() and supervision.is_sweep():
        raise SystemExit(1)
    # A worker that raised would be taken for broken, and its fellows be killed.
    return outcome.metric if outcome else None


def _busy_with(cfg: DictConfig) -> Outcome:
    with _busy:
        if not supervision.is_sweep():
            supervision.end_when_abandoned(_busy)
        return _run_job(OmegaConf.create(plain(cfg)))


def _run_job(cfg: DictConfig) -> Outcome:
    hydra = HydraConfig.get()
    job = " ".join(o for o in hydra.overrides.task if not o.startswith(("run_root=", "sweep=")))
    jobs = _jobs_folder(cfg)
    name = _short_hash(OmegaConf.to_yaml(cfg, sort_keys=True))
    ended = jobs / f"{name}.json"
    first = clusters.rank() == 0  # SLURM may start several workers for a job
    done = None if cfg.dry_run else _finished(ended)
    if done is not None:
        outcome = replace(done, job=job, status="skipped", seconds=0.0)
    else:
        parallel = not str(hydra.launcher._target_).endswith("BasicLauncher")
        cfg.resume = "auto"
        write_text(jobs / f"{name}.yaml", OmegaConf.to_yaml(cfg))
        if first:
            write_json(ended, asdict(_of_this_run(Outcome(job, "running"))))
        outcome = _in_a_process(jobs / name, job, hydra.launcher.get("n_jobs") if parallel else 1)
    if first:
        write_json(ended, asdict(_of_this_run(outcome)))
    return outcome


def _of_this_run(outcome: Outcome) -> Outcome:
    return replace(outcome, run=os.environ.get(_RUN_VARIABLE, ""), place=clusters.place())


def _in_a_process(stem: Path, job: str, parallel: int | None) -> Outcome:
    environment = dict(os.environ)
    log = None
    if parallel != 1:
        # Progress bars of several jobs would write over each other; and each job taking all
        # cores slows all of them down many times over.
        cores = available_cores()
        together = parallel if parallel and parallel > 0 else cores
        own = environment.get("SLURM_CPUS_PER_TASK", str(max(1, cores // together)))
        environment.setdefault("OMP_NUM_THREADS", own)
        rank = clusters.rank()
        log = stem.with_suffix(f".{rank}.log" if rank else ".log")
        print(f"[start] {job}", flush=True)
    stop = stem.with_suffix(".stop")
    environment[supervision.JOB_STOP_VARIABLE] = str(stop)
    started = time.monotonic()
    # Appended to: a job that its cluster starts again goes on.
    with (
        log.open("a" if clusters.place() else "w") if log else contextlib.nullcontext() as output,
        clusters.preemptible(stop) as warned,
    ):
        code = subprocess.run(
            [sys.executable, "-m", "posematch.training.sweep", str(stem.with_suffix(".yaml")), job],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
        ).returncode
    # The stop file is gone by now; what it was made for is not.
    outcome = _told(stem.with_suffix(".json"), job, code, asked=bool(warned.signals))
    outcome = replace(outcome, seconds=time.monotonic() - started)
    if warned.signals and outcome.status == "stopped":
        outcome = _queued_again(warned, stem.with_suffix(".json"), outcome)
    if log:
        print(f"[{outcome.status}] {job} {outcome.sentence}".rstrip(), flush=True)
    return outcome


def _queued_again(warned: clusters.Warned, ended: Path, outcome: Outcome) -> Outcome:
    """Leave the job to its scheduler; returns where that will not start it again."""
    if not supervision.stop_asked():
        if clusters.rank() == 0:
            write_json(ended, asdict(_of_this_run(replace(outcome, status="stopped"))))
        try:
            warned.leave()
        except Exception as error:  # submitit's
            reason = " ".join(str(error).split()).rstrip(".")
            return replace(
                outcome, status="failed", sentence=f"{reason} (hydra.launcher.max_num_timeout)."
            )
    return replace(outcome, status="stopped", sentence=_STOPPED)


def _told(ended: Path, job: str, code: int, asked: bool) -> Outcome:
    """What the job's process wrote at its end, or what its exit code says.

    One that was ``asked`` to stop, or whose sweep was, may have had no time for a word.
    """
    outcome = _read(ended)
    if outcome is not None and outcome.status != "running":
        return replace(outcome, job=job)
    folder = outcome.folder if outcome else ""
    if asked or supervision.stop_asked():
        return Outcome(job, "stopped", _STOPPED, folder)
    if code < 0:
        sentence = f"Killed by signal {-code}" + (" (out of memory?)." if code == -9 else ".")
    else:
        log = ended.with_suffix(".log")
        sentence = f"Ended with exit code {code}{f'; see {log}' if log.exists() else ''}."
    return Outcome(job, "failed", sentence, folder)


def _read(ended: Path) -> Outcome | None:
    """What is written about a job; None where nothing is, or nothing that can be read."""
    try:
        return Outcome(**read_json(ended))
    except (PosematchError, TypeError):
        return None


def _finished(ended: Path) -> Outcome | None:
    """How the job ended before, if it did and its run is still there.

    One that was killed between its result and the word of it has finished, too.
    """
    outcome = _read(ended)
    if outcome is None or not outcome.folder:
        return None
    from posematch.runs.folder import RunFolder

    # Of this sweep, wherever it was moved to.
    folder = RunFolder(ended.parents[1] / Path(outcome.folder).name)
    try:
        return _with_figure(outcome, folder) if folder.result.exists() else None
    except (PosematchError, LookupError, TypeError):  # a damaged result is none
        return None


def _with_figure(outcome: Outcome, folder: RunFolder) -> Outcome:
    result = read_json(folder.result)
    name = result["metric"]
    metric = result["figures"]["last"][name]
    return replace(outcome, folder=str(folder.path), metric_name=name, metric=metric)


def outcomes() -> list[Outcome]:
    """How the jobs of the sweep that this process began ended, in the order they ended."""
    if _jobs is None:
        return []
    files = sorted(_jobs.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    ended = [one for one in map(_read, files) if one is not None]
    return [one for one in ended if one.run == os.environ[_RUN_VARIABLE]]


def end_of_sweep(ended: Sequence[Outcome]) -> str:
    """The sentence that a sweep ends with; empty if all is well."""
    if supervision.stop_asked() or any(one.status in ("stopped", "running") for one in ended):
        return _STOPPED
    if any(one.status == "failed" for one in ended):
        return "Some jobs failed; the same command runs those again."
    return ""


def outcomes_table(ended: Sequence[Outcome], name: str) -> Table:
    """The sweep at a glance."""
    if any(one.estimate for one in ended):
        return _estimates_table(ended)
    ended, common = _without_common(ended)
    metric = next((one.metric_name for one in ended if one.metric_name), "metric")
    caption = f"all: {common}" if common else None
    table = Table(title=f"sweep {name}", caption=caption, title_justify="left")
    for column in ("job", "", metric, "time", "run folder or what went wrong"):
        table.add_column(column, overflow="fold", justify="right" if column == metric else "left")
    for one in ended:
        figure = "" if one.metric is None else f"{one.metric:.2f}"
        table.add_row(
            one.job, one.status, figure, f"{one.seconds:.0f} s", one.sentence or one.folder
        )
    return table


def _without_common(ended: Sequence[Outcome]) -> tuple[list[Outcome], str]:
    """Jobs named by the overrides in which they differ, and those that they share."""
    words = [one.job.split() for one in ended]
    common = set(words[0]).intersection(*words[1:]) if len(words) > 1 else set()
    told = [
        replace(one, job=" ".join(word for word in own if word not in common) or one.job)
        for one, own in zip(ended, words, strict=True)
    ]
    return told, " ".join(word for word in words[0] if word in common)


def _estimates_table(ended: Sequence[Outcome]) -> Table:
    ended, common = _without_common(ended)
    caption = f"all: {common}" if common else None
    table = Table(
        title="estimated from a few measured steps", caption=caption, title_justify="left"
    )
    columns = ("job", "epochs", "steps", "s/step", "s/validation", "hours", "peak GiB")
    for column in columns:
        table.add_column(column, overflow="fold", justify="left" if column == "job" else "right")
    total = 0.0
    for one in ended:
        it = one.estimate
        if not it:
            table.add_row(one.job, one.status, one.sentence)
            continue
        total += it["hours"]
        table.add_row(
            one.job,
            f"{it['epochs']:.0f}",
            f"{it['steps']:.0f}",
            f"{it['seconds_per_step']:.3g}",
            f"{it['seconds_per_validation']:.3g}",
            f"{it['hours']:.3g}",
            f"{it['memory_gib']:.2f}",
        )
    if len(ended) > 1:
        table.add_section()
        table.add_row("all, one after the other", "", "", "", "", f"{total:.3g}", "")
    return table


def estimated(cfg: DictConfig, job: str) -> Outcome:
    """A dry run as an outcome."""
    from posematch.training.dry_run import estimate

    return Outcome(job, "estimated", estimate=estimate(cfg).as_dict())


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]


@contextlib.contextmanager
def _alone(job_file: Path) -> Iterator[None]:
    """Wait until no other process trains this job.

    Where a sweep's own process is killed, too, and not only the one that the user started, nobody
    holds the sweep's lock while its jobs stop.
    """
    said = False

    def waiting() -> None:
        nonlocal said
        if not said:
            print(
                "A process of an earlier sweep still trains this job; waiting for it.", flush=True
            )
        said = True

    with locked(job_file.with_suffix(".lock"), waiting):
        yield


class _Job:
    """What the watcher of a job's process does while the job is trained.

    Parameters
    ----------
    ended
        Where it is told how the job ended.
    job
        Its overrides.
    """

    def __init__(self, ended: Path, job: str) -> None:
        self.ended = ended
        self.job = job
        self.told = False  # how it ended
        self._lock = threading.Lock()
        self._woken = self._hurried = False

    def tell(self, outcome: Outcome) -> None:
        with self._lock:
            self.told = True
            write_json(self.ended, asdict(outcome))

    def note_folder(self) -> None:
        """Write down which run folder is the job's as soon as there is one."""
        while not self.told:
            folder = os.environ.get(_FOLDER_VARIABLE)
            if folder:
                with self._lock:
                    if not self.told:
                        running = self.outcome("running", folder=folder)
                        write_json(self.ended, asdict(running))
                return
            time.sleep(0.1)

    def outcome(self, status: str, sentence: str = "", folder: str = "") -> Outcome:
        folder = folder or os.environ.get(_FOLDER_VARIABLE, "")
        return _of_this_run(Outcome(self.job, status, sentence, folder))

    def stop(self, reason: str, at_once: bool) -> None:
        """As `supervision.watch_over_job` asks for it."""
        with self._lock:
            if self.told:
                return
            if at_once:
                if not self._hurried:
                    self._hurried = True
                    stopping.request_stop(reason)  # the signal is then the second
                    os.kill(os.getpid(), signal.SIGTERM)
            elif stopping.is_in_order():
                stopping.request_stop(reason)
            elif not self._woken:
                # Before a training is under way there is nothing to keep, and nobody looks.
                self._woken = True
                os.kill(os.getpid(), signal.SIGTERM)


def main(job_file: Path, job: str) -> None:
    """Train the job and write how it ended next to it."""
    from posematch.app.composition import register_resolvers
    from posematch.training.run import train

    register_resolvers()
    cfg = OmegaConf.load(job_file)
    assert isinstance(cfg, DictConfig)
    ended = job_file.with_suffix(".json")
    first = clusters.rank() == 0
    own = _Job(ended, job)
    supervision.watch_over_job(own.stop)
    with one_sentence_errors(debug=cfg.debug.traceback):
        outcome = None
        try:
            with _alone(job_file) if first else contextlib.nullcontext():
                if first and not cfg.dry_run and _finished(ended):
                    return
                if first:
                    threading.Thread(target=own.note_folder, daemon=True).start()
                if cfg.dry_run:
                    outcome = estimated(cfg, job)
                else:
                    result = train(cfg)
                    status = "resumed" if result.resumed else "finished"
                    outcome = _with_figure(own.outcome(status), result.folder)
        except (KeyboardInterrupt, stopping.InterruptedTrainingError):
            outcome = own.outcome("stopped", _STOPPED)
            raise SystemExit(1) from None  # the sweep says it
        except PosematchError as error:
            outcome = own.outcome("failed", str(error))
            raise
        except Exception as error:
            outcome = own.outcome("failed", f"{type(error).__name__}: {error}")
            raise
        finally:
            if first and outcome is not None:
                own.tell(outcome)


if __name__ == "__main__":
    for one in supervision.SIGNALS:  # the sweep ignores them
        signal.signal(one, signal.default_int_handler)
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except KeyboardInterrupt:
        raise SystemExit(1) from None
