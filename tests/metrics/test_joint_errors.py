"""PCK, AUC and EPE against plain loops and by hand, however they are split."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posematch.data.people import OKSTruth, PCKhTruth, People, Person
from posematch.errors import PosematchError
from posematch.metrics.joint_errors import AUC, EPE, PCK, JointErrors
from posematch.skeletons import COCO, MPII, Skeleton

K = MPII.num_joints
HIP, SHOULDER = (MPII.joints.index(joint) for joint in ("left_hip", "right_shoulder"))


def random_people(seed: int, number: int = 12) -> tuple[People, torch.Tensor]:
    random = np.random.default_rng(seed)
    joints_img = random.uniform(0, 300, (number, K, 2))
    visible = (random.random((number, K)) < 0.7).astype(np.float32)
    truth = PCKhTruth(joints_img, visible, random.uniform(20, 90, number), MPII)
    people = [
        person(row, joints_img[row], visible[row], side)
        for row, side in enumerate(random.uniform(100, 600, number))
    ]
    predicted = joints_img + random.normal(0, 25, joints_img.shape)
    return People("hand-made", "valid", MPII, people, truth), torch.from_numpy(predicted)


def person(person_id: int, joints_img: np.ndarray, visible: np.ndarray, side: float) -> Person:
    return Person(
        person_id=person_id,
        image_id=0,
        image=Path("0.jpg"),
        center_img=np.zeros(2),
        box_size_img=np.array([side, side]),
        joints_img=joints_img,
        visible=visible,
        occluded=np.zeros(len(joints_img), dtype=np.bool_),
    )


def figures_of(metric: JointErrors, predicted: torch.Tensor, ids: object = None) -> dict:
    ids = torch.arange(len(predicted)) if ids is None else ids
    metric.update(ids, predicted, torch.ones(predicted.shape[:2]))
    return metric.compute()


def plain_errors(people: People, predicted: torch.Tensor, norm: str | None) -> list:
    """(joint, error in sizes) of every labelled joint that counts."""
    truth, found = people.truth, []
    assert isinstance(truth, PCKhTruth)
    for n, one in enumerate(people.people):
        true = truth.joints_img[n]
        size = 1.0
        if norm == "head":
            size = truth.head_size_img[n]
        elif norm == "box":
            size = max(one.box_size_img) / 1.25
        elif norm == "torso":
            if truth.visible[n, HIP] == 0 or truth.visible[n, SHOULDER] == 0:
                continue
            size = np.hypot(*(true[HIP] - true[SHOULDER]))
        for k in range(K):
            if truth.visible[n, k] > 0:
                found.append((k, np.hypot(*(predicted[n, k].numpy() - true[k])) / size))
    return found


@pytest.mark.parametrize(("norm", "threshold"), [("box", 0.1), ("torso", 0.2), ("head", 0.5)])
def test_pck_by_plain_loops(norm: str, threshold: float) -> None:
    people, predicted = random_people(0)
    figures = figures_of(PCK(people, norm, threshold), predicted)  # type: ignore[arg-type]
    errors = plain_errors(people, predicted, norm)
    kept = [e for k, e in errors if MPII.joints[k] not in ("pelvis", "thorax")]
    name = f"PCK@{threshold}({norm})"
    assert next(iter(figures)) == name
    assert figures[name] == pytest.approx(100 * np.mean([e <= threshold for e in kept]), rel=1e-12)
    wrists = [e for k, e in errors if MPII.joints[k] == "left_wrist"]
    expected = 100 * np.mean([e <= threshold for e in wrists])
    assert figures[f"{name}/joint/left_wrist"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("norm", ["head", "torso"])
def test_auc_by_the_trapezoidal_rule(norm: str) -> None:
    people, predicted = random_people(1)
    figures = figures_of(AUC(people, norm), predicted)  # type: ignore[arg-type]
    errors = np.array(
        [
            e
            for k, e in plain_errors(people, predicted, norm)
            if MPII.joints[k] not in ("pelvis", "thorax")
        ]
    )
    thresholds = np.arange(51) / 100
    curve = np.array([100 * np.mean(errors <= threshold) for threshold in thresholds])
    expected = np.sum((curve[1:] + curve[:-1]) / 2) * 0.01 / 0.5
    assert figures[f"AUC@0.5({norm})"] == pytest.approx(expected, rel=1e-12)


def test_auc_by_hand() -> None:
    """Errors 0, a quarter and beyond the limit: areas 1, 1/2 + half a step, 0."""
    truth = PCKhTruth(np.zeros((1, K, 2)), np.zeros((1, K)), np.array([100.0]), MPII)
    truth.visible[0, :3] = 1
    predicted = torch.zeros(1, K, 2)
    predicted[0, 1, 0], predicted[0, 2, 0] = 25.0, 51.0
    figures = figures_of(AUC(People("a", "valid", MPII, [], truth)), predicted)
    of_joint = [figures[f"AUC@0.5(head)/joint/{MPII.joints[k]}"] for k in range(3)]
    assert of_joint == pytest.approx([100, 100 * (25 + 0.5) / 50, 0], rel=1e-12)


@pytest.mark.parametrize("norm", [None, "head", "box"])
def test_epe_by_plain_loops(norm: str | None) -> None:
    people, predicted = random_people(2)
    figures = figures_of(EPE(people, norm), predicted)  # type: ignore[arg-type]
    errors = plain_errors(people, predicted, norm)
    kept = [e for k, e in errors if MPII.joints[k] not in ("pelvis", "thorax")]
    assert figures[f"EPE({norm or 'px'})"] == pytest.approx(np.mean(kept), rel=1e-12)


def test_at_most_the_threshold_is_right() -> None:
    truth = PCKhTruth(np.zeros((1, K, 2)), np.ones((1, K)), np.array([100.0]), MPII)
    people = People("a", "valid", MPII, [], truth)
    at = torch.zeros(1, K, 2)
    at[..., 0] = 50.0
    assert figures_of(PCK(people, "head", 0.5), at)["PCK@0.5(head)"] == 100.0
    above = torch.nextafter(at.double(), torch.tensor(51.0, dtype=torch.float64))
    assert figures_of(PCK(people, "head", 0.5), above)["PCK@0.5(head)"] == 0.0


@settings(max_examples=15, deadline=None)
@given(
    order=st.permutations(range(12)),
    cuts=st.sets(st.integers(1, 11)),
    processes=st.integers(1, 3),
    kind=st.sampled_from([PCK, AUC, EPE]),
)
def test_order_batches_and_processes_change_nothing(
    order: list[int], cuts: set[int], processes: int, kind: type[JointErrors]
) -> None:
    """Every person has a row of its own, so figures are equal to the last bit."""
    people, predicted = random_people(3)
    whole = figures_of(kind(people), predicted)  # type: ignore[call-arg]
    parts = [kind(people) for _ in range(processes)]  # type: ignore[call-arg]
    for position, rows in enumerate(np.split(np.array(order), sorted(cuts))):
        ids = torch.from_numpy(rows)
        parts[position % processes].update(ids, predicted[ids], torch.ones(len(ids), K))
    merged = parts[0]
    for part in parts[1:]:
        merged.merge_state(part)
    assert merged.compute() == whole


def coco_people(folder: Path, boxes: str = "gt") -> People:
    """Two people; the second has the longer box and the lower annotation id."""
    file = folder / "person_keypoints.json"
    joints_img = np.zeros((2, COCO.num_joints, 2))
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
    people = [
        person(annotation_id, joints_img[row], np.ones(17, dtype=np.float32), 1.0)
        for row, annotation_id in enumerate((30, 20))
    ]
    return People("coco", "valid", COCO, people, OKSTruth(file, (1,), boxes, COCO))


def test_coco_takes_the_longer_side_of_the_annotated_box(tmp_path: Path) -> None:
    """15 px off: 0.15 of a side of 100 is wrong at 0.1, 0.075 of a side of 200 right."""
    people = coco_people(tmp_path)
    predicted = torch.zeros(2, 17, 2)
    predicted[..., 0] = 15.0
    ids = torch.tensor([30, 20])
    assert figures_of(PCK(people, "box", 0.1), predicted, ids)["PCK@0.1(box)"] == 50.0
    assert figures_of(EPE(people, "box"), predicted, ids)["EPE(box)"] == pytest.approx(
        (0.15 + 0.075) / 2, rel=1e-12
    )


def test_half_precision_modules_do_not_touch_the_figures() -> None:
    people, predicted = random_people(4)
    holder = torch.nn.Module()
    holder.metric = EPE(people)
    holder.to(torch.bfloat16)
    assert figures_of(holder.metric, predicted) == figures_of(EPE(people), predicted)


def test_wrong_inputs_are_told(tmp_path: Path) -> None:
    people, predicted = random_people(5)
    metric = EPE(people)
    with pytest.raises(ValueError, match="person id 99"):
        metric.update(torch.tensor([99]), predicted[:1], torch.ones(1, K))
    with pytest.raises(PosematchError, match="NaN"):
        metric.update(torch.tensor([0]), predicted[:1] * torch.nan, torch.ones(1, K))
    metric.update(torch.tensor([0]), predicted[:1], torch.ones(1, K))
    with pytest.raises(ValueError, match="scored twice"):
        metric.update(torch.tensor([0]), predicted[:1], torch.ones(1, K))
    with pytest.raises(PosematchError, match="detector"):
        EPE(coco_people(tmp_path, boxes="detections.json"))
    with pytest.raises(PosematchError, match="norm=head"):
        PCK(coco_people(tmp_path), "head")
    with pytest.raises(PosematchError, match="threshold"):
        PCK(people, "head", 0.0)
    with pytest.raises(PosematchError, match="steps=0"):
        AUC(people, steps=0)
    nobody = PCKhTruth(np.zeros((1, K, 2)), np.zeros((1, K)), np.ones(1), MPII)
    with pytest.raises(PosematchError, match="nothing to count"):
        figures_of(EPE(People("a", "valid", MPII, [], nobody)), torch.zeros(1, K, 2))
    hands = Skeleton("hands", ("a", "b"), (), (), (), ())
    truth = PCKhTruth(np.zeros((1, 2, 2)), np.ones((1, 2)), np.ones(1), hands)
    with pytest.raises(PosematchError, match="norm=torso"):
        PCK(People("hands", "valid", hands, [], truth), "torso")
