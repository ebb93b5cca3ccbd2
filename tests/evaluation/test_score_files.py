"""Prediction tables and COCO results written and scored again; damaged ones end in a sentence."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pandas as pd
import pytest
import torch
from compositions import composed
from pycocotools import coco as coco_api
from pycocotools.cocoeval import COCOeval

from posematch.data.coco import read_coco
from posematch.data.common_joints import common_joints, people_of
from posematch.data.mpii_truth import read_pckh_truth
from posematch.data.people import People
from posematch.errors import PosematchError
from posematch.evaluation.files import evaluate_predictions, evaluate_run
from posematch.evaluation.scores import Evaluation, score
from posematch.metrics.columns import FIGURES
from posematch.runs.predictions import PredictionTable
from posematch.skeletons import COCO, MPII, Skeleton
from posematch.training.gathering import PredictionStore
from posematch.training.run import train


@pytest.fixture(scope="module")
def people(shared_data):
    """The real validation people of the COCO mini set."""
    root = shared_data / "coco"
    file = root / "annotations" / "person_keypoints_val2017.json"
    return read_coco(file, root / "val2017", "valid", (256, 192))


def near_truth(people: People, spread: float, seed: int = 0) -> PredictionTable:
    """Predictions that miss by ``spread`` square roots of the area; of joints that nobody labelled
    from the middle of the box."""
    rng = np.random.default_rng(seed)
    chosen = sorted(people.people, key=lambda person: person.person_id)
    true_img = np.stack(
        [np.where(one.visible[:, None] > 0, one.joints_img, one.center_img) for one in chosen]
    )
    size_px = np.sqrt([person.area for person in chosen])[:, None, None]
    joints_img = true_img + spread * size_px * rng.standard_normal(true_img.shape)
    ids = np.array([person.person_id for person in chosen])
    scores = rng.uniform(0.1, 1, true_img.shape[:2])
    return PredictionTable.for_people(people, ids, joints_img, scores)


def by_pycocotools(annotation_file, results_file) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco_api.COCO(str(annotation_file))
        found = COCOeval(truth, truth.loadRes(str(results_file)), "keypoints")
        found.evaluate()
        found.accumulate()
        found.summarize()
    return [float(one) for one in found.stats]


def figures_of(folder, convention="rescored, OKS-NMS 0.9") -> list[float]:
    rows = json.loads((folder / "figures.json").read_text())["figures"]
    by_part = {row["part"]: row["value"] for row in rows if row["convention"] == convention}
    return [by_part[one] for one in FIGURES]


@pytest.mark.parametrize("spread", [0.02, 0.06])
def test_written_results_are_scored_alike_by_pycocotools(people, tmp_path, spread):
    """Against the data set's annotations, and against the copy that lies next to the results."""
    Evaluation("x", (score(people, near_truth(people, spread)),)).write(tmp_path)
    ours = figures_of(tmp_path)
    assert 0.1 < ours[0] < 1
    assert by_pycocotools(people.truth.annotation_file, tmp_path / "results.json") == ours
    assert by_pycocotools(tmp_path / "truth.json", tmp_path / "results.json") == ours
    again = evaluate_predictions(tmp_path / "predictions.parquet", "coco", tmp_path / "nowhere")
    assert [
        float(again.conventions.frame.query("part == @one").value.iloc[0]) for one in FIGURES
    ] == ours
    # What the official server refuses: other keys than these, numbers that are none.
    for entry in json.loads((tmp_path / "results.json").read_text()):
        assert entry.keys() == {"image_id", "category_id", "keypoints", "score"}
        assert len(entry["keypoints"]) == 51
        assert isinstance(entry["image_id"], int)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["gaussian_mse", "matching"])
def test_a_real_trainings_figures_are_pycocotools_own(shared_data, evaluate, tmp_path, loss):
    """Trained on the people it is scored on, so that there is something to find."""
    root = shared_data / "coco"
    cfg = composed(
        "train", "data=coco", f"data.root={root}", f"run_root={tmp_path / 'runs'}", f"loss={loss}",
        "backbone=small", "optimizer=adamw", "schedule=one_cycle", "measure=none",
        "augmentation/geometry=none", "data.input_size=[64,64]", "data.batch_size=16",
        "data.workers=0", "data.train_annotations=annotations/person_keypoints_val2017.json",
        "data.train_images=val2017", "trainer.accelerator=cpu", "trainer.max_epochs=25",
        "trainer.check_val_every_n_epoch=25", "pictures.every_n_epochs=0",
    )  # fmt: skip
    folder = train(cfg).folder.path
    evaluate(f"checkpoint={folder}", f"data.root={root}", f"output={tmp_path / 'out'}")
    ours = figures_of(tmp_path / "out")
    annotations = root / "annotations" / "person_keypoints_val2017.json"
    assert by_pycocotools(annotations, tmp_path / "out" / "results.json") == ours
    assert ours[0] > 0


