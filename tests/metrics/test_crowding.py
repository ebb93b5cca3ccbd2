"""CrowdPose's crowd index by hand and by loops; AP at its levels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from test_oks import MIXED_SIDES_PX, make_people, predict, score

from posematch.data.coco import read_coco
from posematch.data.people import OKSTruth, PCKhTruth, People, Person
from posematch.metrics.coco_truth import coco_figures
from posematch.metrics.crowding import (
    ap_by_crowding,
    crowd_index,
    crowd_level,
    person_crowding,
    photo_crowd_index,
)
from posematch.metrics.oks import COCOKeypointAP
from posematch.skeletons import MPII


def test_by_hand() -> None:
    """Two people of two joints. The first one's box holds both own joints and one of the other's:
    1/2. The second one's box holds its two alone: 0. The photo's index is 1/4; a third person, in
    a photo alone, has 0."""
    boxes = np.array([[0, 0, 10, 10], [20, 0, 10, 10], [0, 0, 10, 10]])
    joints = np.array([[[1, 1], [9, 9]], [[25, 5], [10, 10]], [[1, 1], [2, 2]]], dtype=float)
    boxes[1] = [10, 0, 20, 10]
    image_ids = np.array([4, 4, 9])
    crowding = person_crowding(boxes, joints, np.ones((3, 2)), image_ids)
    assert crowding.tolist() == [0.5, 0.0, 0.0]
    assert photo_crowd_index(crowding, image_ids) == {4: 0.25, 9: 0.0}
    nobody = person_crowding(boxes, joints, np.zeros((3, 2)), image_ids)
    assert np.isnan(nobody).all()
    assert photo_crowd_index(nobody, image_ids) == {}


def test_levels_of_crowdpose() -> None:
    assert crowd_level([0, 0.1, 0.11, 0.79, 0.8, 3]).tolist() == [
        "easy", "easy", "medium", "medium", "hard", "hard",
    ]  # fmt: skip


def test_by_plain_loops() -> None:
    random = np.random.default_rng(0)
    number, joints = 60, 5
    first = random.uniform(0, 100, (number, 2))
    boxes = np.concatenate([first, random.uniform(5, 80, (number, 2))], axis=1)
    places = random.uniform(0, 160, (number, joints, 2))
    labelled = random.random((number, joints)) < 0.7
    image_ids = random.integers(0, 12, number)
    crowding = person_crowding(boxes, places, labelled, image_ids)
    for i in range(number):
        x, y, w, h = boxes[i]
        own = others = 0
        for j in range(number):
            for k in range(joints):
                px, py = places[j, k]
                inside = x <= px <= x + w and y <= py <= y + h
                if image_ids[i] == image_ids[j] and labelled[j, k] and inside:
                    own += i == j
                    others += i != j
        expected = others / own if own else np.nan
        np.testing.assert_equal(crowding[i], expected)


def test_coco_takes_annotated_boxes_whatever_the_people(shared_data: Path) -> None:
    """People who come from a detector see the same photos."""
    folder = shared_data / "coco_det"
    file = folder / "test_coco.json"
    annotated = read_coco(file, folder, "valid", (256, 192))
    detected = read_coco(file, folder, "valid", (256, 192), folder / "test_coco_det_AP_H_56.json")
    assert crowd_index(annotated) == crowd_index(detected)
    assert len(crowd_index(annotated)) == 4


def test_mpii_takes_the_extent_of_the_joints() -> None:
    def person(row: int, joints_img: np.ndarray) -> Person:
        return Person(
            row, 0, Path("a"), np.zeros(2), np.ones(2), joints_img,
            np.ones(16, dtype=np.float32), np.zeros(16, dtype=np.bool_),
        )  # fmt: skip

    joints_img = np.zeros((2, 16, 2))
    joints_img[0, 0] = 100  # from (0, 0) to (100, 100), around the other's 16 joints at (50, 50)
    joints_img[1] = 50
    people = [person(row, np.full((16, 2), -1.0)) for row in range(2)]  # the .mat decides
    truth = PCKhTruth(joints_img, np.ones((2, 16)), np.ones(2), MPII)
    assert crowd_index(People("mpii", "valid", MPII, people, truth)) == {0: 0.5}


def test_ap_at_each_level(tmp_path: Path) -> None:
    """As COCOeval on each level's photos alone."""
    people = make_people(tmp_path, MIXED_SIDES_PX)
    index = crowd_index(people)
    metric = COCOKeypointAP(people)
    score(metric, predict(people), slice(None))
    truth = people.truth
    assert isinstance(truth, OKSTruth)
    found = ap_by_crowding(metric.results(), truth)
    assert len(found) >= 1
    for level, row in found.iterrows():
        photos = [one for one in truth.image_ids if crowd_level(index[one]) == level]
        of_level = [result for result in metric.results() if result["image_id"] in photos]
        expected = coco_figures(truth.annotation_file, of_level, photos)
        assert row.to_dict() == {
            "photos": len(photos), "AP": expected["AP"], "AR": expected["AR"]
        }  # fmt: skip
    assert found["photos"].sum() == len(truth.image_ids)
