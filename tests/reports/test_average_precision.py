"""AP of photos that count several times, against pycocotools on photos that lie there so often."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import make_run

from posematch.data.coco import read_coco
from posematch.data.people import OKSTruth, People
from posematch.data.predictions import read_coco_results
from posematch.errors import PosematchError
from posematch.metrics.coco_truth import coco_figures
from posematch.metrics.columns import FIGURES
from posematch.metrics.oks import COCOKeypointAP
from posematch.runs.finished import read_run
from posematch.runs.predictions import PredictionTable
from posematch.runs.truth import write_truth
from posematch.statistics.figures import of_photos
from posematch.statistics.intervals import figure_intervals, paired_intervals
from posematch.statistics.sides import matched


def scored(truth: Path, results: list[dict]) -> PredictionTable:
    """Results of a file: rows are the annotated people, AP is of all poses."""
    return matched("a file", results, truth)


def repeated(annotation_file: Path, results: list[dict], times: dict[int, int], to: Path):
    """An annotation file and results in which each photo lies as often as ``times`` says."""
    truth = json.loads(annotation_file.read_text())
    content = {"images": [], "annotations": [], "categories": truth["categories"]}
    copied, number = [], 0
    for image in sorted(truth["images"], key=lambda one: one["id"]):
        for _ in range(times.get(image["id"], 0)):
            number += 1
            content["images"].append(image | {"id": number})
            for one in truth["annotations"]:
                if one["image_id"] == image["id"]:
                    own = {"image_id": number, "id": len(content["annotations"]) + 1}
                    content["annotations"].append(one | own)
            copied += [
                one | {"image_id": number} for one in results if one["image_id"] == image["id"]
            ]
    to.write_text(json.dumps(content))
    return to, copied


def jittered(annotation_file: Path, seed: int) -> list[dict]:
    """Annotated people, displaced by anything from nothing to their size; and some that are not."""
    generator = np.random.default_rng(seed)
    results = []
    for one in json.loads(annotation_file.read_text())["annotations"]:
        for _ in range(generator.integers(3)):
            keypoints = np.array(one["keypoints"], dtype=np.float64).reshape(17, 3)
            error = np.sqrt(one["area"]) * generator.choice([0.02, 0.1, 1.0])
            keypoints[:, :2] += error * generator.standard_normal((17, 2))
            results.append(
                {
                    "image_id": one["image_id"],
                    "category_id": 1,
                    "keypoints": keypoints.ravel().tolist(),
                    "score": float(generator.random()),
                }
            )
    return results


def test_published_predictions_give_pycocotools_figures(shared_data):
    """data/README.md's figures, and every other one of COCOeval's, to 1e-12."""
    truth = shared_data / "coco_det" / "test_coco.json"
    results = read_coco_results(shared_data / "predictions" / "coco_det_predictions.json")
    one = scored(truth, results)
    found = dict(zip(FIGURES, of_photos(one, FIGURES)(np.ones((1, 4)))[0], strict=True))
    assert found == pytest.approx(coco_figures(truth, results), abs=1e-12)
    assert round(found["AP"], 3) == 0.861


@pytest.mark.parametrize("seed", range(3))
def test_multiplicities_are_repeated_photos(shared_data, tmp_path, seed):
    """All ten figures of random draws of COCO's mini validation set, to 1e-12."""
    truth = shared_data / "coco" / "annotations" / "person_keypoints_val2017.json"
    results = jittered(truth, seed)
    one = scored(truth, results)
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(len(one.photos), [1 / len(one.photos)] * len(one.photos), 4)
    weights[0] = 1
    found = of_photos(one, FIGURES)(weights.astype(np.float64))
    for draw, values in zip(weights, found, strict=True):
        times = dict(zip(one.photos.tolist(), draw.tolist(), strict=True))
        expected = coco_figures(*repeated(truth, results, times, tmp_path / "repeated.json"))
        assert dict(zip(FIGURES, values, strict=True)) == pytest.approx(expected, abs=1e-12)


