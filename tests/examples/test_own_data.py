"""Data of one's own in COCO's format: the documents' yaml and a json, no code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml

from posematch.data.annotations import skeleton_of
from posematch.data.coco import read_coco
from posematch.data.datamodule import COCODataModule
from posematch.errors import PosematchError
from posematch.metrics.coco_truth import coco_figures
from posematch.skeletons import COCO

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENT = (REPOSITORY / "docs" / "add_a_dataset.md").read_text()
DOG = json.loads(re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)[0])
# In a photo of 200 x 160; box x, y, width, height.
BOX = [40.0, 30.0, 120.0, 100.0]
KEYPOINTS = [100.0, 60.0, 2, 80.0, 40.0, 2, 120.0, 40.0, 1, 150.0, 120.0, 2]


def own_data(root: Path, change: dict[str, Any] | None = None, **category: Any) -> Path:
    """Two photos for each split, annotated with no more than the document asks for."""
    (root / "photos").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for split in ("train", "valid"):
        images, annotations = [], []
        for number in (1, 2):
            name = f"{split}-{number}.png"
            photo = rng.integers(0, 256, (160, 200, 3)).astype(np.uint8)
            cv2.imwrite(str(root / "photos" / name), photo)
            images.append({"id": number, "file_name": name, "width": 200, "height": 160})
            entry = {"id": number, "image_id": number, "category_id": 1, "bbox": BOX}
            annotations.append({**entry, "keypoints": KEYPOINTS, **(change or {})})
        content = {"images": images, "annotations": annotations, "categories": [DOG | category]}
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


def module(root: Path, **more: Any) -> COCODataModule:
    return COCODataModule(
        root, train_annotations="train.json", valid_annotations="valid.json",
        train_images="photos", valid_images="photos",
        input_size=[64, 64], batch_size=2, workers=0, seed=0, **more,
    )  # fmt: skip


def poses_5px_off() -> list[dict[str, Any]]:
    moved = np.array(KEYPOINTS) + np.tile([5, 0, 0], 4)
    entry = {"category_id": 1, "keypoints": moved.tolist(), "score": 1.0}
    return [{**entry, "image_id": image_id} for image_id in (1, 2)]


def test_the_documents_yaml_trains(tmp_path):
    """Ten lines, the same in README and document."""
    blocks = [
        yaml.safe_load(textwrap.dedent(block))
        for text in (DOCUMENT, (REPOSITORY / "README.md").read_text())
        for block in re.findall(r"^ *```yaml\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    ]
    assert len(blocks) == 2
    assert blocks[0] == blocks[1]
    lines = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)[0]
    assert len(lines.splitlines()) <= 11, "own data in ten lines and a header"
    root = own_data(tmp_path / "dogs")
    conf = tmp_path / "my_conf" / "data"
    conf.mkdir(parents=True)
    (conf / "mine.yaml").write_text(lines.replace("/path/to/mine", str(root)))
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "train.py"), "--config-dir", "my_conf",
         "data=mine", "experiment=cpu", "debug=one_step", "data.batch_size=2",
         "trainer.accelerator=cpu", "data.input_size=[64,64]"],
        capture_output=True, text=True, cwd=tmp_path, timeout=300,
        env={k: v for k, v in os.environ.items() if not k.startswith("WANDB")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").glob("*_mine_hrnet_w18_small_matching_*")
    metrics = pd.read_csv(folder / "metrics.csv")
    assert metrics[["train/loss", "val/loss/matching", "val/AP"]].notna().all(axis=None)
    joints = pd.read_parquet(max(folder.glob("predictions/*"))).joint
    assert set(joints) == {"nose", "left_ear", "right_ear", "tail"}
    assert list(folder.glob("figures/*.png"))


def test_skeleton_and_what_tools_leave_out(tmp_path):
    """Box area 120 x 100; the limbs of the document's category, from 0."""
    data = module(own_data(tmp_path), own_skeleton=True)
    data.setup("fit")
    assert data.skeleton.flip_pairs == ((1, 2),)
    assert data.skeleton.limbs == ((0, 1), (0, 2), (0, 3))
    assert data.skeleton.oks_sigmas == (0.05,) * 4
    assert data.train is not None
    person = data.train.people[0]
    assert person.area == 12000
    np.testing.assert_array_equal(person.joints_img[1], [80, 40])
    assert person.occluded.tolist() == [False, False, True, False]


@pytest.mark.parametrize("area", [0, 0.0, None])
def test_no_measured_area_is_the_boxs(tmp_path, area):
    """In what is trained on and in what AP takes as the size.

    Every joint is 5 px off: OKS = exp(-25 / (2 x 12000 x (2 x 0.05)^2)) = 0.901, right at nine of
    AP's ten thresholds, 0.50 to 0.95.
    """
    root = own_data(tmp_path, {"area": area})
    skeleton = skeleton_of(root / "valid.json")
    people = read_coco(
        root / "valid.json", root / "photos", "valid", (64, 64), skeleton=skeleton
    ).people
    assert [person.area for person in people] == [12000, 12000]
    figures = coco_figures(root / "valid.json", poses_5px_off(), skeleton=skeleton)
    assert figures["AP"] == pytest.approx(0.9)


