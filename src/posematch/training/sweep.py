"""The jobs of a multirun: each in a process of its own, skipped if done, resumed if cut off.

A job is its composed configuration, written below the sweep's folder and trained by
``python -m posematch.training.sweep JOB.yaml``. So one job's death, memory, signals, W&B run and
DDP processes are nobody else's, under every launcher.

    <run_root>/<sweep>/jobs/<id>.yaml   configuration
                       jobs/<id>.json   how it ended, see `Outcome`
                       jobs/<id>.log    what it printed, under a parallel launcher
                       jobs/<id>.lock   held by the process that trains it
                       <run folders>
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from posematch.cli import one_sentence_errors
from posematch.config import SETTINGS, check_type, plain
from posematch.errors import PosematchError
from posematch.files import write_json
from posematch.training.run_folder import RunFolder

SWEEP_VARIABLE = "POSEMATCH_SWEEP"
_REPORT_VARIABLE = "POSEMATCH_SWEEP_REPORT"  # a line per job, from whichever process ran it


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes
    ----------
    job
        Its overrides.
    status
        ``finished``, ``resumed`` (and finished), ``skipped`` (was finished before), ``failed``,
        ``stopped`` or ``estimated``.
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
    """

    job: str
    status: str
    sentence: str = ""
    folder: str = ""
    metric_name: str = ""
    metric: float | None = None
    seconds: float = 0.0
    estimate: dict[str, float] = field(default_factory=dict)


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
    handle, os.environ[_REPORT_VARIABLE] = tempfile.mkstemp(suffix=".jsonl")
    os.close(handle)
    atexit.register(Path(os.environ[_REPORT_VARIABLE]).unlink, missing_ok=True)
    return name


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
    cfg = OmegaConf.create(plain(cfg))
    hydra = HydraConfig.get()
    job = " ".join(o for o in hydra.overrides.task if not o.startswith(("run_root=", "sweep=")))
    root = Path(cfg.run_root).expanduser() / cfg.sweep
    jobs = root / "jobs"
    try:
        jobs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PosematchError(
            f"The sweep's folder {jobs} cannot be made ({error.strerror}); set run_root."
        ) from error
    name = _short_hash(OmegaConf.to_yaml(cfg, sort_keys=True))
    ended = jobs / f"{name}.json"
    done = None if cfg.dry_run else _finished(ended)
    if done is not None:
        outcome = replace(done, job=job, status="skipped", seconds=0.0)
    else:
        parallel = not str(hydra.launcher._target_).endswith("BasicLauncher")
        cfg.resume = "auto"
        (jobs / f"{name}.yaml").write_text(OmegaConf.to_yaml(cfg), encoding="utf-8")
        ended.unlink(missing_ok=True)
        outcome = _in_a_process(jobs / name, job, hydra.launcher.get("n_jobs") if parallel else 1)
    write_json(ended, asdict(outcome))
    with Path(os.environ[_REPORT_VARIABLE]).open("a", encoding="utf-8") as report:
        report.write(json.dumps(asdict(outcome)) + "\n")
    if outcome.status == "stopped":
        raise KeyboardInterrupt
    return outcome.metric


def _in_a_process(stem: Path, job: str, parallel: int | None) -> Outcome:
    environment = dict(os.environ)
    log = None
    if parallel != 1:
        # Progress bars of several jobs would write over each other; and each job taking all
        # cores slows all of them down many times over.
        cores = os.cpu_count() or 1
        together = parallel if parallel and parallel > 0 else cores
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // together)))
        log = stem.with_suffix(".log")
        print(f"[start] {job}", flush=True)
    started = time.monotonic()
    with log.open("w") if log else contextlib.nullcontext() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "posematch.training.sweep", str(stem.with_suffix(".yaml"))],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
        )
        interrupted = False
        while True:
            try:
                code = process.wait()
                break
            except KeyboardInterrupt:  # the job got the signal too and stops by itself
                interrupted = True
    outcome = _told(stem.with_suffix(".json"), job, code)
    if interrupted and outcome.status == "failed":
        outcome = replace(outcome, status="stopped")
    outcome = replace(outcome, seconds=time.monotonic() - started)
    if log:
        print(f"[{outcome.status}] {job} {outcome.sentence}".rstrip(), flush=True)
    return outcome


def _told(ended: Path, job: str, code: int) -> Outcome:
    """What the job's process wrote at its end, or what its exit code says."""
    if ended.exists():
        return replace(Outcome(**json.loads(ended.read_text(encoding="utf-8"))), job=job)
    if code < 0:
        sentence = f"Killed by signal {-code}" + (" (out of memory?)." if code == -9 else ".")
    else:
        log = ended.with_suffix(".log")
        sentence = f"Ended with exit code {code}{f'; see {log}' if log.exists() else ''}."
    return Outcome(job, "failed", sentence)


def _finished(ended: Path) -> Outcome | None:
    """How the job ended before, if it did and its run is still there."""
    if not ended.exists():
        return None
    outcome = Outcome(**json.loads(ended.read_text(encoding="utf-8")))
    there = outcome.folder and RunFolder(Path(outcome.folder)).result.exists()
    return outcome if there else None


def _with_figure(outcome: Outcome, folder: RunFolder) -> Outcome:
    result = json.loads(folder.result.read_text(encoding="utf-8"))
    name = result["metric"]
    metric = result["figures"]["last"][name]
    return replace(outcome, folder=str(folder.path), metric_name=name, metric=metric)


def outcomes() -> list[Outcome]:
    """How the jobs of the sweep that this process began ended, in the order they ended."""
    report = Path(os.environ[_REPORT_VARIABLE])
    lines = report.read_text(encoding="utf-8").splitlines()
    return [Outcome(**json.loads(line)) for line in lines]


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


def _stop_without_parent(parent: int) -> None:
    """End, with a checkpoint, when the sweep is killed; a second one may be started then."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _alone(job_file: Path) -> Iterator[None]:
    """Wait until no other process trains this job.

    Workers of a parallel launcher, and so their jobs, outlive a sweep that is killed outright; a
    second sweep that took over the run folder of one meanwhile would spoil it.
    """
    lock = FileLock(job_file.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print("A process of an earlier sweep still trains this job; waiting for it.", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def main(job_file: Path) -> None:
    """Train the job and write how it ended next to it."""
    from posematch.config import register_resolvers
    from posematch.training.run import train
    from posematch.training.stopping import InterruptedTrainingError

    register_resolvers()
    threading.Thread(target=_stop_without_parent, args=(os.getppid(),), daemon=True).start()
    cfg = OmegaConf.load(job_file)
    assert isinstance(cfg, DictConfig)
    ended = job_file.with_suffix(".json")
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    with (
        one_sentence_errors(debug=cfg.debug.traceback),
        _alone(job_file) if first else contextlib.nullcontext(),
    ):
        if first and not cfg.dry_run and _finished(ended):
            return
        try:
            if cfg.dry_run:
                outcome = estimated(cfg, "")
            else:
                result = train(cfg)
                status = "resumed" if result.resumed else "finished"
                outcome = _with_figure(Outcome("", status), result.folder)
        except InterruptedTrainingError as error:
            outcome = Outcome("", "stopped", "Stopped; the same command again goes on.")
            raise InterruptedTrainingError(outcome.sentence) from error
        except PosematchError as error:
            outcome = Outcome("", "failed", str(error))
            raise
        except Exception as error:
            outcome = Outcome("", "failed", f"{type(error).__name__}: {error}")
            raise
        finally:
            if first and "outcome" in locals():
                write_json(ended, asdict(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
