"""One picture to joints: inputs of every kind, frames, covariances, and the crops of trainings."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import posematch
from posematch.calibration_record import CalibrationRecord, TemperatureCurve
from posematch.data.coco import read_coco
from posematch.data.crops import CropDataset
from posematch.errors import PosematchError
from posematch.geometry import apply_affine
from posematch.metrics.compactness import map_compactness, map_covariance
from posematch.prediction import Poses, as_rgb, people_crops, read_upright

RUN = "tests/golden/runs/gaussian_mse-0"
PHOTO = "docs/images/synthetic.jpg"
BOXES = [[10.0, 20.0, 90.0, 100.0], [200.0, 20.0, 120.0, 90.0]]


@pytest.fixture(scope="module")
def model():
    return posematch.load(RUN)


def test_every_kind_of_picture_gives_the_same(model, tmp_path):
    rgb = as_rgb(PHOTO)
    wanted = model.predict(rgb, BOXES)
    assert wanted.joints_img.shape == (2, 16, 2)
    assert ((wanted.scores >= 0) & (wanted.scores <= 1)).all()
    lossless = tmp_path / "photo.png"
    Image.fromarray(rgb).save(lossless)
    tensor = torch.from_numpy(rgb).permute(2, 0, 1)
    for one in (lossless, str(lossless), Image.open(lossless), tensor, rgb):
        np.testing.assert_array_equal(model.predict(one, BOXES).joints_img, wanted.joints_img)
    grey = rgb[..., 0]
    np.testing.assert_array_equal(
        model.predict(grey, BOXES).joints_img,
        model.predict(np.repeat(grey[..., None], 3, -1), BOXES).joints_img,
    )
    with_opacity = np.dstack([rgb, np.zeros(rgb.shape[:2], np.uint8)])
    np.testing.assert_array_equal(model.predict(with_opacity, BOXES).joints_img, wanted.joints_img)


def test_a_list_is_batched_over_pictures(model):
    """Batches do not change what is found, beyond the rounding of convolutions."""
    pictures, boxes = [PHOTO, as_rgb(PHOTO), PHOTO], [BOXES, None, []]
    alone = [model.predict(one, box) for one, box in zip(pictures, boxes, strict=True)]
    for batch_size in (1, 2, 16):
        together = model.predict(pictures, boxes, batch_size=batch_size)
        assert [len(one) for one in together] == [2, 1, 0]
        for one, other in zip(together, alone, strict=True):
            np.testing.assert_allclose(one.joints_img, other.joints_img, atol=1e-3)
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_the_whole_picture_is_the_crop(model):
    """Of a picture with the crop's aspect the corners are the crop's."""
    picture = as_rgb(PHOTO)[:600, :600]
    found = model.predict(picture, heatmaps=True)
    np.testing.assert_array_equal(found.boxes_img, [[0, 0, 600, 600]])
    corners = apply_affine(found.heatmap_affines, np.array([[0.0, 0.0], [600.0, 600.0]]))
    np.testing.assert_allclose(corners[0], [[0, 0], model.heatmap_size[::-1]], atol=1e-9)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_picture_and_joints_alike(model, tmp_path, orientation):
    upright = as_rgb(PHOTO)[:300, :400]
    # What is stored is what EXIF's turn makes the upright picture of: Pillow knows both ways.
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(turns[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "turned.png"
    stored.save(file, exif=exif)
    np.testing.assert_array_equal(read_upright(file), upright)
    np.testing.assert_array_equal(as_rgb(Image.open(file)), upright)
    found, wanted = model.predict(file, BOXES[:1]), model.predict(upright, BOXES[:1])
    np.testing.assert_array_equal(found.joints_img, wanted.joints_img)
    assert model.draw(file, found).shape == upright.shape


def test_covariance_is_the_masses_by_brute_force(model):
    found = model.predict(PHOTO, BOXES, heatmaps=True)
    assert found.masses is not None
    np.testing.assert_allclose(found.masses.sum((2, 3)), 1, atol=1e-5)
    height, width = model.heatmap_size
    y, x = np.mgrid[:height, :width]
    pixels_hm = np.stack([x, y], -1).reshape(-1, 2).astype(float)
    for person, affine in enumerate(found.heatmap_affines):
        whole = np.vstack([affine, [0, 0, 1]])
        places = np.linalg.inv(whole)[:2]
        pixels_img = pixels_hm @ places[:, :2].T + places[:, 2]
        for joint in range(len(found.names)):
            mass = found.masses[person, joint].ravel().astype(float)
            wanted = np.cov(pixels_img.T, aweights=mass / mass.sum(), ddof=0)
            # float32 sums of 256 pixels
            np.testing.assert_allclose(found.covariance_img[person, joint], wanted, rtol=1e-4)


def test_covariance_and_spread_agree_and_a_dead_map_has_none():
    maps = torch.rand(3, 2, 9, 7, generator=torch.Generator().manual_seed(1)) - 0.3
    maps[1, 1] = -1.0
    covariance = map_covariance(maps)
    spread_px = map_compactness(maps, torch.zeros(3, 2, 2), torch.ones(3, 2)).spread_px
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
    torch.testing.assert_close(trace.sqrt(), spread_px, equal_nan=True)
    assert covariance[1, 1].isnan().all()


def test_crops_are_those_of_a_training(shared_data):
    """A box as COCO annotates it is cut as its reader's people are, to the last bit."""
    root = shared_data / "coco"
    people = read_coco(
        root / "annotations" / "person_keypoints_val2017.json",
        root / "val2017",
        "valid",
        (128, 96),
    )
    dataset = CropDataset(people, (128, 96), "hrnet", 0)
    compared = 0
    for index, person in enumerate(people.people[:12]):
        size_img = person.box_size_img / 1.25  # already grown to the crop's aspect
        box = np.concatenate([person.center_img - size_img / 2, size_img])[None]
        cut = people_crops(read_upright(person.image), box, (128, 96), "hrnet", 1.25)
        wanted = dataset[(0, index)]
        np.testing.assert_allclose(cut.affines[0], wanted["crop_affine"], rtol=1e-9)
        difference = cut.pixels[0].int() - wanted["crop"].int()
        assert difference.abs().max() <= 1  # the affine's last bit may move a rounded weight
        compared += 1
    assert compared == 12


