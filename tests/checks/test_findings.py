"""Checks on arrays, worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from posematch.checks.boxes import both_people, check_boxes
from posematch.checks.checking import check
from posematch.checks.findings import Example, Finding
from posematch.checks.geometry import bones_of, robust_z, row_median
from posematch.checks.joints import check_joints, check_splits, front_share
from posematch.checks.split import split_of
from posematch.data.people import People, Person
from posematch.skeletons import COCO, MPII, Skeleton

# A COCO figure that stands and faces the camera, in boxes of 100 x 200.
FIGURE = np.array(
    [
        [50, 20], [55, 15], [45, 15], [60, 18], [40, 18], [70, 50], [30, 50], [78, 85], [22, 85],
        [82, 115], [18, 115], [62, 110], [38, 110], [64, 150], [36, 150], [66, 190], [34, 190],
    ],
    dtype=np.float64,
)  # fmt: skip


def people_of(joints: np.ndarray, split: str = "train", skeleton: Skeleton = COCO) -> People:
    """A photo each, 300 x 300, the figure at (100, 50) with some noise."""
    box = np.array([100.0, 200.0])
    everybody = [
        Person(
            row, row, Path(f"{split}-{row}.jpg"), np.array([150.0, 150.0]), 1.25 * box, one,
            np.isfinite(one).all(axis=1).astype(np.float32), np.zeros(len(one), dtype=bool),
            photo_size=(300, 300),
        )
        for row, one in enumerate(joints)
    ]  # fmt: skip
    return People("drawn", split, skeleton, everybody)


def crowd(count: int = 80, seed: int = 0) -> np.ndarray:
    return np.add(FIGURE, [100, 50]) + np.random.default_rng(seed).normal(0, 1.5, (count, 17, 2))


def kinds(joints: np.ndarray) -> dict[str, Finding]:
    split = split_of(people_of(joints))
    return {one.kind: one for one in [*check_joints(split), *check_boxes(split)]}


def swapped(joints: np.ndarray, row: int, *pairs: str) -> np.ndarray:
    for pair in pairs:
        left, right = (COCO.joints.index(f"{side}_{pair}") for side in ("left", "right"))
        joints[row, [left, right]] = joints[row, [right, left]]
    return joints


def test_nothing_is_found_where_nothing_is_wrong():
    assert kinds(crowd()) == {}
    assert kinds(crowd() * [-1, 1] + [300, 0]).keys() == {"face"}, "mirrored without a swap"


@pytest.mark.parametrize(
    "pairs", [("shoulder",), ("elbow",), ("hip",), ("elbow", "wrist"), ("hip", "knee", "ankle")]
)
def test_a_swapped_pair_is_told_by_the_rest_of_the_body(pairs):
    found = kinds(swapped(crowd(), 7, *pairs))
    assert found.keys() == {"crossed"}
    assert [one.person_id for one in found["crossed"].examples] == [7]


def test_crossed_ankles_are_a_pose():
    joints = crowd()
    joints[7, 15:17] = joints[7, [16, 15]] + [[8, 0], [-8, 0]]
    assert kinds(joints) == {}


def test_eyes_on_the_wrong_sides():
    found = kinds(swapped(crowd(), 7, "eye"))
    assert "face" in found
    assert found["face"].examples[0].joints == (1, 2)


def test_upside_down_is_no_swap():
    joints = crowd()
    joints[7] = [300, 300] - joints[7]
    assert kinds(joints) == {}


def test_a_joint_outside():
    joints = crowd()
    joints[3, 9], joints[4, 9] = (299.5, 170), (303, 170)
    joints[5, 9] = 340, 170
    found = kinds(joints)
    assert found["border"].examples[0].person_id == 4
    assert found["border"].count == 1
    assert found["outside_photo"].examples[0].said.startswith("left wrist at (340, 170)")
    assert found["outside_box"].examples[0].joints == (9,)


def test_counted_from_1():
    """Three joints in the pixel after the last, none in the first; one there is enough."""
    joints = crowd()
    joints[:3, 9] = 300, 170
    assert kinds(joints)["one_based"].count == 3
    joints[4, 10] = 0.5, 170
    assert "one_based" not in kinds(joints)


def test_the_worst_come_first():
    joints = crowd()
    joints[3, 9], joints[4, 9] = (330, 170), (350, 170)
    assert [one.person_id for one in kinds(joints)["outside_photo"].examples] == [4, 3]


def test_splits_that_disagree_about_sides():
    one, other = crowd(), crowd(seed=1)
    other = other[:, list(COCO.flip_permutation)]
    splits = [split_of(people_of(one)), split_of(people_of(other, "valid"))]
    assert front_share(splits[0]) == (1.0, 80)
    (found,) = check_splits(splits)
    assert (found.kind, found.split) == ("sides", "valid")
    assert check_splits([splits[0], split_of(people_of(crowd(seed=1), "valid"))]) == []


def test_front_is_told_by_names_not_by_the_order_of_pairs():
    """MPII's pairs have the right joint first."""
    left = np.array(["left" in name for name in MPII.joints])
    right = np.array(["right" in name for name in MPII.joints])
    x = np.where(left, 200.0, np.where(right, 100.0, 150.0))
    joints = np.stack([x, np.linspace(60, 240, 16)], axis=1)[None].repeat(60, axis=0)
    assert front_share(split_of(people_of(joints, skeleton=MPII))) == (1.0, 60)


