"""OKS, its suppression, rescoring and COCO's AP by docs/protocols.md, COCO scoring."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import coco as coco_api
from pycocotools.cocoeval import COCOeval

from posematch.data.people import OKSTruth, People, Person
from posematch.data.predictions import read_coco_results
from posematch.errors import PosematchError
from posematch.metrics import metric_for
from posematch.metrics.coco_truth import coco_figures
from posematch.metrics.columns import FIGURES
from posematch.metrics.oks import COCOKeypointAP
from posematch.metrics.suppression import oks, oks_nms, rescore
from posematch.metrics.tables import figures_table
from posematch.skeletons import COCO, MPII

K = COCO.num_joints
SIGMAS = COCO.oks_sigmas


def test_oks_of_hrnet(hrnet_fixtures: Mapping[str, NDArray[Any]]) -> None:
    keypoints, areas = hrnet_fixtures["nms_keypoints"], hrnet_fixtures["nms_areas"]
    ours = oks(keypoints[0, :, :2], keypoints[..., :2], areas[0], areas, SIGMAS)
    # exp() of an exponent of up to 700 carries 700 times its rounding; below 1e-300 nothing counts.
    np.testing.assert_allclose(ours, hrnet_fixtures["oks_of_first_with_all"], rtol=1e-12, atol=0)


@pytest.mark.parametrize(("threshold", "key"), [(0.9, "thr_0_9"), (0.5, "thr_0_5")])
def test_suppression_of_hrnet(
    hrnet_fixtures: Mapping[str, NDArray[Any]], threshold: float, key: str
) -> None:
    kept = oks_nms(
        hrnet_fixtures["nms_keypoints"],
        hrnet_fixtures["nms_scores"],
        hrnet_fixtures["nms_areas"],
        SIGMAS,
        threshold,
    )
    np.testing.assert_array_equal(kept, hrnet_fixtures[f"nms_keep_{key}"])


def test_oks_by_hand() -> None:
    """One joint of 17 is off by d = 2 sigma sqrt(2 area), so that its exponent is 1."""
    joints_a = np.zeros((K, 2))
    joints_b = joints_a.copy()
    area = (100.0 + 300.0) / 2
    joints_b[3, 0] = 2 * SIGMAS[3] * np.sqrt(2 * area)
    expected = (16 + np.exp(-1)) / 17
    assert oks(joints_a, joints_b, 100.0, 300.0, SIGMAS) == pytest.approx(expected, rel=1e-14)
    assert oks(joints_a, joints_a, 100.0, 300.0, SIGMAS) == 1.0


def test_suppression_keeps_what_equals_the_threshold() -> None:
    """Twins have an OKS of exactly 1: above 0.9, not above 1."""
    keypoints = np.zeros((2, K, 2))
    scores, areas = np.array([0.3, 0.8]), np.array([50.0, 50.0])
    assert oks_nms(keypoints, scores, areas, SIGMAS, 0.9).tolist() == [1]
    assert oks_nms(keypoints, scores, areas, SIGMAS, 1.0).tolist() == [1, 0]
    assert oks_nms(keypoints[:0], scores[:0], areas[:0], SIGMAS).tolist() == []


def test_rescoring_by_hand() -> None:
    """Joints at 0.2 do not count (`>`); with none above it the score is 0, not NaN."""
    joint_scores = np.array([[0.2, 0.4, 0.8], [0.1, 0.2, 0.0]])
    scores = rescore(np.array([0.5, 0.9]), joint_scores)
    np.testing.assert_allclose(scores, [0.5 * (0.4 + 0.8) / 2, 0.0], rtol=1e-15)


def pycocotools_figures(annotation_file: Path, results: list[dict[str, Any]]) -> list[float]:
    """COCOeval as its own demo runs it."""
    with redirect_stdout(StringIO()):
        truth = coco_api.COCO(str(annotation_file))
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(figure) for figure in evaluation.stats]


def test_published_figures(shared_data: Path) -> None:
    annotation_file = shared_data / "coco_det" / "test_coco.json"
    results = read_coco_results(shared_data / "predictions" / "coco_det_predictions.json")
    before = copy.deepcopy(results)
    figures = coco_figures(annotation_file, results)
    published = {  # data/README.md, three decimals
        "AP": 0.861,
        "AP50": 0.993,
        "AP75": 0.911,
        "AP(M)": 0.776,
        "AP(L)": 0.937,
        "AR": 0.875,
    }
    for name, figure in published.items():
        assert figures[name] == pytest.approx(figure, abs=0.0005001), name
    assert list(figures.values()) == pycocotools_figures(annotation_file, results)
    assert list(figures) == list(FIGURES)
    assert results == before  # pycocotools writes into what it is given; we give it a copy


def test_some_photos_only(shared_data: Path) -> None:
    """Photos that are left out change nothing: as if neither file had them."""
    annotation_file = shared_data / "coco_det" / "test_coco.json"
    results = read_coco_results(shared_data / "predictions" / "coco_det_predictions.json")
    photo = results[0]["image_id"]
    of_photo = [result for result in results if result["image_id"] == photo]
    some = coco_figures(annotation_file, results, [photo])
    assert some == coco_figures(annotation_file, of_photo, [photo])
    assert some != coco_figures(annotation_file, results)


def annotation_entry(
    annotation_id: int, image_id: int, keypoints: NDArray[np.float64], side_px: float
) -> dict[str, Any]:
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "num_keypoints": K,
        "keypoints": np.concatenate([keypoints, np.full((K, 1), 2.0)], axis=1).ravel().tolist(),
        "area": side_px**2,
        "bbox": [*keypoints.min(axis=0).tolist(), side_px, side_px],
    }


def make_people(folder: Path, sides_px: list[float], per_photo: int = 3) -> People:
    """Random people in photos of a few, with annotated boxes and random box scores."""
    random = np.random.default_rng(0)
    entries, people = [], []
    for index, side_px in enumerate(sides_px):
        keypoints = random.uniform(0, side_px, (K, 2)) + 1000 * (index % per_photo)
        image_id, annotation_id = index // per_photo + 5, 1000 - 7 * index
        entries.append(annotation_entry(annotation_id, image_id, keypoints, side_px))
        people.append(
            Person(
                person_id=annotation_id,
                image_id=image_id,
                image=Path(f"{image_id}.jpg"),
                center_img=keypoints.mean(axis=0),
                box_size_img=np.array([1.25 * side_px, 1.25 * side_px]),
                joints_img=keypoints,
                visible=np.ones(K, dtype=np.float32),
                occluded=np.zeros(K, dtype=np.bool_),
                box_score=float(random.uniform(0.5, 1)),
                area=side_px**2,
            )
        )
    image_ids = tuple(sorted({person.image_id for person in people}))
    annotation_file = folder / "person_keypoints.json"
    annotation_file.write_text(
        json.dumps(
            {
                "images": [{"id": image_id} for image_id in image_ids],
                "categories": [{"id": 1, "name": "person"}],
                "annotations": entries,
            }
        )
    )
    truth = OKSTruth(annotation_file, image_ids, "gt", COCO)
    return People("hand-made", "val", COCO, people, truth)


Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def predict(people: People, noise: float = 0.1) -> Batch:
    """Ids, joints off by noise times the size of the person, scores."""
    random = np.random.default_rng(1)
    joints_img = np.stack([person.joints_img for person in people.people])
    size_px = np.array([np.sqrt(person.area) for person in people.people])[:, None, None]
    joints_img = joints_img + noise * size_px * random.normal(size=joints_img.shape)
    return (
        torch.tensor([person.person_id for person in people.people]),
        torch.from_numpy(joints_img),
        torch.from_numpy(random.uniform(0, 1, joints_img.shape[:2])),
    )


def score(metric: COCOKeypointAP, batch: Batch, rows: Any) -> None:
    metric.update(*(tensor[rows] for tensor in batch))


MIXED_SIDES_PX = [60.0, 70.0, 80.0, 150.0, 200.0, 250.0, 50.0, 300.0]


def test_perfect_predictions_give_one(tmp_path: Path) -> None:
    people = make_people(tmp_path, MIXED_SIDES_PX)
    metric = metric_for(people)
    assert isinstance(metric, COCOKeypointAP)
    score(metric, predict(people, noise=0.0), slice(None))
    figures = metric.compute()
    assert list(figures) == list(FIGURES)
    # COCOeval divides by the number of precisions plus spacing(1), so 1 is reached but for a few
    # units of float64's last place.
    assert list(figures.values()) == pytest.approx([1.0] * 10, abs=1e-14)


def test_metric_is_pycocotools_on_its_results(tmp_path: Path) -> None:
    people = make_people(tmp_path, MIXED_SIDES_PX)
    metric = COCOKeypointAP(people)
    score(metric, predict(people), slice(None))
    figures = metric.compute()
    assert isinstance(people.truth, OKSTruth)
    expected = pycocotools_figures(people.truth.annotation_file, metric.results())
    assert list(figures.values()) == expected
    assert 0 < figures["AP"] < 1


def test_results_are_what_the_server_takes(tmp_path: Path) -> None:
    """Scores are box times mean of joints above 0.2; results can be written and read back."""
    people = make_people(tmp_path, MIXED_SIDES_PX)
    ids, joints_img, joint_scores = predict(people)
    metric = COCOKeypointAP(people)
    metric.update(ids, joints_img, joint_scores)
    results = metric.results()
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results))
    assert read_coco_results(file) == results

    by_score = {result["score"]: result for result in results}
    assert len(by_score) == len(people.people)
    for person, joints, scores in zip(people.people, joints_img, joint_scores, strict=True):
        expected = person.box_score * float(scores[scores > 0.2].mean())
        nearest = min(by_score, key=lambda score: abs(score - expected))
        assert nearest == pytest.approx(expected, rel=1e-14)
        assert by_score[nearest]["image_id"] == person.image_id
        keypoints = np.array(by_score[nearest]["keypoints"]).reshape(K, 3)
        np.testing.assert_array_equal(keypoints[:, :2], joints)
        np.testing.assert_array_equal(keypoints[:, 2], scores)


def test_integers_beyond_64_bits_are_numbers(tmp_path: Path) -> None:
    """Of which numpy makes objects, in results as in annotations."""
    people = make_people(tmp_path, MIXED_SIDES_PX)
    truth = people.truth
    assert isinstance(truth, OKSTruth)
    metric = COCOKeypointAP(people)
    metric.update(*predict(people))
    results = metric.results()
    results[0]["keypoints"][0] = 2**70
    (tmp_path / "results.json").write_text(json.dumps(results))
    content = json.loads(truth.annotation_file.read_text())
    content["annotations"][0]["keypoints"][0] = content["annotations"][1]["area"] = 2**70
    (tmp_path / "other.json").write_text(json.dumps(content))
    figures = coco_figures(tmp_path / "other.json", read_coco_results(tmp_path / "results.json"))
    assert 0 < figures["AP"] < 1


def test_near_duplicates_are_suppressed_within_a_photo_only(tmp_path: Path) -> None:
    """Everybody is predicted on the same spot: the best of each photo stays."""
    people = make_people(tmp_path, [100.0] * 6, per_photo=3)
    ids = torch.tensor([person.person_id for person in people.people])
    scores = torch.linspace(0.5, 0.9, 6)[:, None].expand(6, K)
    metric = COCOKeypointAP(people)
    metric.update(ids, torch.zeros(6, K, 2), scores)
    best = np.array([person.box_score for person in people.people]) * scores[:, 0].numpy()
    kept = [result["score"] for result in metric.results()]
    # float32 scores went in
    assert kept == pytest.approx([best[:3].max(), best[3:].max()], rel=1e-6)


@settings(max_examples=15, deadline=None)
@given(
    order=st.permutations(range(8)),
    cuts=st.sets(st.integers(1, 7)),
    processes=st.integers(1, 3),
)
def test_order_batches_and_processes_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], cuts: set[int], processes: int
) -> None:
    people = make_people(tmp_path_factory.mktemp("coco"), MIXED_SIDES_PX)
    ids, joints_img, scores = predict(people)
    scores[:] = scores[0]  # ties, which must be broken alike
    batch = (ids, joints_img, scores)
    whole = COCOKeypointAP(people)
    score(whole, batch, slice(None))

    parts = [COCOKeypointAP(people) for _ in range(processes)]
    for position, rows in enumerate(np.split(np.array(order), sorted(cuts))):
        score(parts[position % processes], batch, torch.from_numpy(rows))
    merged = parts[0]
    for part in parts[1:]:
        merged.merge_state(part)
    assert merged.results() == whole.results()
    assert merged.compute() == whole.compute()


def test_half_precision_modules_do_not_touch_the_figures(tmp_path: Path) -> None:
    people = make_people(tmp_path, MIXED_SIDES_PX)
    holder = torch.nn.Module()
    holder.metric = COCOKeypointAP(people)
    holder.to(torch.bfloat16)
    score(holder.metric, predict(people), slice(None))
    plain = COCOKeypointAP(people)
    score(plain, predict(people), slice(None))
    assert holder.metric.results() == plain.results()


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_no_detections_give_zeros_quietly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people = make_people(tmp_path, MIXED_SIDES_PX)
    assert COCOKeypointAP(people).compute() == dict.fromkeys(FIGURES, 0.0)
    assert capsys.readouterr().out == ""


def test_sizes_that_nobody_has_are_left_out(tmp_path: Path) -> None:
    """Only large people (area above 96^2): AP(M) would be -1, which is no fraction."""
    people = make_people(tmp_path, [200.0, 300.0])
    metric = COCOKeypointAP(people)
    score(metric, predict(people), slice(None))
    assert set(metric.compute()) == set(FIGURES) - {"AP(M)", "AR(M)"}


def test_a_person_counts_once(tmp_path: Path) -> None:
    people = make_people(tmp_path, MIXED_SIDES_PX)
    batch = predict(people)
    metric = COCOKeypointAP(people)
    with pytest.raises(ValueError, match="scored twice"):
        score(metric, batch, [0, 0])
    score(metric, batch, [0, 1])
    with pytest.raises(ValueError, match="scored twice"):
        score(metric, batch, [1, 2])
    other = COCOKeypointAP(people)
    score(other, batch, [1])
    metric.merge_state(other)
    with pytest.raises(ValueError, match="more than one process"):
        metric.compute()


def test_wrong_batches_and_people_raise(tmp_path: Path) -> None:
    people = make_people(tmp_path, MIXED_SIDES_PX)
    ids, joints_img, scores = predict(people)
    metric = COCOKeypointAP(people)
    with pytest.raises(ValueError, match="person id 1"):
        metric.update(torch.tensor([1]), joints_img[:1], scores[:1])
    with pytest.raises(ValueError, match="scores"):
        metric.update(ids, joints_img, scores[:, :-1])
    with pytest.raises(PosematchError, match="NaN"):
        metric.update(ids, joints_img, scores * torch.nan)
    with pytest.raises(ValueError, match="same id"):
        COCOKeypointAP(People("twins", "val", COCO, [*people.people[:1]] * 2, people.truth))
    assert isinstance(people.truth, OKSTruth)
    without_sigmas = OKSTruth(people.truth.annotation_file, (5,), "gt", MPII)
    with pytest.raises(ValueError, match="no OKS sigmas"):
        COCOKeypointAP(People("mpii", "val", MPII, [], without_sigmas))


def test_bad_files_are_told(tmp_path: Path) -> None:
    people = make_people(tmp_path, MIXED_SIDES_PX)
    assert isinstance(people.truth, OKSTruth)
    annotation_file = people.truth.annotation_file
    stranger = {"image_id": 77, "category_id": 1, "keypoints": [0.0] * 51, "score": 1.0}
    with pytest.raises(PosematchError, match="image 77 is not in"):
        coco_figures(annotation_file, [stranger])
    with pytest.raises(PosematchError, match="does not exist"):
        coco_figures(tmp_path / "absent.json", [])

    content = json.loads(annotation_file.read_text())
    for entry in content["annotations"]:
        entry["keypoints"] = [0] * 51
    (tmp_path / "nobody.json").write_text(json.dumps(content))
    with pytest.raises(PosematchError, match="none of the 3 scored photos"):
        coco_figures(tmp_path / "nobody.json", [])

    del content["annotations"][1]["keypoints"]
    boxes_only = tmp_path / "instances.json"
    for text in (json.dumps(content), "[]", "{}", '{"annotations": [1]}', "3"):
        boxes_only.write_text(text)
        with pytest.raises(
            PosematchError, match=r"has a person with labelled joints|COCO annotations"
        ):
            coco_figures(boxes_only, [])


def test_truth_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    people = make_people(tmp_path, MIXED_SIDES_PX)
    for _ in range(2):
        metric = COCOKeypointAP(people)
        score(metric, predict(people), slice(None))
        metric.compute()
        monkeypatch.setattr(
            "posematch.data.annotations.read_json", None
        )  # a second read would fail


def test_table_shows_the_figures() -> None:
    table = figures_table({"last": {"AP": 0.5, "AR": 0.625}}, "title", "the protocol")
    cells = [next(iter(column.cells)) for column in table.columns]
    assert [column.header for column in table.columns] == list(FIGURES)
    assert cells == ["0.500", *"----", "0.625", *"----"]
    assert table.caption == "the protocol"
