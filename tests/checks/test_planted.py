"""Faults planted one at a time in copies of real annotations, and nothing but real ones before.

Photos are linked to, and those that a fault changes are written to the test's own folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from posematch.checks.checking import Checked, check
from posematch.data.annotations import skeleton_of
from posematch.data.coco import read_coco
from posematch.data.mpii import read_mpii
from posematch.skeletons import MPII

pytestmark = pytest.mark.usefixtures("processes_once")
Rows = list[dict[str, Any]]
J = {name: k for k, name in enumerate(MPII.joints)}
PHOTOS = {"train": 700, "valid": 400}  # of LSP's; sides are told by many
MPII_ROWS = 700  # of training


# --- MPII ---


@dataclass
class MPIIFiles:
    train: Rows
    valid: Rows

    def upright(self, *joints: str) -> int:
        """A training person with straight, spread limbs: no swap could pass for a pose."""
        for row, one in enumerate(self.train):
            if not all(one["joints_vis"]):
                continue
            at = {name: np.array(one["joints"][k]) for name, k in J.items()}
            scale = 200 * one["scale"]
            spread = [
                np.linalg.norm(at[f"left_{joint}"] - at[f"right_{joint}"]) > 0.16 * scale
                for joint in joints
            ]
            if all(spread):
                return row
        raise AssertionError("nobody stands so")


def _swap(one: dict[str, Any], *joints: str) -> None:
    for joint in joints:
        left, right = J[f"left_{joint}"], J[f"right_{joint}"]
        for key in ("joints", "joints_vis"):
            one[key][left], one[key][right] = one[key][right], one[key][left]


def swapped(*joints: str) -> Callable[[MPIIFiles], int]:
    def plant(files: MPIIFiles) -> int:
        row = files.upright(*joints)
        _swap(files.train[row], *joints)
        return row

    return plant


def swapped_throughout(files: MPIIFiles) -> None:
    for one in files.train:
        _swap(one, "shoulder", "elbow", "wrist", "hip", "knee", "ankle")


def moved_ankle(files: MPIIFiles) -> int:
    row = files.upright("ankle")
    x, y = files.train[row]["joints"][J["left_knee"]]
    side = 200 * files.train[row]["scale"]
    files.train[row]["joints"][J["left_ankle"]] = [x + (side if x < 600 else -side), y]
    return row


def at_zero(value: float) -> Callable[[MPIIFiles], int]:
    def plant(files: MPIIFiles) -> int:
        files.train[40]["joints"][J["left_wrist"]] = [value, value]
        files.train[40]["joints_vis"][J["left_wrist"]] = 1
        return 40

    return plant


def exchanged_axes(files: MPIIFiles) -> int:
    row = next(
        row for row, one in enumerate(files.train) if one["center"][0] > 2 * one["center"][1]
        and one["scale"] < 3
    )  # fmt: skip
    files.train[row]["joints"] = [[y, x] for x, y in files.train[row]["joints"]]
    return row


def doubled(files: MPIIFiles) -> int:
    row = next(
        row for row, one in enumerate(files.train)
        if min(one["center"]) > 400 and one["scale"] < 2.5
    )  # fmt: skip
    files.train[row]["joints"] = [[2 * x, 2 * y] for x, y in files.train[row]["joints"]]
    return row


def anothers_box(files: MPIIFiles) -> int:
    row = next(row for row, one in enumerate(files.train) if one["scale"] < 2)
    x, y = files.train[row]["center"]
    files.train[row]["center"] = [x + 450 * files.train[row]["scale"], y]
    return row


def rescaled(times: float) -> Callable[[MPIIFiles], int]:
    def plant(files: MPIIFiles) -> int:
        files.train[30]["scale"] *= times
        return 30

    return plant


def counted_from_0(files: MPIIFiles) -> None:
    for one in files.valid:
        one["joints"] = [[x - 1, y - 1] for x, y in one["joints"]]


def annotated_twice(files: MPIIFiles) -> int:
    files.train.append(json.loads(json.dumps(files.train[50])))
    return len(files.train) - 1


def nearly_twice(files: MPIIFiles) -> int:
    again = json.loads(json.dumps(files.train[50]))
    again["joints"] = [[x + 0.7, y - 0.4] for x, y in again["joints"]]
    files.train.append(again)
    return len(files.train) - 1


def copied_joints(files: MPIIFiles) -> int:
    files.train[61]["joints"] = files.train[50]["joints"]
    files.train[61]["joints_vis"] = files.train[50]["joints_vis"]
    return 61


def valid_in_train(files: MPIIFiles) -> None:
    files.train.append(files.valid[7])


def never_labelled(files: MPIIFiles) -> None:
    for one in files.train:
        one["joints_vis"][J["left_ankle"]] = 0


def at_one_place(files: MPIIFiles) -> int:
    files.train[33]["joints"] = [files.train[33]["joints"][J["thorax"]]] * 16
    files.train[33]["joints_vis"] = [1] * 16
    return 33


def off_truth(files: MPIIFiles) -> int:
    files.valid[11]["joints"][J["thorax"]][0] += 60
    return 11


MPII_FAULTS = {
    "shoulders swapped": ("crossed", swapped("shoulder")),
    "elbows swapped": ("crossed", swapped("elbow")),
    "hips swapped": ("crossed", swapped("hip")),
    "knees swapped": ("crossed", swapped("knee")),
    "arms swapped": ("crossed", swapped("elbow", "wrist")),
    "legs swapped": ("crossed", swapped("hip", "knee", "ankle")),
    "sides swapped throughout": ("sides", swapped_throughout),
    "an ankle far away": ("long", moved_ankle),
    "a labelled joint at 0, 0": ("origin", at_zero(0)),
    "a labelled joint at -1, -1": ("origin", at_zero(-1)),
    "x and y exchanged": ("box_place", exchanged_axes),
    "coordinates of a photo twice as large": ("box_place", doubled),
    "a centre elsewhere": ("box_place", anothers_box),
    "a scale ten times too large": ("box_size", rescaled(10)),
    "a scale ten times too small": ("box_place", rescaled(0.1)),
    "counted from 0": ("off_truth", counted_from_0),
    "a person twice": ("same_person", annotated_twice),
    "a person nearly twice": ("same_person", nearly_twice),
    "another photo's joints": ("same_joints", copied_joints),
    "a validation photo trained on": ("both_splits", valid_in_train),
    "a validation person trained on": ("both_people", valid_in_train),
    "a joint never labelled": ("never", never_labelled),
    "all joints at one place": ("collapsed", at_one_place),
    "a joint unlike the truth": ("not_truth", off_truth),
}


@pytest.fixture(scope="module")
def mpii_originals(shared_data: Path) -> dict[str, str]:
    annot = shared_data / "mpii" / "annot"
    rows = {split: json.loads((annot / f"{split}.json").read_text()) for split in PHOTOS}
    return {"train": json.dumps(rows["train"][:MPII_ROWS]), "valid": json.dumps(rows["valid"])}


def checked_mpii(root: Path) -> Checked:
    return check([read_mpii(root, split, (256, 256)) for split in ("train", "valid")], 0)


@pytest.mark.parametrize("fault", MPII_FAULTS)
def test_a_fault_in_mpii_is_named(fault, mpii_originals, shared_data, tmp_path):
    kind, plant = MPII_FAULTS[fault]
    files = MPIIFiles(**{name: json.loads(text) for name, text in mpii_originals.items()})
    row = plant(files)
    annot = tmp_path / "annot"
    annot.mkdir()
    (tmp_path / "images").symlink_to(shared_data / "mpii" / "images")
    shutil.copy(shared_data / "mpii" / "annot" / "gt_valid.mat", annot)
    for name in ("train", "valid"):
        (annot / f"{name}.json").write_text(json.dumps(getattr(files, name)))
    assert_named(checked_mpii(tmp_path), kind, row)


def assert_named(checked: Checked, kind: str, person_id: int | None) -> None:
    found = [one for one in checked.findings if one.kind == kind]
    assert found, [one.sentence() for one in checked.findings]
    if person_id is not None:
        assert person_id in {example.person_id for one in found for example in one.examples}


# --- COCO's format ---


@dataclass
class COCOFiles:
    root: Path
    train: dict[str, Any]
    valid: dict[str, Any]

    def own_photo(self, place: int = 3) -> Path:
        """A training photo that the test may change."""
        photo = self.root / "photos" / self.train["images"][place]["file_name"]
        content = photo.read_bytes()
        photo.unlink()
        photo.write_bytes(content)
        return photo


def change(place: int, **values: Any) -> Callable[[COCOFiles], int]:
    def plant(files: COCOFiles) -> int:
        one = files.train["annotations"][place]
        one.update({key: value(one) for key, value in values.items()})
        return int(one["id"])

    return plant


def shifted(files: COCOFiles) -> None:
    for one in files.train["annotations"]:
        points = np.add(np.reshape(one["keypoints"], (-1, 3)), [1, 1, 0])
        one["keypoints"] = points.ravel().tolist()


def names_exchanged(files: COCOFiles) -> None:
    order = [5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 12, 13]
    for one in files.valid["annotations"]:
        one["keypoints"] = np.reshape(one["keypoints"], (-1, 3))[order].ravel().tolist()


def of_photos_twice_as_large(files: COCOFiles) -> None:
    for one in files.train["annotations"]:
        points = np.reshape(one["keypoints"], (-1, 3)) * [2, 2, 1]
        one["keypoints"] = points.ravel().tolist()


def cut_off(files: COCOFiles) -> None:
    photo = files.own_photo()
    photo.write_bytes(photo.read_bytes()[:-1500])


def no_picture(files: COCOFiles) -> None:
    files.own_photo().write_text("<html>404</html>")


def empty(files: COCOFiles) -> None:
    files.own_photo().write_bytes(b"")


def not_there(files: COCOFiles) -> None:
    files.own_photo().unlink()


def resized(files: COCOFiles) -> None:
    photo = files.own_photo()
    with Image.open(photo) as image:
        half = image.resize((image.width // 2, image.height // 2))
    half.save(photo, quality=95)


def turned_by_exif(files: COCOFiles) -> None:
    photo = files.own_photo()
    with Image.open(photo) as image:
        exif = image.getexif()
        exif[0x0112] = 3
        image.save(photo, exif=exif, quality=95)


def same_photo(files: COCOFiles) -> None:
    one = files.train["images"][9]
    other = files.own_photo(4)
    other.write_bytes((files.root / "photos" / one["file_name"]).read_bytes())
    files.train["images"][4] |= {side: one[side] for side in ("width", "height")}


def photo_in_both(files: COCOFiles) -> None:
    one = files.valid["images"][9]
    files.own_photo(4).write_bytes((files.root / "photos" / one["file_name"]).read_bytes())
    files.train["images"][4] |= {side: one[side] for side in ("width", "height")}


def strange_flag(files: COCOFiles) -> None:
    files.train["annotations"][5]["keypoints"][5] = 3


COCO_FAULTS = {
    "an area a hundred times too large": ("area_box", change(3, area=lambda x: 100 * x["area"])),
    "an area a hundred times too small": ("area_ratio", change(3, area=lambda x: x["area"] / 99)),
    "a box elsewhere": ("box_place", change(3, bbox=lambda _: [1, 1, 9, 12])),
    "a box of another photo": ("huge", change(3, bbox=lambda _: [0, 0, 900, 700])),
    "a tiny box": ("tiny", change(3, bbox=lambda _: [20, 20, 4, 3])),
    "counted from 1": ("off_boxes", shifted),
    "columns of the other side": ("sides", names_exchanged),
    "coordinates of larger photos": ("outside_photo", of_photos_twice_as_large),
    "a photo cut off": ("cut_off", cut_off),
    "a photo that is none": ("unreadable", no_picture),
    "an empty photo": ("unreadable", empty),
    "a photo not there": ("missing", not_there),
    "a photo resized": ("size", resized),
    "a photo turned by EXIF": ("exif", turned_by_exif),
    "a photo under two names": ("same_photo", same_photo),
    "a photo in both splits": ("both_splits", photo_in_both),
    "a flag that means nothing": ("suspicious", strange_flag),
}  # fmt: skip


@pytest.fixture(scope="module")
def lsp_originals(shared_data: Path) -> dict[str, str]:
    """The first people of each split."""
    found = {}
    for split, most in PHOTOS.items():
        content = json.loads((shared_data / "lspet" / f"{split}.json").read_text())
        content["images"] = content["images"][:most]
        kept = {one["id"] for one in content["images"]}
        content["annotations"] = [one for one in content["annotations"] if one["image_id"] in kept]
        found[split] = json.dumps(content)
    return found


def checked_lsp(root: Path) -> Checked:
    skeleton = skeleton_of(root / "valid.json")
    people = [
        read_coco(root / f"{split}.json", root / "photos", split, (256, 192), skeleton=skeleton)
        for split in PHOTOS
    ]
    return check(people, 0)


@pytest.mark.parametrize("fault", COCO_FAULTS)
def test_a_fault_in_cocos_format_is_named(fault, lsp_originals, shared_data, tmp_path):
    kind, plant = COCO_FAULTS[fault]
    contents = {name: json.loads(text) for name, text in lsp_originals.items()}
    (tmp_path / "photos").mkdir()
    for content in contents.values():
        for one in content["images"]:
            photo = shared_data / "lspet" / "photos" / one["file_name"]
            (tmp_path / "photos" / one["file_name"]).symlink_to(photo)
    row = plant(COCOFiles(tmp_path, **contents))
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert_named(checked_lsp(tmp_path), kind, row)
