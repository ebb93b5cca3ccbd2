"""Fused optimizers make the steps of those that are not, and go on from each other's state."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from light import LIGHT

from posematch.training.fused import prefer_fused
from posematch.training.run import train


def weights():
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(n, 3, generator=generator)) for n in (2, 5)]


def steps(optimizer, number):
    generator = torch.Generator().manual_seed(number)
    for _ in range(number):
        for group in optimizer.param_groups:
            for one in group["params"]:
                one.grad = torch.randn(one.shape, generator=generator)
        optimizer.step()
    return [one.detach().clone() for group in optimizer.param_groups for one in group["params"]]


@pytest.mark.parametrize(
    "make",
    [
        functools.partial(torch.optim.Adam, lr=1e-2),
        functools.partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1),
        functools.partial(torch.optim.SGD, lr=1e-2, momentum=0.9),
    ],
    ids=lambda make: make.func.__name__,
)
def test_steps_and_states_are_those_of_the_plain_optimizer(make):
    plain, fused = make(weights()), make(weights())
    assert prefer_fused(fused)
    assert [group["fused"] for group in fused.param_groups] == [True]
    torch.testing.assert_close(steps(fused, 3), steps(plain, 3), rtol=1e-5, atol=1e-6)
    # Each goes on from the other's checkpoint, and stays what it is here.
    states = copy.deepcopy(plain.state_dict()), copy.deepcopy(fused.state_dict())
    fused.load_state_dict(states[0])
    assert prefer_fused(fused)
    plain.load_state_dict(states[1])
    plain.defaults["fused"] = False  # optimizer.fused=false
    assert not prefer_fused(plain)
    torch.testing.assert_close(steps(fused, 2), steps(plain, 2), rtol=1e-5, atol=1e-6)
    assert not any(group["fused"] for group in plain.param_groups)


def test_what_is_said_or_not_known_stays():
    said = torch.optim.AdamW(weights(), fused=False)
    assert not prefer_fused(said)
    assert not prefer_fused(torch.optim.AdamW(weights(), foreach=True))
    assert not prefer_fused(torch.optim.Rprop(weights()))


def test_gradients_are_clipped_and_a_plain_training_goes_on(composed, train_until, monkeypatch):
    """Lightning clips none of an optimizer that was made fused, in half precision."""
    options = (*LIGHT, "loss=gaussian_mse", "trainer.gradient_clip_val=0.1",
               "trainer.precision=bf16-mixed", "checkpoint_every_minutes=1e-9")  # fmt: skip
    whole = train(composed(*options))
    with monkeypatch.context() as patch:
        patch.setattr("posematch.training.module.prefer_fused", lambda optimizer: False)
        train_until(composed(*options), 3)
    resumed = train(composed("resume=auto", *options))
    assert resumed.resumed
    ours, theirs = (
        torch.load(one.folder.last_checkpoint, weights_only=True) for one in (resumed, whole)
    )
    assert [group["fused"] for group in ours["optimizer_states"][0]["param_groups"]] == [True] * 2
    torch.testing.assert_close(ours["state_dict"], theirs["state_dict"], rtol=5e-2, atol=1e-3)
