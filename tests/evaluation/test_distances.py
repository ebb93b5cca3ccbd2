"""PCK, AUC and EPE by the person's size against plain loops and by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from posematch.data.people import OKSTruth
from posematch.errors import PosematchError
from posematch.evaluation.distances import auc, distance_figures, pck, person_sizes
from posematch.runs.predictions import PredictionTable
from posematch.skeletons import COCO, MPII, Skeleton

K = MPII.num_joints
HIP, SHOULDER = (MPII.joints.index(joint) for joint in ("left_hip", "right_shoulder"))


def random_table(seed: int, number: int = 12) -> PredictionTable:
    random = np.random.default_rng(seed)
    true_img = random.uniform(0, 300, (number, K, 2))
    side = random.uniform(100, 600, number)
    return PredictionTable(
        skeleton=MPII,
        person_ids=np.arange(number),
        image_ids=np.zeros(number, np.int64),
        joints_img=true_img + random.normal(0, 25, true_img.shape),
        true_img=true_img,
        labelled=random.random((number, K)) < 0.7,
        head_size_img=random.uniform(20, 90, number),
        box_size_img=np.stack([side, side], axis=1),
    )


def plain_errors(table: PredictionTable, size: str) -> list[float]:
    """Errors in sizes of all labelled joints that count."""
    assert table.head_size_img is not None
    assert table.box_size_img is not None
    found = []
    for n in range(len(table)):
        true = table.true_img[n]
        if size == "torso" and not (table.labelled[n, HIP] and table.labelled[n, SHOULDER]):
            continue
        size_px = {
            "head": table.head_size_img[n],
            "box": max(table.box_size_img[n]) / 1.25,
            "torso": np.hypot(*(true[HIP] - true[SHOULDER])),
        }[size]
        for k in range(K):
            if table.labelled[n, k] and MPII.joints[k] not in ("pelvis", "thorax"):
                found.append(float(np.hypot(*(table.joints_img[n, k] - true[k])) / size_px))
    return found


@pytest.mark.parametrize("size", ["head", "torso", "box"])
def test_figures_by_plain_loops(size: str) -> None:
    """AUC: MPII's, the trapezoidal rule on PCK from 0 to 0.5 in steps of 0.01."""
    row = distance_figures(random_table(0)).loc[size]
    errors = np.array(plain_errors(random_table(0), size))
    assert row["joints"] == len(errors)
    assert row["EPE"] == pytest.approx(errors.mean(), rel=1e-12)
    for threshold in (0.05, 0.1, 0.2, 0.5):
        expected = 100 * np.mean([e <= threshold for e in errors])
        assert row[f"PCK@{threshold}"] == pytest.approx(expected, rel=1e-12)
    curve = np.array([100 * np.mean(errors <= threshold) for threshold in np.arange(51) / 100])
    expected = np.sum((curve[1:] + curve[:-1]) / 2) * 0.01 / 0.5
    assert row["AUC@0.5"] == pytest.approx(expected, rel=1e-12)


def test_auc_by_hand() -> None:
    """Errors 0, a quarter and beyond the limit: areas 1, 1/2 + half a step, 0; not found: 0."""
    errors = np.array([0.0, 0.25, 0.51, np.nan])
    areas = [auc(one[None]) for one in errors]
    assert areas == pytest.approx([100, 100 * (25 + 0.5) / 50, 0, 0], rel=1e-12)
    assert auc(errors) == pytest.approx(np.mean(areas), rel=1e-12)


def test_at_most_the_threshold_is_right() -> None:
    assert pck(np.array([0.5]), 0.5) == 100.0
    assert pck(np.nextafter(np.array([0.5]), 1.0), 0.5) == 0.0
    assert pck(np.array([0.1, np.nan]), 0.5) == 50.0


def test_order_of_people_changes_nothing() -> None:
    table = random_table(3)
    order = np.random.default_rng(0).permutation(len(table))
    shuffled = distance_figures(table.of_people(order))
    assert np.allclose(shuffled, distance_figures(table), rtol=1e-12, atol=0)


def coco_table(folder: Path) -> tuple[PredictionTable, OKSTruth]:
    """Two people, 15 px off; the second has the longer box and the lower annotation id."""
    file = folder / "person_keypoints.json"
    entries = [
        {
            "id": annotation_id,
            "image_id": 1,
            "category_id": 1,
            "iscrowd": 0,
            "num_keypoints": 17,
            "keypoints": [0, 0, 2] * 17,
            "area": 400.0,
            "bbox": bbox,
        }
        for annotation_id, bbox in ((30, [0, 0, 50, 100]), (20, [0, 0, 200, 40]))
    ]
    content = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": entries,
    }
    file.write_text(json.dumps(content))
    true_img = np.zeros((2, COCO.num_joints, 2))
    table = PredictionTable(
        skeleton=COCO,
        person_ids=np.array([30, 20]),
        image_ids=np.array([1, 1]),
        joints_img=true_img + np.array([15.0, 0.0]),
        true_img=true_img,
        labelled=np.ones((2, 17), np.bool_),
        area=np.array([400.0, 400.0]),
        box_size_img=np.full((2, 2), 400.0),
    )
    return table, OKSTruth(file, (1,), "gt", COCO)


def test_coco_takes_the_longer_side_of_the_annotated_box(tmp_path: Path) -> None:
    """15 px off: 0.15 of a side of 100 is wrong at 0.1, 0.075 of a side of 200 right."""
    row = distance_figures(*coco_table(tmp_path)).loc["box"]
    assert (row["people"], row["PCK@0.1"]) == (2, 50.0)
    assert row["EPE"] == pytest.approx((0.15 + 0.075) / 2, rel=1e-12)


def test_sizes_that_nobody_has_are_left_out(tmp_path: Path) -> None:
    table, truth = coco_table(tmp_path)
    # The torso has length 0 here, heads are MPII's, boxes are not told without the annotations.
    assert list(distance_figures(table, truth).index) == ["box"]
    assert not len(distance_figures(table))
    with pytest.raises(PosematchError, match="size 'head'"):
        person_sizes(table, "head", truth)
    hands = Skeleton("hands", ("a", "b"), (), (), (), ())
    two = replace(random_table(5), skeleton=hands)
    with pytest.raises(PosematchError, match="size 'torso'"):
        person_sizes(two, "torso")
    # A person outside the annotation file has no box there.
    other = replace(table, person_ids=np.array([30, 21]))
    assert person_sizes(other, "box", truth).tolist() == [100.0, 0.0]
