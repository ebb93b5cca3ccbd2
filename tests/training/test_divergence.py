"""Steps whose loss or gradient is not finite: nothing of them stays, and too many are the end."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import pandas as pd
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from light import LIGHT
from lightning.pytorch.callbacks import WeightAveraging

from posematch.errors import PosematchError
from posematch.losses import GaussianMSE
from posematch.training import build, replay, run
from posematch.training.divergence import SkippedSteps, first_nonfinite, in_words
from posematch.training.run import train

REPOSITORY = Path(__file__).resolve().parents[2]
# Six batches of four people an epoch.
TINY = (*LIGHT, "loss=gaussian_mse", "data.spec.train_photos=18", "data.batch_size=4",
        "trainer.limit_train_batches=6", "trainer.precision=32-true")  # fmt: skip


class Fault(pl.Callback):
    """Spoils the maps or the gradient of some batches of a training, counted from 0."""

    def __init__(self, kind: str, batches: set[int], row: int | slice = 0):
        self.kind = kind
        self.batches = batches
        self.row = row
        self.count = -1
        self.ids: list[list[int]] = []

    def on_fit_start(self, trainer, module):
        def hook(network, inputs, maps):
            if not (trainer.training and self.count in self.batches):
                return None
            spoilt = maps.clone()
            if self.kind == "maps":
                spoilt[self.row] = math.nan
            elif self.kind == "loss":  # finite maps whose square is not
                spoilt[self.row] = 1e30
            else:
                factor = torch.ones_like(maps)
                factor[self.row] = math.nan
                spoilt.register_hook(lambda gradient: gradient * factor)
            return spoilt

        module.network.register_forward_hook(hook)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.count += 1
        if self.count in self.batches:
            self.ids.append(batch["person_id"].tolist())


class DoNothing(pl.Callback):
    """What a skipped step is to be like: the optimizer and the statistics do not notice it."""

    def __init__(self, steps: set[int]):
        self.steps = steps

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.buffers = [one.clone() for one in module.network.buffers()]

    def on_before_optimizer_step(self, trainer, module, optimizer):
        if trainer.global_step in self.steps:
            for parameter in module.parameters():
                parameter.grad = None
            for buffer, before in zip(module.network.buffers(), self.buffers, strict=True):
                buffer.copy_(before)
            for one in trainer.callbacks:
                if isinstance(one, WeightAveraging):
                    one._latest_update_step = trainer.global_step + 1  # it has this step already


class Weights(pl.Callback):
    """Network and optimizer after each batch."""

    def __init__(self):
        self.network, self.optimizer = [], []

    def on_train_batch_end(self, trainer, module, *rest):
        self.network.append(copy.deepcopy(module.network.state_dict()))
        self.optimizer.append(copy.deepcopy(trainer.optimizers[0].state_dict()["state"]))


@pytest.fixture
def trained(monkeypatch):
    """Train with further callbacks; the result."""

    def go(cfg, *callbacks):
        make = run.build_trainer

        def with_callbacks(*arguments):
            trainer = make(*arguments)
            trainer.callbacks += callbacks
            return trainer

        with monkeypatch.context() as patch:
            patch.setattr(run, "build_trainer", with_callbacks)
            return train(cfg)

    return go


@pytest.fixture(scope="module")
def doing_nothing(composed_in, tmp_path_factory):
    """Trainings that do nothing in some steps, by their overrides and steps; each is made once."""
    made = {}

    def once(trained, steps, *overrides):
        key = frozenset(steps), overrides
        if key not in made:
            cfg = composed_in(tmp_path_factory.mktemp("nothing"), *overrides)
            made[key] = trained(cfg, DoNothing(steps))
        return made[key]

    return once


def checkpoint(folder):
    return torch.load(folder.last_checkpoint, weights_only=True)


def expect_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["maps", "loss", "gradient"])
def test_a_skipped_step_is_as_if_it_did_nothing(composed, trained, doing_nothing, capfd, kind):
    options = (*TINY, "callbacks=ema", "callbacks.ema.decay=0.5")
    cfg = composed(*options)
    fault, seen = Fault(kind, {2, 7}, row=1), Weights()
    skipped = trained(cfg, fault, seen)
    expect_same(seen.network[2], seen.network[1])
    expect_same(seen.optimizer[2], seen.optimizer[1])
    assert not torch.equal(
        seen.network[3]["to_heatmaps.weight"], seen.network[2]["to_heatmaps.weight"]
    )
    told = capfd.readouterr().err
    named = fault.ids[0] if kind == "gradient" else fault.ids[0][1:2]
    cause = "gradient" if kind == "gradient" else "loss"
    assert f"Epoch 1, step 2: the {cause} is NaN or infinite with {in_words(sorted(named))}" in told
    metrics = pd.read_csv(skipped.folder.metrics)
    assert list(metrics["train/skipped_steps"]) == [1, 1]
    assert metrics.notna().all(axis=None)
    nothing = doing_nothing(trained, {2, 7}, *options)
    ours, theirs = checkpoint(skipped.folder), checkpoint(nothing.folder)
    assert first_nonfinite(ours["current_model_state"].items()) is None
    for key in ("state_dict", "current_model_state", "averaging_state", "optimizer_states"):
        expect_same(ours[key], theirs[key])
    assert ours["lr_schedulers"] == theirs["lr_schedulers"]
    assert skipped.figures["last"] == nothing.figures["last"]


@pytest.mark.parametrize(
    ("batch", "kind"),
    [
        (0, "gradient"),
        (2, "maps"),
        pytest.param(0, "maps", marks=pytest.mark.slow),
        pytest.param(2, "gradient", marks=pytest.mark.slow),
    ],
)
def test_a_bad_batch_takes_its_group_along(composed, trained, doing_nothing, kind, batch):
    options = (*TINY, "trainer.accumulate_grad_batches=3", "trainer.max_epochs=1")
    seen = Weights()
    skipped = trained(composed(*options), Fault(kind, {batch}), seen)
    assert pd.read_csv(skipped.folder.metrics)["train/skipped_steps"].item() == 1
    assert seen.optimizer[2] == {}
    nothing = doing_nothing(trained, {0}, *options)
    for key in ("state_dict", "optimizer_states"):
        expect_same(checkpoint(skipped.folder)[key], checkpoint(nothing.folder)[key])


class TestTooMany:
    def test_the_end(self, composed, trained, tmp_path):
        fault = Fault("maps", {2, 3, 4}, row=slice(0, 2))
        cfg = composed(*TINY, "max_skipped_steps=3")
        seen = Weights()
        with pytest.raises(PosematchError, match="Epoch 1, steps 2 to 4, 3 in a row,") as raised:
            trained(cfg, fault, seen)
        sentence = str(raised.value)
        (folder,) = (tmp_path / "runs").iterdir()
        people = [one for batch in fault.ids for one in sorted(batch[:2])]
        assert in_words(people) in sentence
        assert "and 1 more)" in sentence
        assert str(folder / "divergence" / "step=000002.pt") in sentence
        assert str(folder / "checkpoints" / "previous.ckpt") in sentence
        assert "optimizer.lr" in sentence
        assert [one.name for one in (folder / "divergence").iterdir()] == ["step=000002.pt"]
        kept = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        network = {f"network.{name}": value for name, value in seen.network[1].items()}
        expect_same({name: kept["state_dict"][name] for name in network}, network)
        assert not list(folder.glob("result.json"))
        # It resumes behind them, as exactly as after any stop.
        cfg.resume = str(folder)
        resumed = train(cfg)
        cfg.resume = None
        nothing = trained(cfg, DoNothing({2, 3, 4}))
        expect_same(
            checkpoint(resumed.folder)["state_dict"], checkpoint(nothing.folder)["state_dict"]
        )
        skipped = pd.read_csv(resumed.folder.metrics)["train/skipped_steps"]
        assert list(skipped) == [3, 0]

    def test_not_in_a_row(self, composed, trained):
        cfg = composed(*TINY, "max_skipped_steps=2", "trainer.max_epochs=1")
        result = trained(cfg, Fault("gradient", {0, 2, 4}))
        assert pd.read_csv(result.folder.metrics)["train/skipped_steps"].item() == 3
        assert len(list(result.folder.divergence.iterdir())) == 3

    def test_over_an_epochs_end_and_a_resume(self, composed, trained, train_until, tmp_path):
        """A row counts on where a training was stopped in it."""
        cfg = composed(*TINY, "max_skipped_steps=4")
        with pytest.MonkeyPatch.context() as patch:
            make = run.build_trainer

            def with_fault(*arguments):
                trainer = make(*arguments)
                trainer.callbacks.append(Fault("maps", {4, 5, 6}))
                return trainer

            patch.setattr(run, "build_trainer", with_fault)
            train_until(cfg, 7)
        cfg.resume = str(next((tmp_path / "runs").iterdir()))
        with pytest.raises(PosematchError, match="Epoch 1, steps 4 to 7, 4 in a row,"):
            trained(cfg, Fault("maps", {0}))

    def test_at_the_end_of_the_training(self, composed, trained, tmp_path):
        cfg = composed(*TINY, "max_skipped_steps=2", "trainer.max_epochs=1")
        with pytest.raises(PosematchError, match="Epoch 1, steps 4 to 5"):
            trained(cfg, Fault("maps", {4, 5}))
        (folder,) = (tmp_path / "runs").iterdir()
        kept = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        assert first_nonfinite(kept["state_dict"].items()) is None

    def test_weights_that_a_finite_step_made_infinite(self, composed, trained, tmp_path):
        class Overflow(pl.Callback):
            def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
                if trainer.global_step == 8:
                    with torch.no_grad():
                        module.network.to_heatmaps.weight.fill_(math.inf)

        with pytest.raises(
            PosematchError, match=r"Epoch 2, step 8: the weight to_heatmaps\.weight.*last\.ckpt"
        ):
            trained(composed(*TINY), Overflow())
        (folder,) = (tmp_path / "runs").iterdir()
        kept = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        assert kept["global_step"] == 6
        assert first_nonfinite(kept["state_dict"].items()) is None


def test_half_precision_is_left_to_its_scaler_until_the_scale_is_1(composed, trained, monkeypatch):
    """16-mixed with a real GradScaler; on the CPU Lightning would take bf16 instead."""
    from lightning.pytorch.plugins import MixedPrecision

    scales = []

    class Half(pl.Callback):
        def on_fit_start(self, trainer, module):
            scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
            trainer.strategy._precision_plugin = MixedPrecision("16-mixed", "cpu", scaler)

        def on_train_batch_end(self, trainer, module, *rest):
            scales.append(trainer.precision_plugin.scaler.get_scale())

    result = trained(composed(*TINY), Half(), Fault("gradient", {1, 2, 3, 4}))
    # Twice the scaler halves; at 1 two more steps are skipped and counted, which halves it, too.
    assert scales[:5] == [4, 2, 1, 0.5, 0.25]
    assert list(pd.read_csv(result.folder.metrics)["train/skipped_steps"]) == [2, 0]
    assert first_nonfinite(checkpoint(result.folder)["state_dict"].items()) is None


class TestValidation:
    def test_names_the_people_and_what_is_kept(self, composed, trained, tmp_path):
        named = []

        class Spoil(pl.Callback):
            def on_validation_batch_start(self, trainer, module, batch, batch_idx, *rest):
                self.spoil = trainer.current_epoch == 1 and batch_idx in (0, 2)
                if self.spoil:
                    named.append(batch["person_id"][1].item())

            def on_fit_start(self, trainer, module):
                def hook(network, inputs, maps):
                    if trainer.validating and self.spoil:
                        maps[1] = math.nan

                module.network.register_forward_hook(hook)

        cfg = composed(*TINY, "data.valid_batch_size=2")
        with pytest.raises(
            PosematchError, match="Epoch 2, step 12: the network's maps of"
        ) as raised:
            trained(cfg, Spoil())
        (folder,) = (tmp_path / "runs").iterdir()
        assert in_words(sorted(named), "validation") in str(raised.value)
        assert f"is kept: {folder / 'checkpoints' / 'last.ckpt'}." in str(raised.value)


class Fragile(GaussianMSE):
    """Breaks on people whose first joint lies in the right half, in its loss or its gradient."""

    kind = "loss"

    def joint_losses(self, heatmaps, joints_hm, counted):
        bad = joints_hm[:, 0, 0] > heatmaps.shape[-1] / 2
        if self.kind == "gradient" and heatmaps.requires_grad:
            heatmaps = heatmaps * 1
            factor = torch.where(bad, math.nan, 1.0)[:, None, None, None]
            heatmaps.register_hook(lambda gradient: gradient * factor)
        losses = super().joint_losses(heatmaps, joints_hm, counted)
        return torch.where(bad[:, None], math.inf, losses) if self.kind == "loss" else losses


class TestDump:
    @pytest.fixture
    def fragile(self, monkeypatch):
        def make(config, key="loss"):
            return Fragile(sigma=config.sigma)

        monkeypatch.setattr(build, "build_loss", make)
        monkeypatch.setattr(replay, "build_loss", make)

    @pytest.mark.parametrize("kind", ["loss", "gradient"])
    def test_reproduces_the_step(self, composed, tmp_path, fragile, monkeypatch, kind):
        monkeypatch.setattr(Fragile, "kind", kind)
        cfg = composed(*TINY, "trainer.accumulate_grad_batches=2", "max_skipped_steps=1")
        with pytest.raises(PosematchError, match="Epoch 1, step 0 had a loss or gradient"):
            train(cfg)
        (folder,) = (tmp_path / "runs").iterdir()
        found = replay.replay(folder, 0, "cpu")
        dump = torch.load(folder / "divergence" / "step=000000.pt", weights_only=True)
        assert (found.epoch, found.step, found.cause, dump["cause"]) == (0, 0, kind, kind)
        bad = {}
        for batch in dump["batches"]:
            right = batch["joints_crop"][:, 0, 0] > 32
            bad |= dict(zip(batch["person_id"].tolist(), right.tolist(), strict=True))
        assert len(bad) == 8
        assert 0 < sum(bad.values()) < 8
        loss_is_bad = kind == "loss"
        assert {one[0]: one[1:] for one in found.people} == {
            one: (True, not (loss_is_bad and broken), not broken) for one, broken in bad.items()
        }
        if loss_is_bad:
            assert dump["people"] == sorted(one for one, broken in bad.items() if broken)
        assert found.reproduced
        assert math.isfinite(found.loss) is not loss_is_bad

    def test_script(self, composed, tmp_path, monkeypatch, capsys):
        cfg = composed(*TINY, "backbone.head_init_std=1e30")
        with pytest.raises(PosematchError, match="steps 0 to 4"):
            train(cfg)
        (folder,) = (tmp_path / "runs").iterdir()
        printed = self.script(monkeypatch, capsys, f"run={folder}")
        assert printed.splitlines()[-1] == "Reproduced: the loss is NaN or infinite here, too."
        assert "epoch 0, step 0: loss nan" in printed
        # One whose maps have become harmless is not.
        file = folder / "divergence" / "step=000000.pt"
        dump = torch.load(file, weights_only=True)
        dump["network"]["to_heatmaps.weight"].zero_()
        torch.save(dump, file)
        assert "Not reproduced" in self.script(monkeypatch, capsys, f"run={folder}", "step=0")
        for overrides, words in [
            (("step=3",), "step=3 is not among the dumps"),
            (("device=nowhere",), "device=nowhere is not to be had"),
        ]:
            with pytest.raises(SystemExit):
                self.script(monkeypatch, capsys, f"run={folder}", *overrides)
            assert words in capsys.readouterr().err
        for damaged in (b"no dump", file.read_bytes()[:-1000]):
            file.write_bytes(damaged)
            with pytest.raises(PosematchError, match="damaged or no dump"):
                replay.replay(folder, None, "cpu")
        torch.save({**dump, "batches": [{**dump["batches"][0], "crop": torch.zeros(1)}]}, file)
        with pytest.raises(PosematchError, match="no dump of a step that"):
            replay.replay(folder, None, "cpu")
        torch.save({**dump, "network": {}}, file)
        with pytest.raises(PosematchError, match="other weights"):
            replay.replay(folder, None, "cpu")

    @staticmethod
    def script(monkeypatch, capsys, *arguments):
        from tests.test_errors import script

        monkeypatch.setattr(sys, "argv", ["replay_step.py", *arguments])
        GlobalHydra.instance().clear()
        script("replay_step")()
        return capsys.readouterr().out

    def test_a_gradient_that_overflows_by_itself(self, composed, tmp_path):
        """No fault is planted: a loss of 1e30 is a number, the square of its gradient is none."""
        cfg = composed(*TINY, "backbone.head_init_std=1e16")
        with pytest.raises(PosematchError, match="steps 0 to 4"):
            train(cfg)
        (folder,) = (tmp_path / "runs").iterdir()
        found = replay.replay(folder, None, "cpu")
        assert (found.cause, found.reproduced) == ("gradient", True)
        assert math.isfinite(found.loss)


def test_a_disk_that_takes_no_dump_does_not_end_the_training(composed, trained, capfd):
    class InTheWay(pl.Callback):
        def on_train_start(self, trainer, module):
            guard = next(one for one in trainer.callbacks if isinstance(one, SkippedSteps))
            guard.folder.divergence.write_text("a file where the folder should be")

    trained(composed(*TINY, "trainer.max_epochs=1"), InTheWay(), Fault("maps", {1}))
    assert "cannot be written" in capfd.readouterr().err


class TestFirstNonfinite:
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, complex(0, math.nan)])
    def test_names_the_first(self, value):
        good = {"a": torch.ones(3), "b": torch.ones(2, dtype=torch.float64), "c": torch.ones(0),
                "count": torch.tensor(3), "half": torch.ones(2, dtype=torch.bfloat16)}  # fmt: skip
        bad = torch.tensor([1.0, value])
        assert first_nonfinite(good.items()) is None
        assert first_nonfinite({**good, "bad": bad, "worse": bad}.items()) == "bad"
        assert first_nonfinite({"bad": bad, **good}.items()) == "bad"

    def test_values_whose_squares_overflow_are_finite(self):
        large = {"a": torch.full((4,), 1e30), "b": torch.full((2,), 6e4, dtype=torch.float16)}
        assert first_nonfinite(large.items()) is None


# Spoils the maps of one process, or the gradient; writes the weights of both processes.
PLUGIN = """
import lightning.pytorch as pl
import torch