def test_sigmas_decide_ap(tmp_path):
    """The same poses with sigmas of 0.1: OKS = 0.974, right at every threshold."""
    root = own_data(tmp_path)
    wide = module(root, own_skeleton=True, oks_sigmas=[0.1] * 4).skeleton
    figures = coco_figures(root / "valid.json", poses_5px_off(), skeleton=wide)
    assert figures["AP"] == pytest.approx(1.0)


def test_other_categories_are_passed_over(tmp_path):
    root = own_data(tmp_path)
    content = json.loads((root / "valid.json").read_text())
    content["categories"].append({"id": 2, "name": "leash"})
    content["annotations"].append({"id": 9, "image_id": 1, "category_id": 2, "bbox": BOX})
    (root / "valid.json").write_text(json.dumps(content))
    data = module(root, own_skeleton=True)
    assert len(data.read("valid").people) == 2
    pose = {"image_id": 1, "category_id": 1, "keypoints": KEYPOINTS, "score": 1.0}
    assert coco_figures(root / "valid.json", [pose], [1], data.skeleton)["AP"] == pytest.approx(1)


def test_cocos_joints_keep_cocos_sigmas(tmp_path):
    own_data(tmp_path, {"keypoints": [60, 60, 2] * 17}, keypoints=list(COCO.joints), name="person")
    assert skeleton_of(tmp_path / "valid.json") == COCO
    assert skeleton_of(tmp_path / "valid.json", [0.1] * 17).oks_sigmas == (0.1,) * 17


@pytest.mark.parametrize(
    ("category", "sentence"),
    [
        ({"keypoints": None}, "names of its keypoints"),
        ({"keypoints": ["nose", "left_ear", "ear", "tail"]}, "'left_ear' has no 'right_ear'"),
        ({"keypoints": ["nose", "ear", "right_ear", "tail"]}, "'right_ear' has no 'left_ear'"),
        ({"keypoints": ["nose", "nose", "a", "b"]}, "same name"),
        ({"skeleton": [[1, 5]]}, "leads to a joint that is not there"),
        ({"skeleton": [[1]]}, "mend its keypoints and skeleton"),
    ],
)
def test_no_skeleton_is_a_sentence(tmp_path, category, sentence):
    own_data(tmp_path, **category)
    with pytest.raises(PosematchError, match=sentence):
        module(tmp_path, own_skeleton=True)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({}, r"has left_ear where the skeleton 'coco' has left_eye; .*data\.own_skeleton=true"),
        ({"own_skeleton": True, "oks_sigmas": [0.05] * 3}, "4 positive sigmas"),
        ({"oks_sigmas": [0.05] * 4}, r"goes with data\.own_skeleton=true"),
    ],
)
def test_settings_that_do_not_fit_are_a_sentence(tmp_path, more, sentence):
    own_data(tmp_path)
    with pytest.raises(PosematchError, match=sentence):
        module(tmp_path, **more).read("valid")


def test_files_that_name_other_joints_are_a_sentence(tmp_path):
    """The order differs between the files: trained without a word, ears would be noses."""
    own_data(tmp_path)
    file = tmp_path / "train.json"
    content = json.loads(file.read_text())
    content["categories"][0]["keypoints"] = ["tail", "left_ear", "right_ear", "nose"]
    file.write_text(json.dumps(content))
    with pytest.raises(PosematchError, match=r"train\.json has tail where .* 'dog' has nose"):
        module(tmp_path, own_skeleton=True).read("train")


@pytest.mark.parametrize(
    "change",
    [
        {"keypoints": KEYPOINTS[:9]},
        {"keypoints": KEYPOINTS[:11]},
        {"keypoints": "abc"},
        {"keypoints": [None] * 12},
        {"keypoints": None},
        {"keypoints": [float("nan"), *KEYPOINTS[1:]]},
        {"bbox": [1, 2, 3]},
        {"bbox": ["a", "b", "c", "d"]},
        {"bbox": [float("nan"), 0, 10, 10]},
        {"area": "large"},
        {"area": -1},
        {"image_id": None},
    ],
)
def test_bad_people_are_a_sentence(tmp_path, change):
    own_data(tmp_path, change)
    with pytest.raises(PosematchError):
        module(tmp_path, own_skeleton=True).setup("fit")


@pytest.mark.parametrize("part", ["images", "annotations", "categories"])
@pytest.mark.parametrize("value", [None, 3, {"a": 1}, [1]])
def test_bad_files_are_a_sentence(tmp_path, part, value):
    own_data(tmp_path)
    file = tmp_path / "valid.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {part: value}))
    with pytest.raises(PosematchError, match=r"valid\.json does not hold"):
        module(tmp_path, own_skeleton=True)
