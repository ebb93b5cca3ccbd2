"""Whole trainings on a few drawn people."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from elsewhere import elsewhere
from light import LIGHT
from omegaconf import OmegaConf
from signals import interruptible

from posematch.errors import PosematchError
from posematch.metrics import metric_for
from posematch.metrics.coco_truth import coco_figures
from posematch.model import PoseModel
from posematch.runs.folder import EpochTable, RunFolder, new_run_folder
from posematch.runs.predictions import PredictionTable
from posematch.training.build import build_datamodule, build_loss, build_module
from posematch.training.module import PoseModule
from posematch.training.run import train

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def light(composed):
    return functools.partial(composed, *LIGHT)


class TestRun:
    @pytest.fixture
    def result(self, finished):
        return finished("validate_first=true")

    def test_folder(self, result):
        folder = result.folder
        config = OmegaConf.load(folder.config)
        assert config.decoder._target_ == "posematch.decoding.Barycentre"  # what auto meant
        assert config.trainer.precision in ("32-true", "bf16-mixed")
        environment = json.loads(folder.environment.read_text())
        assert environment["seed"] == 0
        assert environment["versions"]["torch"] == torch.__version__.split("+")[0]
        assert {"commit", "dirty"} == environment["git"].keys()
        metrics = pd.read_csv(folder.metrics)
        assert list(metrics.epoch) == [0, 1]
        wanted = {
            "train/loss",
            "train/learning_rate",
            "val/PCKh@0.5",
            "train/matching/marginal_error",
        }
        wanted |= {
            f"val/loss/{name}"
            for name in ("matching", "gaussian_mse", "dot_mse", "gaussian_mse_best_scale")
        }
        assert wanted <= set(metrics.columns)
        assert (metrics["val/matching/referee_difference"] < 1e-4).all()  # float32 against float64
        assert not any("second" in column or "img/s" in column for column in metrics.columns)
        assert (pd.read_csv(folder.timing).images_per_second > 0).all()
        assert folder.last_checkpoint.exists()
        assert (folder.checkpoints / "best.ckpt").exists()
        assert json.loads(folder.result.read_text())["figures"].keys() == {
            "mean pose", "untrained", "last",
        }  # fmt: skip

    def test_figures_are_remade_from_the_predictions_alone(self, result, composed):
        table = pd.read_parquet(result.folder.predictions(1))
        datamodule = build_datamodule(composed())
        datamodule.setup("validate")
        people = datamodule.valid
        ids = table.person_id.to_numpy().reshape(len(people.people), -1)[:, 0]
        assert sorted(ids) == [person.person_id for person in people.people]
        metric = metric_for(people)
        joints = torch.tensor(table[["x", "y"]].to_numpy().reshape(len(ids), -1, 2))
        metric.update(torch.from_numpy(ids.copy()), joints, torch.ones(joints.shape[:2]))
        assert metric.compute() == result.figures["last"]
        distance = np.hypot(table.x - table.true_x, table.y - table.true_y) / table.head_size_img
        counted = (table.visible > 0) & ~table.joint.isin(["pelvis", "thorax"])
        assert 100 * (distance[counted] <= 0.5).mean() == pytest.approx(
            result.figures["last"]["PCKh@0.5"]
        )
        by_id = {person.person_id: person for person in people.people}
        for row in table.drop_duplicates("person_id").itertuples():
            person = by_id[row.person_id]
            assert [row.box_center_x, row.box_center_y] == person.center_img.tolist()
            assert [row.box_width, row.box_height] == person.box_size_img.tolist()
            assert datamodule.root / row.image == person.image
        assert table.crowd_index.notna().all()
        labelled = table.visible > 0
        assert table.mass_within_2px.between(0, 1).all()
        assert table.mass_within_2px_of_truth[labelled].between(0, 1).all()
        assert table.mass_within_2px_of_truth[~labelled].isna().all()
        last = pd.read_csv(result.folder.metrics).iloc[-1]
        for name in ("mass_within_2px", "mass_within_2px_of_truth", "spread_px"):
            # The log's sums are of whole millionths; the table is float32.
            mean = table[name][labelled].astype("float64").mean()
            assert last[f"val/compactness/{name}"] == pytest.approx(mean, abs=1e-6)

    def test_checkpoint_needs_no_pickle(self, result):
        state = torch.load(result.folder.last_checkpoint, weights_only=True)
        assert any(name.startswith("network.backbone") for name in state["state_dict"])


@pytest.mark.parametrize("length", ["trainer.max_epochs=3", "trainer.max_steps=6"])
def test_last_checkpoint_is_the_last_even_if_another_was_better(light, length):
    # So large a rate that figures do not simply rise.
    result = train(light(length, "optimizer.lr=0.05", "trainer.gradient_clip_val=1.0"))
    state = torch.load(result.folder.last_checkpoint, weights_only=True)
    written = json.loads(result.folder.result.read_text())
    assert state["global_step"] == written["step"]
    metrics = pd.read_csv(result.folder.metrics)
    assert metrics["val/PCKh@0.5"].iloc[-1] == pytest.approx(result.figures["last"]["PCKh@0.5"])
    # The weights in the file are those that were scored.
    assert metrics.step.iloc[-1] == state["global_step"]


def test_same_seed_same_numbers_and_another_seed_others(composed, finished):
    runs = (
        finished("trainer.max_epochs=1"),
        *(train(composed(f"seed={seed}", "trainer.max_epochs=1")) for seed in (0, 1)),
    )
    first, second, other = (run.folder.metrics.read_text() for run in runs)
    assert first == second
    assert first != other


# Inside an epoch; with half of a step's batches done; near its end and in the second one, as in
# test_exact_resume.py.
@pytest.mark.parametrize(
    ("batches", "accumulate"),
    [
        (2, 1),
        (1, 2),
        pytest.param(4, 1, marks=pytest.mark.slow),
        pytest.param(6, 1, marks=pytest.mark.slow),
    ],
)
def test_interrupted_and_resumed_is_the_same_training(
    composed, finished, train_until, batches, accumulate
):
    more = [f"trainer.accumulate_grad_batches={accumulate}"]
    straight = finished(*more)
    train_until(composed(*more), batches)
    resumed = train(composed("resume=auto", *more))
    assert resumed.folder != straight.folder
    assert resumed.figures["last"] == straight.figures["last"]
    straight_state, resumed_state = (
        torch.load(one.folder.last_checkpoint, weights_only=True)["state_dict"]
        for one in (straight, resumed)
    )
    for name, tensor in straight_state.items():
        torch.testing.assert_close(resumed_state[name], tensor, rtol=0, atol=0)
    assert resumed.folder.metrics.read_text() == straight.folder.metrics.read_text()


class TestResume:
    def test_auto_without_a_run_starts_one(self, light):
        assert train(light("resume=auto", "trainer.max_epochs=1")).folder.result.exists()

    def test_finished_run_goes_on_for_more_epochs(self, light):
        first = train(light("schedule=hrnet", "trainer.max_epochs=1"))
        more = train(light("schedule=hrnet", "trainer.max_epochs=2", f"resume={first.folder.path}"))
        assert more.folder == first.folder
        assert list(pd.read_csv(more.folder.metrics).epoch) == [0, 1]
        environment = json.loads(more.folder.environment.read_text())
        assert len(environment["resumed"]) == 1

    def test_another_length_is_refused_where_the_schedule_depends_on_it(self, light, finished):
        first = finished(*LIGHT, "trainer.max_epochs=1")
        with pytest.raises(PosematchError, match=r"trainer\.max_epochs=1, this command says 2"):
            train(light(f"resume={first.folder.path}"))

    def test_finished_run_with_nothing_left_stays_as_it_is(self, light):
        first = train(light())
        tables = [first.folder.metrics.read_text(), first.folder.timing.read_text()]
        again = train(light(f"resume={first.folder.path}"))
        assert again.figures["last"] == first.figures["last"]
        assert [again.folder.metrics.read_text(), again.folder.timing.read_text()] == tables
        assert len(list(first.folder.path.glob("predictions/epoch=*"))) == 2

    def test_another_checkpoint_than_the_last_is_refused(self, light, finished):
        first = finished(*LIGHT, "trainer.max_epochs=1")
        with pytest.raises(PosematchError, match=r"last\.ckpt"):
            train(light(f"resume={first.folder.checkpoints / 'best.ckpt'}"))

    def test_a_crash_between_epochs_loses_nothing(self, light, monkeypatch):
        """The checkpoint at an epoch's end, after its validation, goes on with the next epoch."""
        straight = train(light("trainer.max_epochs=3"))

        class CrashError(Exception):
            pass

        def crash(self, batch, batch_index, original=PoseModule.training_step):
            if self.current_epoch == 2:
                raise CrashError
            return original(self, batch, batch_index)

        with monkeypatch.context() as patch:
            patch.setattr(PoseModule, "training_step", crash)
            with pytest.raises(CrashError):
                train(light("trainer.max_epochs=3"))
        resumed = train(light("trainer.max_epochs=3", "resume=auto"))
        assert resumed.folder != straight.folder
        assert resumed.folder.metrics.read_text() == straight.folder.metrics.read_text()

    def test_another_configuration_is_refused_with_the_key(self, light, finished):
        first = finished(*LIGHT, "trainer.max_epochs=1")
        with pytest.raises(PosematchError, match=r"loss\.name=matching, this command says dot_mse"):
            train(light(f"resume={first.folder.path}", "loss=dot_mse"))

    def test_no_run_there(self, light, tmp_path):
        with pytest.raises(PosematchError, match=r"config\.yaml"):
            train(light(f"resume={tmp_path}"))


