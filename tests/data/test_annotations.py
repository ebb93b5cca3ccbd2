"""Annotation files as tools write them: read as they are meant, or one sentence.

The cases are those of public bug reports of peers. A figure that is expected follows from OKS by
hand: predictions of the truth itself have an AP of 1.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from posematch.data.annotations import read_annotations, skeleton_of
from posematch.data.coco import read_coco
from posematch.data.crops import read_photo
from posematch.data.datamodule import COCODataModule
from posematch.data.mpii import read_mpii
from posematch.data.people import People
from posematch.errors import PosematchError
from posematch.metrics.coco_truth import coco_figures
from posematch.metrics.oks import COCOKeypointAP
from posematch.skeletons import COCO, MPII, mirror_pairs

WIDTH, HEIGHT = 120, 90
JOINTS = ("nose", "left_ear", "right_ear", "tail")
Content = dict[str, Any]


def plain_content(photos: int = 6, people: int = 2) -> Content:
    """Dogs at places of their own, with no more than the format asks for."""
    random = np.random.default_rng(0)
    annotations = []
    for photo in range(1, photos + 1):
        for _ in range(people):
            x, y = random.uniform(5, 50, 2)
            places = np.array([x, y]) + random.uniform(0, 30, (len(JOINTS), 2))
            keypoints = np.column_stack([places, np.full(len(JOINTS), 2)]).ravel().round(2)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": photo,
                    "category_id": 1,
                    "bbox": [float(x), float(y), 32.0, 32.0],
                    "area": 700.0,
                    "iscrowd": 0,
                    "num_keypoints": len(JOINTS),
                    "keypoints": keypoints.tolist(),
                }
            )
    images = [
        {"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT}
        for n in range(1, photos + 1)
    ]
    category = {"id": 1, "name": "dog", "keypoints": list(JOINTS)}
    return {"images": images, "annotations": annotations, "categories": [category]}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(1, 7):
        write_photo(folder / f"{number}.png", number)
    return folder


def write_photo(file: Path, seed: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3))
    cv2.imwrite(str(file), pixels.astype(np.uint8))


def written(folder: Path, content: Content) -> Path:
    file = folder / "dogs.json"
    file.write_text(json.dumps(content))
    return file


def people_of(folder: Path, content: Content, **more: Any) -> People:
    file = written(folder, content)
    skeleton = more.pop("skeleton", None) or skeleton_of(file)
    return read_coco(file, folder / "photos", "valid", (64, 64), skeleton=skeleton, **more)


def ap(people: People, moved_px: float = 0.0, only: slice = slice(None)) -> dict[str, float]:
    """Figures of predictions that are the truth, or off by so many pixels."""
    metric = COCOKeypointAP(people)
    chosen = people.people[only]
    metric.update(
        torch.tensor([one.person_id for one in chosen]),
        torch.tensor(np.stack([one.joints_img for one in chosen]) + np.array([moved_px, 0.0])),
        torch.ones(len(chosen), people.skeleton.num_joints),
    )
    return metric.compute()


def changed(path: str, value: Any, which: slice = slice(0, 1)) -> Content:
    """``annotations.bbox`` and the like of some entries."""
    content = plain_content()
    part, key = path.split(".")
    for entry in content[part][which]:
        entry[key] = value(entry.get(key)) if callable(value) else value
    return content


ALL = slice(None)
# What is read as it is meant: the same people, the same figures.
MEANT: dict[str, Content] = {
    "ids as strings": changed("annotations.id", str, ALL),
    "ids as floats": changed("annotations.id", float, ALL),
    "ids from 0": changed("annotations.id", lambda number: number - 1, ALL),
    "large ids": changed("annotations.id", lambda number: 2**62 + number, ALL),
    "image_id as a string in some": changed("annotations.image_id", str, slice(0, 3)),
    "category_id as a string": changed("annotations.category_id", "1", ALL),
    "category_id left out": changed("annotations.category_id", None, ALL),
    "bbox as strings": changed("annotations.bbox", lambda box: [str(x) for x in box]),
    "bbox as one string": changed("annotations.bbox", json.dumps),
    "bbox nested": changed("annotations.bbox", lambda box: [box[:2], box[2:]]),
    "keypoints as strings": changed("annotations.keypoints", lambda ks: [str(k) for k in ks]),
    "keypoints as one string": changed("annotations.keypoints", lambda ks: str(ks)),
    "keypoints nested": changed(
        "annotations.keypoints", lambda ks: np.reshape(ks, (-1, 3)).tolist(), ALL
    ),
    "iscrowd null": changed("annotations.iscrowd", None, ALL),
    "iscrowd as a string": changed("annotations.iscrowd", "0", ALL),
    "iscrowd false": changed("annotations.iscrowd", False, ALL),
    "num_keypoints 0": changed("annotations.num_keypoints", 0, ALL),
    "num_keypoints a string": changed("annotations.num_keypoints", "many"),
    "sizes as strings": changed("images.width", str, ALL),
    "sizes left out": changed("images.width", None, ALL),
}


@pytest.mark.parametrize("name", MEANT)
def test_what_is_plainly_meant_is_read(photos: Path, tmp_path: Path, name: str) -> None:
    expected = people_of(tmp_path, plain_content()).people
    found = people_of(tmp_path, MEANT[name])
    assert len(found.people) == len(expected) == 12
    for one, other in zip(found.people, expected, strict=True):
        np.testing.assert_array_equal(one.joints_img, other.joints_img)
        np.testing.assert_array_equal(one.visible, other.visible)
        np.testing.assert_array_equal(one.box_size_img, other.box_size_img)
    assert ap(found)["AP"] == pytest.approx(1.0)
    half = ap(found, moved_px=3.0)
    assert half == pytest.approx(ap(people_of(tmp_path, plain_content()), moved_px=3.0))
    assert 0 < half["AP"] < 1


def test_an_id_of_0_is_nobody_to_pycocotools_alone(photos: Path, tmp_path: Path) -> None:
    """In a results file and wherever else AP is measured, not only in the metric."""
    file = written(tmp_path, MEANT["ids from 0"])
    results = [
        {key: one[key] for key in ("image_id", "category_id", "keypoints")} | {"score": 1.0}
        for one in plain_content()["annotations"]
    ]
    assert coco_figures(file, results, skeleton=skeleton_of(file))["AP"] == pytest.approx(1.0)


# What cannot be read: a part of the sentence.
REFUSED: dict[str, tuple[Content, str]] = {
    "uuids": (
        changed("annotations.id", lambda number: f"a-{number}", slice(0, 3)),
        r'3 of 12 annotations .* have an id that is no whole number .* "a-1"',
    ),
    "null": (changed("annotations.id", None), "1 of 12 annotations .* null"),
    "negative": (changed("annotations.id", -4), "1 of 12 annotations .* -4"),
    "beyond 2^63": (changed("annotations.id", 2**63), "1 of 12 annotations"),
    "half an id": (changed("annotations.id", 1.5), "1 of 12 annotations"),
    "repeated": (
        changed("annotations.id", 7, slice(0, 4)),
        r"the id 7 stands on several annotations .* \(4 ids repeat\); files that were merged",
    ),
    "images repeated": (
        changed("images.id", 2, slice(2, 3)), "the id 2 stands on several images",
    ),
    "images as names": (
        changed("images.id", lambda number: f"{number}.png", ALL), "6 of 6 images .* number them",
    ),
    "image_id as names": (
        changed("annotations.image_id", "1.png", slice(0, 2)),
        r'annotation 1 .* of the image "1.png".*2 entries',
    ),
    "iscrowd": (changed("annotations.iscrowd", "maybe"), 'iscrowd of "maybe"'),
    "bbox of words": (changed("annotations.bbox", ["a"] * 4), "with a bbox that is no"),
    "bbox too short": (changed("annotations.bbox", [1, 2, 3]), "with a bbox that is no"),
    "bbox not finite": (changed("annotations.bbox", [math.nan, 0, 9, 9]), "with a bbox that is no"),
    "area": (changed("annotations.area", "large"), 'an area of "large"'),
    "keypoints of words": (changed("annotations.keypoints", ["a"] * 12), "that are no numbers"),
    "a joint less": (changed("annotations.keypoints", [1, 1, 2] * 3), "3 joints.*has 4"),
    "no flags": (changed("annotations.keypoints", [1, 1] * 4), "2.66667 joints.*has 4"),
    "labelled at NaN": (
        changed("annotations.keypoints", lambda ks: [math.nan, *ks[1:]]), "at no finite place",
    ),
    "labelled at null": (
        changed("annotations.keypoints", lambda ks: [None, *ks[1:]]), "at no finite place",
    ),
    "shares of the photo": (
        changed(
            "annotations.keypoints",
            lambda ks: (np.reshape(ks, (-1, 3)) / [WIDTH, HEIGHT, 1]).ravel().tolist(), ALL,
        ),
        "keypoints .* between 0 and 1",
    ),
    "boxes as shares": (
        changed("annotations.bbox", lambda box: [one / WIDTH for one in box], ALL),
        "bbox .* between 0 and 1",
    ),
    "leads out": (changed("images.file_name", "../secret.png"), "no file below"),
    "absolute": (changed("images.file_name", "/etc/secret.png"), "no file below"),
    "no name": (changed("images.file_name", None), "has no file_name"),
    "one side alone": (
        changed("categories.keypoints", ["nose", "left_ear", "ear", "tail"]),
        "'left_ear' has no 'right_ear'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_one_sentence(photos: Path, tmp_path: Path, name: str) -> None:
    content, sentence = REFUSED[name]
    with pytest.raises(PosematchError, match=sentence) as told:
        people_of(tmp_path, content)
    assert "\n" not in str(told.value)


LEFT_OUT: dict[str, tuple[Content, str]] = {
    "nothing labelled": (
        changed("annotations.keypoints", lambda ks: [*map(float, [9, 9, 0] * 4)]),
        "without labelled joints",
    ),
    "keypoints empty": (changed("annotations.keypoints", []), "without labelled joints"),
    "keypoints null": (changed("annotations.keypoints", None), "without labelled joints"),
    "a crowd": (changed("annotations.iscrowd", 1), "of crowds"),
    "another category": (changed("annotations.category_id", 3), "of other categories"),
    "another photo": (changed("annotations.image_id", 99), "of photos that are not listed"),
    "outside": (
        changed("annotations.bbox", [500.0, 500.0, 10.0, 10.0]), "with a box outside the photo",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT_OUT)
def test_who_is_left_out_is_counted_and_told(photos: Path, tmp_path: Path, name: str) -> None:
    content, why = LEFT_OUT[name]
    people = people_of(tmp_path, content)
    assert len(people.people) == 11
    assert people.report is not None
    assert people.report.left_out[why].count == 1
    assert "annotation 1" in people.report.left_out[why].example
    told = people.report.sentence()
    assert told.startswith(f"6 photos, 11 people (left out: 1 {why}")
    assert told.endswith("4 joints, 1 mirror pair")


def test_joints_that_are_not_labelled_are_never_looked_at(photos: Path, tmp_path: Path) -> None:
    content = plain_content()
    for entry, x in zip(content["annotations"], (math.nan, None, math.inf, 1e9), strict=False):
        entry["keypoints"][:3] = [x, x, 0]
    people = people_of(tmp_path, content)
    assert len(people.people) == 12
    for person in people.people[:4]:
        assert person.visible.tolist() == [0, 1, 1, 1]
        assert np.isfinite(person.joints_img).all()
    assert ap(people)["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("box", [[0, 0, 0, 0], None, [10.0, 10.0, 0.0, 5.0], []])
def test_a_box_without_a_size_is_that_of_the_joints(
    photos: Path, tmp_path: Path, box: list[float] | None
) -> None:
    content = changed("annotations.bbox", box)
    content["annotations"][0]["area"] = 0
    people = people_of(tmp_path, content)
    joints = np.reshape(content["annotations"][0]["keypoints"], (-1, 3))[:, :2]
    size = joints.max(0) - joints.min(0)
    assert len(people.people) == 12
    assert people.people[0].area == pytest.approx(size.prod())
    assert people.report is not None
    assert people.report.repaired["boxes without a size, that of the joints taken"].count == 1


def test_one_skeleton_under_several_categories_and_numbers(photos: Path, tmp_path: Path) -> None:
    content = changed("annotations.category_id", 7, slice(0, 5))
    for entry in content["annotations"][5:]:
        entry["category_id"] = 3
    content["categories"] = [
        {"id": 3, "name": "dog", "keypoints": list(JOINTS)},
        {"id": 9, "name": "leash"},
        {"id": 7, "name": "wolf", "keypoints": list(JOINTS)},
    ]
    assert ap(people_of(tmp_path, content))["AP"] == pytest.approx(1.0)
    content["categories"][2]["keypoints"] = ["a", "b", "c", "d"]
    with pytest.raises(PosematchError, match=r"3 and 7 of .* have different joints"):
        people_of(tmp_path, content)


def test_a_photo_listed_again_is_one(photos: Path, tmp_path: Path) -> None:
    content = plain_content()
    content["images"] += copy.deepcopy(content["images"][:2])
    people = people_of(tmp_path, content)
    assert len(people.people) == 12
    assert people.report is not None
    assert people.report.repaired["photos listed again, word by word"].count == 2
    assert ap(people)["AP"] == pytest.approx(1.0)


def test_photos_in_folders_of_their_own(photos: Path, tmp_path: Path) -> None:
    content = changed("images.file_name", lambda name: f"day/one/{name}", slice(0, 3))
    for entry in content["images"][3:]:
        entry["file_name"] = f"night\\{entry['file_name']}"  # as Windows writes it
    for folder, numbers in (("day/one", (1, 2, 3)), ("night", (4, 5, 6))):
        (photos / folder).mkdir(parents=True)
        for number in numbers:
            shutil.move(photos / f"{number}.png", photos / folder)
    people = people_of(tmp_path, content)
    assert all(person.image.is_file() for person in people.people)


@pytest.mark.parametrize("part", [slice(0, 4), slice(0, 5), slice(3, 9)])
def test_a_part_of_the_people_is_scored_as_a_part(
    photos: Path, tmp_path: Path, part: slice
) -> None:
    """Whoever was not predicted is not missed: the photos of whose two people both were count."""
    people = people_of(tmp_path, plain_content())
    metric = COCOKeypointAP(people)
    chosen = people.people[part]
    metric.update(
        torch.tensor([one.person_id for one in chosen]),
        torch.tensor(np.stack([one.joints_img for one in chosen])),
        torch.ones(len(chosen), 4),
    )
    figures = metric.compute()
    assert (figures["AP"], figures["AR"]) == (pytest.approx(1.0), pytest.approx(1.0))
    assert metric.protocol.startswith("2 of 6 photos")
    assert ap(people)["AR"] == pytest.approx(1.0)


# --- a detector's boxes ---


def detections(**change: Any) -> list[dict[str, Any]]:
    return [
        {"image_id": one["image_id"], "category_id": 1, "bbox": one["bbox"], "score": 0.9} | change
        for one in plain_content()["annotations"]
    ]


def detected(folder: Path, rows: Any) -> People:
    (folder / "boxes.json").write_text(json.dumps(rows))
    return people_of(folder, plain_content(), detections=folder / "boxes.json")


def test_detections_as_they_are_written(photos: Path, tmp_path: Path) -> None:
    for change in ({}, {"category_id": "1"}, {"image_id": "3"}, {"score": "0.9"}):
        assert len(detected(tmp_path, detections(**change)).people) == 12
    others = detected(tmp_path, [*detections(), *detections(image_id=77)])
    assert len(others.people) == 12
    assert others.report is not None
    assert others.report.left_out["detections of photos that are not listed"].count == 12


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "a single detection"),
        ({}, "a list of detections"),
        ([3], "row 0 .* is not a detection"),
        (detections(bbox=None), "row 0 .* is not a detection"),
        (detections(bbox=[0.1, 0.1, 0.5, 0.5]), "boxes .* between 0 and 1"),
        (detections(image_id=77), "about photo 77, which"),
    ],
)
def test_detections_that_are_none(photos: Path, tmp_path: Path, rows: Any, sentence: str) -> None:
    with pytest.raises(PosematchError, match=sentence):
        detected(tmp_path, rows)


# --- photos ---


def module(folder: Path, content: Content, **more: Any) -> COCODataModule:
    written(folder, content)
    return COCODataModule(
        folder, train_annotations="dogs.json", valid_annotations="dogs.json",
        train_images="photos", valid_images="photos", own_skeleton=True,
        input_size=[64, 64], batch_size=2, workers=0, seed=0, **more,
    )  # fmt: skip


def with_exif(photos: Path, orientation: int, size: tuple[int, int]) -> Content:
    """Six JPEGs whose stored pixels have this size, a bright dot at (10, 20) of what is shown."""
    content = changed("images.file_name", lambda name: name.replace("png", "jpg"), ALL)
    for number in range(1, 7):
        stored = np.zeros((size[1], size[0], 3), np.uint8)
        image = Image.fromarray(stored)
        exif = image.getexif()
        exif[0x0112] = orientation
        image.save(photos / f"{number}.jpg", exif=exif, quality=95)
    return content


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_photos_turned_by_exif(photos: Path, tmp_path: Path, orientation: int) -> None:
    """The annotation's size is the turned one; every crop is cut from the turned photo."""
    content = with_exif(photos, orientation, (HEIGHT, WIDTH))
    data = module(tmp_path, content)
    data.setup("fit")
    assert data.readings["valid"].repaired["photos turned as EXIF says"].count == 6
    file = photos / "1.jpg"
    bgr = np.random.default_rng(1).integers(0, 256, (12, 9, 3)).astype(np.uint8)
    bgr = cv2.resize(bgr, (HEIGHT, WIDTH), interpolation=cv2.INTER_NEAREST)
    image = Image.fromarray(bgr[..., ::-1].copy())
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(file, exif=exif, quality=100)
    shown = cv2.imread(str(file), cv2.IMREAD_COLOR)  # OpenCV turns it
    assert shown.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(read_photo(file, (WIDTH, HEIGHT)), shown)
    assert read_photo(file).shape == (WIDTH, HEIGHT, 3)  # as stored, where nothing is told


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_exif_that_keeps_the_size_is_told(photos: Path, tmp_path: Path, orientation: int) -> None:
    data = module(tmp_path, with_exif(photos, orientation, (WIDTH, HEIGHT)))
    data.setup("fit")
    why = "photos that EXIF turns, annotated as they are stored"
    assert data.readings["valid"].suspicious[why].count == 6
    assert any(why in one for one in data.told_readings())


