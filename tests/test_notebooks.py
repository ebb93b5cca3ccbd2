"""Every notebook runs from its first cell to its last, and is committed small, with its outputs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(REPOSITORY.glob("notebooks/*.ipynb"))


def by_name(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_it_is_small_and_valid(path):
    """No file of the repository over 1 MB."""
    assert path.stat().st_size < 1_000_000
    nbformat.validate(nbformat.read(path, as_version=4))


def test_all_of_them_are_small():
    assert sum(path.stat().st_size for path in NOTEBOOKS) < 1_500_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_it_shows_what_it_computes(path):
    """Outputs of one run from the first cell to the last, without an error or a warning."""
    code = [one for one in nbformat.read(path, as_version=4).cells if one.cell_type == "code"]
    assert [one.execution_count for one in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [one for one in outputs if one.output_type == "error" or one.get("name") == "stderr"]
    pictures = [one for one in outputs if {"image/png", "image/gif"} & set(one.get("data", {}))]
    assert len(pictures) >= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_nothing_in_it_is_of_a_machine(path):
    """No path from the root, no time of day, no name of a computer."""
    for cell in nbformat.read(path, as_version=4).cells:
        outputs = cell.get("outputs", [])
        printed = [one.get("text", "") for one in outputs]
        printed += [
            text
            for one in outputs
            for kind, text in one.get("data", {}).items()
            if kind.startswith("text/")
        ]
        for text in [cell.source, *printed]:
            assert not re.search(r"(?<![\w.<])/(?:home|root|tmp|work|mnt|usr|var|Users)/", text)
            assert not re.search(r"\d{4}-\d\d-\d\d[T_ ]\d\d", text)
        assert "execution" not in cell.metadata


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_it_runs(path, monkeypatch):
    source = str(REPOSITORY / "src")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([source, os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
