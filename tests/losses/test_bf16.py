"""The whole network in bf16 against float32: same weights, real crops, every loss of conf/loss.

The loss within 1 % relative, the gradient of all weights within 0.02 in cosine. Weights are those a
training starts from; docs/transport.md has the figures of trained ones.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from posematch.app.composition import register_resolvers
from posematch.losses import Matching
from posematch.training.build import build_datamodule, build_loss, build_module

CONF = Path(__file__).resolve().parents[2] / "conf"
LOSSES = sorted(file.stem for file in (CONF / "loss").glob("*.yaml"))


def composed(shared_data, *overrides):
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(
            "train",
            overrides=[
                "data=mpii",
                f"data.root={shared_data / 'mpii'}",
                "data.workers=0",
                "data.batch_size=8",
                "experiment=cpu",  # HRNet-W18-small at 128 x 128
                "trainer.accelerator=cpu",
                "measure=none",
                *overrides,
            ],
        )


@pytest.fixture(scope="module")
def data(shared_data):
    """MPII's data module and eight training crops."""
    datamodule = build_datamodule(composed(shared_data))
    datamodule.prepare_data()
    datamodule.setup("fit")
    return datamodule, next(iter(datamodule.train_dataloader()))


@pytest.fixture(scope="module")
def makers(shared_data, data):
    """A module by loss, each network made once for the number of maps and the bias it needs."""
    made = {}

    def make(name):
        cfg = composed(shared_data, f"loss={name}")
        loss = build_loss(cfg.loss)
        kind = loss.channels_per_joint, loss.initial_bias
        if kind not in made:
            torch.manual_seed(0)
            made[kind] = build_module(cfg, data[0]).train()
        made[kind].loss = loss
        return made[kind]

    return make


def loss_and_gradient(module, batch, bf16):
    module.network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        heatmaps = module(batch["crop"])
    loss = module.loss(heatmaps, module.joints_hm(batch), batch["visible"])
    loss.backward()
    gradients = [one.grad.flatten() for one in module.network.parameters() if one.grad is not None]
    return loss.detach(), torch.cat(gradients).double()


# A loss of each kind: by transport, of pixels, of distributions, of fields.
OFTEN = ("matching", "gaussian_mse", "js", "udp_combined")


@pytest.mark.parametrize(
    "name",
    [one if one in OFTEN else pytest.param(one, marks=pytest.mark.slow) for one in LOSSES],
)
def test_network_in_bf16(name, data, makers):
    module, batch = makers(name), data[1]
    # Both arithmetics solve to the same tolerance, which POT reaches late.
    if isinstance(module.loss, Matching):
        module.loss.distance = replace(module.loss.distance, max_iterations=5000)
    (exact, reference), (value, gradient) = (
        loss_and_gradient(module, batch, bf16) for bf16 in (False, True)
    )
    difference = float((value / exact - 1).abs())
    distance = 1 - float(torch.nn.functional.cosine_similarity(gradient, reference, dim=0))
    assert difference < 0.01
    assert distance < 0.02
