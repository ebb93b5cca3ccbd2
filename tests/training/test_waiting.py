"""How often a training step asks a tensor for its value, which on a GPU is to wait for all of it.

Counted on a CPU, whose tensors are asked by the same operations; what it does only there, since it
answers at once, is switched off (`posematch.arithmetic.ANSWER_AT_ONCE`). Copies of a number to the
device, which wait as well, have no operation of their own: they are looked for in what is logged.
"""

from __future__ import annotations

import math
from collections import Counter

import lightning.pytorch as pl
import pandas as pd
import pytest
import torch
from light import LIGHT
from torch.utils._python_dispatch import TorchDispatchMode

from posematch import arithmetic
from posematch.training import run
from posematch.training.divergence import in_words
from posematch.training.run import train

ASKS = {"aten._local_scalar_dense", "aten.is_nonzero", "aten.equal", "aten.nonzero",
        "aten.masked_select", "aten.unique_dim"}  # fmt: skip


class Asked(TorchDispatchMode):
    """Counts operations whose result, or whose result's shape, the host must know."""

    def __init__(self):
        super().__init__()
        self.steps: list[Counter[str]] = []
        self.in_step = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function.overloadpacket)
        # `tolist` reads the memory, after it has come to the host: one for all its numbers.
        if name in ASKS:
            self.steps[-1][name] += 1
        return function(*args, **(kwargs or {}))


class Counting(pl.Callback):
    """From a batch on the device to the end of its step, all other callbacks included."""

    def __init__(self):
        self.asked = Asked()

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.asked.steps.append(Counter())
        self.asked.in_step = True
        self.asked.__enter__()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.asked.__exit__(None, None, None)
        self.asked.in_step = False


@pytest.fixture
def counted(monkeypatch):
    """Train as if the CPU were waited for, with a counter; the result."""
    monkeypatch.setattr(arithmetic, "ANSWER_AT_ONCE", ())

    def go(cfg, *others):
        build = run.build_trainer
        counting = Counting()

        def with_counting(*arguments):
            trainer = build(*arguments)
            trainer.callbacks += [*others]
            trainer.callbacks.insert(0, counting)
            return trainer

        lists = torch.Tensor.tolist

        def tolist(tensor):
            if counting.asked.in_step:
                counting.asked.steps[-1]["tolist"] += 1
            return lists(tensor)

        with monkeypatch.context() as patch:
            patch.setattr(run, "build_trainer", with_counting)
            patch.setattr(torch.Tensor, "tolist", tolist)
            return train(cfg), counting.asked.steps

    return go


@pytest.mark.parametrize("more", [(), ("trainer.gradient_clip_val=1.0",)], ids=str)
def test_a_step_waits_once(composed, counted, more):
    """For one transfer: the gradient's norm, the loss, and the step's figures with them."""
    options = (*LIGHT, "loss=gaussian_mse", "trainer.log_every_n_steps=1000", *more)
    _, steps = counted(composed(*options))
    assert len(steps) == 8
    assert all(step == {"tolist": 1} for step in steps), steps


def test_the_counter_sees_a_question(composed, counted):
    class Asks(pl.Callback):
        def on_after_backward(self, trainer, module):
            float(next(module.network.parameters()).grad.sum())
            bool(torch.ones(3).any())

    _, steps = counted(composed(*LIGHT, "loss=gaussian_mse", "trainer.max_epochs=1"), Asks())
    assert all(step["aten._local_scalar_dense"] >= 1 for step in steps)


class Spoil(pl.Callback):
    """Makes one person's maps of a step NaN."""

    def __init__(self):
        self.people = []

    def on_fit_start(self, trainer, module):
        def hook(network, inputs, maps):
            if trainer.training and trainer.global_step == 1:
                maps = maps.clone()
                maps[1] = math.nan
            return maps

        module.network.register_forward_hook(hook)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.people.append(batch["person_id"].tolist())


def test_who_is_not_finite_is_told_though_it_is_asked_late(composed, counted, capfd, monkeypatch):
    options = (*LIGHT, "loss=gaussian_mse", "trainer.precision=32-true")
    spoil = Spoil()
    late, _ = counted(composed(*options), spoil)
    told = capfd.readouterr().err
    cause = f"Epoch 1, step 1: the loss is NaN or infinite with {in_words(spoil.people[1][1:2])}"
    assert cause in told
    # The training is that of checks which raise at once.
    monkeypatch.setattr(arithmetic, "ANSWER_AT_ONCE", ("cpu",))
    build = run.build_trainer

    def with_spoil(*arguments):
        trainer = build(*arguments)
        trainer.callbacks.append(Spoil())
        return trainer

    monkeypatch.setattr(run, "build_trainer", with_spoil)
    at_once = train(composed(*options))
    assert cause in capfd.readouterr().err
    states = [torch.load(one.folder.last_checkpoint, weights_only=True) for one in (late, at_once)]
    for key in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(states[0][key], states[1][key], rtol=0, atol=0)
    tables = [pd.read_csv(one.folder.metrics) for one in (late, at_once)]
    pd.testing.assert_frame_equal(*tables)
