"""What the end of a training shows: results.png, and curves in characters."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest
from light import LIGHT

from posematch.runs.folder import RunFolder
from posematch.runs.predictions import PredictionTable
from posematch.training import results, run
from posematch.training.results import (
    Curves,
    curves_picture,
    read_curves,
    save_results,
    terminal_curves,
)

SHORT = (*LIGHT[1:], "loss=gaussian_mse", "trainer.max_epochs=2")
DRAWN = (*SHORT, "pictures.results=true")


def curves_of(**columns):
    values = {name.replace("__", "/"): np.array(one, float) for name, one in columns.items()}
    epochs = np.arange(1, len(next(iter(values.values()))) + 1)
    return Curves(epochs, values, "gaussian_mse", "PCKh@0.5")


@pytest.fixture(scope="module")
def drawn_run(finished):
    return finished(*DRAWN)


def test_a_finished_run_has_its_picture(drawn_run):
    picture = cv2.imread(str(drawn_run.folder.results))
    height, width, _ = picture.shape
    # Curves; below them the split's eight people, the four worst and the others, in two bands of
    # three cells, 256 pixels each.
    assert width >= 1000
    assert height > 330 + 2 * 3 * 256
    assert drawn_run.folder.results.parent == drawn_run.folder.path


def test_without_the_key_there_is_none(finished):
    assert not finished(*SHORT).folder.results.exists()


def test_the_worst_people_come_first(drawn_run, composed, monkeypatch):
    """By the table that the last validation has written."""
    said = {}

    def noted(module, places, captions=None):
        said.update(places=list(places), captions=captions)
        return np.zeros((10, 10, 3), np.uint8)

    monkeypatch.setattr("posematch.training.module.PoseModule.picture", noted)
    folder = run.train(composed(*DRAWN, "pictures.people=2")).folder
    table = PredictionTable.read(folder.predictions(1))
    means = np.array([row[known].mean() for row, known in zip(table.errors, table.labelled,
                                                             strict=True)])  # fmt: skip
    worst = np.argsort(-means)
    ids = [int(re.search(r": (\d+),", one)[1]) for one in said["captions"]]
    assert ids[:2] == table.person_ids[worst[:2]].tolist()
    assert ids[2:] == table.person_ids[worst[3:5]].tolist()  # around the median of eight
    assert said["captions"][0] == f"worst: {ids[0]}, {means.max():.2f} head sizes"
    assert said["captions"][2].startswith("median: ")


def test_it_is_written_again_when_the_run_goes_on(composed, train_until, tmp_path):
    train_until(composed(*DRAWN), 4)
    (path,) = (tmp_path / "runs").iterdir()
    folder = RunFolder(path)
    assert not folder.results.exists()
    assert run.train(composed(*DRAWN, f"resume={path}")).resumed
    first = folder.results.read_bytes()
    folder.results.write_bytes(b"")
    assert run.train(composed(*DRAWN, f"resume={path}")).resumed
    assert folder.results.read_bytes() == first


def test_what_goes_wrong_with_it_ends_no_training(composed, monkeypatch, capsys):
    def fails(*rest):
        raise RuntimeError("no ink.\nmore")

    monkeypatch.setattr(results, "curves_picture", fails)
    result = run.train(composed(*DRAWN))
    assert result.folder.result.exists()
    assert not result.folder.results.exists()
    told = capsys.readouterr().err.strip()
    assert told == f"{result.folder.results} is not drawn (RuntimeError: no ink)."


def test_a_place_that_cannot_be_written_ends_no_training(drawn_run, tmp_path, capsys):
    save_results(RunFolder(tmp_path), None, 2, {})
    assert "results.png is not drawn" in capsys.readouterr().err


class TestCurves:
    def test_they_are_those_of_the_table(self, drawn_run):
        found = read_curves(drawn_run.folder, "gaussian_mse", "PCKh@0.5")
        assert found.epochs.tolist() == [1, 2]
        assert set(found.losses) == {"training", "validation"}
        assert set(found.figures) == {"PCKh@0.5", "PCKh@0.1"}
        assert found.figures["PCKh@0.5"][1] == pytest.approx(drawn_run.figures["last"]["PCKh@0.5"])
        assert all(values[0] == 1 for values in found.measured.values())

    def test_shares_are_percent(self):
        found = Curves(np.arange(1, 3), {"val/AP": np.array([0.1, 0.2])}, "matching", "AP")
        assert found.figures["AP"].tolist() == [10, 20]

    @pytest.mark.parametrize(
        "columns",
        [
            {"train__loss": [1.0]},
            {"train__loss": [1.0, np.nan, 3.0], "val__PCKh@0.5": [np.nan, np.nan, 7.0]},
            {"val__loss__gaussian_mse": [0.0, 1.0], "train__loss": [-1.0, 2.0]},
            {"step": [1.0, 2.0]},
        ],
    )
    def test_few_of_them_are_drawn_as_they_are(self, columns):
        picture = curves_picture(curves_of(**columns), 600, {"mean pose": 10.0})
        assert (picture.shape, picture.dtype) == ((330, 600, 3), np.uint8)

    def test_in_characters(self):
        columns = {"train__loss": [3, 2, 1], "val__loss__gaussian_mse": [4, 3, 2],
                   "val__PCKh@0.5": [10, 30, 40]}  # fmt: skip
        lines = terminal_curves(curves_of(**columns), 80).splitlines()
        assert max(map(len, lines)) <= 80
        assert len(lines) <= 15
        assert "PCKh@0.5 by epoch" in lines[0]
        assert "\x1b" not in "".join(lines)
        assert lines[-1].split() == ["1", "2", "3", "1", "2", "3"]

    def test_none_of_one_epoch_or_without_room(self):
        assert terminal_curves(curves_of(train__loss=[1.0]), 80) == ""
        assert terminal_curves(curves_of(train__loss=[1.0, 2.0]), 40) == ""
