"""OKS sigmas come back from labels that were drawn with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posematch.app.main import run
from posematch.errors import PosematchError
from posematch.evaluation.sigmas import sigmas_of_labels, sigmas_of_residuals
from posematch.runs.predictions import PredictionTable
from posematch.skeletons import MPII, skeleton_from_names

SIGMAS = np.array([0.02, 0.05, 0.1])
JOINTS = ("nose", "chin", "tail")
PHOTOS, PEOPLE = 400, 2


def labels(seed: int, outliers: bool = False) -> dict[str, Any]:
    """By an annotator whose places spread by SIGMAS: E[d^2] = sigma^2 area, over two axes."""
    truth, own = np.random.default_rng(0), np.random.default_rng(seed)
    annotations = []
    for photo in range(PHOTOS):
        people = []
        for _ in range(PEOPLE):
            area = float(truth.uniform(2_000, 20_000))
            places = truth.uniform(0, 1000, 2) + truth.uniform(-60, 60, (3, 2))
            spread = SIGMAS[:, None] * np.sqrt(area / 2)
            places = places + spread * own.normal(size=(3, 2))
            if outliers and own.random() < 0.05:
                places[0] += 500
            keypoints = np.column_stack([places, [2, 2, 2]]).ravel().tolist()
            people.append({"image_id": photo, "category_id": 1, "area": area,
                           "bbox": [0, 0, 1000, 1000], "keypoints": keypoints})  # fmt: skip
        own.shuffle(people)
        annotations += people
    for number, one in enumerate(annotations):
        one["id"] = number
    images = [
        {"id": n, "file_name": f"{n}.jpg", "width": 1000, "height": 1000} for n in range(PHOTOS)
    ]
    category = {"id": 1, "name": "dog", "keypoints": list(JOINTS)}
    return {"images": images, "annotations": annotations, "categories": [category]}


def written(folder: Path, *contents: dict[str, Any]) -> list[Path]:
    files = [folder / f"{n}.json" for n in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_text(json.dumps(content))
    return files


def test_sigmas_of_two_and_three_annotators(tmp_path: Path) -> None:
    """The median of n squared distances is known to about 1.2 / sqrt(n): sigma to 2 % of 800."""
    for annotators in (2, 3):
        files = written(
            tmp_path, *(labels(seed, outliers=True) for seed in range(1, annotators + 1))
        )
        found = sigmas_of_labels(files)
        assert found["joint"].tolist() == list(JOINTS)
        assert (found["distances"] == PHOTOS * PEOPLE * (annotators - 1) * annotators / 2).all()
        np.testing.assert_allclose(found["sigma"], SIGMAS, rtol=0.12)
        np.testing.assert_allclose(found["sigma"][1:], SIGMAS[1:], rtol=0.08)


def test_sigmas_of_residuals() -> None:
    random = np.random.default_rng(0)
    area = random.uniform(2_000, 20_000, 3000)
    noise = random.normal(size=(3000, 3, 2)) * SIGMAS[:, None] * np.sqrt(area / 2)[:, None, None]
    table = PredictionTable(
        skeleton=skeleton_from_names("dog", JOINTS, []),
        person_ids=np.arange(3000),
        image_ids=np.arange(3000),
        joints_img=noise,
        true_img=np.zeros((3000, 3, 2)),
        labelled=np.ones((3000, 3), np.bool_),
        area=area,
    )
    np.testing.assert_allclose(sigmas_of_residuals(table)["sigma"], SIGMAS, rtol=0.05)


def test_the_command_prints_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = written(tmp_path, labels(1), labels(2))
    run("estimate_sigmas", [f"labels=[{files[0]},{files[1]}]"])
    line = capsys.readouterr().out.strip().splitlines()[-1]
    values = json.loads(line.removeprefix("data.oks_sigmas="))
    np.testing.assert_allclose(values, SIGMAS, rtol=0.12)


def test_what_tells_nothing_is_a_sentence(tmp_path: Path) -> None:
    other = labels(2)
    other["categories"][0]["keypoints"] = ["a", "b", "c"]
    with pytest.raises(PosematchError, match="other joints"):
        sigmas_of_labels(written(tmp_path, labels(1), other))
    renamed = labels(2)
    for one in renamed["images"]:
        one["file_name"] = f"x{one['file_name']}"
    with pytest.raises(PosematchError, match="no labelled joint"):
        sigmas_of_labels(written(tmp_path, labels(1), renamed))
    with pytest.raises(PosematchError, match="needs two"):
        sigmas_of_labels([tmp_path / "0.json"])
    heads = PredictionTable(
        skeleton=MPII, person_ids=np.arange(1), image_ids=np.arange(1),
        joints_img=np.zeros((1, 16, 2)), true_img=np.zeros((1, 16, 2)),
        labelled=np.ones((1, 16), np.bool_), head_size_img=np.ones(1),
    )  # fmt: skip
    with pytest.raises(PosematchError, match="'area'"):
        sigmas_of_residuals(heads)
