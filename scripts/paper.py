"""All that the paper shows, from nothing: three losses, two seeds, on the drawn people.

    python scripts/paper.py [key=value of scripts/train.py ...]

Trains the sweep ``paper`` (stopped in the middle, the same command goes on) and lets each script
write its part to ``runs/paper/paper/``: table, loss against metric, theorem, heatmaps, report.
"""

from __future__ import annotations

import runpy
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from posematch.cli import one_sentence_errors
from posematch.reports.groups import by_loss
from posematch.runs.finished import find_runs

SCRIPTS = Path(__file__).resolve().parent
BASELINE = "gaussian_mse"
TRAINING = [
    "-m", "experiment=ablation", "loss=gaussian_mse,dot_mse,matching", "seed=1,2",
    "trainer.max_epochs=9", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
]  # fmt: skip


def main(overrides: list[str]) -> None:
    said = {one.partition("=")[0]: one.partition("=")[2] for one in overrides}
    folder = Path(said.get("run_root", "runs")).expanduser() / said.get("sweep", "paper")
    wanted = [one for one in ["sweep=paper", *TRAINING] if one.partition("=")[0] not in said]
    train([*wanted, *overrides])
    output = folder / "paper"
    for script in ("ablation_table", "loss_curves", "theorem"):
        call(script, f"runs={folder}", f"output={output}")
    with one_sentence_errors():
        groups = by_loss(find_runs([folder]))
    for loss, runs in groups.items():
        if loss != BASELINE and BASELINE in groups:
            a, b = groups[BASELINE][0].folder.path, runs[0].folder.path
            call("qualitative", f"a={a}", f"b={b}", f"output={output / f'heatmaps_{loss}'}")
    call("report", f"runs={folder}", f"output={output / 'report.html'}")


def train(arguments: list[str]) -> None:
    """In this process, which then is the one that the sweep's jobs are watched over by."""
    show("train", arguments)
    sys.argv = [str(SCRIPTS / "train.py"), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


def call(script: str, *arguments: str) -> None:
    """Another script; ends as it ends, if that is badly."""
    show(script, list(arguments))
    done = subprocess.run([sys.executable, str(SCRIPTS / f"{script}.py"), *arguments])
    if done.returncode:
        raise SystemExit(done.returncode)


def show(script: str, arguments: list[str]) -> None:
    print(f"\n$ python scripts/{script}.py {shlex.join(arguments)}", flush=True)


if __name__ == "__main__":
    # Where Ctrl-C is ignored, as in a script's background, it stays so; SIGTERM stops in any case.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        print("Stopped; the same command goes on.", file=sys.stderr)
        raise SystemExit(1) from None
