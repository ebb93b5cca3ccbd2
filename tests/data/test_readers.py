"""Readers: the published rules on real files, and sentences for bad ones."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

from posematch.data.coco import read_coco
from posematch.data.datamodule import SyntheticDataModule
from posematch.data.mpii import read_mpii, scored_by_annotation
from posematch.data.mpii_truth import JOINT_NAMES
from posematch.data.synthetic import SyntheticSpec
from posematch.errors import PosematchError
from posematch.metrics import metric_for
from posematch.skeletons import COCO, MPII


class TestRealMPII:
    """Counts of ../shared/data/README.md."""

    def test_counts(self, shared_data):
        train = read_mpii(shared_data / "mpii", "train", (256, 256))
        valid = read_mpii(shared_data / "mpii", "valid", (256, 256))
        assert (len(train.people), len(valid.people)) == (2074, 264)
        assert len({p.image for p in train.people}) == 1287
        assert len({p.image_id for p in train.people}) == 1287
        assert len({p.image for p in valid.people}) == 240
        labelled = np.mean([p.visible.sum() for p in [*train.people, *valid.people]])
        assert labelled == pytest.approx(15.4, abs=0.05)

    def test_truth_is_zero_based_like_the_json(self, shared_data):
        valid = read_mpii(shared_data / "mpii_full", "valid", (256, 256))
        assert len(valid.people) == 2958
        both = (valid.truth.visible > 0) & (np.stack([p.visible for p in valid.people]) > 0)
        distance = np.linalg.norm(
            valid.truth.joints_img - np.stack([p.joints_img for p in valid.people]), axis=-1
        )[both]
        # 13 labels differ by up to 571 px (README); all others agree to the .mat's rounding.
        assert (distance > 1e-3).sum() == 13
        assert distance.max() == pytest.approx(571, abs=1)


class TestRealCOCO:
    def test_counts(self, shared_data):
        root = shared_data / "coco"
        for split, people in (("train2017", 86), ("val2017", 68)):
            read = read_coco(
                root / "annotations" / f"person_keypoints_{split}.json",
                root / split,
                split,
                (256, 192),
            )
            assert len(read.people) == people
            assert all(p.image.is_file() for p in read.people)
            assert all(p.visible.any() for p in read.people)
            sizes = np.stack([p.box_size_img for p in read.people])
            np.testing.assert_allclose(sizes[:, 0] / sizes[:, 1], 0.75)

    def test_detections(self, shared_data):
        root = shared_data / "coco_det"
        read = read_coco(
            root / "test_coco.json", root, "val", (256, 192), root / "test_coco_det_AP_H_56.json"
        )
        assert len(read.people) == 118
        assert read.truth.boxes == "test_coco_det_AP_H_56.json"
        first = json.loads((root / "test_coco_det_AP_H_56.json").read_text())[0]
        x, y, w, h = first["bbox"]
        np.testing.assert_allclose(read.people[0].center_img, [x + w / 2, y + h / 2])
        assert read.people[0].box_score == first["score"]
        high = read_coco(
            root / "test_coco.json", root, "val", (256, 192),
            root / "test_coco_det_AP_H_56.json", 0.5,
        )  # fmt: skip
        assert 0 < len(high.people) < 118


ROW = {
    "image": "a.jpg",
    "center": [100.0, 80.0],
    "scale": 2.0,
    "joints": [[float(k), float(2 * k)] for k in range(16)],
    "joints_vis": [0] + [1] * 15,
}


def write_mpii(root: Path, rows, split="train"):
    (root / "annot").mkdir(exist_ok=True)
    (root / "annot" / f"{split}.json").write_text(json.dumps(rows))


class TestMPIIRules:
    def test_by_hand(self, tmp_path):
        """docs/protocols.md, MPII boxes: c_y += 15 s, s *= 1.25, then everything -1."""
        write_mpii(tmp_path, [ROW])
        person = read_mpii(tmp_path, "train", (256, 256)).people[0]
        np.testing.assert_allclose(person.center_img, [99.0, 80 + 30 - 1])
        np.testing.assert_allclose(person.box_size_img, [500, 500])
        np.testing.assert_allclose(person.joints_img[5], [4, 9])
        assert person.visible.tolist() == ROW["joints_vis"]

    def test_no_centre_is_left_alone(self, tmp_path):
        write_mpii(tmp_path, [{**ROW, "center": [-1.0, 80.0]}])
        person = read_mpii(tmp_path, "train", (256, 256)).people[0]
        np.testing.assert_allclose(person.center_img, [-2.0, 79.0])
        np.testing.assert_allclose(person.box_size_img, [400, 400])

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"joints": ROW["joints"][:15]}, "15 joints"),
            ({"image": "../secret.jpg"}, "no file below"),
            ({"scale": 0.0}, "scale"),
            ({"center": None}, "row 0"),
            ({"joints": [[float("nan"), 0.0]] * 16}, "not finite"),
        ],
    )
    def test_bad_rows(self, tmp_path, change, sentence):
        write_mpii(tmp_path, [{**ROW, **change}])
        with pytest.raises(PosematchError, match=sentence):
            read_mpii(tmp_path, "train", (256, 256))

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
    def test_bad_files(self, tmp_path, content):
        (tmp_path / "annot").mkdir()
        (tmp_path / "annot" / "train.json").write_text(content)
        with pytest.raises(PosematchError, match=r"train\.json"):
            read_mpii(tmp_path, "train", (256, 256))

    def test_missing_root_names_file_and_key(self, tmp_path):
        with pytest.raises(PosematchError, match=r"train\.json.*data\.root"):
            read_mpii(tmp_path / "nowhere", "train", (256, 256))

    def test_truth_of_other_people(self, tmp_path):
        write_mpii(tmp_path, [ROW, ROW], "valid")
        names = np.array(JOINT_NAMES.split(), dtype=object)[None]
        scipy.io.savemat(
            tmp_path / "annot" / "gt_valid.mat",
            {
                "dataset_joints": names,
                "jnt_missing": np.zeros((16, 1)),
                "pos_gt_src": np.ones((16, 2, 1)),
                "headboxes_src": np.array([[[1.0], [1.0]], [[9.0], [9.0]]]),
            },
        )
        with pytest.raises(PosematchError, match=r"1 people.*2"):
            read_mpii(tmp_path, "valid", (256, 256))


COCO_FILE = {
    "images": [{"id": 5, "file_name": "a.jpg", "width": 100, "height": 80}],
    "categories": [{"id": 1, "name": "person"}],
    "annotations": [
        {
            "id": 11, "image_id": 5, "category_id": 1, "iscrowd": 0, "area": 900.0,
            "bbox": [-5.0, 10.0, 40.0, 100.0], "num_keypoints": 3,
            "keypoints": [10, 20, 2] + [0, 0, 0] * 14 + [12, 30, 1, 14, 31, 2],
        }
    ],
}  # fmt: skip


class TestCOCORules:
    def read(self, tmp_path, change=None):
        content = copy.deepcopy(COCO_FILE)
        content["annotations"][0].update(change or {})
        (tmp_path / "a.json").write_text(json.dumps(content))
        return read_coco(tmp_path / "a.json", tmp_path, "val", (256, 192))

    def test_by_hand(self, tmp_path):
        """docs/protocols.md, COCO boxes: x1 = 0, x2 = min(99, 0 + 39), y2 = min(79, 10 + 99)."""
        person = self.read(tmp_path).people[0]
        np.testing.assert_allclose(person.center_img, [39 / 2, (10 + 79) / 2])
        np.testing.assert_allclose(person.box_size_img, np.array([69 * 0.75, 69]) * 1.25)
        assert person.visible.sum() == 3
        assert person.occluded.sum() == 1
        assert (person.person_id, person.image_id, person.area) == (11, 5, 900.0)

    @pytest.mark.parametrize(
        "change",
        [
            {"iscrowd": 1},
            {"area": 0.0},
            {"keypoints": [0] * 51},
            {"bbox": [200.0, 10.0, 5.0, 5.0]},
            {"category_id": 2},
        ],
    )
    def test_left_out(self, tmp_path, change):
        assert len(self.read(tmp_path, change).people) == 0

    def test_wrong_joint_count(self, tmp_path):
        with pytest.raises(PosematchError, match=r"18 joints.*17"):
            self.read(tmp_path, {"keypoints": [1, 1, 2] * 18})

    def test_not_coco(self, tmp_path):
        (tmp_path / "a.json").write_text("[]")
        with pytest.raises(PosematchError, match="COCO annotations"):
            read_coco(tmp_path / "a.json", tmp_path, "val", (256, 192))

    def test_detector_of_another_split(self, tmp_path):
        self.read(tmp_path)
        box = [{"image_id": 6, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}]
        (tmp_path / "d.json").write_text(json.dumps(box))
        with pytest.raises(PosematchError, match="photo 6"):
            read_coco(tmp_path / "a.json", tmp_path, "val", (256, 192), tmp_path / "d.json")


def test_skeleton_sizes():
    assert (MPII.num_joints, COCO.num_joints, len(COCO.oks_sigmas)) == (16, 17, 17)


# ------------------------------------------------------------------- people held out of training


def test_head_sizes_of_annotated_people_are_the_mat_files(shared_data):
    # What MPII's validation file says against what follows from the same people's joints.
    people = read_mpii(shared_data / "mpii_full", "valid", (128, 128))
    truth = people.truth
    derived = scored_by_annotation(replace(people, truth=None)).truth
    ends = [MPII.joints.index("upper_neck"), MPII.joints.index("head_top")]
    has_head = (truth.visible[:, ends] > 0).all(1) & (derived.visible[:, ends] > 0).all(1)
    ratio = derived.head_size_img[has_head] / truth.head_size_img[has_head]
    # The json's joints are rounded, and a few differ (data/README.md).
    assert np.quantile(ratio, [0.05, 0.5, 0.95]) == pytest.approx([1, 1, 1], abs=0.01)
    assert has_head.mean() > 0.98


@pytest.mark.parametrize("skeleton", ["mpii", "coco"])
def test_people_held_out_are_scored_and_not_trained_on(tmp_path, skeleton):
    def module(**more):
        spec = SyntheticSpec(train_photos=12, valid_photos=2)
        one = SyntheticDataModule(
            tmp_path, spec=spec, skeleton=skeleton, input_size=[64, 64], batch_size=2, workers=0,
            **more,
        )  # fmt: skip
        one.prepare_data()
        one.setup("fit")
        return one

    everybody = module(seed=0).train.people
    parts = module(seed=0, holdout=0.3)
    kept, held = parts.train.people, parts.valid.people
    assert len(kept) + len(held) == len(everybody)
    assert abs(len(held) - 0.3 * len(everybody)) <= 3  # photos are not cut in two
    assert not {p.image for p in kept} & {p.image for p in held}
    again = module(seed=5, holdout=0.3).valid.people
    assert [p.image for p in again] == [p.image for p in held]  # whatever the seed
    metric = metric_for(parts.valid)
    metric.update(
        torch.tensor([p.person_id for p in held]),
        torch.from_numpy(np.stack([p.joints_img for p in held])),
        torch.ones(len(held), parts.skeleton.num_joints),
    )
    assert metric.compute()[metric.primary] == pytest.approx(100 if skeleton == "mpii" else 1)


@pytest.mark.parametrize("share", [-0.1, 1.0, 0.001])
def test_share_held_out_that_leaves_nobody(tmp_path, share):
    def set_up():
        spec = SyntheticSpec(train_photos=4, valid_photos=1)
        SyntheticDataModule(
            tmp_path, spec=spec, input_size=[64, 64], batch_size=2, workers=0, seed=0,
            holdout=share,
        ).setup("fit")  # fmt: skip

    with pytest.raises(PosematchError, match=r"data.holdout="):
        set_up()
