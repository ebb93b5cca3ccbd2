"""The drawn data set: what is on disk, that it follows from its spec, that it is hard enough."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import coco as pycoco
from pycocotools.cocoeval import COCOeval
from scipy.io import loadmat

from posematch.data import synthetic
from posematch.data.synthetic import (
    SyntheticSpec,
    coco_annotation,
    draw,
    ensure_synthetic,
    mpii_row,
    stage,
    write_synthetic,
)
from posematch.errors import PosematchError
from posematch.skeletons import COCO, MPII

SMALL = SyntheticSpec(seed=3, train_photos=16, valid_photos=10)
COCO_FILES = {"train": "train2017", "valid": "val2017"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_synthetic(tmp_path_factory.mktemp("synthetic"), SMALL)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read_mpii(folder: Path, split: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "mpii/annot" / f"{split}.json").read_text())
    return rows


def photo_size(path: Path) -> tuple[int, int]:
    """Width and height of a photo on disk."""
    photo = cv2.imread(str(path))
    assert photo is not None
    return photo.shape[1], photo.shape[0]


def box_middle(row: dict[str, Any]) -> np.ndarray[Any, Any]:
    """(2,) the middle of the person's box (docs/protocols.md, MPII boxes), 1-based."""
    x, y = row["center"]
    return np.array([x, y + 15 * row["scale"]])


def read_coco(folder: Path, split: str) -> dict[str, Any]:
    path = folder / "coco/annotations" / f"person_keypoints_{COCO_FILES[split]}.json"
    file: dict[str, Any] = json.loads(path.read_text())
    return file


def test_same_spec_same_bytes_however_many_workers(folder: Path, tmp_path: Path) -> None:
    again = ensure_synthetic(tmp_path, SMALL, workers=2)
    assert contents(again) == contents(folder)
    assert len(contents(folder)) == 2 * 26 + 6


def test_other_seed_other_people_and_photos(folder: Path, tmp_path: Path) -> None:
    write_synthetic(tmp_path, replace(SMALL, seed=4, train_photos=1, valid_photos=1))
    name = f"{1:012d}.jpg"
    assert read_mpii(tmp_path, "train")[0]["joints"] != read_mpii(folder, "train")[0]["joints"]
    photos = [(root / "mpii/images" / name).read_bytes() for root in (tmp_path, folder)]
    assert photos[0] != photos[1]


@pytest.mark.parametrize("split", ["train", "valid"])
def test_mpii_rows(folder: Path, split: str) -> None:
    rows = read_mpii(folder, split)
    assert len(rows) >= SMALL.photos(split)
    for row in rows:
        size = photo_size(folder / "mpii/images" / row["image"])
        joints, inside = np.array(row["joints"]), np.array(row["joints_vis"])
        assert joints.shape == (16, 2)
        assert set(inside) <= {0, 1}
        assert inside.sum() >= 8
        assert (joints[inside == 0] == -1).all()
        seen = joints[inside == 1]
        assert (seen >= 1).all()
        assert (seen <= size).all()
        # The box (docs/protocols.md, MPII boxes) lies on the person and holds nearly all of them.
        middle = 0.5 * (seen.min(axis=0) + seen.max(axis=0))
        off_in_heights = np.abs(box_middle(row) - middle).max() / (200 * row["scale"])
        assert off_in_heights < 5 * SMALL.center_jitter
        outside = np.abs(seen - box_middle(row)).max(axis=1) > 0.5 * 250 * row["scale"]
        assert outside.sum() <= 3


@pytest.mark.parametrize("split", ["train", "valid"])
def test_coco_file_is_fit_for_cocoeval(folder: Path, split: str) -> None:
    name = f"person_keypoints_{COCO_FILES[split]}.json"
    file = pycoco.COCO(str(folder / "coco/annotations" / name))
    annotations = file.loadAnns(file.getAnnIds())
    assert file.loadCats([1])[0]["keypoints"] == list(COCO.joints)
    for image in file.loadImgs(file.getImgIds()):
        path = folder / "coco" / COCO_FILES[split] / image["file_name"]
        assert photo_size(path) == (image["width"], image["height"])
        assert path.samefile(folder / "mpii/images" / image["file_name"])
    for annotation in annotations:
        mask = file.annToMask(annotation)
        assert mask.sum() == pytest.approx(annotation["area"], rel=0.2)
        x, y, w, h = annotation["bbox"]
        assert mask[y : y + h, x : x + w].sum() == mask.sum()
        v = np.array(annotation["keypoints"]).reshape(17, 3)[:, 2]
        assert annotation["num_keypoints"] == (v > 0).sum() >= 4
    found = [
        {k: a[k] for k in ("image_id", "category_id", "keypoints")} | {"score": 1.0}
        for a in annotations
    ]
    evaluation = COCOeval(file, file.loadRes(found), "keypoints")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_ids_are_unique_over_both_splits(folder: Path) -> None:
    files = [read_coco(folder, split) for split in ("train", "valid")]
    for kind in ("images", "annotations"):
        ids = [entry["id"] for file in files for entry in file[kind]]
        assert len(ids) == len(set(ids)) > 20


