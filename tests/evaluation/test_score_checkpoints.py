"""A checkpoint's figures are its run's; what the command says wins; other people's weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from compositions import REPOSITORY

from posematch.errors import PosematchError
from posematch.evaluation.files import evaluate_predictions, evaluate_run
from posematch.networks.checkpoints import load_weights, save_weights
from posematch.networks.heatmap_network import HeatmapNetwork

COCO = ("data.skeleton=coco",)


def value(evaluation, convention, part, boxes=""):
    frame = evaluation.conventions.frame
    rows = frame[(frame.convention == convention) & (frame.part == part) & (frame.boxes == boxes)]
    assert len(rows) == 1
    return float(rows.value.iloc[0])


@pytest.mark.parametrize(
    ("overrides", "convention", "boxes"),
    [((), "@0.5, <=", ""), (COCO, "rescored, OKS-NMS 0.9", "gt")],
)
def test_a_runs_checkpoint_gives_the_runs_figures(
    run_of, evaluate, tmp_path, overrides, convention, boxes
):
    """And the run folder, and the parquet that the evaluation writes, score the same."""
    folder = run_of(*overrides)
    evaluation = evaluate(f"checkpoint={folder}", f"output={tmp_path}")
    result = json.loads((folder / "result.json").read_text())
    part = {"": "Mean", "gt": "AP"}[boxes]
    expected = pytest.approx(result["figures"]["last"][result["metric"]], abs=1e-9)
    assert value(evaluation, convention, part, boxes) == expected
    written = tmp_path / "predictions.parquet"
    pd.testing.assert_frame_equal(
        pd.read_parquet(written), pd.read_parquet(next(folder.glob("predictions/epoch=*")))
    )
    for other in (evaluate_run(folder), evaluate_predictions(written, "", tmp_path)):
        assert value(other, convention, part, boxes) == expected
    assert "GFLOPs at 64 x 64 as published" in (tmp_path / "table.md").read_text()
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert len(figures["breakdowns"]["joint"]) in (16, 17)
    assert {"value": evaluation.conventions.frame.value[0]}.items() <= figures["figures"][0].items()


def test_a_checkpoint_alone_is_scored_as_in_its_run(run_of, evaluate, tmp_path):
    """Away from its run folder: the data alone are told, and what the command says wins."""
    folder = run_of()
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes((folder / "checkpoints" / "last.ckpt").read_bytes())
    data = ("data=synthetic", "data.spec.train_photos=8", "data.spec.valid_photos=6",
            "data.workers=0", "data.batch_size=4")  # fmt: skip
    evaluation = evaluate(f"checkpoint={alone}", *data)
    with_run = evaluate(f"checkpoint={folder}")
    pd.testing.assert_frame_equal(
        evaluation.parts[0].table.frame(), with_run.parts[0].table.frame()
    )
    assert any("crops of 64 x 64" in note for note in evaluation.notes)
    other = evaluate(f"checkpoint={alone}", *data, "decoder=argmax", "flip_test=false")
    assert any("decoder Argmax, no flip test" in note for note in other.notes)


def test_the_command_wins_over_the_run(run_of, evaluate):
    folder = run_of()
    evaluation = evaluate(f"checkpoint={folder}", "decoder=argmax", "flip_test=false")
    assert any("decoder Argmax, no flip test" in note for note in evaluation.notes)
    quantised = evaluation.parts[0].table.frame()
    shifted = evaluate(f"checkpoint={folder}", "decoder=quarter_offset", "flip_test=false")
    # A quarter of 4 crop pixels along each axis, where it applies; the box's scale on top.
    error = shifted.parts[0].table.frame()[["x", "y"]] - quantised[["x", "y"]]
    scale = quantised.box_width / 64
    assert set(np.round(error.x.abs() / scale, 3)) == {0.0, 1.0}


@pytest.mark.parametrize("direction", ["mpii to coco", "coco to mpii"])
def test_across_data_sets_common_joints_are_scored(run_of, evaluate, tmp_path, direction):
    trained, _, data = direction.split()
    folder = run_of(*(COCO if trained == "coco" else ()))
    evaluation = evaluate(
        f"checkpoint={folder}", "data=synthetic", f"data.skeleton={data}", f"output={tmp_path}"
    )
    (part,) = evaluation.parts
    assert part.table.frame().joint.nunique() == 12
    assert set(part.conventions.frame.name) == {"12 common joints"}
    assert any(f"trained on {trained}'s" in note for note in part.conventions.notes)
    metric = {"coco": "AP", "mpii": "Mean"}[data]
    assert metric in set(part.conventions.frame.part)
    # What is written is scored again from the files alone.
    again = evaluate_predictions(tmp_path / "predictions.parquet", "", tmp_path)
    np.testing.assert_array_equal(again.conventions.frame.value, part.conventions.frame.value)


@pytest.mark.parametrize("layout", ["official", "mmpose", "posematch"])
def test_weights_of_others_predict_the_same(run_of, evaluate, tmp_path, drawn, layout):
    """A run's weights under another project's names, with the settings said on the command."""
    folder = run_of()
    network = HeatmapNetwork("hrnet_w18_small", 16, pretrained=False)
    load_weights(network, folder / "checkpoints" / "last.ckpt")
    save_weights(network, layout, tmp_path / "theirs.pth")
    with_run = evaluate(f"checkpoint={folder}", "boxes=gt")
    alone = evaluate(
        f"checkpoint={tmp_path / 'theirs.pth'}", "backbone=hrnet_w18_small", "data=synthetic",
        f"data.root={drawn}", "data.spec.train_photos=8", "data.spec.valid_photos=6",
        "data.input_size=[64,64]", "data.workers=0", "data.batch_size=4",
    )  # fmt: skip
    pd.testing.assert_frame_equal(alone.parts[0].table.frame(), with_run.parts[0].table.frame())
    assert any("have the names of" in one or "has the names of" in one for one in alone.notes) == (
        layout != "posematch"
    )


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("optimizer.lr=1",), "nothing reads optimizer.lr where a checkpoint is scored"),
        (("trainer.max_epochs=3",), "nothing reads trainer.max_epochs"),
        (("data.train_people=3",), "nothing reads data.train_people"),
        (("backbone.freeze_norm=true",), "nothing reads backbone.freeze_norm"),
        (("boxes=both",), "boxes=both must be gt, detector or all"),
        (("boxes=detector",), "needs a detector's file"),
        (("flip_test=maybe",), "flip_test=maybe must be true or false"),
        (("backbone=resnet50",), "holds another network .* those of hrnet_w18_small with 16"),
        (("data=mpii", "data.root=nowhere"), "nowhere/annot/valid.json does not exist"),
    ],
)
def test_wrong_input_is_one_sentence(run_of, evaluate, overrides, words):
    with pytest.raises(PosematchError, match=words) as caught:
        evaluate(f"checkpoint={run_of()}", *overrides)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_is_none(evaluate, tmp_path):
    with pytest.raises(PosematchError, match="does not exist"):
        evaluate(f"checkpoint={tmp_path / 'no.pth'}")
    network = HeatmapNetwork("resnet18", 5, pretrained=False, deconv_channels=8)
    save_weights(network, "official", tmp_path / "five.pth")
    with pytest.raises(PosematchError, match="makes 5 maps; the data has 16 joints"):
        evaluate(f"checkpoint={tmp_path / 'five.pth'}", "backbone=resnet50")


@pytest.mark.slow
def test_two_processes_are_one(run_of, drawn, tmp_path):
    """The same ids, the same table to the printed digit, and the same bits below it."""
    folder = run_of()
    printed, tables = [], []
    for processes in (1, 2):
        output = tmp_path / str(processes)
        done = subprocess.run(
            [
                sys.executable, str(REPOSITORY / "scripts" / "evaluate.py"), f"checkpoint={folder}",
                f"data.root={drawn}", "trainer=ddp", "trainer.accelerator=cpu",
                f"trainer.devices={processes}",
                "data.valid_batch_size=3", f"output={output}",
            ],
            capture_output=True, text=True, cwd=tmp_path, timeout=300,
            env=os.environ | {"COLUMNS": "100"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        table = done.stdout[done.stdout.index("gaussian_mse on synthetic") :]
        printed.append(table.partition("written to")[0])
        tables.append(pd.read_parquet(output / "predictions.parquet"))
    assert printed[0] == printed[1]
    assert "Mean" in printed[0]
    assert list(tables[0].person_id) == list(tables[1].person_id)
    # Batches are of the same people, so even the bits are the same.
    pd.testing.assert_frame_equal(tables[0], tables[1], check_exact=True)
    # The second process has one batch, the first two: an equal split would repeat somebody.
    assert 6 < tables[0].person_id.nunique() < 9
