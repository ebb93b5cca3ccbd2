"""Every convention side by side, against plain loops over people and joints."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from posematch.data.mpii_truth import read_pckh_truth
from posematch.data.people import OKSTruth, PCKhTruth, People
from posematch.data.predictions import read_coco_results, read_mpii_predictions
from posematch.errors import PosematchError
from posematch.metrics.coco_results import CocoPoses
from posematch.metrics.coco_truth import coco_figures
from posematch.metrics.columns import FIGURES
from posematch.metrics.conventions import (
    PCKH_CONVENTIONS,
    Conventions,
    coco_conventions,
    coco_conventions_of_results,
    joined,
    pckh_conventions,
)
from posematch.metrics.pckh import PCKh
from posematch.skeletons import COCO, MPII

K = MPII.num_joints


def random_truth(seed: int, people: int = 40) -> tuple[np.ndarray, PCKhTruth]:
    """Errors in whole pixels of heads of 100, so that thresholds are met exactly; odd heads."""
    random = np.random.default_rng(seed)
    joints_img = random.integers(0, 500, (people, K, 2)).astype(np.float64)
    error_px = random.choice([0.0, 5, 10, 10.5, 11, 30, 50, 50.5, 80], (people, K))
    predicted = joints_img + np.stack([error_px, np.zeros_like(error_px)], axis=-1)
    head_px = np.full(people, 100.0)
    head_px[:4] = [0, 0, 37.5, 61]
    visible = (random.random((people, K)) < 0.7).astype(np.float32)
    return predicted, PCKhTruth(joints_img, visible, head_px, MPII)


def plain_pckh(predicted: np.ndarray, truth: PCKhTruth, threshold: float, rule: str):
    """docs/protocols.md, PCKh, by loops: HRNet's `<=` (a head of size 0 makes its joints wrong) or
    mmpose's `<` (a head of size 0 becomes 1e6)."""
    right, counted = [0] * K, [0] * K
    for person in range(len(predicted)):
        for k in range(K):
            if truth.visible[person, k] == 0:
                continue
            counted[k] += 1
            size = truth.head_size_img[person]
            distance = np.hypot(*(predicted[person, k] - truth.joints_img[person, k]))
            if rule == "<":
                right[k] += distance / (size if size > 0 else 1e6) < threshold
            elif size > 0:
                right[k] += distance / size <= threshold
    rate = {MPII.joints[k]: 100 * right[k] / counted[k] for k in range(K)}
    in_means = [k for k in range(K) if k not in (6, 7)]
    share = {k: counted[k] / sum(counted[j] for j in in_means) for k in in_means}
    return {
        "Mean": sum(rate[MPII.joints[k]] * share[k] for k in in_means),
        "plain mean": sum(rate[MPII.joints[k]] for k in in_means) / 14,
        "Head": rate["head_top"],
        "Wrist": 0.5 * (rate["left_wrist"] + rate["right_wrist"]),
        "joint/pelvis": rate["pelvis"],
        "joint/left_knee": rate["left_knee"],
    }


def value(conventions: Conventions, convention: str, part: str) -> float:
    frame = conventions.frame
    (found,) = frame[(frame["convention"] == convention) & (frame["part"] == part)]["value"]
    return float(found)


@pytest.mark.parametrize("convention", PCKH_CONVENTIONS, ids=lambda one: one.name)
def test_pckh_by_plain_loops(convention) -> None:
    predicted, truth = random_truth(seed=0)
    conventions = pckh_conventions(predicted, truth)
    expected = plain_pckh(predicted, truth, convention.threshold, convention.comparison)
    for part, figure in expected.items():
        assert value(conventions, convention.name, part) == pytest.approx(figure, rel=1e-12), part


def test_the_conventions_differ_where_they_should() -> None:
    """Exact hits of a threshold and heads of size 0 tell `<=` from `<`."""
    predicted, truth = random_truth(seed=0)
    conventions = pckh_conventions(predicted, truth)
    means = [value(conventions, one.name, "Mean") for one in PCKH_CONVENTIONS]
    assert len(set(means)) == len(means)


def test_hrnets_convention_is_the_metric() -> None:
    predicted, truth = random_truth(seed=1)
    truth = PCKhTruth(truth.joints_img, truth.visible, np.full(len(predicted), 64.0), MPII)
    metric = PCKh(People("mpii", "valid", MPII, [], truth))
    rows = torch.arange(len(predicted))
    metric.update(rows, torch.from_numpy(predicted), torch.ones(len(predicted), K))
    figures = metric.compute()
    conventions = pckh_conventions(predicted, truth)
    assert value(conventions, "@0.5, <=", "Mean") == figures["PCKh@0.5"]
    assert value(conventions, "@0.5, <=", "plain mean") == figures["PCKh@0.5(plain mean)"]
    assert value(conventions, "@0.1, <=", "Mean") == figures["PCKh@0.1"]
    assert value(conventions, "@0.11 legacy, <=", "Mean") == figures["PCKh@0.11(legacy)"]
    for name, figure in figures.items():
        if name.startswith("PCKh@0.5/"):
            assert value(conventions, "@0.5, <=", name.removeprefix("PCKh@0.5/")) == figure


