"""What the scripts write about kept run folders and published predictions.

Tables byte for byte; numbers of json files, which have all digits, to the rounding of their sums,
whose order is the CPU's.

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
            check_same(json.loads(given), json.loads(wanted), path.name)
        else:
            assert given == wanted, path.name


def check_same(given, wanted, where):
    """The same, numbers to 1e-12 of themselves: thousands of terms, each rounded to 1e-16."""
    assert type(given) is type(wanted), where
    if isinstance(wanted, dict):
        assert list(given) == list(wanted), where
        for key, value in wanted.items():
            check_same(given[key], value, f"{where}: {key}")
    elif isinstance(wanted, list):
        assert len(given) == len(wanted), where
        for number, (one, other) in enumerate(zip(given, wanted, strict=True)):
            check_same(one, other, f"{where}[{number}]")
    elif isinstance(wanted, float):
        assert given == pytest.approx(wanted, rel=1e-12, abs=0, nan_ok=True), where
    else:
        assert given == wanted, where


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
