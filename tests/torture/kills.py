"""Kill trainings at random moments and resume them until they are done; nothing may differ or stay.

    python tests/torture/kills.py --kills 100 --seed 0

Series after series, a small training (drawn people, crop cache, loader workers as by default) is
started, killed with SIGKILL, started again with ``resume=auto``, and so on until it has finished;
then its weights, moments, tables and predictions are held against those of an undisturbed training,
bit for bit, and the folders it wrote to are searched for what killed processes left. A third of the
kills wait for a moment that is hard to hit by chance: a checkpoint, a table of predictions, the
cache or the drawn people being written. TMPDIR is on another file system where there is one.

Each training is a process of its own, forked from this one, which has imported the libraries: a
start takes a moment instead of ten seconds.
"""

from __future__ import annotations

import argparse
import os
import random
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TRAINING = [
    "data.spec.train_photos=24", "data.spec.valid_photos=12", "data.input_size=[64,64]",
    "data.batch_size=4", "data.cache=true", "trainer.accelerator=cpu", "trainer.max_epochs=5",
    "measure=none", "pictures.every_n_epochs=2", "checkpoint_every_minutes=0.005",
    "resume=auto", "+callbacks.steps._target_=torture_steps.Steps",
]  # fmt: skip
# What is being written, as a pattern below the run root or the data root.
WRITTEN = {
    "checkpoint": "runs/*/checkpoints/.last.ckpt.*.partial",
    "predictions": "runs/*/predictions/.epoch=*.partial",
    "cache": "data/*/mpii/posematch_cache/.*.draft",
    "drawing": "data/.synthetic-*",
}
# A callback of the user's that notes each step; told where by the environment.
STEPS = """
import os
import lightning.pytorch as pl


class Steps(pl.Callback):
    def on_train_batch_end(self, trainer, *rest):
        with open(os.environ["TORTURE_STEPS"], "a") as file:
            file.write(f"{trainer.global_step}\\n")
"""


def start(folder: Path) -> int:
    """A training in a process and session of its own; its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ["TORTURE_STEPS"] = str(folder / "steps.txt")
        os.chdir(folder)
        script = REPOSITORY / "scripts" / "train.py"
        paths = [f"data.root={folder / 'data'}", f"run_root={folder / 'runs'}"]
        sys.argv = [str(script), *TRAINING, *paths]
        runpy.run_path(str(script), run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(code)


def ended(pid: int) -> int | None:
    """Exit code, negative for a signal; None while it runs."""
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def wait(pid: int, seconds: float = 300) -> int:
    until = time.monotonic() + seconds
    while (code := ended(pid)) is None:
        if time.monotonic() > until:
            os.killpg(pid, signal.SIGKILL)
            raise SystemExit(f"a training hung for {seconds} s")
        time.sleep(0.05)
    return code


def kill(pid: int, folder: Path, rng: random.Random, aim: str | None, whole: float) -> str | None:
    """Kill at a random moment, or while ``aim`` is written; what it did hit, None if it ended.

    Moments lie within half of the time that a whole training takes, or most would come too late.
    """
    until = time.monotonic() + (whole if aim else rng.uniform(0.05, whole / 2))
    while time.monotonic() < until:
        if (code := ended(pid)) is not None:
            if code:
                print((folder / "output.txt").read_text())
                raise SystemExit(f"a training ended with {code} by itself")
            return None
        if aim and any(folder.glob(WRITTEN[aim])):
            break
        time.sleep(0.001 if aim else 0.02)
    os.kill(pid, signal.SIGKILL)
    hit = next((name for name, p in WRITTEN.items() if any(folder.glob(p))), "elsewhere")
    wait(pid)
    return hit


def orphans(session: int) -> list[str]:
    """Processes of a session, after loader workers had time to see that their parent is gone."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                fields = (process / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(process.name)
        if not found:
            return []
        time.sleep(0.2)
    return found


def finished(folder: Path) -> Path:
    (run,) = (folder / "runs").iterdir()
    assert (run / "result.json").exists(), f"{run} is not finished"
    return run


