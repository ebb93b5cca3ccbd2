"""Depthwise convolutions under bf16 autocast on a CPU."""

import copy

import pytest
import timm
import torch
from torch import nn

from posematch.networks.depthwise import train_depthwise_in_float32
from posematch.networks.heatmap_network import HeatmapNetwork


def test_gradient_is_that_of_float32() -> None:
    """Of maps and weights that bf16 holds exactly; autocast alone would round the products."""
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
    x, pull = torch.randn(2, 2, 8, 9, 7).bfloat16()
    expected, rounded = copy.deepcopy(layer), copy.deepcopy(layer)
    expected(x.float()).backward(pull.float())
    train_depthwise_in_float32(layer)
    for one in (layer, rounded):
        with torch.autocast("cpu", torch.bfloat16):
            maps = one(x)
        assert maps.dtype == torch.bfloat16
        maps.backward(pull)
    torch.testing.assert_close(layer.weight.grad, expected.weight.grad, rtol=0, atol=0)
    assert not torch.equal(rounded.weight.grad, expected.weight.grad)


@pytest.mark.parametrize("bf16", [False, True])
def test_without_gradient_or_autocast_nothing_changes(bf16: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, 3, groups=8)
    x = torch.randn(2, 8, 9, 7)
    with torch.set_grad_enabled(not bf16), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        before = layer(x)
        train_depthwise_in_float32(layer)
        assert torch.equal(layer(x), before)


def test_a_copy_has_weights_of_its_own() -> None:
    """Moving averages of a network are copies of it."""
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4))
    train_depthwise_in_float32(layer)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        layer[0].weight.zero_()
    x = torch.randn(1, 4, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert other(x).abs().max() > 0.01


def test_a_networks_depthwise_layers_are_found_and_names_stay() -> None:
    """Those with padding of TensorFlow's kind, a class of timm's, too."""
    name = "tf_efficientnet_lite0.in1k"
    network = HeatmapNetwork(name, num_joints=2, pretrained=False, deconv_channels=8)
    plain = timm.create_model(name, pretrained=False, features_only=True)
    assert list(network.backbone.state_dict()) == list(plain.state_dict())
    depthwise = [
        layer
        for layer in network.backbone.modules()
        if isinstance(layer, nn.Conv2d) and layer.groups > 1
    ]
    assert len(depthwise) == 16  # a block's each: of stages of 1, 2, 2, 3, 3, 4 and 1
    # An own forward of each, as in the tests above.
    assert all("forward" in vars(layer) for layer in depthwise)
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).sum().backward()