def test_photos_of_another_size_are_refused(photos: Path, tmp_path: Path) -> None:
    for number in (2, 5):
        write_photo(photos / f"{number}.png", number, (WIDTH // 2, HEIGHT // 2))
    with pytest.raises(PosematchError, match=r"60 x 45 pixels.* says 120 x 90.*2 of 6 photos"):
        module(tmp_path, plain_content()).setup("fit")
    turned = module(tmp_path, with_exif(photos, 1, (HEIGHT, WIDTH)))
    with pytest.raises(PosematchError, match="90 x 120 pixels"):
        turned.setup("fit")  # and no EXIF that explains it
    with pytest.raises(PosematchError, match="60 x 45 pixels"):
        read_photo(photos / "2.png", (WIDTH, HEIGHT))


def test_what_was_read_is_told(photos: Path, tmp_path: Path) -> None:
    data = module(tmp_path, plain_content(), train_people=5)
    data.setup("fit")
    assert data.told_readings() == [
        "train: 6 photos, 12 people, 4 joints, 1 mirror pair; 5 people are used.",
        "valid: 6 photos, 12 people, 4 joints, 1 mirror pair.",
        "A mirrored photo swaps left_ear and right_ear; data.flip_pairs=[[A,B],...] says"
        " otherwise.",
    ]
    none = module(tmp_path, plain_content(), flip_pairs=[])
    none.setup("fit")
    assert none.skeleton.flip_pairs == ()
    assert "swaps no joints" in none.told_readings()[-1]
    own = module(tmp_path, plain_content(), flip_pairs=[["tail", "nose"]])
    assert own.skeleton.flip_pairs == ((3, 0),)
    for pairs, sentence in (
        ([["tail", "paw"]], "'paw', which is no joint"),
        ([["tail", "nose"], ["nose", "left_ear"]], "a joint twice"),
        ([["tail"]], "pairs of names"),
    ):
        with pytest.raises(PosematchError, match=sentence):
            module(tmp_path, plain_content(), flip_pairs=pairs)


# --- mirror pairs ---


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("front_left_paw", "front_right_paw"), ("hand_left_1", "hand_right_1"),
        ("frontLeftPaw", "frontRightPaw"), ("LHip", "RHip"), ("eye (left)", "eye (right)"),
        ("Left ankle", "Right ankle"), ("l_ear", "r_ear"), ("ear-L", "ear-R"), ("lank", "rank"),
        ("lefteye", "righteye"), ("LEFT_EYE", "RIGHT_EYE"), ("L.Hip", "R.Hip"), ("l", "r"),
        ("eyeL", "eyeR"), ("Left_ear", "right_ear"),
    ],
)  # fmt: skip
def test_sides_are_found_wherever_they_stand(left: str, right: str) -> None:
    assert mirror_pairs(["nose", right, "tail", left]) == ((3, 1),)
    assert mirror_pairs([left, right]) == ((0, 1),)


