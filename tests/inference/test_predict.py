"""posematch predict on real files: inputs, boxes, outputs, what cannot be read, stops."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import torchvision.models as models
from PIL import Image
from signals import interruptible

import posematch
from posematch.app.verbs.predict import run
from posematch.data.annotations import PERSON_CATEGORY
from posematch.inference.detector import TorchvisionDetector
from posematch.inference.journal import PARTS
from posematch.inference.sources import Source, find_sources
from posematch.inference.videos import VideoFile
from posematch.metrics.suppression import rescore
from posematch.prediction import as_rgb

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = REPOSITORY / "tests/golden/runs/gaussian_mse-0"
PHOTO = REPOSITORY / "docs/images/synthetic.jpg"
JOINTS = 16


@pytest.fixture(scope="module")
def model():
    return posematch.load(RUN)


@pytest.fixture
def photos(tmp_path):
    """Three photos, one in a sub-folder."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    picture = Image.open(PHOTO)
    for number, name in enumerate(("a.jpg", "b.png", "more/c.jpg")):
        picture.crop((200 * number, 0, 200 * number + 220, 230)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Twelve frames in which the picture moves; coded with loss."""
    file = tmp_path_factory.mktemp("film") / "film.mp4"
    picture = cv2.imread(str(PHOTO))
    code = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(file), cv2.CAP_FFMPEG, code, 20.0, (240, 200))
    for frame in range(12):
        writer.write(np.ascontiguousarray(picture[:200, 10 * frame : 10 * frame + 240]))
    writer.release()
    return file


def predicted(capsys, output: Path, **keys: object) -> tuple[int, str, str]:
    """Exit code, what was printed, and what was told, of the command."""
    keys = {"checkpoint": RUN, "output": output} | keys
    code = 0
    try:
        run([f"{key}={value}" for key, value in keys.items()])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_folder(capsys, photos, tmp_path, model):
    out = tmp_path / "out"
    (photos / "notes.txt").write_text("no photo")
    (photos / "broken.jpg").write_bytes(PHOTO.read_bytes()[:100])
    code, printed, told = predicted(capsys, out, input=photos, heatmaps="true")
    assert code == 0
    assert "3 pictures, 3 people" in printed
    assert "Not read, or not all of it: 1 of 4 inputs" in told
    assert "broken.jpg" in told
    table = pd.read_csv(out / "predictions.csv")
    assert list(table["input"].unique()) == ["a.jpg", "b.png", "more/c.jpg"]
    assert len(table) == 3 * JOINTS
    assert table["frame"].isna().all()
    for name in ("a.jpg", "more/c.jpg"):
        wanted = model.predict(photos / name, heatmaps=True)
        own = table[table["input"] == name]
        # The csv has six digits.
        np.testing.assert_allclose(own[["x_img", "y_img"]], wanted.joints_img[0], rtol=1e-5)
        np.testing.assert_allclose(own["score"], wanted.scores[0], rtol=1e-4)
        np.testing.assert_allclose(own["var_x"], wanted.covariance_img[0, :, 0, 0], rtol=1e-4)
        kept = np.load(out / "heatmaps" / f"{name}.npz")
        np.testing.assert_allclose(kept["maps"], wanted.maps, atol=1e-3)  # float16
        drawn = cv2.imread(str(out / "drawn" / name if name.endswith(".jpg") else f"{name}.jpg"))
        assert drawn.shape == cv2.imread(str(photos / name)).shape
    assert "broken.jpg" in (out / "unreadable.csv").read_text()
    images = json.loads((out / "images.json").read_text())
    results = json.loads((out / "results.json").read_text())
    assert [one["file_name"] for one in images["images"]] == ["a.jpg", "b.png", "more/c.jpg"]
    assert images["categories"][0]["keypoints"] == list(model.skeleton.joints)
    first = np.reshape(results[0]["keypoints"], (-1, 3))
    np.testing.assert_allclose(first[:, :2], table[["x_img", "y_img"]][:JOINTS], rtol=1e-5)
    np.testing.assert_allclose(results[0]["score"], rescore(np.ones(1), first[None, :, 2])[0])


def test_the_same_command_again_looks_at_what_is_new(capsys, photos, tmp_path):
    out = tmp_path / "out"
    assert predicted(capsys, out, input=photos)[0] == 0
    before = (out / "predictions.csv").read_bytes()
    code, printed, _ = predicted(capsys, out, input=photos)
    assert code == 0
    assert "3 of 3 inputs are done already" in printed
    assert "people/s" not in printed
    assert (out / "predictions.csv").read_bytes() == before
    shutil.copy(photos / "a.jpg", photos / "d.jpg")
    time.sleep(0.01)
    (photos / "b.png").write_bytes((photos / "b.png").read_bytes())  # another time stamp
    (photos / "a.jpg").unlink()
    code, printed, _ = predicted(capsys, out, input=photos)
    assert "1 of 3 inputs are done already" in printed
    assert "(2 in" in printed
    table = pd.read_csv(out / "predictions.csv")
    assert list(table["input"].unique()) == ["b.png", "d.jpg", "more/c.jpg"]
    code, _, told = predicted(capsys, out, input=photos, flip_test="false")
    assert code == 1
    assert "another flip_test" in told
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("")
    code, _, told = predicted(capsys, other, input=photos)
    assert code == 1
    assert "not predictions of posematch" in told


def test_a_mended_photo_is_read_the_next_time(capsys, photos, tmp_path):
    out = tmp_path / "out"
    good = (photos / "a.jpg").read_bytes()
    (photos / "a.jpg").write_bytes(b"")
    assert "Not read, or not all of it: 1 of 3" in predicted(capsys, out, input=photos)[2]
    (photos / "a.jpg").write_bytes(good)
    assert predicted(capsys, out, input=photos)[2] == ""
    assert len(pd.read_csv(out / "predictions.csv")) == 3 * JOINTS
    assert not (out / "unreadable.csv").exists()


def test_nothing_that_can_be_read(capsys, tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"no photo")
    code, _, told = predicted(capsys, tmp_path / "out", input=tmp_path / "x.jpg")
    assert code == 1
    assert "not a readable image" in told
    for named, part in (("nowhere", "does not exist"), ("'*.tiff'", "fits no file")):
        code, _, told = predicted(capsys, tmp_path / "out2", input=named)
        assert code == 1
        assert part in told
    (tmp_path / "empty").mkdir()
    code, _, told = predicted(capsys, tmp_path / "out2", input=tmp_path / "empty")
    assert code == 1
    assert "holds no photo" in told
    assert not (tmp_path / "out2").exists()


def test_a_pattern_and_two_photos_of_one_name(capsys, photos, tmp_path):
    shutil.copy(photos / "a.jpg", photos / "b.jpg")
    out = tmp_path / "out"
    assert predicted(capsys, out, input=f"'{photos}/b.*'", format="parquet", coco="false")[0] == 0
    table = pd.read_parquet(out / "predictions.parquet")
    assert list(table["input"].unique()) == ["b.jpg", "b.png"]
    assert {one.name for one in (out / "drawn").iterdir()} == {"b.jpg", "b.png.jpg"}
    assert not (out / "results.json").exists()


def test_a_video(capsys, film, tmp_path, model):
    out = tmp_path / "out"
    assert predicted(capsys, out, input=film, heatmaps="true")[0] == 0
    table = pd.read_csv(out / "predictions.csv")
    assert list(table["frame"].unique()) == list(range(12))
    frames = dict(VideoFile(film).frames())
    wanted = model.predict(frames[7])
    own = table[table["frame"] == 7]
    np.testing.assert_allclose(own[["x_img", "y_img"]], wanted.joints_img[0], rtol=1e-5)
    drawn = VideoFile(out / "drawn" / "film.mp4")
    assert drawn.fps == 20
    assert [number for number, _ in drawn.frames()] == list(range(12))
    assert np.load(out / "heatmaps" / "film.mp4" / "000007.npz")["maps"].shape[:2] == (1, JOINTS)
    images = json.loads((out / "images.json").read_text())["images"]
    assert [one["frame"] for one in images] == list(range(12))


def test_a_video_goes_on_where_it_was(capsys, film, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    predicted(capsys, whole, input=film)
    predicted(capsys, out, input=film)
    # As a kill leaves it: parts of the first frames alone.
    (part,) = (out / PARTS).iterdir()
    rows = pd.read_parquet(part)
    rows[rows["frame"] < 5].to_parquet(part)
    shutil.rmtree(out / "drawn")
    code, printed, _ = predicted(capsys, out, input=film)
    assert code == 0
    assert "(7 in" in printed
    one, other = (pd.read_csv(where / "predictions.csv") for where in (whole, out))
    pd.testing.assert_frame_equal(one, other, rtol=1e-4)  # batches begin elsewhere
    assert (out / "drawn" / "film.mp4").exists()


def test_a_broken_video_stops_nothing(capsys, film, photos, tmp_path):
    (photos / "broken.mp4").write_bytes(film.read_bytes()[:300])
    (photos / "empty.avi").write_bytes(b"")
    code, printed, told = predicted(capsys, tmp_path / "out", input=photos)
    assert code == 0
    assert "3 pictures" in printed
    assert "broken.mp4 is not readable" in told
    assert "empty.avi is not readable" in told


def test_boxes_by_name(capsys, photos, film, tmp_path, model):
    shutil.copy(film, photos / "film.mp4")
    box = [20, 10, 80, 120]
    given = {
        "a.jpg": [box, [60, 30, 90, 90]],
        "b.png": [],
        "c.jpg": [box],  # by the file's name alone
        "film.mp4": {"0": [box], "3": [box, box]},
    }
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(given))
    out = tmp_path / "out"
    assert predicted(capsys, out, input=photos, boxes=boxes)[0] == 0
    table = pd.read_csv(out / "predictions.csv")
    people = table.drop_duplicates(["input", "frame", "person"]).groupby("input").size()
    assert people.to_dict() == {"a.jpg": 2, "film.mp4": 3, "more/c.jpg": 1}
    wanted = model.predict(photos / "a.jpg", given["a.jpg"])
    own = table[table["input"] == "a.jpg"]
    np.testing.assert_allclose(own[["x_img", "y_img"]], wanted.joints_img.reshape(-1, 2), rtol=1e-5)
    assert sorted(one.name for one in (out / "drawn").rglob("*.*")) == [
        "a.jpg", "b.png.jpg", "c.jpg", "film.mp4",
    ]  # fmt: skip
    del given["b.png"]
    boxes.write_text(json.dumps(given))
    assert "has none for b.png" in predicted(capsys, tmp_path / "2", input=photos, boxes=boxes)[2]


def test_boxes_in_cocos_formats(capsys, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in (139, 285):
        shutil.copy(PHOTO, folder / f"{number:012d}.jpg")
    box = [20.0, 10.0, 80.0, 120.0]
    entries = [
        {"image_id": 139, "bbox": box, "score": 0.9, "category_id": 1},
        {"image_id": 139, "bbox": box, "score": 0.2, "category_id": 1},  # below min_box_score
        {"image_id": 285, "bbox": box, "score": 0.8, "category_id": 3},  # a car
        {"image_id": 285, "bbox": box, "score": 0.7, "category_id": 1},
    ]
    boxes = tmp_path / "detections.json"
    boxes.write_text(json.dumps(entries))
    assert predicted(capsys, tmp_path / "out", input=folder, boxes=boxes)[0] == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [one["image_id"] for one in results] == [139, 285]
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert sorted(table["box_score"].unique()) == [0.7, 0.9]
    images = [
        {"id": 7, "file_name": "000000000139.jpg"},
        {"id": 8, "file_name": "000000000285.jpg"},
    ]
    annotations = [{"image_id": 8, "bbox": box, "id": 1, "category_id": 1}]
    boxes.write_text(json.dumps({"images": images, "annotations": annotations}))
    assert predicted(capsys, tmp_path / "two", input=folder, boxes=boxes)[0] == 0
    results = json.loads((tmp_path / "two" / "results.json").read_text())
    assert [one["image_id"] for one in results] == [8]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("[1]", "entry 0 must have image_id"),
        ('[{"image_id": 1, "score": "x", "bbox": []}]', "entry 0 must have image_id"),
        ('{"images": [{"id": 1}]}', "needs an id and a file_name"),
        ("3", "must hold boxes by file name"),
        ("{", "boxes"),
        ('{"a.jpg": [[1, 2, 3]]}', "must be (N, 4)"),
        ('{"a.jpg": [[1, 2, "x", 4]]}', "must be numbers"),
        ('{"a.jpg": 3}', "has none for a.jpg"),
        ('{"a.jpg": [[900, 900, 10, 10]]}', "touches the picture"),
    ],
)
def test_boxes_that_are_none(capsys, photos, tmp_path, content, part):
    (tmp_path / "boxes.json").write_text(content)
    code, _, told = predicted(
        capsys, tmp_path / "out", input=photos / "a.jpg", boxes=tmp_path / "boxes.json"
    )
    assert code == 1
    assert part in told


def test_a_detector_with_weights_of_a_file(capsys, photos, tmp_path):
    """Weights that find people everywhere: what counts is that each box has a pose."""
    name = "ssdlite320_mobilenet_v3_large"
    torch.manual_seed(0)
    network = models.get_model(name, weights=None, weights_backbone=None)
    weights = network.state_dict()
    for name_of, tensor in weights.items():
        if "classification_head" in name_of and name_of.endswith("1.bias"):
            tensor[PERSON_CATEGORY::91] += 6  # every anchor a person
    torch.save(weights, tmp_path / "detector.pth")
    keys = {"input": photos / "a.jpg", "boxes": "detector", "detector": name}
    keys |= {"detector_weights": tmp_path / "detector.pth", "min_box_score": 0.01}
    code, printed, told = predicted(capsys, tmp_path / "out", **keys)
    assert (code, "1 picture," in printed) == (0, True), told
    detector = TorchvisionDetector(name, tmp_path / "detector.pth", 0.01, torch.device("cpu"))
    found = detector.of(Source(photos / "a.jpg", "a.jpg", False), None, as_rgb(photos / "a.jpg"))
    table = pd.read_csv(tmp_path / "out" / "predictions.csv").iloc[::JOINTS]
    assert len(table) == len(found.boxes_img) > 0
    np.testing.assert_allclose(table[["box_x", "box_y"]], found.boxes_img[:, :2], rtol=1e-5)
    np.testing.assert_allclose(table["box_score"], found.scores, rtol=1e-5)
    other = models.get_model(name, weights=None, weights_backbone=None, num_classes=5)
    torch.save(other.state_dict(), tmp_path / "detector.pth")
    code, _, told = predicted(capsys, tmp_path / "out2", **keys)
    assert code == 1
    assert "is it of COCO's 91 categories" in told
    keys["detector_weights"] = RUN / "checkpoints" / "last.ckpt"
    assert "is it that detector's state dict" in predicted(capsys, tmp_path / "out2", **keys)[2]
    keys["detector"] = "resnet18"
    assert "detector=resnet18 must be one of" in predicted(capsys, tmp_path / "out2", **keys)[2]


def test_values_that_do_not_fit(capsys, photos, tmp_path):
    for key, value in (("format", "xml"), ("batch_size", 0), ("device", "cuda:99"),
                       ("min_box_score", 2), ("draw", "perhaps"), ("inputs", "x")):  # fmt: skip
        code, _, told = predicted(capsys, tmp_path / "out", input=photos, **{key: value})
        assert (code, key in told, told.count("\n")) == (1, True, 1), (key, told)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_ctrl_c_and_on(tmp_path, film):
    """Stopped by SIGINT in the middle of many photos, the same command ends as one undisturbed."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(400):
        shutil.copy(PHOTO, folder / f"{number}.jpg")
    command = [sys.executable, "-m", "posematch", "predict", f"checkpoint={RUN}",
               f"input={folder}", f"output={tmp_path / 'out'}"]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, process_group=0,
                          preexec_fn=interruptible) as process:  # fmt: skip
        drawn = tmp_path / "out" / "drawn"
        while not drawn.exists() or len(list(drawn.iterdir())) < 50:
            time.sleep(0.05)
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the same command goes on" in told
    assert "Traceback" not in told
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "inputs are done already" in done.stdout
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 400 * JOINTS