def test_people_one_by_one_and_as_tables(model):
    found = model.predict(PHOTO, BOXES, heatmaps=True)
    assert [len(one) for one in found] == [1, 1]
    np.testing.assert_array_equal(found[1].joints_img[0], found.joints_img[1])
    np.testing.assert_array_equal(found[[True, False]].maps, found.maps[:1])
    table = found.to_pandas()
    assert list(table.columns) == ["person", "joint", "x_img", "y_img", "score"]
    assert table.loc[17, "joint"] == found.names[1]
    assert table.loc[17, "person"] == 1
    assert table.loc[17, "x_img"] == found.joints_img[1, 1, 0]
    tensors = found.to_torch()
    assert torch.equal(tensors["scores"], torch.from_numpy(found.scores))
    shown = io.StringIO()
    Console(file=shown, width=120).print(found)
    assert "person 1" in shown.getvalue()
    assert "left_wrist" in shown.getvalue()
    assert repr(found) == "Poses(2 people, 16 joints, picture of 1215 x 923)"
    assert len(Poses.nobody(found.names, (3, 4))) == 0


def test_drawing_leaves_the_picture_and_touches_only_people(model):
    picture = as_rgb(PHOTO)
    before = picture.copy()
    found = model.predict(picture, BOXES[:1])
    drawn = model.draw(picture, found)
    np.testing.assert_array_equal(picture, before)
    changed = (drawn != picture).any(-1)
    assert changed.any()
    y, x = np.nonzero(changed)
    joints = found.joints_img[0]
    assert x.min() >= joints[:, 0].min() - 8
    assert x.max() <= joints[:, 0].max() + 8
    assert y.min() >= joints[:, 1].min() - 8
    assert y.max() <= joints[:, 1].max() + 8
    nobody = Poses.nobody(found.names, found.picture_size)
    np.testing.assert_array_equal(model.draw(picture, nobody), picture)


@pytest.mark.parametrize(
    ("image", "boxes", "part"),
    [
        ("nowhere.jpg", None, "does not exist"),
        ("README.md", None, "is not a readable image"),
        (np.zeros((4, 4, 3)), None, "numbers of float64"),
        (np.zeros((4, 4, 5), np.uint8), None, "an array must be"),
        (np.zeros((0, 4, 3), np.uint8), None, "an array must be"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), None, "a tensor must be (3, H, W)"),
        (3, None, "is a int"),
        (PHOTO, [[0, 0, 10]], "must be (N, 4)"),
        (PHOTO, [["a", 0, 1, 1]], "must be numbers"),
        (PHOTO, [[0, 0, 10, 10], [0, 0, 0, 5]], "number 1"),
        (PHOTO, [[0, 0, np.nan, 5]], "number 0"),
        (PHOTO, [[5000, 0, 10, 10]], "touches the picture"),
        (PHOTO, [[0, 0, 1e12, 10]], "touches the picture"),
        ([PHOTO, PHOTO], [BOXES], "there are 2"),
    ],
)
def test_what_is_no_picture_or_no_box_is_told(model, image, boxes, part):
    with pytest.raises(PosematchError) as error:
        model.predict(image, boxes)
    assert part in str(error.value)


def test_a_photo_of_too_many_pixels_takes_no_memory(model, tmp_path):
    ok, content = cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))
    assert ok
    size = (40000).to_bytes(4, "big")
    bomb = content.tobytes()[:16] + size + size + content.tobytes()[24:]
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(PosematchError, match="40000 x 40000"):
        model.predict(tmp_path / "bomb.png")


def test_scores_are_calibrated_where_the_model_says_how(model):
    """By the size of what each crop shows: the padded box, or the whole picture."""
    record = CalibrationRecord(
        meaning="within 0.5 head sizes",
        curve=TemperatureCurve(
            slope=0.7, offsets=[0.1 * k for k in range(16)], size_slope=0.5, log_sizes=[-3.0, 3.0]
        ),
        data="mine", people=80, photos=70, joints=150, epoch=9, error_before=0.2, error_after=0.03,
    )  # fmt: skip
    before = model.predict([PHOTO, PHOTO], [BOXES, None])
    calibrated = posematch.load(RUN)
    calibrated._record = calibrated.record.model_copy(update={"calibration": record})
    after = calibrated.predict([PHOTO, PHOTO], [BOXES, None])
    sizes_img = ([[125.0, 125.0], [150.0, 150.0]], [[1215.0, 1215.0]])
    for plain, told, size_img in zip(before, after, sizes_img, strict=True):
        wanted = record.apply(plain.scores, size_img, model.input_size)
        np.testing.assert_allclose(told.scores, wanted, rtol=1e-9)
        assert told.score_means.startswith("within 0.5 head sizes")
        np.testing.assert_array_equal(told.joints_img, plain.joints_img)
