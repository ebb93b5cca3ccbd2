"""Captured training steps are the network's own; see cpu_graphs for what runs here."""

from __future__ import annotations

import copy
import functools
import math

import cpu_graphs
import lightning.pytorch as pl
import pandas as pd
import pytest
import torch
from light import LIGHT
from torch import nn

from posematch.errors import PosematchError
from posematch.networks.heatmap_network import HeatmapNetwork
from posematch.training import run
from posematch.training.graphs import CapturedModel, CudaGraphs, why_not
from posematch.training.run import train

CAPTURED = "trainer.cuda_graphs=true"


@pytest.fixture
def graphs(monkeypatch):
    return cpu_graphs.install(monkeypatch)


# Adam divides each gradient by its own size: where that is rounding, so is the step's direction.
SGD = ("optimizer._target_=torch.optim.SGD", "optimizer.lr=0.1")


@pytest.fixture
def composed(composed):
    return functools.partial(composed, *LIGHT, *SGD, "loss=gaussian_mse")


def network():
    torch.manual_seed(0)
    small = {"head": "deconv", "deconv_channels": 8, "head_init_std": 0.05}
    made = HeatmapNetwork("test_resnet", num_joints=5, pretrained=False, **small)
    return made.to(memory_format=torch.channels_last).train()


def crops(batch=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, 64, 64), dtype=torch.uint8, generator=generator)


def step(model, optimizer, batch):
    loss = (model(batch) - 1).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize("bf16", [False, True])
def test_steps_are_those_of_the_network(graphs, capfd, bf16):
    eager = network()
    inside = copy.deepcopy(eager)
    captured = CapturedModel(inside, required=True)
    pairs = [(eager, eager), (inside, captured)]
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.1) for one, _ in pairs]  # see SGD above
    for number in range(5):
        batch = crops(2 if number in (2, 3) else 3, number)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            losses = [
                step(model, optimizer, batch)
                for (_, model), optimizer in zip(pairs, optimizers, strict=True)
            ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
        if number == 1:  # a validation
            for one, _ in pairs:
                one.eval()
            with torch.no_grad():
                maps = [model(crops(4)) for _, model in pairs]
            torch.testing.assert_close(*maps)
            for one, _ in pairs:
                one.train()
    torch.testing.assert_close(inside.state_dict(), eager.state_dict(), rtol=1e-4, atol=1e-6)
    assert list(inside.state_dict()) == list(eager.state_dict())
    assert graphs.replays == 2 * 3  # forward and backward of those of the first one's shape
    assert capfd.readouterr().err.count("A batch of 2 people is of another kind") == 1


def test_capture_leaves_buffers_gradients_and_random_numbers(graphs):
    inside = nn.Sequential(network(), nn.Dropout(0.5))
    before, draws = copy.deepcopy(inside.state_dict()), torch.get_rng_state()
    captured = CapturedModel(inside, required=True)
    captured._capture(crops())
    torch.testing.assert_close(inside.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), draws)
    assert all(one.grad is None for one in inside.parameters())
    # ... so that a resumed training, which captures anew, drops what the other one would have.
    first = [captured(crops()).clone() for _ in range(2)]
    assert not torch.equal(*first)
    torch.set_rng_state(draws)
    eager = [inside(crops()).detach().clone() for _ in range(2)]
    for one, other in zip(first, eager, strict=True):
        assert torch.equal(one == 0, other == 0)


def test_what_the_capture_relies_on_is_looked_at_each_epoch(graphs):
    inside = network()
    captured = CapturedModel(inside, required=True)
    captured(crops()).sum().backward()
    captured.look_for_changes()
    assert captured.is_captured
    inside.to_heatmaps.requires_grad_(False)  # a callback that freezes
    captured.look_for_changes()
    assert not captured.is_captured
    inside.zero_grad()
    captured(crops()).sum().backward()
    assert captured.is_captured
    assert inside.to_heatmaps.weight.grad is None
    assert inside.upsampling[0].weight.grad is not None


class Asking(nn.Module):
    """A network that no graph can hold: it asks for a number."""

    def __init__(self):
        super().__init__()
        self.inside = network()

    def forward(self, batch):
        maps = self.inside(batch)
        return maps if float(maps.detach().sum()) < math.inf else maps * 0


def test_a_network_that_cannot_be_captured_trains_as_it_is(graphs, capfd):
    eager, inside = Asking(), Asking()
    captured = CapturedModel(inside)
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.1) for one in (eager, inside)]
    for number in range(3):
        losses = [
            step(model, optimizer, crops(seed=number))
            for model, optimizer in zip((eager, captured), optimizers, strict=True)
        ]
        assert losses[0] == losses[1]
    torch.testing.assert_close(inside.state_dict(), eager.state_dict(), rtol=0, atol=0)
    assert not captured.is_captured
    told = capfd.readouterr().err
    assert told.count("kernel by kernel, not as CUDA graphs") == 1
    assert "RuntimeError: operation not permitted when stream is capturing" in told
    with pytest.raises(PosematchError, match="cuda_graphs=true: the network cannot be"):
        CapturedModel(Asking(), required=True)(crops())


