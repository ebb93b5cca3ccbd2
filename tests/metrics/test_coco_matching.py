"""Matching and figures against pycocotools' own code, to the last bit, on awkward files."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import coco as coco_api
from pycocotools.cocoeval import COCOeval

from posematch.metrics.coco_matching import OKS_THRESHOLDS, SIZES
from posematch.metrics.coco_truth import coco_people, evaluated
from posematch.metrics.columns import FIGURES
from posematch.skeletons import COCO, Skeleton, skeleton_from_names

FIVE = skeleton_from_names("five", ["a", "b", "c", "d", "e"], [], (0.02, 0.05, 0.1, 0.03, 0.07))


def awkward(folder: Path, skeleton: Skeleton, seed: int) -> tuple[Path, list[dict[str, Any]]]:
    """Crowds, nobody's joints, equal places and scores, more than 20 poses, empty photos."""
    rng = np.random.default_rng(seed)
    K, photos = skeleton.num_joints, 12
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for photo in range(photos):
        for _ in range(int(rng.integers(0, 6))):
            side = float(rng.choice([20.0, 60.0, 200.0]))
            first = rng.integers(0, 8, 2) * 20
            joints = first + (rng.integers(0, 5, (K, 2)) * side / 4).round()
            flags = rng.integers(0, 3, K) * (rng.random() > 0.25)
            crowd = int(rng.random() < 0.2)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": photo,
                    "category_id": 1,
                    "keypoints": np.c_[joints, flags].ravel().tolist(),
                    "num_keypoints": int((flags > 0).sum()),
                    "area": side**2 * float(rng.choice([0.5, 1.0])),
                    "bbox": [*first.tolist(), side, side],
                    "iscrowd": crowd,
                }
            )
            for _ in range(int(rng.integers(0, 12))):
                error = side * rng.choice([0.0, 0.02, 0.1, 1.0]) * rng.standard_normal((K, 2))
                results.append(
                    {
                        "image_id": photo,
                        "category_id": 1,
                        "keypoints": np.c_[joints + error, np.ones(K)].ravel().tolist(),
                        "score": float(rng.integers(0, 10) / 10),
                    }
                )
        if rng.random() < 0.3:  # poses of nobody
            found = np.c_[rng.random((K, 2)) * 100, np.ones(K)].ravel().tolist()
            results.append({"image_id": photo, "category_id": 1, "keypoints": found, "score": 0.55})
    rng.shuffle(results)  # type: ignore[arg-type]
    content = {
        "images": [
            {"id": one, "file_name": f"{one}.jpg", "width": 400, "height": 400}
            for one in range(photos)
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": skeleton.joints}],
    }
    file = folder / "truth.json"
    file.write_text(json.dumps(content))
    return file, results


def by_pycocotools(
    file: Path, results: list[dict[str, Any]], photos: list[int], skeleton: Skeleton
) -> COCOeval:
    with redirect_stdout(StringIO()):
        truth = coco_api.COCO(str(file))
        evaluation = COCOeval(truth, truth.loadRes([one.copy() for one in results]), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(skeleton.oks_sigmas)
        evaluation.params.imgIds = photos
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("skeleton", [COCO, FIVE], ids=["coco", "five"])
@pytest.mark.parametrize("seed", range(8))
def test_every_match_and_figure_is_pycocotools_own(
    tmp_path: Path, skeleton: Skeleton, seed: int
) -> None:
    file, results = awkward(tmp_path, skeleton, seed)
    photos = list(range(12)) if seed % 2 else [1, 2, 3, 5, 8, 11]
    theirs = by_pycocotools(file, results, photos, skeleton)
    ours = evaluated(file, results, photos, skeleton)
    expected = {
        name: float(figure)
        for name, figure in zip(FIGURES, theirs.stats, strict=True)
        if figure >= 0
    }
    assert ours.figures() == expected
    assert expected["AP"] > 0

    there = [one for one in theirs.evalImgs if one is not None]
    for size, _ in enumerate(SIZES):
        of_size = [one for one in there if one["aRng"] == theirs.params.areaRng[size]]
        for key, array in (("dtMatches", ours.matched), ("dtIgnore", ours.ignored)):
            found = np.concatenate([one[key] != 0 for one in of_size], axis=1)
            np.testing.assert_array_equal(array[size], found, err_msg=key)
        scores = np.concatenate([one["dtScores"] for one in of_size])
        np.testing.assert_array_equal(ours.scores, scores)
        to_find = sum(int((one["gtIgnore"] == 0).sum()) for one in of_size)
        assert ours.to_find[size].sum() == to_find
    assert len(OKS_THRESHOLDS) == 10


@pytest.mark.parametrize("seed", range(4))
def test_the_best_pose_of_each_person_is_that_of_highest_oks(tmp_path: Path, seed: int) -> None:
    file, results = awkward(tmp_path, COCO, seed)
    theirs = by_pycocotools(file, results, list(range(12)), COCO)
    ours = evaluated(file, results, None, COCO)
    place = {int(one): row for row, one in enumerate(coco_people(file, COCO).ids)}
    seen = 0
    for key, people in theirs._gts.items():
        similarity = np.asarray(theirs.ious[key])
        found = sorted(theirs._dts[key], key=lambda pose: -pose["score"])
        for column, person in enumerate(people):
            best = -1
            if similarity.size:
                best = found[int(similarity[:, column].argmax())]["id"] - 1  # numbered from 1
            assert ours.best[place[person["id"]]] == best
            seen += 1
    assert seen == len(ours.best)


def test_nobody_and_no_pose(tmp_path: Path) -> None:
    file, results = awkward(tmp_path, COCO, 1)
    nothing = evaluated(file, [], None, COCO).figures()
    assert set(nothing.values()) == {0.0}
    empty = [photo for photo in range(12) if photo not in coco_people(file, COCO).image_ids]
    assert empty
    assert evaluated(file, [], empty, COCO).figures() == {}
    assert evaluated(file, results, [], COCO).figures() == {}
