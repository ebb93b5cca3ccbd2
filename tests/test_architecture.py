"""The names of docs/architecture.md are those of the code."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text("utf-8")
# Of a class that is named with its file, and names that follow such a one.
HOMES = {
    "PoseModel": "posematch.model",
    "PoseModule": "posematch.training.module",
    "PredictionStore": "posematch.training.gathering",
    "PredictionTable": "posematch.runs.predictions",
    "Run": "posematch.runs.finished",
}


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([A-Z]\w+\.\w+)`", TEXT))))
def test_names(name):
    owner, _, attribute = name.partition(".")
    assert hasattr(getattr(importlib.import_module(HOMES[owner]), owner), attribute)


@pytest.mark.parametrize("file", sorted(set(re.findall(r"\(`(\w+/\w+\.py|\w+\.py)`\)", TEXT))))
def test_files(file):
    assert (ROOT / "src" / "posematch" / file).is_file()


@pytest.mark.parametrize(
    ("function", "file"), sorted(set(re.findall(r"`([a-z]\w+)` \(`([\w/]+)\.py`\)", TEXT)))
)
def test_functions(function, file):
    module = importlib.import_module("posematch." + file.replace("/", "."))
    assert callable(getattr(module, function))


def test_reading_runs_imports_nothing_that_trains():
    heavy = "lightning", "timm", "torchmetrics", "torchvision", "torch._dynamo"
    code = (
        "import sys, posematch.runs.finished, posematch.reports.compare\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
