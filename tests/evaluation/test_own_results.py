"""Results of joints of one's own, and of a part of the photos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posematch.evaluation.files import evaluate_predictions
from posematch.runs.truth import read_truth
from posematch.statistics.sides import read_side
from posematch.statistics.truths import Truths

PHOTOS = 12


def written(folder: Path, photos: int = PHOTOS, category: int = 1) -> Path:
    """An annotation file of one dog a photo, and results that are its truth, of some photos."""
    random = np.random.default_rng(0)
    annotations: list[dict[str, Any]] = [
        {
            "id": n, "image_id": n, "category_id": category, "area": 3000.0, "iscrowd": 0,
            "bbox": [10.0, 10.0, 80.0, 60.0],
            "keypoints": np.c_[random.uniform(10, 70, (3, 2)), [2] * 3].ravel().tolist(),
        }
        for n in range(PHOTOS)
    ]  # fmt: skip
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 100, "height": 80} for n in range(PHOTOS)]
    categories = [{"id": category, "name": "dog", "keypoints": ["nose", "chin", "tail"]}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "valid.json").write_text(json.dumps(content))
    results = [
        {key: one[key] for key in ("image_id", "category_id", "keypoints")} | {"score": 0.9}
        for one in annotations[:photos]
    ]
    file = folder / "results.json"
    file.write_text(json.dumps(results))
    return file


def figures(file: Path, **more: Any) -> dict[str, dict[str, float]]:
    evaluation = evaluate_predictions(file, "mine", file.parent, "valid.json", **more)
    frame = evaluation.conventions.frame
    return {
        str(convention): dict(zip(rows["part"], rows["value"], strict=True))
        for convention, rows in frame.groupby("convention")
    }


@pytest.mark.parametrize("category", [1, 7])
def test_results_of_own_joints_are_scored(tmp_path: Path, category: int) -> None:
    found = figures(written(tmp_path, category=category))
    assert list(found) == ["as scored in the file"]
    assert found["as scored in the file"]["AP"] == pytest.approx(1.0)
    side = read_side([tmp_path / "results.json"], Truths(coco=tmp_path / "valid.json"))
    assert side.predictions[0].oks == pytest.approx([1.0] * PHOTOS)


def test_sigmas_of_the_command_are_those_of_the_figures(tmp_path: Path) -> None:
    """Each joint 5 px off: OKS = exp(-25 / (2 x 3000 x (2 sigma)^2)), 0.66 or 0.90."""
    file = written(tmp_path)
    results = json.loads(file.read_text())
    for one in results:
        one["keypoints"] = (np.array(one["keypoints"]) + np.tile([3, 4, 0], 3)).tolist()
    file.write_text(json.dumps(results))
    told = "as scored in the file"
    assert figures(file)[told]["AP"] == pytest.approx(0.4)  # right at 0.50, 0.55, 0.60, 0.65
    assert figures(file, oks_sigmas=[0.1] * 3)[told]["AP"] == pytest.approx(0.9)


def test_results_of_a_part_are_told_as_a_part(tmp_path: Path) -> None:
    file = written(tmp_path, photos=6)
    found = figures(file)
    assert found["as scored in the file"]["AR"] == pytest.approx(0.5)
    assert found["as scored, photos with results"]["AP"] == pytest.approx(1.0)
    evaluation = evaluate_predictions(file, "mine", tmp_path, "valid.json")
    assert any("results of 6 of 12 photos" in one for one in evaluation.conventions.notes)
    assert len(read_truth(tmp_path / "valid.json").oks.image_ids) == 12