def test_an_output_below_the_input_is_no_input(capsys, photos):
    for _ in range(2):
        code, printed, _ = predicted(capsys, photos / "out", input=photos)
        assert code == 0
        assert "3 pictures, 3 people" in printed
    assert not (photos / "out" / "drawn" / "out").exists()


def test_what_cannot_be_read_is_told_once(capsys, photos, tmp_path):
    (photos / "a.jpg").write_bytes(b"broken")
    for _ in range(3):
        told = predicted(capsys, tmp_path / "out", input=photos)[2]
        assert told.count("a.jpg") == 1
    assert len(pd.read_csv(tmp_path / "out" / "unreadable.csv")) == 1


def test_a_changed_video_is_drawn_again(capsys, film, tmp_path):
    own = Path(shutil.copy(film, tmp_path / "film.mp4"))
    assert predicted(capsys, tmp_path / "out", input=own)[0] == 0
    drawn = tmp_path / "out" / "drawn" / "film.mp4"
    before = drawn.read_bytes()
    code = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(own), cv2.CAP_FFMPEG, code, 20.0, (240, 200))
    for _ in range(5):
        writer.write(np.zeros((200, 240, 3), np.uint8))
    writer.release()
    assert predicted(capsys, tmp_path / "out", input=own)[0] == 0
    assert drawn.read_bytes() != before
    assert len(list(VideoFile(drawn).frames())) == 5


