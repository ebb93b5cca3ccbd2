"""Sweeps that are stopped in the middle: no orphan, every started job resumes, the same results.

    python tests/torture/sweeps.py --times 10

Each time two jobs run side by side and one or two wait. The sweep is stopped at a moment drawn
from a seed, by Ctrl-C (to the process group, as a terminal does), SIGTERM, or SIGKILL (both to the
process that the user started); and ``sweep``, SIGKILL to the process that it watches over. Then
the same command is given again, at once.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

REPOSITORY = Path(__file__).resolve().parents[2]
WAYS = ("ctrl-c", "term", "kill", "sweep")
OVERRIDES = [
    "-m", "loss=gaussian_mse,dot_mse,kl", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
    "trainer.max_epochs=5", "data.spec.train_photos=12", "data.spec.valid_photos=6",
    "data.input_size=[64,64]", "data.batch_size=4", "data.workers=1", "trainer.accelerator=cpu",
    "measure=none", "pictures.every_n_epochs=0", "decoders=none", "sweep=tortured",
]  # fmt: skip
JOBS = 3
_MOST_SECONDS = 600


@dataclass
class Figures:
    """What one stopped sweep and its repetition have shown."""

    started: int
    stopped: int
    resumed: int
    skipped: int
    seconds_to_stop: float
    after_death: float


def command(root: Path, data: Path) -> list[str]:
    script = str(REPOSITORY / "scripts" / "train.py")
    return [sys.executable, script, *OVERRIDES, f"run_root={root}", f"data.root={data}"]


def environment(scratch: Path) -> dict[str, str]:
    scratch.mkdir(parents=True, exist_ok=True)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("POSEMATCH_")}
    return kept | {"TMPDIR": str(scratch), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}


def processes(root: Path) -> dict[int, str]:
    """Processes whose command line or environment names the folder, or that lie in such a session.

    Workers of joblib name nothing; they are found by the session of the sweep's own process.
    """
    found, session_of, sessions = {}, {}, set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] in "ZX" or int(folder.name) == os.getpid():
            continue
        session_of[int(folder.name)] = (int(fields[3]), words)
        if str(root) in words:
            found[int(folder.name)] = words
            sessions.add(int(fields[3]))
    sessions -= {os.getsid(0)}
    return found | {pid: words for pid, (session, words) in session_of.items()
                    if session in sessions}  # fmt: skip


def results(root: Path) -> dict[str, tuple[str, str]]:
    """metrics.csv and last predictions of each finished run, by its loss."""
    found = {}
    for result in (root / "tortured").glob("*/result.json"):
        folder = result.parent
        loss = folder.name.split("_", 4)[4].rpartition("_")[0]
        last = max((folder / "predictions").glob("epoch=*.parquet"))
        assert loss not in found, f"{loss} was trained twice"
        table = pd.read_parquet(last).to_csv()
        found[loss] = ((folder / "metrics.csv").read_text(), table)
    return found


def run_undisturbed(root: Path, data: Path) -> dict[str, tuple[str, str]]:
    done = subprocess.run(
        command(root, data), env=environment(root / "tmp"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return results(root)


def until(what, root: Path, process: subprocess.Popen[str] | None = None) -> None:
    ends = time.monotonic() + _MOST_SECONDS
    while not what():
        assert process is None or process.poll() is None, f"{root}: ended too early"
        assert time.monotonic() < ends, f"{root}: waited too long; left: {processes(root)}"
        time.sleep(0.1)


def stop_and_repeat(
    way: str, delay: float, root: Path, data: Path, wanted: dict[str, tuple[str, str]]
) -> Figures:
    """Start a sweep, stop it ``delay`` seconds after its first job began, give the command again.

    Raises
    ------
    AssertionError
        Something of what this file promises does not hold.
    """
    sweep, scratch = root / "tortured", root / "tmp"
    root.mkdir(parents=True)
    with (root / "first.txt").open("w") as output:
        # A group of its own and Ctrl-C not ignored, as a shell gives to a command, whatever this
        # process was started by.
        first = subprocess.Popen(
            command(root, data), env=environment(scratch), stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        until(lambda: list(sweep.glob("jobs/*.yaml")), root, first)
        time.sleep(delay)
        known = processes(root)
        began = time.monotonic()
        if way == "ctrl-c":
            os.killpg(first.pid, signal.SIGINT)
        elif way == "sweep":
            (leader,) = [pid for pid in known if pid != first.pid and os.getsid(pid) == pid]
            os.kill(leader, signal.SIGKILL)
        else:
            first.send_signal(signal.SIGTERM if way == "term" else signal.SIGKILL)
        first.wait(_MOST_SECONDS)
    seconds = time.monotonic() - began
    said = (root / "first.txt").read_text()
    if way == "kill":
        assert first.returncode == -signal.SIGKILL
    else:
        assert first.returncode == 1, said
        assert not processes(root), f"orphans: {processes(root)}"
    assert "Traceback" not in said, said
    again = subprocess.Popen(command(root, data), env=environment(scratch), text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    after = 0.0
    if way == "kill":  # the second waits for what the first one left; it ends by itself
        began = time.monotonic()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in known), root)
        after = time.monotonic() - began
    told = again.communicate(timeout=_MOST_SECONDS)[0]
    assert again.returncode == 0, f"{said}\n{told}"
    assert "Traceback" not in told, told
    assert not processes(root), f"orphans: {processes(root)}"
    assert results(root) == wanted, f"{root}: other results than undisturbed"
    runs = list(sweep.glob("*/config.yaml"))
    folders = [one for one in sweep.iterdir() if one.is_dir() and one.name != "jobs"]
    assert len(runs) == len(folders) == JOBS, f"{root}: {folders}"
    left = {one.suffix for one in (sweep / "jobs").iterdir()} | {
        one.name for one in scratch.iterdir()
    }
    assert left == {".yaml", ".json", ".log"}, f"{root}: {left}"
    ended = [json.loads(one.read_text())["status"] for one in sweep.glob("jobs/*.json")]
    count = collections.Counter(ended)
    return Figures(
        started=said.count("[start]"),
        stopped=said.count("[stopped]"),
        resumed=count["resumed"],
        skipped=count["skipped"],
        seconds_to_stop=seconds,
        after_death=after,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=1, help="of each way")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=20.0, help="delay, in seconds")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        began = time.monotonic()
        wanted = run_undisturbed(root / "undisturbed", root / "data")
        print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
        for way in options.ways:
            for number in range(options.times):
                delay = draw.uniform(0, options.longest)
                place = root / f"{way}-{number}"
                figures = stop_and_repeat(way, delay, place, root / "data", wanted)
                print(f"{way:7} after {delay:4.1f} s: {figures}", flush=True)
    print("no orphan, every started job resumed, results as undisturbed")


if __name__ == "__main__":
    main()