def test_draws_without_a_large_person_are_nan_and_photos_without_poses_count(shared_data):
    truth = shared_data / "coco_det" / "test_coco.json"
    one = scored(truth, [])
    assert of_photos(one, ["AP", "AR"])(np.ones((1, 4))).tolist() == [[0, 0]]
    assert np.isnan(of_photos(one, ["AP", "AR(L)"])(np.zeros((1, 4)))).all()


@pytest.fixture(scope="module")
def coco_run(shared_data, tmp_path_factory):
    """A run folder of COCO's mini validation set, and the metric's own figures."""
    root = shared_data / "coco"
    annotations = root / "annotations" / "person_keypoints_val2017.json"
    people = read_coco(annotations, root / "val2017", "valid", (256, 192))
    generator = np.random.default_rng(0)
    ids = np.array(sorted(person.person_id for person in people.people))
    by_id = {person.person_id: person for person in people.people}
    size = np.sqrt([by_id[i].area for i in ids])[:, None, None]
    joints_img = np.stack([by_id[i].joints_img for i in ids])
    joints_img = joints_img + 0.05 * size * generator.standard_normal(joints_img.shape)
    scores = generator.random(joints_img.shape[:2]).astype(np.float32)
    metric = COCOKeypointAP(people)
    metric.update(torch.tensor(ids), torch.tensor(joints_img), torch.tensor(scores))
    path = make_run(
        tmp_path_factory.mktemp("runs") / "coco",
        predictions={0: PredictionTable.for_people(people, ids, joints_img, scores)},
        metric="AP",
        figures=metric.compute(),
    )
    write_truth(path / "truth.json", people)
    return read_run(path)


def test_ap_is_recomputed_from_the_run_folder_alone(coco_run):
    """The ten figures of the training's own metric, to 1e-12."""
    one = coco_run.last_predictions
    found = of_photos(one, FIGURES)(np.ones((1, len(one.photos))))[0]
    assert dict(zip(FIGURES, found, strict=True)) == pytest.approx(coco_run.figures, abs=1e-12)
    assert 0.05 < coco_run.figures["AP"] < 0.95


def test_intervals_of_ap(coco_run):
    found = figure_intervals([coco_run], ["AP", "AP(L)", "OKS"], draws=200)
    assert found["AP"].low < coco_run.figures["AP"] < found["AP"].high
    with_itself = paired_intervals([coco_run], [coco_run], ["AP"], draws=50)["AP"]
    assert (with_itself.value, with_itself.low, with_itself.high) == (0, 0, 0)
    assert with_itself.better == 0.5


def test_truth_of_held_out_photos_and_of_a_detectors_boxes(shared_data, tmp_path):
    """Only scored photos are in it, all their annotations, and a box for each detection."""
    annotations = shared_data / "coco_det" / "test_coco.json"
    detections = shared_data / "coco_det" / "test_coco_det_AP_H_56.json"
    people = read_coco(annotations, tmp_path, "valid", (256, 192), detections)
    assert isinstance(people.truth, OKSTruth)
    fewer = OKSTruth(annotations, people.truth.image_ids[:2], "d.json", people.skeleton)
    write_truth(
        tmp_path / "truth.json", People("coco", "valid", people.skeleton, people.people, fewer)
    )
    written = json.loads((tmp_path / "truth.json").read_text())
    original = json.loads(annotations.read_text())["annotations"]
    assert [one["id"] for one in written["images"]] == list(fewer.image_ids)
    assert [one["id"] for one in written["annotations"]] == [
        one["id"] for one in original if one["image_id"] in fewer.image_ids
    ]
    assert len(written["posematch_people"]) == len(people.people)
    assert "segmentation" not in written["annotations"][0]
    assert not list(tmp_path.glob("*.partial"))


def test_what_is_missing_is_told(coco_run, shared_data, tmp_path):
    with pytest.raises(PosematchError, match=r"no truth\.json"):
        of_photos(replace(coco_run.last_predictions, truth_file=None), ["AP"])
    other = shared_data / "coco_det" / "test_coco.json"
    with pytest.raises(PosematchError, match="coco: image 139 is not in"):
        of_photos(replace(coco_run.last_predictions, truth_file=other), ["AP"])
    results = jittered(shared_data / "coco/annotations/person_keypoints_val2017.json", 0)
    with pytest.raises(PosematchError, match="a file: image"):
        scored(other, results)
