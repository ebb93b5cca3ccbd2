"""What the scripts write about kept run folders and published predictions, byte for byte.

Run folders of earlier versions are read as they were written, and no figure changes by itself; see
`make.py`. Where a figure has to change, the commit that changes an output says why.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from golden import make


@pytest.mark.parametrize(
    "name",
    [
        one if one.startswith("evaluate") else pytest.param(one, marks=pytest.mark.slow)
        for one in make.COMMANDS
    ],
)
def test_outputs_are_the_kept_ones(name, tmp_path, request):
    published = name.startswith("published")
    shared = request.getfixturevalue("shared_data") if published else tmp_path
    ended = subprocess.run(
        make.command(name, tmp_path / "out", shared),
        cwd=make.GOLDEN,
        env={**os.environ, "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    kept = sorted((make.GOLDEN / "outputs" / name).rglob("*.*"))
    assert kept or name == "report"
    for path in kept:
        made = tmp_path / "out" / path.relative_to(make.GOLDEN / "outputs" / name)
        wanted, given = path.read_text("utf-8"), made.read_text("utf-8")
        if path.suffix == ".json":
            wanted, given = json.loads(wanted), json.loads(given)
        assert given == wanted, path.name


@pytest.mark.slow
def test_a_run_of_before_is_resumed(tmp_path):
    """Its whole checkpoint, moments and loops too, is held against a training of today's code."""
    kept = make.GOLDEN / "runs" / "gaussian_mse-0"
    shutil.copytree(kept, tmp_path / "runs" / kept.name)
    ended = subprocess.run(
        [sys.executable, str(make.REPOSITORY / "scripts" / "train.py"), *make.RUN,
         *make.RUNS[kept.name], f"resume=runs/{kept.name}"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    for name in ("result.json", "metrics.csv"):
        made = tmp_path / "runs" / kept.name / name
        assert made.read_text("utf-8") == (kept / name).read_text("utf-8")
