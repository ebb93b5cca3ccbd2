"""The stand-alone example finds the joints that posematch finds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from posematch.app.main import run as run_verb
from posematch.data.synthetic import draw, stage
from posematch.data.synthetic_spec import SyntheticSpec
from posematch.exporting.export import model_to_export
from posematch.networks.heatmap_network import HEATMAP_STRIDE

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples" / "onnx_alone.py"
RUN = REPOSITORY / "tests" / "golden" / "runs" / "gaussian_mse-0"


def test_it_imports_nothing_of_ours():
    text = EXAMPLE.read_text("utf-8")
    assert "import posematch" not in text
    assert "torch" not in text
    assert len([line for line in text.splitlines() if line.strip()]) <= 48


@pytest.mark.slow
def test_joints_are_posematchs(tmp_path):
    """The warps differ by a grey level here and there: no joint by more than 0.05 crop pixels."""
    spec = SyntheticSpec()
    photo_bgr, _ = draw(spec, "valid", 3, scene := stage(spec, "valid", 3))
    person = scene.people[0]
    side = person.said_height_px
    box_img = np.array([*(person.middle_img - side / 2), 0.6 * side, side])
    cv2.imwrite(str(tmp_path / "photo.png"), photo_bgr)
    run_verb("export", [str(RUN), f"output={tmp_path / 'pose.onnx'}", "decode=true", "crops=5"])
    ended = subprocess.run(
        [sys.executable, EXAMPLE, "pose.onnx", "photo.png", *map(str, box_img)],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = [line.split() for line in ended.stdout.splitlines()]
    model = model_to_export(str(RUN))
    assert [row[0] for row in rows] == list(model.skeleton.joints)
    (found,) = model.predict([tmp_path / "photo.png"], [box_img])
    told = np.array([[float(one) for one in row[1:]] for row in rows])
    scale = HEATMAP_STRIDE * found.heatmap_affines[0, 0, 0]  # crop pixels of a photo's pixel
    apart_px = np.linalg.norm(told[:, :2] - found.joints_img[0], axis=-1) * scale
    assert apart_px.max() <= 0.05
    np.testing.assert_allclose(told[:, 2], found.scores[0], atol=0.01)
