"""Trainings whose loss takes the width of each joint and person."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from light import LIGHT
from omegaconf import OmegaConf

from posematch.data import mpii
from posematch.errors import PosematchError
from posematch.losses import Matching
from posematch.runs.folder import config_differences
from posematch.training import build, replay
from posematch.training.build import build_datamodule, build_module
from posematch.training.run import train

LOSS = (*LIGHT, "loss=expected_oks", "trainer.max_epochs=1")


@pytest.mark.parametrize("skeleton", ["mpii", "coco"])
def test_training_and_validation_take_the_batches_widths(composed, skeleton):
    """`val/loss` is, over the batches that validation has, the loss with each person's widths."""
    overrides = (*LOSS, f"data.skeleton={skeleton}", "data.valid_batch_size=100", "flip_test=false")
    result = train(composed(*overrides))
    found = pd.read_csv(result.folder.metrics)["val/loss/expected_oks"][0]
    cfg = composed(*overrides)
    datamodule = build_datamodule(cfg)
    datamodule.setup("fit")
    module = build_module(cfg, datamodule).eval()
    stored = torch.load(result.folder.last_checkpoint, weights_only=True)
    module.load_state_dict(stored["state_dict"])
    (batch,) = datamodule.val_dataloader()
    targets = module.targets(batch)
    torch.testing.assert_close(targets[2], batch["widths_crop"] / 4)
    with torch.no_grad():
        heatmaps = module(batch["crop"])
        assert float(module.loss(heatmaps, *targets)) == pytest.approx(found, rel=1e-4)
        assert float(module.loss(heatmaps, *targets[:2])) != pytest.approx(found, rel=1e-3)


def test_a_training_where_nobody_has_a_width_is_refused(composed, monkeypatch):
    monkeypatch.setattr(mpii, "HEAD_SIZE_OF_HEAD", 0.0)
    with pytest.raises(PosematchError, match="head, and nobody of the train split of synthetic"):
        train(composed(*LOSS))
    train(composed(*LOSS, "loss.widths=none", "trainer.max_steps=1"))


class Fragile(Matching):
    """Has no number for joints whose width is known."""

    def __init__(self):
        super().__init__(supply="softmax", demand="point", cost="oks", widths="metric")

    def joint_losses_of(self, heatmaps, joints_hm, counted, widths_hm):
        losses = super().joint_losses_of(heatmaps, joints_hm, counted, widths_hm)
        return torch.where(widths_hm > 0, torch.nan, losses)


def test_a_dumped_step_is_computed_again_with_its_widths(composed, tmp_path, monkeypatch):
    for module in (build, replay):
        monkeypatch.setattr(module, "build_loss", lambda *_: Fragile())
    with pytest.raises(PosematchError, match="step 0 had a loss or gradient"):
        train(composed(*LOSS, "max_skipped_steps=1"))
    (folder,) = (tmp_path / "runs").iterdir()
    assert replay.replay(folder, 0, "cpu").reproduced
    # One of a version that had no widths.
    (file,) = (folder / "divergence").iterdir()
    dump = torch.load(file, weights_only=True)
    for batch in dump["batches"]:
        assert (batch.pop("widths_crop") > 0).any()
    torch.save(dump, file)
    assert not replay.replay(folder, 0, "cpu").reproduced


def test_runs_of_versions_without_widths_are_the_same_runs(composed):
    """Also inside of other losses, and where they are measured alone."""
    new = composed("loss=gaussian_then_matching", "measure=all")
    old = OmegaConf.to_container(new, resolve=True)
    for loss in (old["loss"]["then"], old["measure"]["matching"]):
        for key in ("widths", "width_factor", "width_range_px"):
            del loss[key]
    assert config_differences(old, new) == []
    new.loss.then.widths = "metric"
    assert config_differences(old, new) == [("loss.then.widths", "none", "metric")]
