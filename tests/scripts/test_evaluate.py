"""``scripts/evaluate.py`` as its users run it."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from posematch.app.sentences import one_sentence_errors
from posematch.errors import PosematchError
from posematch.evaluation.files import evaluate_predictions

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
            "@0.5, <= 89.09 88.64 96.79 95.19 90.08 85.32 87.48 84.26 80.73",
        ),
        (
            ("coco", "coco_det", "predictions/coco_det_predictions.json"),
            "0.861 0.993 0.911 0.776 0.937 0.875 1.000 0.917",
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


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("predictions=absent.mat", "data.root=nowhere"), "nowhere/annot/gt_valid.mat"),
        (("data=mpii",), "Name what is to be scored"),
        (("predictions=x", "run=y"), "not predictions and run at once"),
        (("predictions=x", "flip_test=false"), "nothing reads flip_test where a prediction file"),
        (("predictions=x", "schedule=cosine"), "nothing reads schedule where"),
        (("run=x", "data=coco"), "nothing reads data where a run's own predictions"),
    ],
)
def test_bad_input_is_one_sentence(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    overrides: tuple[str, ...],
    words: str,
) -> None:
    main = runpy.run_path(str(SCRIPT))["main"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *overrides])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert words in told.err


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
