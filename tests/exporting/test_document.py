"""The commands of docs/export.md run as they are written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from posematch.data.synthetic import draw, stage
from posematch.data.synthetic_spec import SyntheticSpec

REPOSITORY = Path(__file__).resolve().parents[2]
COMMANDS = re.findall(
    r"^    ((?:posematch|python) \S.*)$",
    (REPOSITORY / "docs" / "export.md").read_text("utf-8"),
    re.M,
)


def test_they_are_found():
    assert [command.split()[1] for command in COMMANDS].count("export") == 3
    assert [command.split()[1] for command in COMMANDS].count("summary") == 2


@pytest.mark.slow
def test_commands(tmp_path):
    spec = SyntheticSpec()
    photo_bgr, _ = draw(spec, "valid", 0, stage(spec, "valid", 0))
    cv2.imwrite(str(tmp_path / "photo.jpg"), photo_bgr)
    run = REPOSITORY / "tests" / "golden" / "runs" / "gaussian_mse-0"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src")}
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        given = [one.replace("checkpoint=RUN", f"checkpoint={run}") for one in arguments]
        given = [str(REPOSITORY / one) if one.startswith("examples/") else one for one in given]
        given += ["seconds=0"] if given[0] == "summary" else []
        module = ["-m", "posematch"] if program == "posematch" else []
        ended = subprocess.run(
            [sys.executable, *module, *given],
            cwd=tmp_path, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert ended.returncode == 0, (command, ended.stderr)
        assert ended.stderr == ""
    assert {one.name for one in tmp_path.iterdir()} == {
        *("photo.jpg", "pose.onnx", "pose.pt", "pose.pt2"),
    }
