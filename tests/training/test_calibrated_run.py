"""A training goes on from a calibrated run as it would without, and its new weights have none."""

from __future__ import annotations

import shutil
from dataclasses import replace

from light import LIGHT
from test_exact_resume import assert_same, assert_same_tree

from posematch.app.verbs.calibrate import run as calibrate
from posematch.loading import load
from posematch.networks.checkpoint_files import read_checkpoint
from posematch.runs.folder import RunFolder
from posematch.training.run import train


def test_resuming_drops_what_other_weights_do_not_mean(composed, capsys):
    more = (*LIGHT, "data.spec.valid_photos=16", "callbacks=ema")
    run = train(composed(*more))
    folder = run.folder
    kept = shutil.copytree(folder.path, folder.path.parent / "kept")
    whole = read_checkpoint(folder.last_checkpoint)
    calibrate([f"checkpoint={folder.path}"])
    assert load(folder.path).record.calibration is not None
    calibrated = read_checkpoint(folder.last_checkpoint)
    assert list(calibrated) == list(whole)
    assert calibrated["model"].pop("calibration")
    assert whole["model"].pop("calibration") is None
    assert_same_tree(calibrated, whole)
    # Nothing is left to train: the checkpoint is taken, validated, and stays as it is.
    again = train(composed(*more, f"resume={folder.path}"))
    assert again.figures == run.figures
    assert load(folder.path).record.calibration is not None
    # From the one before it: the epoch's end once more, to the same weights.
    resumed = train(composed(*more, f"resume={folder.previous_checkpoint}"))
    assert load(folder.path).record.calibration is None
    assert resumed.folder.path == folder.path
    assert_same(resumed, replace(run, folder=RunFolder(kept)))
    assert "written to" in capsys.readouterr().out
