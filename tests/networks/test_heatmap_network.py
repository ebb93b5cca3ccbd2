"""The network at its published sizes."""

from __future__ import annotations

import pytest
import torch

from posematch.errors import PosematchError
from posematch.networks.heatmap_network import HeatmapNetwork


@pytest.mark.parametrize(
    ("name", "published_millions"),
    # PROTOCOLS 2.11 and 3: parameters with a 17-joint head.
    [("hrnet_w48", 63.6), ("hrnet_w32", 28.5), ("resnet50", 34.0)],
)
def test_published_parameter_counts(name, published_millions):
    network = HeatmapNetwork(name, 17, pretrained=False)
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    assert millions == pytest.approx(published_millions, abs=0.05)


@pytest.mark.parametrize("name", ["hrnet_w18_small", "hrnet_w48", "regnetx_002", "resnet18"])
def test_stride_four_and_every_parameter_gets_a_gradient(name):
    """Else distributed training would need its unused-parameter search."""
    network = HeatmapNetwork(name, 16, pretrained=False, deconv_channels=32)
    crops = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    heatmaps = network(crops)
    assert heatmaps.shape == (2, 16, 16, 24)
    heatmaps.square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []


def test_w48_ends_in_the_true_48_channels():
    network = HeatmapNetwork("hrnet_w48", 17, pretrained=False)
    assert network.to_heatmaps.in_channels == 48


def test_heatmaps_are_float32_under_autocast():
    network = HeatmapNetwork("hrnet_w18_small", 16, pretrained=False).eval()
    crops = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert network(crops).dtype == torch.float32


def test_input_is_normalised_by_imagenet():
    network = HeatmapNetwork("hrnet_w18_small", 16, pretrained=False)
    seen = []
    network.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network(torch.full((1, 3, 64, 64), 255, dtype=torch.uint8))
    # timm's and torchvision's constants: (1 - 0.485) / 0.229, ...
    expected = torch.tensor([2.2489, 2.4286, 2.6400])
    torch.testing.assert_close(seen[0][0, :, 5, 5], expected, atol=1e-4, rtol=0)


def test_no_weights_to_be_had_is_one_sentence(monkeypatch, tmp_path):
    """The real loading code against an empty cache and a hub that cannot be reached."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PosematchError, match=r"backbone\.pretrained=false"):
        HeatmapNetwork("hrnet_w18_small", 16, pretrained=True)


def test_unknown_backbone_is_one_sentence():
    with pytest.raises(PosematchError, match=r"hrnet_w49.*hrnet_w48"):
        HeatmapNetwork("hrnet_w49", 16, pretrained=False)


def test_stride_four_is_asked_for_where_there_is_none():
    with pytest.raises(PosematchError, match=r"head=deconv"):
        HeatmapNetwork("vit_tiny_patch16_224", 16, pretrained=False, head="conv")