def test_a_video_that_is_cut_short_is_told(capsys, tmp_path):
    file = tmp_path / "film.avi"
    code = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(file), cv2.CAP_FFMPEG, code, 20.0, (64, 48))
    for shade in range(60):
        writer.write(np.full((48, 64, 3), 4 * shade, np.uint8))
    writer.release()
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    for _ in range(2):
        code, _, told = predicted(capsys, tmp_path / "out", input=file)
        assert code == 0
        assert "it may be cut short" in told


def test_nobody_is_noted_at_once(capsys, photos, tmp_path, monkeypatch):
    """Pictures without people do not wait for others: a stop leaves them in the parts."""
    monkeypatch.setattr("posematch.inference.predict._PART_ROWS", 1)
    (tmp_path / "boxes.json").write_text('{"a.jpg": [], "b.png": [], "c.jpg": []}')
    out = tmp_path / "out"
    assert predicted(capsys, out, input=photos, boxes=tmp_path / "boxes.json")[0] == 0
    assert len(list((out / PARTS).iterdir())) == 3
    assert json.loads((out / "results.json").read_text()) == []


def test_results_of_before_do_not_stay(capsys, photos, tmp_path):
    out = tmp_path / "out"
    only = photos / "a.jpg"
    assert predicted(capsys, out, input=only, format="parquet")[0] == 0
    only.write_bytes(b"broken")
    assert predicted(capsys, out, input=only)[0] == 1
    assert json.loads((out / "results.json").read_text()) == []
    assert not (out / "predictions.parquet").exists()