@pytest.mark.parametrize("split", ["train", "valid"])
def test_both_layouts_tell_of_the_same_joints(folder: Path, split: str) -> None:
    rows, annotations = read_mpii(folder, split), read_coco(folder, split)["annotations"]
    assert len(rows) == len(annotations)
    shared = [name for name in MPII.joints if name in COCO.joints]
    assert len(shared) == 12
    for row, annotation in zip(rows, annotations, strict=True):
        assert row["image"] == f"{annotation['image_id']:012d}.jpg"
        keypoints = np.array(annotation["keypoints"]).reshape(17, 3)
        for name in shared:
            k, m = COCO.joints.index(name), MPII.joints.index(name)
            assert (keypoints[k, 2] > 0) == (row["joints_vis"][m] == 1)
            if keypoints[k, 2] > 0:  # MPII counts pixels from 1, COCO from 0
                np.testing.assert_allclose(keypoints[k, :2] + 1, row["joints"][m], atol=0.011)


def test_mat_agrees_with_the_rows(folder: Path) -> None:
    mat = loadmat(folder / "mpii/annot/gt_valid.mat")
    rows = read_mpii(folder, "valid")
    visible = np.array([row["joints_vis"] for row in rows])
    assert [str(name[0]) for name in mat["dataset_joints"][0]][::9] == ["rank", "head"]
    np.testing.assert_array_equal(mat["jnt_missing"], 1 - visible.T)
    joints = mat["pos_gt_src"].transpose(2, 0, 1)
    np.testing.assert_allclose(
        joints[visible == 1], np.array([row["joints"] for row in rows])[visible == 1]
    )
    low, high = mat["headboxes_src"]
    for k in (8, 9):  # neck and head top are on the head
        inside = (np.abs(joints[:, k].T - 0.5 * (low + high)) <= 0.5 * (high - low) + 1).all(axis=0)
        assert inside[visible[:, k] == 1].all()
    head_size = 0.6 * np.linalg.norm(high - low, axis=0)
    said_height = 200 * np.array([row["scale"] for row in rows])
    tolerance = 1 + SMALL.scale_jitter
    assert (head_size / said_height > 0.12 / tolerance).all()
    assert (head_size / said_height < 0.13 * tolerance).all()


def test_joints_sit_on_what_is_drawn() -> None:
    spec = replace(SMALL, occluder_share=0.0, people_weights=(1.0,), truncated_share=0.0)
    wrists_and_ankles = [9, 10, 15, 16]
    seen = []
    for index in range(20):
        scene = stage(spec, "train", index)
        annotation = coco_annotation(scene, 0, draw(spec, "train", index, scene)[1])
        assert annotation is not None
        keypoints = np.array(annotation["keypoints"]).reshape(17, 3)
        seen.append(keypoints[wrists_and_ankles, 2] == 2)
    assert np.mean(seen) > 0.75  # the rest is behind the person's own body


def test_left_is_on_the_image_right_of_whoever_faces_us() -> None:
    spec = replace(SMALL, facing_front_share=1.0, tilt_std_deg=0.0, tumbled_share=0.0)
    scenes = [stage(spec, "train", index) for index in range(40)]
    people = [person.figure for scene in scenes for person in scene.people]
    for joint in ("shoulder", "hip", "eye"):
        gaps = [
            p.points_img[f"left_{joint}"][0] - p.points_img[f"right_{joint}"][0] for p in people
        ]
        assert np.mean(np.array(gaps) > 0) > 0.9, joint
    backs = [p for p in people if p.torso_axes[2, 2] < 0]
    assert len(backs) < 0.1 * len(people)


def test_faces_turned_away_are_not_labelled() -> None:
    spec = replace(SMALL, facing_front_share=0.5)
    scenes = [stage(spec, "train", index) for index in range(60)]
    labelled = {True: [], False: []}  # type: dict[bool, list[bool]]
    for scene in scenes:
        for person in scene.people:
            away = person.figure.head_axes[2, 2] < -0.5
            labelled[bool(away)].append(person.figure.faces_viewer("nose"))
    assert len(labelled[True]) > 5
    assert not any(labelled[True])
    assert np.mean(labelled[False]) > 0.8


