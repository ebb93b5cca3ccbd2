"""All that the paper shows, from nothing: three losses, two seeds, on the drawn people.

    posematch paper [key=value of posematch train ...]

Trains the sweep ``paper`` (stopped in the middle, the same command goes on) and lets each verb
write its part to ``runs/paper/paper/``: table, loss against metric, theorem, heatmaps, report.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from posematch.app.sentences import one_sentence_errors
from posematch.console import tell

BASELINE = "gaussian_mse"
TRAINING = [
    "-m", "experiment=ablation", "loss=gaussian_mse,dot_mse,matching", "seed=1,2",
    "trainer.max_epochs=9", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
]  # fmt: skip


def run(overrides: Sequence[str]) -> None:
    """The sweep, then each verb that writes a part."""
    if {"--help", "-h"} & set(overrides):
        print(__doc__)
        return
    # Where Ctrl-C is ignored, as in a script's background, it stays so; SIGTERM stops in any case.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _run(list(overrides))
    except KeyboardInterrupt:
        tell("Stopped; the same command goes on.")
        raise SystemExit(1) from None


def _run(overrides: list[str]) -> None:
    said = {one.partition("=")[0]: one.partition("=")[2] for one in overrides}
    folder = Path(said.get("run_root", "runs")).expanduser() / said.get("sweep", "paper")
    wanted = [one for one in ["sweep=paper", *TRAINING] if one.partition("=")[0] not in said]
    _train([*wanted, *overrides])
    output = folder / "paper"
    for verb in ("ablation_table", "loss_curves", "theorem"):
        _call(verb, f"runs={folder}", f"output={output}")
    from posematch.reports.groups import by_loss
    from posematch.runs.finished import find_runs

    with one_sentence_errors():
        groups = by_loss(find_runs([folder]))
    for loss, runs in groups.items():
        if loss != BASELINE and BASELINE in groups:
            a, b = groups[BASELINE][0].folder.path, runs[0].folder.path
            _call("qualitative", f"a={a}", f"b={b}", f"output={output / f'heatmaps_{loss}'}")
    _call("report", f"runs={folder}", f"output={output / 'report.html'}")


def _train(arguments: list[str]) -> None:
    """In this process, which then is the one that the sweep's jobs are watched over by."""
    _show("train", arguments)
    from posematch.app.verbs import train

    try:
        train.run(arguments)
    except SystemExit as ended:
        if ended.code:
            raise


def _call(verb: str, *arguments: str) -> None:
    """Another verb; ends as it ends, if that is badly."""
    _show(verb, list(arguments))
    done = subprocess.run([sys.executable, "-P", "-m", "posematch", verb, *arguments])
    if done.returncode:
        raise SystemExit(done.returncode)


def _show(verb: str, arguments: list[str]) -> None:
    print(f"\n$ posematch {verb} {shlex.join(arguments)}", flush=True)