def test_joints_of_a_validation_person_that_was_trained_on():
    one, other = crowd(), crowd(seed=1)
    other[9] = one[4]
    (found,) = both_people([split_of(people_of(one)), split_of(people_of(other, "valid"))])
    assert found.examples[0].person_id == 9
    assert "person 4 of train-4.jpg" in found.examples[0].said


def test_people_of_no_joints_and_no_people():
    joints = crowd(3)
    joints[1] = np.nan
    assert kinds(joints) == {}
    assert kinds(np.zeros((0, 17, 2))) == {}


def test_a_skeleton_without_limbs_or_pairs():
    dots = Skeleton("dots", ("a", "b", "c"), (), (), (0, 1, 2), ())
    joints = np.array([[[110.0, 60], [150, 100], [190, 240]]]).repeat(5, axis=0)
    joints += np.random.default_rng(0).normal(0, 2, joints.shape)
    split = split_of(people_of(joints, skeleton=dots))
    assert [*check_joints(split), *check_boxes(split)] == []


def test_missing_photos_are_findings():
    checked = check([people_of(crowd()), people_of(crowd(seed=1), "valid")], 5)
    assert [(one.kind, one.split, one.count) for one in checked.findings] == [
        ("missing", "train", 80), ("missing", "valid", 80),
    ]  # fmt: skip


def test_bones_of_a_small_person_are_as_long_as_a_large_ones():
    joints = crowd()
    joints[0] = joints[0] * 0.1
    ratio = bones_of(joints, COCO).ratio
    assert np.median(ratio[0]) == pytest.approx(1, abs=0.05)


def test_arrays_with_nan():
    values = np.array([[1.0, np.nan, 3], [np.nan] * 3])
    np.testing.assert_equal(row_median(values), [2, np.nan])
    z = robust_z(np.array([1.0, 2, 3, np.nan, 100]))
    assert z[0] < 0 < 10 < z[4]
    assert np.isnan(z[3])


def test_a_line_says_who():
    example = Example("4 x 3 px", "photos/a.jpg", 7, 0)
    line = Finding("tiny", "train", 2, 90, (example,)).sentence()
    assert line.split(maxsplit=1)[1].startswith("train: 2 of 90 people")
    assert "(person 7 of a.jpg: 4 x 3 px)" in line
    assert replace(example, person_id=None).row == 0
