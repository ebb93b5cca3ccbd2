"""The network at its published sizes."""

from __future__ import annotations

import pytest
import torch

from posematch.errors import PosematchError
from posematch.networks.heatmap_network import HeatmapNetwork


@pytest.mark.parametrize(
    ("name", "published_millions"),
    # docs/protocols.md, Networks: parameters with a 17-joint head.
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


@pytest.mark.parametrize("told", [False, True])
def test_frozen_norm_neither_counts_nor_learns(told):
    network = HeatmapNetwork("hrnet_w18_small", 4, pretrained=False, freeze_norm=True)
    if told:
        network.eval().train()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)).square().sum().backward()
    for name, buffer in network.named_buffers():
        torch.testing.assert_close(buffer, before[name], rtol=0, atol=0, msg=name)
    learning = {name for name, p in network.named_parameters() if p.grad is not None}
    assert learning
    assert not any("bn" in name for name in learning)


@pytest.mark.parametrize(
    ("name", "most"),
    # The last one's stem, of three layers, is most of it.
    [("hrnet_w18_small", 0.6), ("resnet18", 0.6), ("test_resnet", 0.8)],
)
def test_checkpointed_activations_give_the_same_step_with_less_memory(name, most):
    """Gradients and running statistics equal; fewer bytes kept for the backward
    pass (the stem and the head keep theirs)."""
    crops = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    grads, buffers, kept = [], [], []
    for recompute in (False, True):
        torch.manual_seed(0)
        network = HeatmapNetwork(
            name, 4, pretrained=False, deconv_channels=8, activation_checkpointing=recompute
        ).train()
        storages = {p.untyped_storage().data_ptr() for p in network.parameters()}
        sizes = {}

        def keep(tensor, storages=storages, sizes=sizes):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in storages:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = network(crops).square().sum()
        kept.append(sum(sizes.values()))
        loss.backward()
        grads.append({n: p.grad for n, p in network.named_parameters()})
        buffers.append(dict(network.named_buffers()))
    assert kept[1] < most * kept[0]
    assert grads[1].keys() == grads[0].keys()
    for first, second in (grads, buffers):
        for name_, tensor in first.items():
            torch.testing.assert_close(second[name_], tensor, msg=name_)


def test_a_vision_transformer_keeps_all_its_blocks_and_takes_any_crop():
    """timm's ViT-Tiny/16 has 12 blocks; its map of stride 16 is deconvolved twice."""
    network = HeatmapNetwork("vit_tiny_patch16_224", 5, pretrained=False, deconv_channels=8).eval()
    assert len([name for name in network.state_dict() if name.endswith(".norm1.bias")]) == 12
    with torch.no_grad():
        maps = network(torch.zeros(1, 3, 96, 64, dtype=torch.uint8))
    assert maps.shape == (1, 5, 24, 16)
