"""``scripts/compare.py`` and what it is made of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from folders import make_run, pckh_figures, random_people, with_errors

from posematch.data.coco import read_coco
from posematch.errors import PosematchError
from posematch.metrics.coco_truth import coco_figures
from posematch.metrics.columns import FIGURES
from posematch.reports.compare import compare, write_comparison
from posematch.reports.people_pictures import save_people
from posematch.runs.predictions import PredictionTable
from posematch.runs.truth import write_truth
from posematch.statistics.sides import Truths, read_side, with_people

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "compare.py"
PEOPLE = random_people(photos=12)


def run(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *overrides],
        cwd=folder,
        env=os.environ | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def row(figures: pd.DataFrame, name: str) -> pd.Series:
    return figures.set_index("figure").loc[name]


def test_the_two_published_files(shared_data):
    """Count-weighted and plain means and the columns of data/README.md; neither needs photos."""
    files = shared_data / "predictions"
    truths = Truths(mpii=shared_data / "mpii_full" / "annot" / "gt_valid.mat")
    sides = [read_side([files / name], truths) for name in ("tompson.h5", "bearpaw-hg_s8_b1.mat")]
    comparison = compare(*sides, draws=200)
    figures = comparison.figures
    assert round(row(figures, "PCKh@0.5").a, 2) == 82.34
    assert round(row(figures, "PCKh@0.5").b, 2) == 89.09
    assert (figures["low"] < figures["difference"]).all()
    assert (figures["difference"] < figures["high"]).all()
    plain = row(figures, "PCKh@0.5(plain mean)")
    assert (round(plain.a, 2), round(plain.b, 2)) == (81.46, 88.64)
    columns = [96.79, 95.19, 90.08, 85.32, 87.48, 84.26, 80.73]
    names = ("Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle")
    assert [round(row(figures, f"PCKh@0.5/{name}").b, 2) for name in names] == columns
    # 2,958 people in fewer photos, which are what is resampled.
    assert "2729 photos (2958 people" in comparison.caption


@pytest.mark.slow
def test_the_script_on_the_two_published_files(shared_data, tmp_path):
    files = shared_data / "predictions"
    ended = run(
        tmp_path,
        f"a={files / 'tompson.h5'}",
        f"b={files / 'bearpaw-hg_s8_b1.mat'}",
        f"truth={shared_data / 'mpii_full' / 'annot' / 'gt_valid.mat'}",
        "output=out",
        "people=2",
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.startswith("The pictures are without photos")
    assert ended.stderr.count("\n") == 1
    assert "82.34 89.09 +6.76" in ended.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a_better.png",
        "b_better.png",
        "comparison.csv",
        "comparison.json",
        "comparison.md",
        "people.csv",
    ]


@pytest.fixture
def two_recipes(tmp_path):
    """Three seeds each; b is better by a fixed share of the error."""
    for seed in range(3):
        for loss, error in (("gaussian_mse", 0.5), ("matching", 0.35)):
            table = with_errors(PEOPLE, error, seed=seed)
            make_run(tmp_path / loss / str(seed), loss=loss, seed=seed, predictions={0: table})
    return tmp_path / "gaussian_mse", tmp_path / "matching"


def test_runs_of_several_seeds(two_recipes, tmp_path):
    a, b = (read_side([path], Truths()) for path in two_recipes)
    comparison = compare(a, b, draws=300)
    assert comparison.names == ("gaussian_mse (seeds 0, 1, 2)", "matching (seeds 0, 1, 2)")
    assert "over 3 seeds, paired" in comparison.caption
    found = row(comparison.figures, "PCKh@0.5/Wrist")
    for side, runs in ((found.a, a.runs), (found.b, b.runs)):
        assert side == pytest.approx(np.mean([r.figures["PCKh@0.5/Wrist"] for r in runs]))
    assert row(comparison.figures, "PCKh@0.5").low > 0
    # The same errors, smaller by a factor: everybody gains, by the same share of the error.
    assert (comparison.people["difference"] > 0).all()
    assert comparison.people["difference"].is_monotonic_decreasing
    assert len(comparison.people) == 24
    write_comparison(comparison, tmp_path / "out")
    read_back = pd.read_csv(tmp_path / "out" / "comparison.csv")
    pd.testing.assert_frame_equal(read_back, comparison.figures, rtol=1e-8)
    assert not list((tmp_path / "out").glob("*.partial"))


def test_sizes_are_thirds_of_the_heads(two_recipes):
    a, b = (read_side([path], Truths()) for path in two_recipes)
    figures = compare(a, b, draws=100).figures
    sized = figures[figures["part"] == "size"]["figure"].tolist()
    assert [name.split(",")[1].split()[0] for name in sized[::2]] == ["small", "medium", "large"]
    table = a.runs[0].last_predictions
    heads = table.head_size_img
    small = table.of_people(heads <= np.quantile(heads, 1 / 3)).frame()
    alone = compare(read_side([two_recipes[0] / "0"], Truths()), b, draws=100).figures
    assert alone.set_index("figure")["a"][sized[0]] == pytest.approx(
        pckh_figures(small)["PCKh@0.5"]
    )


def test_a_runs_table_is_compared_without_its_folder(two_recipes, tmp_path):
    moved = tmp_path / "moved" / "table.parquet"
    moved.parent.mkdir()
    (two_recipes[1] / "1" / "predictions" / "epoch=000.parquet").rename(moved)
    a, b = read_side([two_recipes[0] / "1"], Truths()), read_side([moved], Truths())
    assert row(compare(a, b, draws=100).figures, "PCKh@0.5").difference > 0


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        ({"config": {"backbone.name": "resnet50"}}, "backbone.name is small in one and resnet50"),
        ({"predictions": {0: random_people(photos=11)}}, "other people"),
        ({"protocol": "strictly less"}, "the protocols differ"),
    ],
)
def test_what_is_not_comparable_is_refused(two_recipes, tmp_path, spoil, told):
    make_run(tmp_path / "other", **({"predictions": {0: PEOPLE}} | spoil))
    a, b = read_side([two_recipes[0] / "0"], Truths()), read_side([tmp_path / "other"], Truths())
    with pytest.raises(PosematchError, match=told):
        compare(a, b)


def test_another_backbone_may_be_allowed(two_recipes, tmp_path):
    make_run(tmp_path / "o", predictions={0: PEOPLE}, config={"backbone.name": "resnet50"})
    a, b = read_side([two_recipes[0] / "0"], Truths()), read_side([tmp_path / "o"], Truths())
    assert row(compare(a, b, draws=100, may_differ=["backbone"]).figures, "PCKh@0.5").b == 100


def test_two_runs_of_one_seed_are_refused(two_recipes, tmp_path):
    make_run(tmp_path / "gaussian_mse" / "again", seed=0, predictions={0: PEOPLE})
    a, b = (read_side([path], Truths()) for path in two_recipes)
    with pytest.raises(PosematchError, match="two runs have the same seed"):
        compare(a, b)


def test_files_that_are_none_are_told(shared_data, tmp_path):
    (tmp_path / "x.txt").write_text("")
    (tmp_path / "x.parquet").write_text("no")
    pd.DataFrame({"person_id": [1]}).to_parquet(tmp_path / "y.parquet")
    results = shared_data / "predictions" / "coco_det_predictions.json"
    for paths, told in (
        ([tmp_path / "x.txt"], "ends in '.txt'"),
        ([tmp_path / "x.parquet"], "cannot be read as parquet"),
        ([tmp_path / "y.parquet"], "no column 'image_id'"),
        ([tmp_path / "x.txt", tmp_path / "x.parquet"], "or one prediction file"),
        ([tmp_path / "nothing"], "is no folder"),
        ([results], "name the annotations"),
        ([shared_data / "predictions" / "tompson.h5"], "name the folder of MPII"),
    ):
        with pytest.raises(PosematchError, match=told):
            read_side(paths, Truths())


def test_coco_results_are_compared_and_people_get_their_best_pose(shared_data, tmp_path):
    """The published poses against the same, each moved by 5 px: AP falls, ten figures each."""
    truth = shared_data / "coco_det" / "test_coco.json"
    file = shared_data / "predictions" / "coco_det_predictions.json"
    moved = json.loads(file.read_text())
    for pose in moved:
        pose["keypoints"] = [v + 5 * (i % 3 < 2) for i, v in enumerate(pose["keypoints"])]
    (tmp_path / "moved.json").write_text(json.dumps(moved))
    truths = Truths(coco=truth, coco_images=".")
    a, b = read_side([file], truths), read_side([tmp_path / "moved.json"], truths)
    comparison = compare(a, b, draws=200)
    for side, poses in (("a", json.loads(file.read_text())), ("b", moved)):
        expected = coco_figures(truth, poses)
        found = comparison.figures.set_index("figure").loc[list(FIGURES), side]
        assert found.to_dict() == pytest.approx(expected, abs=1e-12)
    assert row(comparison.figures, "AP").difference < 0
    assert row(comparison.figures, "AP").b_better < 0.5
    # 12 people with keypoints in data/README.md's table.
    assert len(comparison.people) == 12
    assert comparison.people["a"].mean() == pytest.approx(row(comparison.figures, "OKS").a)
    written = save_people(comparison, tmp_path, 3, shared_data / "coco_det")
    assert tmp_path / "a_better.png" in written
    picture = cv2.imread(str(tmp_path / "a_better.png"))
    assert len(np.unique(picture[40:200, 60:200].reshape(-1, 3), axis=0)) > 1000  # a photo


def test_a_detectors_boxes_are_compared_from_the_run_folder(shared_data, tmp_path):
    """Two runs on detector's boxes, whose rows are nobody's: AP as the metric, people by OKS."""
    truth = shared_data / "coco_det" / "test_coco.json"
    detections = shared_data / "coco_det" / "test_coco_det_AP_H_56.json"
    people = read_coco(truth, tmp_path, "valid", (256, 192), detections)
    ids = np.array([person.person_id for person in people.people])
    centers = np.stack([person.center_img for person in people.people])[:, None]
    for loss, spread in (("gaussian_mse", 5), ("matching", 20)):
        generator = np.random.default_rng(0)
        joints_img = centers + spread * generator.standard_normal((len(ids), 17, 2))
        table = PredictionTable.for_people(
            people, ids, joints_img, np.ones((len(ids), 17), np.float32)
        )
        path = make_run(
            tmp_path / loss, loss=loss, predictions={0: table}, metric="AP", figures={"AP": 0.0}
        )
        write_truth(path / "truth.json", people)
    a, b = (read_side([tmp_path / loss], Truths()) for loss in ("gaussian_mse", "matching"))
    assert not a.predictions[0].labelled.any()
    comparison = compare(a, b, draws=100)
    assert len(comparison.people) == 12
    assert set(FIGURES) <= set(comparison.figures["figure"])
    assert len(with_people(a.predictions[0])) == 12
    (tmp_path / "matching" / "truth.json").unlink()
    with pytest.raises(PosematchError, match=r"no truth\.json"):
        compare(a, read_side([tmp_path / "matching"], Truths()))


def test_pictures_stay_in_the_data_sets_folder(tmp_path, two_recipes):
    """A table may name any file; only photos below the root are shown, else grey."""
    (tmp_path / "root").mkdir()
    white = np.full((600, 600, 3), 255, np.uint8)
    cv2.imwrite(str(tmp_path / "secret.png"), white)
    cv2.imwrite(str(tmp_path / "root" / "photo.png"), white)
    pictures = {}
    for image in ("../secret.png", "photo.png"):
        sides = []
        for error in (0.5, 0.3):
            path = tmp_path / f"{error}-{Path(image).stem}.parquet"
            with_errors(PEOPLE, error).assign(image=image).to_parquet(path)
            sides.append(read_side([path], Truths()))
        comparison = compare(*sides, draws=100)
        save_people(comparison, tmp_path / "out", 1, tmp_path / "root")
        pictures[image] = cv2.imread(str(tmp_path / "out" / "b_better.png"))
    assert (pictures["../secret.png"] == 90).all(axis=2).mean() > 0.4
    assert (pictures["photo.png"] == 90).all(axis=2).mean() < 0.01


def test_the_script_compares_runs(two_recipes, tmp_path):
    a, b = two_recipes
    ended = run(tmp_path, f"a=[{a / '0'},{a / '1'}]", f"b={b}", "output=out", "draws=100")
    assert ended.returncode == 0, ended.stderr
    told = " ".join(ended.stdout.split())
    assert "two seeds are too few for an interval over seeds" in told
    assert "b - a low high better ± seeds" in told
    found = pd.read_csv(tmp_path / "out" / "comparison.csv")
    assert (found["seeds_std"] > 0).any()
    assert "| better | ± seeds |" in (tmp_path / "out" / "comparison.md").read_text()


@pytest.mark.slow
def test_the_script_refuses_in_a_sentence(tmp_path):
    ended = run(tmp_path, "a=nowhere", "b=nowhere")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "nowhere is no folder; name run folders, or a folder of runs.\n"
