"""The table of predictions: made of people, frames and files, written, and measured."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from posematch.data.people import PCKhTruth, People, Person
from posematch.errors import PosematchError
from posematch.metrics.compactness import MapCompactness
from posematch.runs.predictions import COMPACTNESS, PredictionTable
from posematch.skeletons import COCO, MPII

N, K = 6, MPII.num_joints


def people(skeleton=MPII) -> People:
    random = np.random.default_rng(0)
    joints = skeleton.num_joints
    each = [
        Person(
            person_id=row,
            image_id=row // 2,
            image=Path(f"/data/photos/{row // 2}.jpg"),
            center_img=random.uniform(100, 200, 2),
            box_size_img=random.uniform(50, 90, 2),
            joints_img=random.uniform(0, 300, (joints, 2)),
            visible=(random.random(joints) < 0.8).astype(np.float32),
            occluded=random.random(joints) < 0.1,
            box_score=float(random.random()),
            area=float(random.uniform(1e3, 1e4)),
        )
        for row in range(N)
    ]
    truth = None
    if skeleton is MPII:
        truth = PCKhTruth(
            np.stack([one.joints_img + 1 for one in each]),
            np.stack([one.visible for one in each]),
            random.uniform(20, 60, N),
            MPII,
        )
    return People("drawn", "valid", skeleton, each, truth)


def table(skeleton=MPII, order=(2, 0, 1, 3, 5, 4)) -> PredictionTable:
    of, random, joints = people(skeleton), np.random.default_rng(1), skeleton.num_joints
    ids = np.array(order)
    joints_img = np.stack([of.people[i].joints_img for i in ids]) + random.normal(
        0, 9, (N, joints, 2)
    )
    scores = random.random((N, joints)).astype(np.float32)
    compactness = {name: random.random((N, joints)).astype(np.float32) for name in COMPACTNESS}
    return PredictionTable.for_people(of, ids, joints_img, scores, compactness, root=Path("/data"))


def same(one: PredictionTable, other: PredictionTable) -> bool:
    pd.testing.assert_frame_equal(one.frame(), other.frame(), check_exact=True)
    return one.skeleton == other.skeleton


def test_it_is_written_and_read_to_the_last_bit(tmp_path: Path) -> None:
    for skeleton in (MPII, COCO):
        one = table(skeleton)
        one.write(tmp_path / "x.parquet")
        read = PredictionTable.read(tmp_path / "x.parquet")
        assert same(read, one)
        assert read.scores is not None
        assert read.scores.dtype == np.float32
        assert (read.by_heads, read.name) == (skeleton is MPII, "x.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["x.parquet"]


def test_the_columns_are_those_of_every_version(tmp_path: Path) -> None:
    """Files lie in people's run folders: names, order and types stay."""
    frame = table().frame()
    numbers = frame.drop(columns=["joint", "image"]).dtypes.astype(str).to_dict()
    assert list(frame) == [
        "person_id", "image_id", "joint", "x", "y", "score", "true_x", "true_y", "visible",
        "occluded", "box_score", "box_center_x", "box_center_y", "box_width", "box_height",
        "crowd_index", "head_size_img", "image", *COMPACTNESS,
    ]  # fmt: skip
    of_other_type = {name: kind for name, kind in numbers.items() if kind != "float64"}
    assert of_other_type == {
        "person_id": "int64", "image_id": "int64", "score": "float32", "visible": "float32",
        "occluded": "bool", **dict.fromkeys(COMPACTNESS, "float32"),
    }  # fmt: skip
    assert MapCompactness._fields == COMPACTNESS


def test_people_say_who_was_predicted() -> None:
    one, of = table(), people()
    assert one.person_ids.tolist() == [2, 0, 1, 3, 5, 4]
    assert one.image_ids.tolist() == [1, 0, 0, 1, 2, 2]
    assert isinstance(of.truth, PCKhTruth)
    assert np.array_equal(one.true_img, of.truth.joints_img[one.person_ids])
    assert one.images is not None
    assert one.images.tolist()[:2] == ["photos/1.jpg", "photos/0.jpg"]
    other = table(COCO)
    assert np.array_equal(other.true_img[0], people(COCO).people[2].joints_img)
    assert other.area is not None


def test_tables_of_earlier_versions_lack_columns(tmp_path: Path) -> None:
    frame = table(COCO).frame().drop(columns=[*COMPACTNESS, "box_width", "occluded", "image"])
    frame.to_parquet(tmp_path / "old.parquet")
    old = PredictionTable.read(tmp_path / "old.parquet")
    assert (old.box_size_img, old.occluded, old.images, dict(old.compactness)) == (
        None, None, None, {},
    )  # fmt: skip
    assert np.array_equal(old.joint_oks, table(COCO).joint_oks)
    with pytest.raises(PosematchError, match="no column 'box_width', which OKS-NMS needs"):
        _ = old.poses
    with pytest.raises(PosematchError, match="no column 'spread_px'"):
        old.values("spread_px")


def test_some_people_are_the_rows_of_them() -> None:
    one = table()
    chosen = np.array([True, False, True, True, False, False])
    rows = np.repeat(chosen, K)
    some = one.of_people(chosen)
    expected = one.frame()[rows].reset_index(drop=True)
    pd.testing.assert_frame_equal(some.frame(), expected)
    assert np.array_equal(some.errors, one.errors[chosen], equal_nan=True)


def test_poses_have_the_padded_boxes_areas() -> None:
    one = table(COCO)
    poses = one.poses
    assert one.box_size_img is not None
    assert np.array_equal(poses.box_areas, one.box_size_img.prod(axis=1))
    assert np.array_equal(poses.keypoints[..., :2], one.joints_img)
    assert poses.keypoints.dtype == np.float64
    results = one.coco_results()
    assert {result["image_id"] for result in results} == {0, 1, 2}
    given = replace(one, results=results[:1])
    assert given.coco_results() == results[:1]


def test_what_is_not_labelled_has_no_error() -> None:
    for one in (table(), table(COCO)):
        for values in (one.errors_px, one.errors, one.similarity):
            assert np.array_equal(np.isnan(values), ~one.labelled)
    with pytest.raises(PosematchError, match="no OKS sigmas"):
        _ = table().joint_oks
    with pytest.raises(PosematchError, match="no column 'head_size_img'"):
        table(COCO).hits(0.5)


def test_of_several_known_joints_the_names_tell_the_skeleton() -> None:
    frame = table().frame()
    assert PredictionTable.from_frame(frame).skeleton is MPII
    own = PredictionTable.from_frame(frame.replace({"joint": {"pelvis": "tail"}})).skeleton
    assert own.joints[6] == "tail"
    assert {frozenset(pair) for pair in own.flip_pairs} == set(map(frozenset, MPII.flip_pairs))
    assert own.oks_sigmas == ()


def test_everything_that_a_table_holds_has_its_doc() -> None:
    doc = PredictionTable.__doc__ or ""
    assert all(one.name in doc for one in fields(PredictionTable))