def test_words_that_hold_a_side_are_none() -> None:
    assert mirror_pairs(["cleft", "leftover", "L1", "L2", "tail", "bright", "lower"]) == ()


@pytest.mark.parametrize("skeleton", [MPII, COCO])
def test_known_skeletons_pair_by_their_names(skeleton: Any) -> None:
    by_names = {frozenset(pair) for pair in mirror_pairs(skeleton.joints)}
    assert by_names == {frozenset(pair) for pair in skeleton.flip_pairs}


# --- MPII ---


def test_rows_of_mpii_in_another_order_are_refused(shared_data: Path, tmp_path: Path) -> None:
    annot = tmp_path / "annot"
    annot.mkdir()
    for name in ("valid.json", "gt_valid.mat"):
        shutil.copy(shared_data / "mpii_full" / "annot" / name, annot)
    people = read_mpii(tmp_path, "valid", (128, 128))
    assert people.report is not None
    assert people.report.sentence() == "2729 photos, 2958 people, 16 joints, 6 mirror pairs"
    rows = json.loads((annot / "valid.json").read_text())
    (annot / "valid.json").write_text(json.dumps(rows[::-1]))
    with pytest.raises(PosematchError, match=r"head sizes \(median\) .* in another order"):
        read_mpii(tmp_path, "valid", (128, 128))


