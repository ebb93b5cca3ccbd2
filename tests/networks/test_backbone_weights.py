"""A backbone from a file of weights: whose names fit, what comes in, and what is refused."""

from __future__ import annotations

import os

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from posematch.errors import PosematchError
from posematch.networks.backbone_weights import load_backbone
from posematch.networks.heatmap_network import HeatmapNetwork
from posematch.networks.normalisation import Normalisation
from posematch.networks.quiet_timm import timm


def network(name, **options):
    return HeatmapNetwork(name, 3, pretrained=False, deconv_channels=8, **options)


def loaded(name, state, path, **options):
    torch.save(state, path)
    made = network(name, **options)
    return made, load_backbone(made.backbone, name, path)


@pytest.fixture(scope="module")
def resnet18():
    return torchvision.models.resnet18(weights=None).state_dict()


def test_real_imagenet_weights(shared_data):
    """288 tensors under timm's names, float16 (shared/data/README.md); mean and deviation 0.5."""
    file = shared_data / "weights" / "tf_efficientnet_lite0_imagenet_fp16.pth"
    made = network("tf_efficientnet_lite0")
    found = load_backbone(made.backbone, "tf_efficientnet_lite0", file)
    assert (len(found.taken), found.kept, found.ignored) == (288, (), ())
    assert "288 of the 288 tensors of tf_efficientnet_lite0" in found.told()
    half = (0.5, 0.5, 0.5)
    assert made.normalisation == Normalisation(half, half)
    content = torch.load(file, weights_only=True)
    for name, tensor in made.backbone.state_dict().items():
        assert tensor.dtype == (torch.float32 if tensor.is_floating_point() else torch.int64)
        assert torch.equal(tensor, content[name].to(tensor.dtype))


@pytest.mark.parametrize(
    "name",
    # Each of timm's ways to make feature maps: of their own class, pruned, of lists whose members
    # have other names, of members of a sequence.
    ["mobilenetv3_small_050", "hrnet_w18_small", "resnet10t", "convnext_atto", "densenet121",
     "regnetx_002"],
)  # fmt: skip
def test_timms_whole_networks(name, tmp_path):
    whole = timm.create_model(name)
    made, found = loaded(name, whole.state_dict(), tmp_path / "whole.pth")
    assert len(found.taken) == len(made.backbone.state_dict())
    assert found.kept == ()
    assert len(found.taken) + len(found.ignored) == len(whole.state_dict())
    sums = sum(one.double().sum() for one in made.backbone.state_dict().values())
    of_whole = whole.state_dict()
    kept = sum(of_whole[one].double().sum() for one in of_whole if one not in found.ignored)
    torch.testing.assert_close(sums, kept)


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "model.", "module.encoder_q."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "teacher"])
def test_what_stands_around_the_names(resnet18, prefix, wrapper, tmp_path):
    named = {f"{prefix}{name}": tensor for name, tensor in resnet18.items()}
    named["queue"] = torch.ones(3)
    content = named if wrapper is None else {"epoch": 3, wrapper: named, "args": {"lr": 0.1}}
    made, found = loaded("resnet18", content, tmp_path / "x.pth")
    assert len(found.taken) == 120
    assert set(found.ignored) == {"fc.weight", "fc.bias", "queue"}
    assert torch.equal(made.backbone.state_dict()["layer4.1.conv2.weight"],
                       resnet18["layer4.1.conv2.weight"])  # fmt: skip


def test_of_several_networks_the_one_that_is_meant(resnet18, tmp_path):
    other = {name: torch.zeros_like(tensor) for name, tensor in resnet18.items()}
    content = {"student": other, "teacher": resnet18, "head": {"conv1.weight": torch.ones(1)}}
    made, _ = loaded("resnet18", content, tmp_path / "x.pth")
    assert torch.equal(made.backbone.conv1.weight, resnet18["conv1.weight"])


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_safetensors_of_other_precisions(resnet18, kind, tmp_path):
    halves = {k: v.to(kind) if v.is_floating_point() else v for k, v in resnet18.items()}
    save_file(halves, tmp_path / "x.safetensors")
    made = network("resnet18")
    found = load_backbone(made.backbone, "resnet18", tmp_path / "x.safetensors")
    assert len(found.taken) == 120
    assert made.backbone.conv1.weight.dtype == torch.float32
    assert torch.equal(made.backbone.conv1.weight, halves["conv1.weight"].float())