def test_detector_and_annotated_boxes_stand_side_by_side(shared_data, run_of, evaluate, tmp_path):
    """The detector's file is named, and 118 of its boxes are scored where 12 are annotated."""
    folder = run_of("data.skeleton=coco")
    evaluation = evaluate(
        f"checkpoint={folder}", "data=coco", f"data.root={shared_data / 'coco_det'}",
        "data.valid_annotations=test_coco.json", "data.valid_images=.",
        "data.detections=test_coco_det_AP_H_56.json", f"output={tmp_path}", "data.workers=0",
    )  # fmt: skip
    boxes = list(dict.fromkeys(evaluation.conventions.frame.boxes))
    assert boxes == ["gt", "test_coco_det_AP_H_56.json"]
    assert "test_coco_det_AP_H_56.json" in (tmp_path / "table.md").read_text()
    counts = [len(part.table) for part in evaluation.parts]
    assert counts == [12, 118]
    files = {file.name for file in tmp_path.iterdir()}
    assert {"gt_results.json", "detector_results.json", "detector_predictions.parquet"} <= files


def test_perfect_joints_are_perfect_on_the_common_ones(people, tmp_path):
    """A network with MPII's joints in MPII's order, whose common ones are all right."""
    common = common_joints(MPII, COCO)
    assert common.skeleton.num_joints == 12
    assert [MPII.joints[k] for k in common.trained] == list(common.skeleton.joints)
    assert common.skeleton.oks_sigmas == COCO.oks_sigmas[5:]
    assert all(
        common.skeleton.joints[a].replace("left", "right") == common.skeleton.joints[b]
        for a, b in common.skeleton.flip_pairs
    )
    exact = near_truth(people, 0)
    joints_img = np.full((len(exact), 16, 2), -1e4)
    joints_img[:, list(common.trained)] = exact.joints_img[:, list(common.data)]
    scored = people_of(people, common, tmp_path)

    def table() -> PredictionTable:
        store = PredictionStore()
        ids, joints = torch.from_numpy(exact.person_ids), torch.from_numpy(joints_img)
        store.update(ids, joints, torch.ones(joints.shape[:2]))
        store.gather()
        return store.table(scored, joints=common.trained)

    part = score(scored, table())
    frame = part.conventions.frame
    kept = frame[frame.convention == "rescored, no suppression"]
    assert dict(zip(kept.part, kept.value, strict=True))["AP"] == 1
    # Two joints that change places are no longer right.
    swapped = list(common.trained)
    swapped[0], swapped[5] = swapped[5], swapped[0]
    joints_img[:, swapped] = exact.joints_img[:, list(common.data)]
    wrong = score(scored, table()).conventions.frame
    assert wrong[wrong.convention == "rescored, no suppression"].value.iloc[0] < 1


def test_pckh_of_common_joints_is_the_published_files_own(shared_data, tmp_path):
    """Columns of bearpaw's published predictions (data/README.md) stay what they are when only the
    12 joints are left: shoulders to ankles have all of theirs, the head has none."""
    from posematch.data.predictions import read_mpii_predictions

    truth = read_pckh_truth(shared_data / "mpii_full" / "annot" / "gt_valid.mat")
    joints_img = read_mpii_predictions(
        shared_data / "predictions" / "bearpaw-hg_s8_b1.mat", len(truth.joints_img)
    )
    common = common_joints(COCO, MPII)
    people = people_of(People("mpii", "valid", MPII, [], truth), common, tmp_path)
    from posematch.metrics.conventions import pckh_conventions

    frame = pckh_conventions(joints_img[:, list(common.data)], people.truth).frame
    of_05 = frame[frame.convention == "@0.5, <="]
    figures = dict(zip(of_05.part, of_05.value.round(2), strict=True))
    published = {"Shoulder": 95.19, "Elbow": 90.08, "Wrist": 85.32, "Hip": 87.48, "Knee": 84.26}
    assert published.items() <= figures.items()
    assert "Head" not in figures


def test_skeletons_without_a_common_joint():
    other = Skeleton("hand", ("thumb", "index"), (), (), (0, 1), ())
    with pytest.raises(PosematchError, match="no name in common"):
        common_joints(MPII, other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop(columns="true_x"), "has no column 'true_x'"),
        (lambda t: t.assign(x="far"), "column x of .* not numbers"),
        (lambda t: t.assign(y=np.nan), "NaN or infinite"),
        (lambda t: t.iloc[1:], "each person's joints in a row"),
        (lambda t: pd.concat([t, t]), "each person once"),
        (lambda t: t.iloc[:0], "each person's joints in a row"),
        (lambda t: t.drop(columns=["head_size_img"]), "needs COCO's annotations"),
    ],
)
def test_a_table_that_is_none(run_of, tmp_path, change, words):
    table = pd.read_parquet(next(run_of().glob("predictions/epoch=*")))
    change(table).to_parquet(tmp_path / "x.parquet", index=False)
    with pytest.raises(PosematchError, match=words):
        evaluate_predictions(tmp_path / "x.parquet", "mpii", tmp_path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(PosematchError, match="does not exist: a prediction table"):
        evaluate_predictions(tmp_path / "x.parquet", "mpii", tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no parquet PAR1")
    with pytest.raises(PosematchError, match="cannot be read as parquet"):
        evaluate_predictions(tmp_path / "x.parquet", "mpii", tmp_path)
    with pytest.raises(PosematchError, match="is no run folder"):
        evaluate_run(tmp_path)
    with pytest.raises(PosematchError, match="data=mpii or data=coco"):
        evaluate_predictions(tmp_path / "x.mat", "synthetic", tmp_path)


def test_output_that_cannot_be_made(people, tmp_path):
    (tmp_path / "file").write_text("")
    evaluation = Evaluation("x", (score(people, near_truth(people, 0.02)),))
    with pytest.raises(PosematchError, match=r"output=.* cannot be made"):
        evaluation.write(tmp_path / "file" / "below")
