"""Sums and schedules of losses in whole trainings."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from posematch.training.build import build_loss
from posematch.training.module import PoseModule
from posematch.training.run import train

SCHEDULE = ("loss=gaussian_then_matching", "loss.switch_epoch=1", "loss.blend_epochs=1",
            "trainer.max_epochs=3", "measure=none", "pictures.every_n_epochs=0")  # fmt: skip


def state(result):
    return torch.load(result.folder.last_checkpoint, weights_only=True)["state_dict"]


@pytest.fixture
def shares(monkeypatch):
    """(step before the batch, share of the second loss) of every training and validation batch."""
    seen: dict[str, list[tuple[int, float]]] = {"training_step": [], "validation_step": []}

    def noting(step, notes):
        def noted(module, *rest):
            notes.append((module.trainer.global_step, module.loss.share_of_then))
            return step(module, *rest)

        return noted

    for name, notes in seen.items():
        monkeypatch.setattr(PoseModule, name, noting(getattr(PoseModule, name), notes))
    return seen


def test_schedule_follows_the_epochs_in_training_and_validation(composed, shares):
    result = train(composed(*SCHEDULE, "validate_first=true"))
    metrics = pd.read_csv(result.folder.metrics)
    steps = int(metrics.step[0])  # of an epoch; validation comes after them
    expected = [0.0, 0.5, 1.0]
    assert shares["training_step"] == [(n, expected[n // steps]) for n in range(3 * steps)]
    by_step = dict(shares["validation_step"])
    assert by_step == {0: 0.0, steps: 0.0, 2 * steps: 0.5, 3 * steps: 1.0}
    # The figure of a schedule is the one of the epoch.
    column = metrics["val/loss/gaussian_then_matching"]
    assert column[0] < 1 < column[2]  # squared heatmap values, then heatmap pixels


def test_validation_after_a_training_that_ends_inside_an_epoch(composed, shares):
    train(composed(*SCHEDULE, "trainer.max_steps=6"))
    assert shares["training_step"][-1] == (5, 0.5)
    assert shares["validation_step"][-1] == (6, 0.5)


@pytest.fixture(scope="module")
def noted():
    """The shares of the training without a stop, which is made once."""
    return {}


# Inside the first loss's last epoch, between two epochs, inside the blend.
@pytest.mark.parametrize(
    "batches",
    [pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow), 6],
)
def test_interrupted_and_resumed_is_the_same_schedule(
    composed, finished, train_until, shares, noted, batches
):
    straight = finished(*SCHEDULE)
    if not noted:
        noted |= {name: list(notes) for name, notes in shares.items()}
        for notes in shares.values():
            notes.clear()
    train_until(composed(*SCHEDULE), batches)
    resumed = train(composed("resume=auto", *SCHEDULE))
    assert resumed.folder != straight.folder
    assert noted["training_step"]
    assert shares == noted
    torch.testing.assert_close(state(resumed), state(straight), rtol=0, atol=0)
    assert resumed.folder.metrics.read_text() == straight.folder.metrics.read_text()


def test_a_sum_trains_and_is_measured(composed):
    result = train(composed("loss=matching_and_gaussian", "trainer.max_epochs=1"))
    row = pd.read_csv(result.folder.metrics).iloc[0]
    assert row["train/matching_and_gaussian/matching/iterations"] > 0
    # Its figure is the weighted sum of its members', measured in the same pass.
    by_hand = row["val/loss/matching"] + 100 * row["val/loss/gaussian_mse"]
    assert row["val/loss/matching_and_gaussian"] == pytest.approx(by_hand, rel=1e-5)


def test_members_are_configured_by_their_own_keys(composed):
    cfg = composed("loss=gaussian_then_matching", "loss.then.epsilon=0.2", "data.sigma=1.5")
    loss = build_loss(cfg.loss)
    assert (loss.then.distance.epsilon, loss.first.sigma) == (0.2, 1.5)
    more = composed("loss=matching_and_gaussian", "+loss@loss.losses.js=js", "+loss.weights.js=3")
    assert build_loss(more.loss).shares() == {"matching": 1, "gaussian_mse": 100, "js": 3}
    assert OmegaConf.select(more, "loss.losses.js.supply") == "softmax"
