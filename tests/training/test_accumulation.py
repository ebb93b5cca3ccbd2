"""Gradient accumulation: the mean over the batches of a group, the last one of an epoch, too."""

from __future__ import annotations

import copy

import lightning.pytorch as pl
import pytest
import torch

from posematch.training import run
from posematch.training.build import build_datamodule, build_module
from posematch.training.run import train


class Record(pl.Callback):
    """Keeps the batches, the gradients, and the weights before and after each optimizer step."""

    def __init__(self):
        self.batches = []
        self.gradients = []
        self.weights = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.batches.append([])
            self.weights.append(copy.deepcopy(module.network.state_dict()))
        self.batches[-1].append({name: value.clone() for name, value in batch.items()})

    def on_before_optimizer_step(self, trainer, module, optimizer):
        parameters = module.network.named_parameters()
        self.gradients.append({name: one.grad.clone() for name, one in parameters})

    def on_train_end(self, trainer, module):
        self.weights.append(copy.deepcopy(module.network.state_dict()))


@pytest.fixture
def recorded(monkeypatch):
    """Train; what was recorded."""

    def go(cfg):
        record = Record()
        build = run.build_trainer

        def with_record(*arguments):
            trainer = build(*arguments)
            trainer.callbacks.append(record)
            return trainer

        with monkeypatch.context() as patch:
            patch.setattr(run, "build_trainer", with_record)
            train(cfg)
        return record

    return go


# Of the light network some weights have no gradient at first.
SGD = ("backbone=small",
       "optimizer._target_=torch.optim.SGD", "optimizer.lr=0.1", "optimizer.weight_decay=0",
       "trainer.precision=32-true", "schedule=hrnet",
       "loss=gaussian_mse", "measure=none", "decoders=none", "pictures.heatmaps_of=0",
       "pictures.every_n_epochs=0", "backbone.head_init_std=0.1", "channels_last=false",
       "schedule.warmup_steps=0", "data.spec.train_photos=18", "data.batch_size=3",
       "trainer.accumulate_grad_batches=4")  # fmt: skip


@pytest.mark.parametrize(
    ("limit", "groups"),
    [
        (5, [4, 1]),
        (8, [4, 4]),
        (3, [3]),
        (0.999, None),
        pytest.param(6, [4, 2], marks=pytest.mark.slow),
        pytest.param(7, [4, 3], marks=pytest.mark.slow),
    ],
)
def test_every_group_is_the_mean_over_its_batches(composed, recorded, limit, groups):
    cfg = composed(*SGD, f"trainer.limit_train_batches={limit}", "trainer.max_epochs=1")
    record = recorded(cfg)
    if groups is None:
        whole = len(build_and_set_up(cfg)[0].train_dataloader())
        groups = [4] * (int(whole * limit) // 4) + [int(whole * limit) % 4]
        assert groups[-1], "no partial group: the test shows nothing"
    assert [len(group) for group in record.batches] == groups
    for number, group in enumerate(record.batches):
        expect_step(cfg, group, record.gradients[number], *record.weights[number : number + 2])


def test_a_training_resumed_inside_an_epoch_ends_it_the_same_way(
    composed, recorded, train_until, tmp_path
):
    cfg = composed(*SGD, "trainer.limit_train_batches=6", "trainer.max_epochs=1")
    train_until(cfg, 4)
    (folder,) = (tmp_path / "runs").iterdir()
    cfg.resume = str(folder)
    record = recorded(cfg)
    assert [len(group) for group in record.batches] == [2]
    expect_step(cfg, record.batches[0], record.gradients[0], *record.weights)


def build_and_set_up(cfg):
    datamodule = build_datamodule(cfg)
    datamodule.prepare_data()
    datamodule.setup("fit")
    return datamodule, build_module(cfg, datamodule)


def expect_step(cfg, group, gradients, before, after):
    """The gradient of the mean loss of a group and the step along it, to float precision."""
    _, module = build_and_set_up(cfg)
    network = module.network
    network.load_state_dict(before)
    network.train()
    for batch in group:
        loss = module.loss(network(batch["crop"]), module.joints_hm(batch), batch["visible"])
        (loss / len(group)).backward()
    for name, weight in network.named_parameters():
        # Sums of the same numbers in the same order: to a few units of the largest's last place.
        largest = float(weight.grad.abs().max())
        assert largest > 0
        torch.testing.assert_close(gradients[name], weight.grad, rtol=0, atol=1e-5 * largest)
        torch.testing.assert_close(after[name], before[name] - 0.1 * weight.grad)
