"""``posematch calibrate`` as its users run it (docs/calibration.md)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from posematch.app.verbs.calibrate import run as calibrate
from posematch.files import locked
from posematch.loading import load
from posematch.networks.checkpoint_files import read_checkpoint

RUN = Path(__file__).resolve().parents[1] / "golden" / "runs" / "gaussian_mse-0"


@pytest.fixture
def run(tmp_path) -> Path:
    parts = shutil.ignore_patterns("heatmaps", "decoder=*")
    return Path(shutil.copytree(RUN, tmp_path / "run", ignore=parts))


def refused(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        calibrate(arguments)
    assert ended.value.code in (1, 2)
    told = capsys.readouterr().err.strip()
    assert told.count("\n") == 0
    return told


def test_into_the_run(run, capsys):
    last = run / "checkpoints" / "last.ckpt"
    (run / "checkpoints" / "best.ckpt").hardlink_to(last)
    before = read_checkpoint(last)
    calibrate([f"checkpoint={run}"])
    told = capsys.readouterr()
    for words in ("ECE, floor", "log loss", "with probability 0.7 this joint lies within 0.5 head",
                  "fitted on 37 people of synthetic", f"written to {last}"):  # fmt: skip
        assert words in told.out
    assert "37 people are few" in told.err
    record = load(run).record
    assert record.calibration is not None
    assert len(record.calibration.curve.offsets) == 16
    after = read_checkpoint(last)
    assert after.pop("model") == record.model_dump()
    before.pop("model", None)
    assert list(after) == list(before)
    for name, tensor in before["state_dict"].items():
        assert torch.equal(after["state_dict"][name], tensor)
    # The best one is a file of its own now, and says nothing that was not fitted to it.
    assert load(run / "checkpoints" / "best.ckpt").record.calibration is None
    assert sorted(one.name for one in run.rglob("*")) == sorted(
        ["checkpoints", "best.ckpt", "last.ckpt", "predictions", "epoch=003.parquet",
         "config.yaml", "environment.json", "metrics.csv", "result.json", "timing.csv"]
    )  # fmt: skip
    # Again: the same fit in its place.
    calibrate([f"checkpoint={last}"])
    assert load(run).record == record
    calibrate([f"checkpoint={last}", "method=isotonic"])
    assert load(run).record.calibration.curve.method == "isotonic"


def test_into_another_file(run, tmp_path):
    last = run / "checkpoints" / "last.ckpt"
    content = last.read_bytes()
    out = tmp_path / "new" / "mine.ckpt"
    calibrate([f"checkpoint={run}", f"output={out}", "method=isotonic"])
    assert last.read_bytes() == content
    model, calibrated = load(run), load(out)
    assert calibrated.record.calibration.curve.method == "isotonic"
    assert model.record == calibrated.record.model_copy(update={"calibration": None})
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(calibrated.network.state_dict()[name], tensor)
    # A file of the run's weights that lies elsewhere is calibrated in its place.
    calibrate([f"checkpoint={out}", f"run={run}"])
    assert load(out).record.calibration.curve.method == "temperature"


def test_weights_that_did_not_predict_are_refused(run, tmp_path, capsys):
    other = tmp_path / "other.ckpt"
    calibrate([f"checkpoint={run}", f"output={other}"])
    content = read_checkpoint(other)
    first = next(iter(content["state_dict"]))
    content["state_dict"][first] = content["state_dict"][first] + 1e-3
    torch.save(content, other)
    capsys.readouterr()
    told = refused(capsys, f"checkpoint={other}", f"run={run}")
    assert "does not hold the weights of" in told
    assert "lies in no run folder" in refused(capsys, f"checkpoint={other}")


def test_predictions_of_another_epoch_are_refused(run, capsys):
    content = (run / "checkpoints" / "last.ckpt").read_bytes()
    (run / "predictions" / "epoch=003.parquet").rename(run / "predictions" / "epoch=002.parquet")
    told = refused(capsys, f"checkpoint={run}")
    assert "last predictions are of epoch 2" in told
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == content


def test_a_run_that_is_not_finished_or_is_being_trained(run, capsys):
    with locked(run / ".lock"):
        assert "is being trained by another process" in refused(capsys, f"checkpoint={run}")
    (run / "result.json").unlink()
    assert "is not finished" in refused(capsys, f"checkpoint={run}")


def test_an_output_that_cannot_be_written(run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    told = refused(capsys, f"checkpoint={run}", f"output={tmp_path / 'file' / 'x.ckpt'}")
    assert "cannot be written" in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "checkpoint is not set"),
        (("checkpoint=none",), "none does not exist"),
        (("checkpoint=none", "method=platt"), "method=platt"),
        (("checkpoint=none", "folds=3"), "folds"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_command_says_wrongly(capsys, arguments, words):
    assert words in refused(capsys, *arguments)