def test_published_predictions(shared_data: Path) -> None:
    """data/README.md: 89.09 and 88.64 of one file, 82.34 and 81.46 of the other."""
    truth = read_pckh_truth(shared_data / "mpii_full" / "annot" / "gt_valid.mat")
    files = {"bearpaw-hg_s8_b1.mat": (89.09, 88.64), "tompson.h5": (82.34, 81.46)}
    parts = []
    for file, (weighted, plain) in files.items():
        predicted = read_mpii_predictions(shared_data / "predictions" / file, 2958)
        parts.append(pckh_conventions(predicted, truth, name=file))
        assert value(parts[-1], "@0.5, <=", "Mean") == pytest.approx(weighted, abs=0.005001)
        assert value(parts[-1], "@0.5, <=", "plain mean") == pytest.approx(plain, abs=0.005001)
    both = joined(parts)
    assert len(both.wide()) == 2 * len(PCKH_CONVENTIONS)
    assert len(both.notes) == 2  # which they share
    text = both.markdown()
    assert "| bearpaw-hg_s8_b1.mat | @0.5, <= | 89.09 | 88.64 | 96.79 |" in text
    assert "| tompson.h5 | @0.5, <= | 82.34 | 81.46 |" in text
    joints = both.joints()
    assert list(joints["joint"]) == 2 * list(MPII.joints)


def test_coco_says_whose_boxes_and_what_was_suppressed(shared_data: Path) -> None:
    file = shared_data / "coco_det" / "test_coco.json"
    results = read_coco_results(shared_data / "predictions" / "coco_det_predictions.json")
    photos = tuple(sorted({result["image_id"] for result in results}))
    truth = OKSTruth(file, photos, "detector_boxes.json", COCO)
    as_it_is = coco_conventions_of_results(results, truth, "published")
    figures = coco_figures(file, results, photos)
    assert dict(zip(as_it_is.frame["part"], as_it_is.frame["value"], strict=True)) == figures
    assert figures["AP"] == pytest.approx(0.861, abs=0.0005001)  # data/README.md

    keypoints = np.array([result["keypoints"] for result in results]).reshape(-1, 17, 3)
    sizes = np.ptp(keypoints[..., :2], axis=1)
    poses = CocoPoses(
        np.array([result["image_id"] for result in results]),
        keypoints,
        np.array([result["score"] for result in results]),
        sizes.prod(axis=1) * 1.5625,
    )
    by_hand = coco_conventions(poses, truth, "ours", joint_score="peak of the map")
    assert {name for name, _ in by_hand.frame.groupby("convention")} == {
        "rescored, OKS-NMS 0.9", "rescored, soft OKS-NMS 0.9",
        "rescored, soft OKS-NMS 0.9, damped scores", "rescored, no suppression",
    }  # fmt: skip
    hard = coco_figures(file, poses.results(COCO.oks_sigmas), photos)
    assert {name: value(by_hand, "rescored, OKS-NMS 0.9", name) for name in FIGURES} == hard
    both = joined([as_it_is, by_hand])
    assert set(both.frame["boxes"]) == {"detector_boxes.json"}
    assert "detector_boxes.json" in both.markdown()
    assert "peak of the map" in both.markdown()
    annotated = OKSTruth(file, photos, "gt", COCO)
    note = coco_conventions_of_results(results, annotated).markdown()
    assert "annotated boxes" in note


def test_renderings_agree() -> None:
    predicted, truth = random_truth(seed=3)
    truth.visible[:, MPII.joints.index("head_top")] = 0  # a column that nobody has
    conventions = pckh_conventions(predicted, truth)
    console = Console(width=80, record=True, file=StringIO())
    console.print(conventions.table("title"))
    text = console.export_text()
    assert "…" not in text  # it fits into 80 characters
    read = json.loads(conventions.json())
    assert read["notes"] == list(conventions.notes)
    markdown, of_joints = conventions.markdown(), conventions.joints_markdown()
    for row in read["figures"]:
        if not row["part"].startswith("joint/"):
            assert f"{row['value']:.2f}" in text
            assert f"{row['value']:.2f}" in markdown
        else:
            assert f"{row['value']:.2f}" in of_joints
    console.print(conventions.joints_table("joints"))
    assert "left_wrist" in console.export_text()


def test_wrong_inputs_are_told() -> None:
    predicted, truth = random_truth(seed=4)
    with pytest.raises(PosematchError, match="a row per person"):
        pckh_conventions(predicted[:-1], truth)
    broken = predicted.copy()
    broken[truth.visible > 0] = np.nan
    with pytest.raises(PosematchError, match="NaN"):
        pckh_conventions(broken, truth)
    truth.visible[:] = 0
    with pytest.raises(PosematchError, match="nothing to count"):
        pckh_conventions(predicted, truth)
