"""Costs as published."""

from __future__ import annotations

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode

from posematch.networks.complexity import complexity
from posematch.networks.heatmap_network import HeatmapNetwork


@pytest.mark.parametrize(
    ("name", "published"),
    # docs/protocols.md, Networks.
    [
        (
            "hrnet_w48",
            {(256, 192): ("63.6 M", "14.6", "15.69e9"), (384, 288): ("63.6 M", "32.9", "35.31e9")},
        ),
        ("hrnet_w32", {(256, 192): ("28.5 M", "7.1", ""), (384, 288): ("28.5 M", "16.0", "")}),
    ],
)
def test_costs_are_the_published_ones(name, published):
    with FakeTensorMode():  # shapes without arithmetic
        network = HeatmapNetwork(name, 17, pretrained=False)
        for size, (parameters, gflops, multiply_adds) in published.items():
            said = str(complexity(network, size))
            assert said.startswith(f"{parameters} parameters, {gflops} GFLOPs")
            assert multiply_adds in said
    assert network.training


def test_a_real_network_counts_alike():
    network = HeatmapNetwork("resnet18", 3, pretrained=False, deconv_channels=8)
    with FakeTensorMode():
        fake = HeatmapNetwork("resnet18", 3, pretrained=False, deconv_channels=8)
        expected = complexity(fake, (64, 64))
    assert complexity(network, (64, 64)) == expected