def checkpoint(result):
    return torch.load(result.folder.last_checkpoint, weights_only=True)


def assert_same_training(one, other):
    states = [checkpoint(result) for result in (one, other)]
    for key in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(states[0][key], states[1][key], rtol=2e-3, atol=1e-5)
    # Not the figures that hang on which pixel is the highest of a hardly trained map.
    tables = [
        pd.read_csv(result.folder.metrics).filter(regex="^(train|val/loss)/")
        for result in (one, other)
    ]
    pd.testing.assert_frame_equal(*tables, check_exact=False, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("callbacks=ema", "callbacks.ema.decay=0.5"),
        ("backbone.freeze_norm=true", "trainer.gradient_clip_val=0.1"),
        ("loss=matching",),
    ],
    ids=" ".join,
)
def test_a_training_is_the_same(composed, graphs, options):
    eager = train(composed(*options, "trainer.cuda_graphs=false"))
    assert graphs.replays == 0
    captured = train(composed(*options, CAPTURED))
    assert graphs.replays == 2 * checkpoint(captured)["global_step"] > 0
    assert list(checkpoint(captured)["state_dict"]) == list(checkpoint(eager)["state_dict"])
    assert_same_training(eager, captured)


def test_a_training_goes_on_as_if_it_had_not_stopped(composed, graphs, train_until):
    more = ("checkpoint_every_minutes=1e-9", CAPTURED)
    whole = train(composed(*more))
    train_until(composed(*more), 2)
    resumed = train(composed("resume=auto", *more))
    assert resumed.resumed
    ours, theirs = checkpoint(resumed), checkpoint(whole)
    for key in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=0)
    # How a step is launched is nothing that was trained.
    train_until(composed(*more), 2)
    assert_same_training(train(composed("resume=auto", "trainer.cuda_graphs=auto")), whole)


class Spoil(pl.Callback):
    """Makes the gradient of one step NaN."""

    def on_after_backward(self, trainer, module):
        if trainer.global_step == 1:
            next(module.network.parameters()).grad.fill_(math.nan)


def test_a_skipped_step_leaves_the_capture_as_it_was(composed, graphs, monkeypatch):
    build = run.build_trainer

    def with_spoil(*arguments):
        trainer = build(*arguments)
        trainer.callbacks.append(Spoil())
        return trainer

    monkeypatch.setattr(run, "build_trainer", with_spoil)
    eager = train(composed("trainer.cuda_graphs=false"))
    captured = train(composed(CAPTURED))
    assert pd.read_csv(captured.folder.metrics)["train/skipped_steps"][0] == 1
    assert_same_training(eager, captured)


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("trainer.accumulate_grad_batches=2", "gradients of several batches are added"),
        ("compile=true", "the network is compiled"),
    ],
)
def test_why_a_training_is_not_captured_is_told_once(composed, graphs, capfd, monkeypatch, option,
                                                     reason):  # fmt: skip
    monkeypatch.setattr(nn.Module, "compile", lambda self: setattr(self, "_compiled_call_impl",
                                                                   self._call_impl))  # fmt: skip
    train(composed(option))
    assert capfd.readouterr().err.count(reason) == 1
    assert graphs.replays == 0


def test_networks_of_others_and_common_statistics_are_not_captured_by_themselves(graphs):
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert why_not(network(), trainer, "auto") is None
    assert "Asking is not ours" in why_not(Asking(), trainer, "auto")
    assert why_not(Asking(), trainer, True) is None
    frugal = HeatmapNetwork("test_resnet", 5, False, activation_checkpointing=True)
    assert "computed twice" in why_not(frugal, trainer, True)
    common = nn.SyncBatchNorm.convert_sync_batchnorm(network())
    assert "sync_batchnorm" in why_not(common, trainer, True)


def test_without_a_gpu_nothing_is_said_unless_it_is_asked_for(composed, capfd):
    train(composed("trainer.max_epochs=1"))
    assert "CUDA" not in capfd.readouterr().err
    with pytest.raises(PosematchError, match="cuda_graphs=true: there is no GPU"):
        train(composed(CAPTURED))
    with pytest.raises(PosematchError, match="cuda_graphs=perhaps must be"):
        train(composed("trainer.cuda_graphs=perhaps"))


def test_the_memory_is_given_back(composed, graphs, monkeypatch):
    seen = []
    ended = CudaGraphs.on_train_end

    def look(self, trainer, module):
        seen.append(module.captured.is_captured)
        ended(self, trainer, module)
        seen.append(module.captured)

    monkeypatch.setattr(CudaGraphs, "on_train_end", look)
    train(composed(CAPTURED, "trainer.max_epochs=1"))
    assert seen == [True, None]
