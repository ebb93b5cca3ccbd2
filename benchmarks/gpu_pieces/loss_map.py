"""The map of losses: trainings side by side on one card, until the time is over."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time

import torch

from gpu_pieces.shared import REPOSITORY, Bench, Case, OutOfTimeError, Row
from gpu_pieces.training import data_overrides

BYTES_A_TRAINING = 6 * 2**30  # of the card
STOP_SECONDS = 60.0  # what checkpoints may take


def cases(bench: Bench) -> list[Case]:
    """``experiment=loss_map`` under ``--overrides``: one case, which goes on where it stopped."""
    return [Case("sweep", functools.partial(_sweep, bench))]


def _overrides(bench: Bench) -> list[str]:
    accelerator = "gpu" if bench.device.type == "cuda" else "cpu"
    common = [
        *data_overrides(bench),
        f"run_root={bench.runs}", "sweep=map", f"trainer.accelerator={accelerator}",
        "data.cache=true", "hydra/launcher=joblib",
    ]  # fmt: skip
    if bench.small:
        return [
            "experiment=[regime_drawn,loss_map]", *common, "candidate=gaussian_1,paper",
            "optimizer.lr=0.004", "data.input_size=[64,64]", "data.batch_size=4",
            "data.workers=0", "trainer.max_epochs=1", "hydra.launcher.n_jobs=2",
            *bench.overrides,
        ]  # fmt: skip
    return [
        "experiment=[regime_imagenet,loss_map]", *common, "data.input_size=[256,256]",
        "data.batch_size=64", "backbone.deconv_channels=128", "trainer.max_epochs=40",
        "data.workers=1",  # that draws where crops lie; the crops are made on the card
        f"hydra.launcher.n_jobs={_side_by_side(bench)}", *bench.overrides,
    ]  # fmt: skip


def _side_by_side(bench: Bench) -> int:
    if bench.device.type != "cuda":
        return 1
    from posematch.processes import available_cores

    memory = torch.cuda.get_device_properties(bench.device).total_memory
    # A training is a process, and one that draws its people.
    return max(1, min(memory // BYTES_A_TRAINING, available_cores() * 3 // 4))


def _sweep(bench: Bench) -> Row:
    """How many trainings are finished in ``--runs``/map, and how many an hour makes.

    Their tables: ``posematch loss_map runs=FOLDER``. ``--overrides
    "backbone.weights=FILE"`` for weights that were carried along.
    """
    started, before = time.monotonic(), _finished(bench)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(REPOSITORY / "scripts" / "train.py"), *_overrides(bench)]
    process = subprocess.Popen(command, env=environment)
    try:
        code = process.wait(max(1.0, bench.seconds_left - STOP_SECONDS))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # every training ends with a checkpoint
        code = process.wait()
        if code:
            finished = _finished(bench)
            print(f"{finished - before} trainings finished, {finished} in all; stopped")
            raise OutOfTimeError from None
    if code:
        raise RuntimeError(f"the sweep ended with exit code {code}")
    hours = (time.monotonic() - started) / 3600
    finished = _finished(bench)
    return {"trainings": finished, "trainings_an_hour": (finished - before) / hours}


def _finished(bench: Bench) -> int:
    return len(list((bench.runs / "map").glob("*/result.json")))
