"""``scripts/evaluate.py`` as its users run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from posematch.cli import one_sentence_errors
from posematch.errors import PosematchError
from posematch.evaluation import evaluate_predictions

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "evaluate.py"


def run(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *overrides],
        cwd=folder,
        env=os.environ | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ("mpii", "mpii_full", "predictions/bearpaw-hg_s8_b1.mat"),
            "96.79 95.19 90.08 85.32 87.48 84.26 80.73 89.09 88.64",
        ),
        (
            ("coco", "coco_det", "predictions/coco_det_predictions.json"),
            "0.861 0.993 0.911 0.776 0.937 0.875",
        ),
    ],
)
def test_published_figures_are_printed(
    shared_data: Path, tmp_path: Path, overrides: tuple[str, str, str], expected: str
) -> None:
    """Figures of data/README.md; no file is left behind."""
    name, root, predictions = overrides
    more = ["data.valid_annotations=test_coco.json"] if name == "coco" else []
    ended = run(
        tmp_path,
        f"predictions={shared_data / predictions}",
        f"data={name}",
        f"data.root={shared_data / root}",
        *more,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert expected in " ".join(ended.stdout.split())
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    ended = run(tmp_path, "predictions=absent.mat", "data=mpii", "data.root=nowhere")
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert "nowhere/annot/gt_valid.mat" in ended.stderr


def test_photos_are_not_needed_but_rows_must_match(shared_data: Path, tmp_path: Path) -> None:
    with pytest.raises(PosematchError, match="264 people"):
        evaluate_predictions(
            shared_data / "predictions" / "tompson.h5", "mpii", shared_data / "mpii"
        )
    with pytest.raises(PosematchError, match="data=mpii or data=coco"):
        evaluate_predictions(tmp_path / "x", "synthetic", tmp_path)


def test_errors_end_in_a_sentence_and_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, one_sentence_errors():
        raise PosematchError("The box is empty: give it a width.")
    assert ended.value.code == 1
    assert capsys.readouterr().err == "The box is empty: give it a width.\n"

    with pytest.raises(SystemExit) as ended, one_sentence_errors():
        _ = OmegaConf.create({"data": {"root": "???"}}).data.root
    assert ended.value.code == 1
    assert capsys.readouterr().err == "data.root is not set: add data.root=... to the command.\n"


def test_debug_and_programming_errors_keep_their_traceback() -> None:
    with pytest.raises(PosematchError), one_sentence_errors(debug=True):
        raise PosematchError("The box is empty: give it a width.")

    @one_sentence_errors()
    def mistaken() -> None:
        raise KeyError("a mistake of ours")

    with pytest.raises(KeyError):
        mistaken()
