"""A calibration in a stranger's file is data within bounds, of the joints of its network."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from posematch.calibration_record import (
    MOST_KNOTS,
    CalibrationRecord,
    IsotonicCurve,
    TemperatureCurve,
    log_size,
)
from posematch.errors import PosematchError
from posematch.loading import load
from posematch.model import PoseModel
from posematch.model_record import ModelRecord

RUN = Path(__file__).resolve().parents[1] / "golden" / "runs" / "gaussian_mse-0"
TEMPERATURE = {
    "method": "temperature", "slope": 0.8, "offsets": [0.1] * 16, "size_slope": 0.2,
    "log_sizes": [-1.0, 1.0],
}  # fmt: skip
ISOTONIC = {"method": "isotonic", "knots": [[0.1, 0.2], [0.5, 0.6], [0.9, 0.95]]}
RECORD = {
    "meaning": "within 0.5 head sizes", "curve": TEMPERATURE, "data": "mpii", "people": 60,
    "photos": 50, "joints": 900, "epoch": 3, "error_before": 0.2, "error_after": 0.05,
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> PoseModel:
    return load(RUN)


def saved(model: PoseModel, path: Path, calibration: object) -> Path:
    weights = {f"network.{name}": one for name, one in model.network.state_dict().items()}
    record = model.record.model_dump() | {"calibration": calibration}
    torch.save({"state_dict": weights, "model": record}, path)
    return path


def changed(path: str, value: object) -> dict:
    record = copy.deepcopy(RECORD)
    *owners, last = path.split(".")
    place = record
    for owner in owners:
        place = place[owner]
    place[last] = value
    return record


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (changed("curve.slope", -1.0), "slope"),
        (changed("curve.slope", float("nan")), "slope"),
        (changed("curve.slope", "1"), "slope"),
        (changed("curve.slope", 1e9), "slope"),
        (changed("curve.offsets", [0.0] * 15), "not of 16 joints"),
        (changed("curve.offsets", [0.0] * 10**4), "offsets"),
        (changed("curve.offsets", [float("inf")] * 16), "offsets"),
        (changed("curve.size_slope", 1e3), "size_slope"),
        (changed("curve.log_sizes", [1.0, -1.0]), "least, most"),
        (changed("curve.method", "os.system"), "curve"),
        (changed("curve", ISOTONIC | {"knots": []}), "knots"),
        (changed("curve", ISOTONIC | {"knots": [[0.1, 0.6], [0.5, 0.2]]}), "do not rise"),
        (changed("curve", ISOTONIC | {"knots": [[0.5, 0.2], [0.5, 0.3]]}), "do not rise"),
        (changed("curve", ISOTONIC | {"knots": [[0.1, 0.2], [0.5, 1.5]]}), "outside 0 to 1"),
        (changed("curve", ISOTONIC | {"knots": [[0.1, 0.2, 0.3]]}), "knots"),
        (
            changed("curve", {"method": "isotonic", "knots": [
                [k / 999, (k + 1) / 1002] for k in range(MOST_KNOTS + 1)]}),
            "knots",
        ),
        (changed("meaning", "never wrong"), "meaning"),
        (changed("people", 0), "people"),
        (changed("people", 2.5), "people"),
        (changed("data", "x" * 200), "data"),
        (changed("error_after", 1.5), "error_after"),
        (changed("more", 1), "more"),
        ([], "calibration"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_strangers_are_refused(model, tmp_path, record, words):
    file = saved(model, tmp_path / "odd.ckpt", record)
    with pytest.raises(PosematchError, match=re.escape(words)) as caught:
        load(file)
    assert str(caught.value).startswith(f"{file}: its record of the network (model) is damaged")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("curve", [TEMPERATURE, ISOTONIC], ids=lambda one: one["method"])
def test_a_checkpoint_carries_it(model, tmp_path, curve):
    record = RECORD | {"curve": curve}
    again = load(saved(model, tmp_path / "m.ckpt", record))
    assert again.record.calibration == CalibrationRecord.model_validate(record)
    assert again.record.model_dump()["calibration"] == record
    scores, sizes = torch.rand(3, 16), np.array([[64.0, 64], [100, 100], [640, 640]])
    told = again.calibrated_scores(scores, sizes)
    assert told.dtype == np.float64
    expected = again.record.calibration.apply(scores.double().numpy(), sizes, (64, 64))
    np.testing.assert_array_equal(told, expected)
    assert np.abs(told - scores.numpy()).max() > 0.01
    # What validation and evaluation score stays as it is decoded.
    crops = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(again.estimate(crops).scores, model.estimate(crops).scores)


def test_files_of_before_have_none(model, tmp_path):
    """Checkpoints without a word of calibration are read, and their scores are as decoded."""
    fields = model.record.model_dump()
    del fields["calibration"]
    assert ModelRecord.model_validate(fields).calibration is None
    scores = torch.rand(2, 16)
    told = model.calibrated_scores(scores, [[64.0, 64], [64, 64]])
    np.testing.assert_array_equal(told, scores.double().numpy())


def test_by_hand():
    curve = TemperatureCurve(slope=2.0, offsets=[0.0, 1.0], size_slope=0.5, log_sizes=[-1.0, 1.0])
    # logit 0.8 = log 4; twice that is log 16; size e: log 16 + 1/2, or + 3/2.
    told = curve.apply([[0.8, 0.8]], [1.0])
    np.testing.assert_allclose(told, 1 / (1 + np.exp([[-0.5, -1.5]]) / 16))
    line = IsotonicCurve.model_validate(ISOTONIC)
    np.testing.assert_allclose(line.apply([[0.0, 0.3, 0.9, 1.0]], [0.0]), [[0.2, 0.4, 0.95, 0.95]])


def test_sizes_are_photo_pixels_of_a_crop_pixel():
    np.testing.assert_allclose(log_size([[192, 256], [384, 512]], (256, 192)), [0, np.log(2)])
    assert np.isfinite(log_size([[0, 0], [1e300, 1e300]], (256, 192))).all()


def test_sentences():
    record = CalibrationRecord.model_validate(RECORD)
    assert record.sentence() == (
        "A score of 0.7 now says: with probability 0.7 this joint lies within 0.5 head sizes of its"
        " place (fitted on 60 people of mpii)."
    )
    with pytest.raises(ValidationError):
        record.people = 1
