"""The blocks of docs/your_data.md, run on exports as the tools write them, up to a training."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from posematch.data.annotations import skeleton_of
from posematch.data.coco import read_coco

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENT = (REPOSITORY / "docs" / "your_data.md").read_text()
BLOCKS = {
    re.match(r"# (\S+)", block).group(1): block  # type: ignore[union-attr]
    for block in re.findall(r"```(?:python|yaml)\n(.*?)```", DOCUMENT, re.DOTALL)
}
NAMES = ["ear_left", "ear_right", "tail"]
WIDTH, HEIGHT, FRAMES = 160, 120, 10
# Of each frame, pixel centres at integers; the tail of the first is not labelled.
PLACES = np.random.default_rng(0).uniform(20, 100, (FRAMES, 3, 2))


def run_block(name: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS[name]], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def write_photos(folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(FRAMES):
        pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3))
        cv2.imwrite(str(folder / f"img{number:03}.png"), pixels.astype(np.uint8))
    return [f"img{number:03}.png" for number in range(FRAMES)]


def label_studio(folder: Path) -> None:
    tasks = []
    for number, name in enumerate(write_photos(folder)):
        result = [
            {
                "original_width": WIDTH,
                "original_height": HEIGHT,
                "type": "keypointlabels",
                "value": {
                    "x": 100 * (x + 0.5) / WIDTH,
                    "y": 100 * (y + 0.5) / HEIGHT,
                    "width": 0.5,
                    "keypointlabels": [joint],
                },
            }
            for joint, (x, y) in zip(NAMES, PLACES[number], strict=True)
            if not (number == 0 and joint == "tail")
        ]
        tasks.append(
            {"data": {"image": f"/data/upload/1/{name}"}, "annotations": [{"result": result}]}
        )
    (folder / "label_studio.json").write_text(json.dumps(tasks))


def deeplabcut(folder: Path) -> None:
    video = folder / "labeled-data" / "dog1"
    names = write_photos(video)
    columns = pd.MultiIndex.from_product(
        [["me"], NAMES, ["x", "y"]], names=["scorer", "bodyparts", "coords"]
    )
    rows = pd.MultiIndex.from_tuples([("labeled-data", "dog1", name) for name in names])
    places = PLACES.reshape(FRAMES, 6).copy()
    places[0, 4:] = np.nan
    pd.DataFrame(places, rows, columns).to_csv(video / "CollectedData_me.csv")


@pytest.mark.parametrize(
    ("tool", "write"), [("label_studio", label_studio), ("deeplabcut", deeplabcut)]
)
def test_an_export_becomes_people(tmp_path: Path, tool: str, write) -> None:
    write(tmp_path)
    run_block(f"{tool}.py", tmp_path)
    run_block("split.py", tmp_path)
    found = {}
    for split in ("train", "valid"):
        file = tmp_path / f"{split}.json"
        skeleton = skeleton_of(file)
        assert skeleton.joints == tuple(NAMES)
        assert skeleton.flip_pairs == ((0, 1),)
        for person in read_coco(file, tmp_path, split, (64, 64), skeleton=skeleton).people:
            assert person.image.is_file()
            found[person.image.name] = person
    assert len(found) == FRAMES
    for number in range(FRAMES):
        person = found[f"img{number:03}.png"]
        labelled = [True, True, number > 0]
        assert (person.visible > 0).tolist() == labelled
        np.testing.assert_allclose(person.joints_img[labelled], PLACES[number][labelled], atol=1e-9)


@pytest.mark.slow
def test_to_the_first_curve(tmp_path: Path) -> None:
    """The document's commands, on DeepLabCut's export."""
    deeplabcut(tmp_path)
    run_block("deeplabcut.py", tmp_path)
    run_block("split.py", tmp_path)
    conf = tmp_path / "my_conf" / "data"
    conf.mkdir(parents=True)
    (conf / "mine.yaml").write_text(BLOCKS["@package"])
    commands = re.findall(r"^posematch (.*)$", DOCUMENT, re.MULTILINE)
    assert [one.split()[0] for one in commands] == ["check_data", "train", "report"]
    small = [
        "data.batch_size=2",
        "data.input_size=[64,64]",
        "trainer.max_epochs=2",
        "data.workers=0",
    ]
    for command in commands:
        words = command.split()
        more = small if words[0] == "train" else []
        done = subprocess.run(
            [sys.executable, "-m", "posematch", *words, *more], cwd=tmp_path, capture_output=True,
            text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        if words[0] == "train":
            told = done.stdout.splitlines()[0]
            assert told.startswith("train: 8 photos, 8 people (repaired: 8 boxes without a size")
            assert told.endswith("3 joints, 1 mirror pair.")
        if words[0] == "check_data":
            assert (tmp_path / "check.html").stat().st_size > 10_000
    (curves,) = [
        pd.read_csv(file)
        for file in tmp_path.glob("runs/*/metrics.csv")
        if len(pd.read_csv(file)) == 2
    ]
    assert curves["val/OKS"].between(0, 1).all()
    assert (tmp_path / "report.html").stat().st_size > 100_000