def test_another_projects_names_by_timms_own_function(tmp_path):
    """torchvision's RegNet, which timm calls regnety_004 and renames itself."""
    theirs = torchvision.models.regnet_y_400mf(weights=None).state_dict()
    made, found = loaded("regnety_004", theirs, tmp_path / "x.pth")
    assert found.kept == ()
    assert torch.equal(made.backbone.state_dict()["stem.conv.weight"], theirs["stem.0.weight"])


def test_what_is_missing_keeps_its_values(resnet18, tmp_path):
    part = {k: v for k, v in resnet18.items() if not k.startswith("bn1") and "tracked" not in k}
    made, found = loaded("resnet18", part, tmp_path / "x.pth")
    assert set(found.kept) == {f"bn1.{one}" for one in ("weight", "bias", "running_mean",
                                                        "running_var")}  # fmt: skip
    assert "bn1.weight, bn1.bias, bn1.running_mean and 1 other keep their" in found.told()
    assert torch.equal(made.backbone.bn1.weight, torch.ones(64))


def test_by_the_key_of_a_network_it_wins_over_pretrained(resnet18, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("socket.create_connection", lambda *rest, **more: asked.append(rest))
    torch.save(resnet18, tmp_path / "x.pth")
    made = HeatmapNetwork("resnet18", 3, pretrained=True, weights=str(tmp_path / "x.pth"))
    assert torch.equal(made.backbone.conv1.weight, resnet18["conv1.weight"])
    assert asked == []


def harmed(resnet18, name, value):
    return {**resnet18, name: value(resnet18[name])}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("resnet34", lambda r: r, r"120 of the 216 tensors of resnet34, 5\d% of its numbers: it"
         r" lacks layer1.2.conv1.weight, and has fc.weight and fc.bias; choose the backbone"),
        ("resnet18", lambda r: {"a.b": torch.ones(2)}, r"0 of the 120 tensors of resnet18"),
        ("resnet18", lambda r: {"epoch": 3}, "holds no state dict of a network"),
        ("resnet18", lambda r: [1, 2], "holds no state dict of a network"),
        ("resnet18", lambda r: {}, "holds no state dict of a network"),
        ("resnet18", lambda r: {**r, "layer3.2.conv1.weight": torch.ones(3)},
         "is of a larger network than resnet18, which has no layer3.2.conv1.weight"),
        ("resnet18", lambda r: harmed(r, "conv1.weight", lambda w: w[:, :1].clone()),
         r"conv1.weight is \(64, 1, 7, 7\) there and \(64, 3, 7, 7\) here"),
        ("resnet18", lambda r: harmed(r, "bn1.bias", lambda b: b * float("nan")),
         "bn1.bias has values that are NaN or infinite"),
        ("resnet18", lambda r: harmed(r, "bn1.bias", lambda b: b.double() + 1e300), "NaN or inf"),
        ("resnet18", lambda r: harmed(r, "bn1.bias", lambda b: b.int()), "bn1.bias is of int32"),
        ("resnet18", lambda r: {"x": os.system}, "objects besides tensors"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(resnet18, name, content, words, tmp_path):
    torch.save(content(resnet18), tmp_path / "x.pth")
    made = network(name)
    before = {key: tensor.clone() for key, tensor in made.backbone.state_dict().items()}
    with pytest.raises(PosematchError, match=words) as caught:
        load_backbone(made.backbone, name, tmp_path / "x.pth")
    assert str(caught.value).startswith(f"backbone.weights={tmp_path / 'x.pth'}")
    assert "checkpoint=" not in str(caught.value)
    assert "\n" not in str(caught.value)
    for key, tensor in made.backbone.state_dict().items():
        assert torch.equal(tensor, before[key])


@pytest.mark.parametrize(
    ("place", "words"),
    [("nothing.pth", "does not exist"), ("", "is a folder"), ("bad.safetensors", "as safetensors"),
     ("bad.pth", "cannot be read|is no checkpoint")],
)  # fmt: skip
def test_what_cannot_be_read_is_told(place, words, tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 100)
    (tmp_path / "bad.pth").write_bytes(b"nothing of the kind")
    with pytest.raises(PosematchError, match=words) as caught:
        load_backbone(network("test_resnet").backbone, "test_resnet", tmp_path / place)
    assert str(caught.value).startswith(f"backbone.weights={tmp_path / place}")
