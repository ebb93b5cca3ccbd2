"""Rescoring and both forms of OKS-NMS against loops, by docs/protocols.md, COCO scoring."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from posematch.data.predictions import read_coco_results
from posematch.errors import PosematchError
from posematch.metrics.coco_results import CocoPoses, write_results
from posematch.metrics.suppression import oks_nms, photo_blocks, rescore, soft_oks_nms
from posematch.skeletons import COCO

SIGMAS = COCO.oks_sigmas
K = COCO.num_joints
# float64 sums of 17 joints in another order, then products of up to 20 dampings.
RTOL = 1e-12


# The re-statement: one photo, one pair, one joint at a time.


def plain_score(box_score: float, joint_scores: list[float]) -> float:
    above = [score for score in joint_scores if score > 0.2]
    return box_score * sum(above) / len(above) if above else 0.0


def plain_oks(a: Any, b: Any, area_a: float, area_b: float) -> float:
    total = 0.0
    for (xa, ya, *_), (xb, yb, *_), sigma in zip(a, b, SIGMAS, strict=True):
        squared = (xa - xb) ** 2 + (ya - yb) ** 2
        variance = (2 * sigma) ** 2
        total += math.exp(-squared / variance / ((area_a + area_b) / 2 + 2.0**-52) / 2)
    return total / K


def plain_nms(keypoints: Any, scores: Any, areas: Any, threshold: float) -> list[int]:
    waiting = sorted(range(len(scores)), key=lambda i: -scores[i])
    kept = []
    while waiting:
        best = waiting.pop(0)
        kept.append(best)
        waiting = [
            i
            for i in waiting
            if plain_oks(keypoints[best], keypoints[i], areas[best], areas[i]) <= threshold
        ]
    return kept


def plain_soft_nms(
    keypoints: Any, scores: Any, areas: Any, threshold: float
) -> list[tuple[int, float]]:
    waiting = dict(enumerate(scores))
    kept = []
    while waiting and len(kept) < 20:
        best = max(waiting, key=lambda i: (waiting[i], -i))
        kept.append((best, waiting.pop(best)))
        for i in waiting:
            similarity = plain_oks(keypoints[best], keypoints[i], areas[best], areas[i])
            waiting[i] *= math.exp(-(similarity**2) / threshold)
    return kept


def random_poses(seed: int, photos: int, most: int) -> CocoPoses:
    """Up to ``most`` poses a photo, many of them shifted copies of others, some tied in score."""
    random = np.random.default_rng(seed)
    keypoints, image_ids = [], []
    for photo in random.permutation(photos):
        size = random.uniform(20, 300)
        base = random.uniform(0, size, (3, K, 2))
        for _ in range(random.integers(0, most + 1)):
            shift = size * random.choice([0.0, 0.01, 0.03, 0.1, 0.5])
            pose = base[random.integers(3)] + shift * random.normal(size=(K, 2))
            keypoints.append(np.concatenate([pose, random.random((K, 1)).round(1)], axis=1))
            image_ids.append(photo * 7)
    order = random.permutation(len(image_ids))  # photos come in any order, as detections do
    number = len(order)
    return CocoPoses(
        np.array(image_ids, dtype=np.int64)[order],
        np.array(keypoints)[order],
        random.choice([0.3, 0.7, 0.9, 0.95], number),
        random.uniform(20, 300, number) ** 2,
    )


@pytest.fixture(scope="module")
def poses() -> CocoPoses:
    return random_poses(seed=0, photos=1000, most=9)


@pytest.fixture(scope="module")
def plain_scores(poses: CocoPoses) -> NDArray[np.float64]:
    pairs = zip(poses.box_scores, poses.keypoints[..., 2].tolist(), strict=True)
    return np.array([plain_score(float(box), joints) for box, joints in pairs])


def test_rescoring_of_1000_photos(poses: CocoPoses, plain_scores: NDArray[np.float64]) -> None:
    scores = rescore(poses.box_scores, poses.keypoints[..., 2])
    np.testing.assert_allclose(scores, plain_scores, rtol=RTOL, atol=0)
    assert (scores == 0).any() or len(set(scores)) < len(scores)  # ties are part of the test


@pytest.mark.parametrize("threshold", [0.9, 0.5])
def test_hard_suppression_of_1000_photos(poses: CocoPoses, threshold: float) -> None:
    scores = rescore(poses.box_scores, poses.keypoints[..., 2])
    kept = oks_nms(poses.keypoints, scores, poses.box_areas, SIGMAS, threshold, poses.image_ids)
    expected = []
    for photo in np.unique(poses.image_ids):
        rows = np.flatnonzero(poses.image_ids == photo)
        of_photo = plain_nms(
            poses.keypoints[rows].tolist(), scores[rows], poses.box_areas[rows], threshold
        )
        expected += rows[of_photo].tolist()
    assert len(np.unique(poses.image_ids)) > 800  # the others came out empty
    assert len(expected) < len(scores)
    np.testing.assert_array_equal(kept, expected)


def test_soft_suppression_of_1000_photos(poses: CocoPoses) -> None:
    scores = rescore(poses.box_scores, poses.keypoints[..., 2])
    kept, damped = soft_oks_nms(
        poses.keypoints, scores, poses.box_areas, SIGMAS, image_ids=poses.image_ids
    )
    expected_rows, expected_scores = [], []
    for photo in np.unique(poses.image_ids):
        rows = np.flatnonzero(poses.image_ids == photo)
        of_photo = plain_soft_nms(
            poses.keypoints[rows].tolist(), scores[rows], poses.box_areas[rows], 0.9
        )
        expected_rows += [int(rows[i]) for i, _ in of_photo]
        expected_scores += [score for _, score in of_photo]
    np.testing.assert_array_equal(kept, expected_rows)
    np.testing.assert_allclose(damped, expected_scores, rtol=RTOL, atol=0)


def test_soft_suppression_keeps_20_a_photo() -> None:
    poses = random_poses(seed=1, photos=6, most=60)
    scores = rescore(poses.box_scores, poses.keypoints[..., 2])
    kept, damped = soft_oks_nms(
        poses.keypoints, scores, poses.box_areas, SIGMAS, image_ids=poses.image_ids
    )
    for photo in np.unique(poses.image_ids):
        rows = np.flatnonzero(poses.image_ids == photo)
        of_photo = plain_soft_nms(
            poses.keypoints[rows].tolist(), scores[rows], poses.box_areas[rows], 0.9
        )
        chosen = poses.image_ids[kept] == photo
        assert kept[chosen].tolist() == [int(rows[i]) for i, _ in of_photo]
        assert (np.diff(damped[chosen]) <= 0).all()
        assert len(of_photo) == min(20, len(rows))
    assert max(np.bincount(poses.image_ids)) > 20


def test_soft_suppression_on_the_fixtures(
    hrnet_fixtures: Mapping[str, NDArray[Any]],
) -> None:
    """Poses of HRNet's fixture; the original's answers to the hard form are in test_oks.py."""
    keypoints, scores, areas = (
        hrnet_fixtures[f"nms_{name}"].astype(np.float64)
        for name in ("keypoints", "scores", "areas")
    )
    kept, damped = soft_oks_nms(keypoints, scores, areas, SIGMAS)
    expected = plain_soft_nms(keypoints.tolist(), scores, areas, 0.9)
    assert kept.tolist() == [i for i, _ in expected]
    np.testing.assert_allclose(damped, [score for _, score in expected], rtol=RTOL, atol=0)
    hard = oks_nms(keypoints, scores, areas, SIGMAS, 0.9)
    assert plain_nms(keypoints.tolist(), scores, areas, 0.9) == hard.tolist()


def test_blocks_hold_every_row_once_and_photos_whole() -> None:
    image_ids = np.array([5, 2, 5, 9, 2, 5, 7])
    blocks = [block.tolist() for block in photo_blocks(image_ids)]
    assert blocks == [[[6], [3]], [[1, 4]], [[0, 2, 5]]]
    assert [len(block) for block in photo_blocks(np.arange(10), pairs_at_once=4)] == [4, 4, 2]
    assert list(photo_blocks(image_ids[:0])) == []


def test_results_by_name(poses: CocoPoses) -> None:
    """soft chooses by damped scores and writes those that went in, as HRNet's code does."""
    hard, soft, damped, everything = (
        poses.results(SIGMAS, name) for name in ("hard", "soft", "soft_damped", "none")
    )
    assert len(hard) < len(soft) == len(damped) == len(everything) == len(poses.box_scores)
    for one, other in zip(soft, damped, strict=True):
        assert one["keypoints"] == other["keypoints"]
        assert one["score"] >= other["score"]
    assert soft != damped
    with pytest.raises(ValueError, match="suppression"):
        poses.results(SIGMAS, "medium")  # type: ignore[arg-type]


def test_written_results_are_read_back_and_bad_ones_are_not_written(
    poses: CocoPoses, tmp_path: Path
) -> None:
    file = tmp_path / "folder" / "results.json"
    results = poses.results(SIGMAS)
    write_results(file, results)
    assert read_coco_results(file) == results
    assert {type(value) for value in json.loads(file.read_text())[0]["keypoints"]} == {float}
    with pytest.raises(PosematchError, match="NaN"):
        write_results(tmp_path / "nan.json", [results[0] | {"score": float("nan")}])
    with pytest.raises(PosematchError, match="no pose"):
        write_results(tmp_path / "none.json", [])
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert [path.name for path in file.parent.iterdir()] == ["results.json"]