class Fault(pl.Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_fit_start(self, trainer, module):
        def hook(network, inputs, maps):
            step = trainer.global_step
            if not trainer.training or trainer.global_rank != 1 or step not in (1, 2, 4):
                return None
            maps = maps.clone()
            if step == 2:
                maps.register_hook(lambda gradient: gradient * float("nan"))
            else:
                maps[0] = float("nan")
            return maps

        module.network.register_forward_hook(hook)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        state = {"weights": module.network.state_dict(), "ids": batch["person_id"]}
        number = batch_idx + 100 * trainer.current_epoch
        torch.save(state, f"{self.folder}/{trainer.global_rank}-{number}.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_skip_together(tmp_path, drawn, accumulate):
    (tmp_path / "plugin.py").write_text(PLUGIN)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    batches = 6 * accumulate
    done = subprocess.run(
        [
            sys.executable, str(REPOSITORY / "scripts" / "train.py"), f"data.root={drawn}",
            f"run_root={tmp_path / 'runs'}", *TINY, "data.batch_size=1", "trainer.max_epochs=1",
            f"trainer.limit_train_batches={batches}", "data.input_size=[64,64]", "data.workers=0",
            "data.spec.valid_photos=6", "trainer=ddp", "trainer.accelerator=cpu",
            "trainer.devices=2", f"trainer.accumulate_grad_batches={accumulate}",
            "+callbacks.fault._target_=plugin.Fault", f"+callbacks.fault.folder={tmp_path}",
        ],
        capture_output=True, text=True, cwd=tmp_path, timeout=300,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    def state(rank, step):
        return torch.load(tmp_path / f"{rank}-{step * accumulate}.pt", weights_only=True)

    for step in range(6):
        ours, theirs = state(0, step)["weights"], state(1, step)["weights"]
        assert first_nonfinite([*ours.items(), *theirs.items()]) is None
        for name, weight in ours.items():
            assert "running" in name or torch.equal(weight, theirs[name]), f"step {step}: {name}"
        if step in (2, 3, 5):  # after a step that was skipped
            for rank in (0, 1):
                expect_same(state(rank, step)["weights"], state(rank, step - 1)["weights"])
        elif step:
            before = state(0, step - 1)["weights"]["to_heatmaps.weight"]
            assert not torch.equal(ours["to_heatmaps.weight"], before)
    (folder,) = (tmp_path / "runs").iterdir()
    assert pd.read_csv(folder / "metrics.csv")["train/skipped_steps"].item() == 3
    assert json.loads((folder / "result.json").read_text())["step"] == 6
    if accumulate == 1:
        named = state(1, 1)["ids"].tolist()
        assert f"Epoch 1, step 1: the loss is NaN or infinite with {in_words(named)}" in done.stderr
    assert done.stderr.count("is skipped") == 2  # of two rows
    dump = torch.load(folder / "divergence" / "step=000001.pt", weights_only=True)
    assert len(dump["batches"]) == 2 * accumulate