@pytest.mark.parametrize(
    "loss", ["gaussian_mse", pytest.param("dot_mse", marks=pytest.mark.slow), "matching"]
)
def test_every_loss_learns_a_handful_of_people(composed, loss):
    """A training that cannot fit four people without augmentation is broken somewhere."""
    cfg = composed(
        f"loss={loss}",
        "backbone=small",
        "augmentation/geometry=none",
        "data.train_people=4",
        "data.batch_size=1",  # sixty steps, and few epochs, which take longer than their steps
        "trainer.max_epochs=15",
        "trainer.check_val_every_n_epoch=15",
        "measure=none",
    )
    result = train(cfg)
    losses = pd.read_csv(result.folder.metrics)["train/loss"]
    assert losses.iloc[-1] < 0.5 * losses.iloc[0]


def test_coco_skeleton_trains_and_scores_ap(composed):
    result = train(composed("data.skeleton=coco", "trainer.max_epochs=1"))
    assert 0 <= result.figures["last"]["AP"] <= 1
    table = PredictionTable.read(result.folder.predictions(0))
    # AP is remade from the table and the annotations alone.
    datamodule = build_datamodule(composed("data.skeleton=coco"))
    datamodule.setup("validate")
    truth = datamodule.valid.truth
    results = table.coco_results()
    assert coco_figures(truth.annotation_file, results, truth.image_ids) == result.figures["last"]
    with pytest.raises(PosematchError, match="box_width"):
        _ = replace(table, box_size_img=None).poses