def test_shares_of_hidden_and_cut_people() -> None:
    spec = SyntheticSpec(seed=7)
    scenes = [stage(spec, "train", index) for index in range(250)]
    people = [(scene, person) for scene in scenes for person in scene.people]
    hidden = np.mean([person.occluded_at_img is not None for _, person in people])
    cut = np.mean([0 in mpii_row(scene, person)["joints_vis"] for scene, person in people])
    assert 0.08 < hidden < 0.18
    assert 0.05 < cut < 0.17
    assert 1.4 < len(people) / len(scenes) < 1.7
    # Somebody hidden has fewer joints in sight than the same person without the occluder.
    scene = next(
        s for s in scenes if len(s.people) == 1 and s.people[0].occluded_at_img is not None
    )
    index = scene.image_id - 1
    bare = replace(scene, people=(replace(scene.people[0], occluded_at_img=None),))
    areas = []
    for staged in (scene, bare):
        annotation = coco_annotation(staged, 0, draw(spec, "train", index, staged)[1])
        assert annotation is not None
        areas.append(annotation["area"])
    assert areas[0] < areas[1]


def test_mean_pose_scores_little() -> None:
    """PCKh@0.5 of the mean training pose put into every validation box."""
    spec = SyntheticSpec()

    def boxed(split: str, photos: int) -> tuple[np.ndarray[Any, Any], ...]:
        joints, visible, centers, sizes, heads = [], [], [], [], []
        for index in range(photos):
            scene = stage(spec, split, index)
            for person in scene.people:
                row = mpii_row(scene, person)
                joints.append(row["joints"])
                visible.append(row["joints_vis"])
                centers.append(box_middle(row))
                sizes.append(1.25 * 200 * row["scale"])
                low, high = person.figure.head_box_img()
                heads.append(0.6 * np.linalg.norm(high - low))
        return tuple(np.array(a) for a in (joints, visible, centers, sizes, heads))

    joints, visible, centers, sizes, _ = boxed("train", 300)
    in_box = (joints - centers[:, None]) / sizes[:, None, None]
    mean_in_box = (in_box * visible[..., None]).sum(axis=0) / visible.sum(axis=0)[:, None]
    joints, visible, centers, sizes, heads = boxed("valid", 160)
    assert len(joints) > 200
    guess = mean_in_box * sizes[:, None, None] + centers[:, None]
    error = np.linalg.norm(guess - joints, axis=-1) / heads[:, None]
    counted = visible.astype(bool)
    counted[:, 6:8] = False
    pckh = 100 * (error[counted] <= 0.5).mean()
    assert 8 < pckh <= 20


def test_the_data_set_of_another_spec_is_elsewhere(folder: Path) -> None:
    other = ensure_synthetic(folder.parent, replace(SMALL, train_photos=1, valid_photos=1))
    assert other.parent == folder.parent
    assert other != folder
    assert len(read_coco(other, "train")["images"]) == 1


def test_a_second_call_draws_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "write_synthetic", None)
    assert ensure_synthetic(folder.parent, SMALL) == folder


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = synthetic.stage, []

    def interrupted(*args: Any) -> synthetic.Scene:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(synthetic, "stage", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ensure_synthetic(tmp_path, SMALL)
    assert len(calls) == 3
    assert list(tmp_path.iterdir()) == []


def test_the_slower_of_two_writers_takes_the_other_ones_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = replace(SMALL, train_photos=1, valid_photos=1)
    real = synthetic.write_synthetic

    def slow(root: Path, spec: SyntheticSpec, workers: int) -> None:
        real(root, spec, workers)
        monkeypatch.setattr(synthetic, "write_synthetic", real)
        ensure_synthetic(tmp_path, spec)

    monkeypatch.setattr(synthetic, "write_synthetic", slow)
    folder = ensure_synthetic(tmp_path, tiny)
    assert list(tmp_path.iterdir()) == [folder]
    assert len(read_coco(folder, "train")["images"]) == 1


def test_a_place_that_cannot_be_written_is_told_in_a_sentence(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(PosematchError, match="Cannot write the synthetic data set into"):
        ensure_synthetic(blocked, SMALL)


def test_a_strange_folder_in_its_place_is_not_touched(folder: Path, tmp_path: Path) -> None:
    strange = tmp_path / folder.name
    strange.mkdir()
    (strange / "notes.txt").write_text("mine")
    with pytest.raises(PosematchError, match="in the way"):
        ensure_synthetic(tmp_path, SMALL)
    assert (strange / "notes.txt").read_text() == "mine"