def differences(one: Path, other: Path) -> list[str]:
    """In what two finished run folders differ, of what has to be the same."""
    import pandas as pd
    import torch

    found = []
    for name in ("last", "best"):
        a, b = (
            torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
            for run in (one, other)
        )
        found += [f"{name}.ckpt{where}" for where in _unlike(a, b)]
    for name in ("metrics.csv", "result.json", "config.yaml"):
        a, b = ((run / name).read_text().replace(str(run.parents[1]), "") for run in (one, other))
        if a != b:
            found.append(name)
    a, b = ({p.relative_to(run) for p in run.rglob("*.parquet")} for run in (one, other))
    if a != b:
        found.append(f"predictions: {a ^ b}")
    for name in a & b:
        if not pd.read_parquet(one / name).equals(pd.read_parquet(other / name)):
            found.append(str(name))
    a, b = ({p.relative_to(r) for p in r.rglob("*") if p.is_file()} for r in (one, other))
    return [*found, *(f"file {name}" for name in a ^ b if name.name != "previous.ckpt")]


def _unlike(a: object, b: object, where: str = "") -> list[str]:
    import torch

    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [where]
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return [f"{where}: {a.keys() ^ b.keys()}"]
        return [found for key in a for found in _unlike(a[key], b[key], f"{where}.{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return [found for at, pair in pairs for found in _unlike(*pair, f"{where}.{at}")]
    return [] if a == b else [where]


def leftovers(folder: Path, temporary: Path) -> list[str]:
    """Hidden files and folders, and all of TMPDIR."""
    hidden = [str(path) for path in folder.rglob(".*") if path.name not in (".", "..")]
    return hidden + [str(path) for path in temporary.iterdir()]


def torture(work: Path, temporary: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    sys.path[:0] = [str(REPOSITORY / "src"), str(work)]
    (work / "torture_steps.py").write_text(STEPS)
    import posematch.training.run  # noqa: F401  before the forks

    for made in temporary.iterdir():  # by the import of torch, in this process
        made.rmdir()
    undisturbed = work / "undisturbed"
    undisturbed.mkdir()
    begun = time.monotonic()
    if wait(start(undisturbed)):
        print((undisturbed / "output.txt").read_text())
        raise SystemExit("the undisturbed training failed")
    whole = time.monotonic() - begun
    run = finished(undisturbed)
    steps = (undisturbed / "steps.txt").read_text().split()
    print(f"undisturbed: {whole:.1f} s, {len(steps)} steps", flush=True)
    hits: Counter[str] = Counter()
    repeated = series = 0
    while sum(hits.values()) < kills:
        series += 1
        folder = work / f"series-{series}"
        folder.mkdir()
        killed = 0
        while True:
            left = kills - sum(hits.values())
            pid = start(folder)
            if killed >= 12 or left <= 0:
                if wait(pid):
                    print((folder / "output.txt").read_text())
                    raise SystemExit("a resumed training failed")
                break
            # People are drawn and cached at the first start.
            aims = ["checkpoint", "predictions"] if killed else ["drawing", "cache"]
            aim = rng.choice(aims) if rng.random() < (1 / 3 if killed else 2 / 3) else None
            begun = time.monotonic()
            hit = kill(pid, folder, rng, aim, whole)
            if hit is None:
                if not killed:
                    whole = min(whole, time.monotonic() - begun)
                break
            hits[hit] += 1
            killed += 1
            if stray := orphans(pid):
                raise SystemExit(f"processes outlived their training: {stray}")
        done = (folder / "steps.txt").read_text().split()
        repeated += len(done) - len(set(done))
        problems = differences(run, finished(folder)) + leftovers(folder, temporary)
        if set(done) != set(steps):
            problems.append("other steps")
        if problems:
            raise SystemExit(f"series {series}, {killed} kills: {problems} ({folder} is kept)")
        print(f"series {series}: {killed} kills, identical, nothing left", flush=True)
        shutil.rmtree(folder)
    total = sum(hits.values())
    told = ", ".join(f"{name} {count}" for name, count in hits.most_common())
    print(f"{total} kills in {series} series (while writing: {told}); {repeated / total:.2f} steps"
          f" repeated a kill")  # fmt: skip


def other_file_system(beside: Path) -> str | None:
    """A folder to write to on another file system than ``beside``; None where there is none."""
    shared = Path("/dev/shm")
    if shared.is_dir() and os.access(shared, os.W_OK) and (
        shared.stat().st_dev != beside.stat().st_dev
    ):  # fmt: skip
        return str(shared)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    work = Path(tempfile.mkdtemp(prefix="posematch-kills-"))
    temporary = Path(tempfile.mkdtemp(dir=other_file_system(work)))
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    try:
        torture(work, temporary, arguments.kills, arguments.seed)
        shutil.rmtree(work)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    main()