@pytest.mark.parametrize("convention", ["hrnet", "udp"])
@pytest.mark.parametrize("loss", ["gaussian_mse", "matching"])
def test_perfect_heatmaps_score_a_hundred(composed, convention, loss):
    """Crop, target, flip test, decoding and metric fit together: a network that paints the truth
    (and its mirror image when the crop is mirrored) is right everywhere."""
    cfg = composed(f"data.convention={convention}", f"loss={loss}", "data.input_size=[128,128]")
    datamodule = build_datamodule(cfg)
    datamodule.setup("fit")
    module = build_module(cfg, datamodule)
    module.model.network = Oracle(module, datamodule)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False,
                         enable_model_summary=False)  # fmt: skip
    trainer.validate(module, datamodule=datamodule, verbose=False)
    figures = module.figures
    # Half a head is over 1.5 heatmap pixels here: only a joint off the crop can be wrong. A tenth
    # is about 0.35: the quarter offset's error of up to 0.25 an axis (0.35 in all) stays below it,
    # but a flip misplaced by a pixel, a half-pixel slip or a wrong convention does not.
    assert figures["val/PCKh@0.5"] > 99
    assert figures["val/PCKh@0.1"] > (95 if loss == "matching" else 80)


class Oracle(torch.nn.Module):
    """Paints sub-pixel Gaussians where the joints are, seen as the crop shows them."""

    def __init__(self, module: PoseModule, datamodule):
        super().__init__()
        self.module = [module]  # not a submodule
        self.batches = iter(list(datamodule.val_dataloader()))
        self.permutation = list(datamodule.skeleton.flip_permutation)

    def forward(self, crops):
        from posematch.losses import gaussian_targets

        module, batch = self.module[0], next(self.batches)
        joints_hm = module.joints_hm(batch)
        # The mirrored crop shows x at W - 1 - x of the crop.
        mirrored_crop = batch["joints_crop"].clone()
        mirrored_crop[..., 0] = module.model.input_size[1] - 1 - mirrored_crop[..., 0]
        mirrored_hm = module.joints_hm({**batch, "joints_crop": mirrored_crop})
        views = torch.cat([joints_hm, mirrored_hm[:, self.permutation]])
        return gaussian_targets(views, module.model.heatmap_size, 1.0, "subpixel")