def test_a_deleted_drawing_is_made_again(capsys, photos, tmp_path):
    out = tmp_path / "out"
    predicted(capsys, out, input=photos)
    (out / "drawn" / "a.jpg").unlink()
    assert "2 of 3 inputs are done" in predicted(capsys, out, input=photos)[1]
    assert (out / "drawn" / "a.jpg").exists()


def test_a_photo_that_cannot_be_drawn_keeps_its_joints(capsys, photos, tmp_path):
    Image.new("RGB", (70000, 20)).save(photos / "long.png")
    code, printed, told = predicted(capsys, tmp_path / "out", input=photos)
    assert code == 0
    assert "4 pictures" in printed
    assert "is not drawn" in told
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "predict.json").write_text("{}")
    code, _, told = predicted(capsys, tmp_path / "two", input=photos)
    assert (code, told.count("\n")) == (1, 1)
    shutil.rmtree(tmp_path / "out" / "drawn")
    (tmp_path / "out" / "drawn").write_text("in the way")
    code, _, told = predicted(capsys, tmp_path / "out", input=photos)
    assert (code, "cannot be written" in told, told.count("\n")) == (1, True, 1)


def test_other_files_are_told(capsys, photos, tmp_path):
    (photos / "x.HEIC").write_bytes(b"")
    assert ".heic 1" in predicted(capsys, tmp_path / "out", input=photos)[1]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"film.mp4": {"boxes": [[1, 2, 3, 4]]}}, "no frame 'boxes'"),
        ({"film.mp4": {"12": [[1, 2, 3, 4]]}}, "no frame '12'"),
        ({"film.mp4": 3}, "has none for film.mp4"),
    ],
)
def test_frames_that_are_none(capsys, film, tmp_path, content, part):
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    code, _, told = predicted(
        capsys, tmp_path / "out", input=film, boxes=tmp_path / "boxes.json", draw="false"
    )
    assert code == 1
    assert part in told


