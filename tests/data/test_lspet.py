"""LSP-Extended by itself, and together with MPII on the joints that both have."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from posematch.app.commands import compose
from posematch.data.datamodule import LSPET_IDS, MPIIAndLSPETDataModule
from posematch.data.mpii import read_mpii
from posematch.data.needed import check_data
from posematch.data.preparing.lspet import JOINTS, LIMBS
from posematch.data.synthetic import SyntheticSpec, ensure_synthetic
from posematch.errors import PosematchError
from posematch.skeletons import MPII
from posematch.training.build import build_datamodule


def lspet_folder(root: Path) -> Path:
    """Two people, one of whom has a neck alone."""
    (root / "photos").mkdir(parents=True)
    annotations = []
    for number in (1, 2):
        cv2.imwrite(str(root / "photos" / f"{number}.png"), np.zeros((40, 60, 3), dtype=np.uint8))
        keypoints = np.zeros((14, 3))
        if number == 1:
            keypoints[:] = [(k + 5, 2 * k + 3, 2) for k in range(14)]
        keypoints[JOINTS.index("neck")] = (20, 30, 2)
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "keypoints": keypoints.ravel().tolist(),
                "bbox": [5, 3, 20, 30],
            }
        )
    content = {
        "images": [
            {"id": number, "file_name": f"{number}.png", "width": 60, "height": 40}
            for number in (1, 2)
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": JOINTS, "skeleton": LIMBS}],
    }
    (root / "train.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def both(tmp_path, processes_once) -> MPIIAndLSPETDataModule:
    spec = SyntheticSpec(train_photos=3, valid_photos=2)
    return MPIIAndLSPETDataModule(
        ensure_synthetic(tmp_path, spec) / "mpii",
        lspet_root=lspet_folder(tmp_path / "lspet"),
        input_size=[64, 64],
        batch_size=2,
        workers=0,
        seed=0,
    )


def test_mpii_and_lspet_on_the_joints_of_both(both):
    both.setup("fit")
    names = both.skeleton.joints
    assert len(names) == 13
    assert set(MPII.joints) - set(names) == {"pelvis", "thorax", "upper_neck"}
    pairs = {(names[a], names[b]) for a, b in both.skeleton.flip_pairs}
    assert ("right_wrist", "left_wrist") in pairs
    of_mpii = read_mpii(both.root, "train", (64, 64)).people
    people = both.train.people
    assert len(people) == len(of_mpii) + 1  # a neck alone is nothing to train on
    assert len({one.person_id for one in people}) == len(people)
    last = people[-1]
    assert (last.person_id, last.image_id) == (LSPET_IDS + 1, LSPET_IDS + 1)
    assert last.image.parent.name == "photos"
    for name in names:
        k = names.index(name)
        here, there = JOINTS.index(name), MPII.joints.index(name)
        assert last.joints_img[k].tolist() == [here + 5, 2 * here + 3]
        assert people[0].joints_img[k].tolist() == of_mpii[0].joints_img[there].tolist()
    assert both.valid.truth.joints_img.shape[1:] == (13, 2)
    assert {one.image.parent.parent for one in both.valid.people} == {both.root}
    told = both.told_readings()
    assert f"{len(people)} people" in told[0]
    assert "13 joints" in told[1]
    batch = next(iter(both.train_dataloader()))
    assert batch is not None


def test_what_is_missing_is_told(tmp_path):
    spec = SyntheticSpec(train_photos=1, valid_photos=1)
    data = compose(["data=mpii_lspet"]).data
    wanted = {**data, "root": str(ensure_synthetic(tmp_path, spec) / "mpii")}
    with pytest.raises(PosematchError, match="what=lspet root=FOLDER makes"):
        check_data(wanted | {"lspet_root": str(tmp_path / "nowhere")}, training=True)
    with pytest.raises(PosematchError, match=r"valid\.json does not exist"):
        check_data({**data, "root": str(tmp_path / "nowhere")}, training=True)


def test_the_real_ones(shared_data):
    root = shared_data / "lspet"
    data = build_datamodule(compose(["data=lspet", f"data.root={root}", "data.workers=0"]))
    train, valid = data.read("train"), data.read("valid")
    assert (len(train.people), len(valid.people)) == (5000, 1000)
    assert data.skeleton.joints == JOINTS
    many = [f"data.root={shared_data / 'mpii'}", f"data.lspet_root={root}", "data.workers=0"]
    data = build_datamodule(compose(["data=mpii_lspet", *many]))
    people = data.read("train").people
    assert len(people) == len({one.person_id for one in people}) == 2074 + 5000
    assert len(data.read("valid").people) == 264