class TestRunFolder:
    def test_two_runs_in_one_second_do_not_meet(self, tmp_path):
        assert len({new_run_folder(tmp_path, "x").path for _ in range(20)}) == 20

    def test_root_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(PosematchError, match="run_root"):
            new_run_folder(tmp_path / "file", "x")

    def test_epoch_table_takes_back_later_rows(self, tmp_path):
        table = EpochTable(tmp_path / "m.csv")
        for epoch in range(3):
            table.write(epoch, {"a": epoch / 3})
        again = EpochTable(tmp_path / "m.csv")
        again.write(1, {"a": 7.0, "b": 1})
        frame = pd.read_csv(tmp_path / "m.csv")
        assert list(frame.epoch) == [0, 1]
        assert frame.a[1] == 7.0
        assert np.isnan(frame.b[0])


def test_not_finite_heatmaps_end_in_one_sentence(light):
    with pytest.raises(PosematchError, match=r"Epoch 1, step.* (NaN|infinite).*optimizer\.lr"):
        train(light("optimizer.lr=1e30", "loss=gaussian_mse"))


def test_measured_losses_are_those_configured(composed):
    cfg = composed("measure=none")
    datamodule = build_datamodule(cfg)
    assert list(build_module(cfg, datamodule).measured) == ["matching"]
    assert build_loss(composed("loss.epsilon=0.3").loss).distance.epsilon == 0.3


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_script_ctrl_c_and_resume(drawn, tmp_path, stop):
    """The real script, a real Ctrl-C (or a scheduler's SIGTERM), and the command it prints."""
    command = [
        sys.executable, str(REPOSITORY / "scripts" / "train.py"), f"data.root={drawn}",
        f"run_root={tmp_path}", "data.spec.train_photos=12", "data.spec.valid_photos=6",
        "data.input_size=[64,64]", "data.batch_size=4", "trainer.max_epochs=8", "measure=none",
        "trainer.accelerator=cpu",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
                               preexec_fn=interruptible)  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/metrics.csv")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(stop)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in errors
    folder = next(tmp_path.glob("*/metrics.csv")).parent
    assert f"resume={folder}" in errors
    subprocess.run([*command, f"resume={folder}"], check=True, cwd=tmp_path, capture_output=True)
    assert RunFolder(folder).result.exists()
    assert list(pd.read_csv(folder / "metrics.csv").epoch) == list(range(8))


@pytest.mark.slow
def test_two_processes_make_one_run(drawn, tmp_path):
    """trainer=ddp on the CPU: one folder, everybody scored once, the sums of both processes."""
    command = [
        sys.executable, str(REPOSITORY / "scripts" / "train.py"), f"data.root={drawn}",
        f"run_root={tmp_path / 'runs'}", "data.spec.train_photos=12", "data.spec.valid_photos=6",
        "data.input_size=[64,64]", "data.batch_size=2", "trainer=ddp", "trainer.accelerator=cpu",
        "trainer.devices=2", "trainer.max_epochs=1", "data.workers=0",
    ]  # fmt: skip
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, timeout=300)
    (folder,) = (tmp_path / "runs").iterdir()
    table = pd.read_parquet(RunFolder(folder).predictions(0))
    assert not table.duplicated(["person_id", "joint"]).any()
    people = json.loads(RunFolder(folder).result.read_text())["protocol"]
    assert f"{table.person_id.nunique()} people" in people


def test_scores_stay_on_the_networks_device(composed, monkeypatch):
    """Joints are mapped to the photo on the CPU; on a GPU, their scores come from elsewhere."""
    decode = PoseModel.decode

    def from_a_gpu(self, maps, *other):
        joints_hm, scores = decode(self, maps, *other)
        return elsewhere(joints_hm), elsewhere(scores)

    monkeypatch.setattr(PoseModel, "decode", from_a_gpu)
    result = train(composed("trainer.max_epochs=1", "decoders=none"))
    assert list(result.folder.path.glob("predictions/*.parquet"))