def test_boxes_of_a_photo_are_a_list_and_of_one_photo(capsys, photos, tmp_path):
    (tmp_path / "boxes.json").write_text('{"a.jpg": {"0": [[1, 2, 30, 40]]}}')
    keys = {"input": photos / "a.jpg", "boxes": tmp_path / "boxes.json"}
    assert "has none for a.jpg" in predicted(capsys, tmp_path / "out", **keys)[2]
    shutil.copy(photos / "a.jpg", photos / "more" / "a.jpg")
    (tmp_path / "boxes.json").write_text('{"c.jpg": [], "b.png": [], "a.jpg": [[1, 2, 30, 40]]}')
    keys["input"] = photos
    assert predicted(capsys, tmp_path / "one", **keys)[0] == 0  # by its whole path
    (photos / "other").mkdir()
    (photos / "a.jpg").rename(photos / "other" / "a.jpg")
    assert "2 of the inputs are called" in predicted(capsys, tmp_path / "two", **keys)[2]


def test_a_detector_that_found_nobody(capsys, tmp_path):
    shutil.copy(PHOTO, tmp_path / "000000000785.jpg")
    box = {"image_id": 785, "bbox": [1, 2, 30, 40], "score": 0.3, "category_id": 1}
    for number, entries in enumerate(([box], [])):
        (tmp_path / "boxes.json").write_text(json.dumps(entries))
        code, printed, _ = predicted(
            capsys, tmp_path / f"out{number}", input=tmp_path / "000000000785.jpg",
            boxes=tmp_path / "boxes.json",
        )  # fmt: skip
        assert code == 0
        assert "1 picture, 0 people" in printed


def test_names_of_drawings_are_unlike(tmp_path):
    for name in ("a.jpg", "a.png", "a.png.jpg", "a.JPG", "b.avi", "b.mp4"):
        (tmp_path / name).touch()
    drawn = find_sources(str(tmp_path), tmp_path / "out").drawn
    assert len(set(drawn.values())) == 6
    assert drawn["a.jpg"] == "a.jpg"