# --- whatever a file's order and names, its figures are the same ---


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    order=st.permutations(range(12)),
    photo_order=st.permutations(range(6)),
    first_id=st.sampled_from([0, 1, 500, 2**40]),
    text=st.booleans(),
    category=st.sampled_from([0, 1, 2, 90]),
)
def test_renumbered_and_shuffled_the_figures_stay(
    photos: Path,
    tmp_path: Path,
    order: list[int],
    photo_order: list[int],
    first_id: int,
    text: bool,
    category: int,
) -> None:
    content = plain_content()
    expected = ap(people_of(tmp_path, content), moved_px=3.0)
    given = copy.deepcopy(content)
    kind = str if text else int
    for place, entry in enumerate(given["annotations"]):
        entry["id"] = kind(first_id + order[place])
        entry["image_id"] = kind(first_id + 10 * entry["image_id"])
        entry["category_id"] = category
    for entry in given["images"]:
        entry["id"] = first_id + 10 * entry["id"]
    given["categories"][0]["id"] = category
    given["annotations"] = [given["annotations"][place] for place in order]
    given["images"] = [given["images"][place] for place in photo_order]
    people = people_of(tmp_path, given)
    assert ap(people, moved_px=3.0) == pytest.approx(expected, abs=1e-12)


def test_a_file_is_read_once_and_not_changed(tmp_path: Path) -> None:
    file = written(tmp_path, plain_content())
    first = read_annotations(file, None)
    before = copy.deepcopy(first.content)
    coco_figures(file, [], skeleton=skeleton_of(file))
    assert read_annotations(file, None) is first
    assert first.content == before
