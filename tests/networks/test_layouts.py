"""Weights of other projects come in whole, mean the same here, and go out unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from restatements import SimpleBaseline, hrnet

from posematch.errors import PosematchError
from posematch.networks.checkpoints import load_weights, save_weights
from posematch.networks.heatmap_network import HeatmapNetwork
from posematch.networks.normalisation import IMAGENET

# Names of the published files' tables, and parameters in millions (docs/protocols.md, Networks).
NETWORKS = {
    "hrnet_w48": ("pose_hrnet_w48_coco", 63.6),
    "hrnet_w32": ("pose_hrnet_w32_coco", 28.5),
    "resnet50": ("pose_resnet50_coco", 34.0),
}


@pytest.fixture(scope="session")
def official(shared_data: Path):
    """A state dict with the official names and shapes and random values that keep maps finite."""

    def make(name: str) -> dict[str, torch.Tensor]:
        file = shared_data.parent / "reference" / f"state_dict_{NETWORKS[name][0]}.tsv"
        if not file.is_file():
            pytest.skip(f"no {file}")
        shapes = dict(line.split("\t") for line in file.read_text().splitlines())
        return random_weights(
            {
                key: () if shape == "scalar" else tuple(map(int, shape.split("x")))
                for key, shape in shapes.items()
            }
        )

    return make


def random_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for key, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if key.endswith("num_batches_tracked"):
            weights[key] = torch.tensor(1234)
        elif key.endswith("running_var") or (len(shape) == 1 and key.endswith("weight")):
            weights[key] = noise.abs() + 0.5
        elif len(shape) == 4:
            weights[key] = noise / (shape[1] * shape[2] * shape[3]) ** 0.5
        else:
            weights[key] = 0.1 * noise
    return weights


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def normalised(crops: torch.Tensor) -> torch.Tensor:
    """As torchvision's ToTensor and Normalize do."""
    mean, std = torch.tensor(IMAGENET)
    return (crops.float() / 255 - mean[:, None, None]) / std[:, None, None]


def ours(name: str, joints: int = 17) -> HeatmapNetwork:
    return HeatmapNetwork(name, joints, pretrained=False).eval()


@pytest.fixture(scope="session")
def loaded(official, tmp_path_factory):
    """An official state dict, the network that it was loaded into, and what was told; kept."""
    made = {}

    def load(name: str):
        if name not in made:
            file = tmp_path_factory.mktemp("official") / "theirs.pth"
            weights, network = official(name), ours(name)
            torch.save(weights, file)
            made[name] = (weights, network, load_weights(network, file))
            file.unlink()
        return made[name]

    return load


@pytest.mark.parametrize("name", NETWORKS)
def test_official_weights_come_in_and_go_out(loaded, tmp_path, name):
    weights, network, found = loaded(name)
    assert (found.layout.name, found.afresh, found.left_out) == ("official", (), ())
    learnt = sum(p.numel() for p in network.parameters())
    assert learnt / 1e6 == pytest.approx(NETWORKS[name][1], abs=0.05)
    counted = (v.numel() for k, v in weights.items() if "running" not in k and "num_" not in k)
    assert learnt == sum(counted)
    save_weights(network, "official", tmp_path / "back.pth")
    assert same(torch.load(tmp_path / "back.pth", weights_only=True), weights)


@pytest.mark.parametrize(("name", "head"), [("hrnet_w32", "keypoint_head"), ("resnet50", "head")])
def test_weights_of_mmpose_come_in_and_go_out(official, tmp_path, name, head):
    weights = {}
    for key, value in official(name).items():
        prefix = head if key.startswith(("final_layer", "deconv_layers")) else "backbone"
        weights[f"{prefix}.{key}"] = value
    # What mmpose 1.x notes beside them: numpy arrays among plain values.
    noted = {"epoch": 210, "dataset_meta": {"sigmas": np.array([0.026, 0.025], np.float32)}}
    torch.save({"meta": noted, "state_dict": weights}, tmp_path / "theirs.pth")
    network = ours(name)
    loaded = load_weights(network, tmp_path / "theirs.pth")
    assert not loaded.bgr
    assert loaded.layout.name == {"head": "mmpose", "keypoint_head": "mmpose0"}[head]
    save_weights(network, loaded.layout.name, tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back.keys() == {"meta", "state_dict"}
    assert same(back["state_dict"], weights)


def test_simplebaseline_computes_what_it_did(loaded):
    """Its crops are blue-green-red, see `posematch.networks.layouts.takes_bgr`.

    Tolerance: float32 through 60 layers; a layer in another's place gives another map (below).
    """
    weights, network, found = loaded("resnet50")
    assert found.bgr
    theirs = SimpleBaseline(17).eval()
    theirs.load_state_dict(weights)
    crops = torch.randint(0, 256, (2, 3, 96, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = theirs(normalised(crops.flip(1)))
        torch.testing.assert_close(network(crops), expected, rtol=0, atol=relative(expected))
        wrong = theirs(normalised(crops))
    assert not torch.allclose(network(crops), wrong, rtol=0, atol=100 * relative(expected))


def relative(maps: torch.Tensor) -> float:
    return 1e-5 * float(maps.abs().max())


@pytest.mark.parametrize("name", ["hrnet_w32", "hrnet_w48"])
def test_hrnet_computes_what_it_did(loaded, name):
    weights, network, found = loaded(name)
    assert not found.bgr
    crops = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = hrnet(weights, normalised(crops))
        torch.testing.assert_close(network(crops), expected, rtol=0, atol=relative(expected))


def test_a_layer_in_anothers_place_shows(tmp_path):
    """What the two tests above would say if the names' correspondence were wrong."""
    network = ours("hrnet_w18_small", 5)
    weights = random_weights(
        {key: tuple(value.shape) for key, value in network.state_dict().items()}
    )
    network.load_state_dict(weights)
    save_weights(network, "official", tmp_path / "x.pth")
    named = torch.load(tmp_path / "x.pth", weights_only=True)
    crops = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        maps, expected = network(crops), hrnet(named, normalised(crops))
        torch.testing.assert_close(maps, expected, rtol=0, atol=relative(expected))
        one, other = "stage4.0.branches.3.0.conv1.weight", "stage4.0.branches.3.0.conv2.weight"
        named[one], named[other] = named[other], named[one]
        assert not torch.allclose(maps, hrnet(named, normalised(crops)), atol=relative(expected))


@pytest.fixture
def small(tmp_path):
    """The official state dict of a small HRNet with 5 joints, its network, and the file."""
    network = ours("hrnet_w18_small", 5)
    save_weights(network, "official", tmp_path / "x.pth")
    return network, torch.load(tmp_path / "x.pth", weights_only=True), tmp_path / "x.pth"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("conv2.weight"), r"it lacks conv2\.weight \(1 difference\)"),
        (lambda w: w.update({"extra.weight": torch.ones(1)}), r"it has extra\.weight besides"),
        (lambda w: w.pop("final_layer.weight"), "no last layer that makes heatmaps"),
        (lambda w: w.update({"bn1.weight": torch.ones(7)}), r"bn1\.weight is \(7,\) there and"),
        (lambda w: w.pop("bn1.num_batches_tracked"), r"it lacks bn1\.num_batches_tracked"),
        # A fusion layer that is no part of the last module is missed by the forward pass.
        (lambda w: w.update({"stage3.0.fuse_layers.9.0.0.0.weight": torch.ones(1)}), "besides"),
    ],
)
def test_a_key_more_or_less_is_a_sentence(small, change, words):
    network, weights, file = small
    change(weights)
    torch.save(weights, file)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(PosematchError, match=words) as caught:
        load_weights(network, file)
    assert str(caught.value).endswith(".")
    assert same(before, network.state_dict())


def test_only_the_fusion_that_nobody_reads_may_be_left_out(small):
    """An HRNet with all four outputs, as mmpose's ``multiscale_output=True`` trains: 39 tensors of
    weights more (docs/protocols.md, Networks), and their statistics."""
    import timm

    network, weights, file = small
    whole = timm.create_model("hrnet_w18_small", features_only=True, feature_location="")
    for key, value in whole.state_dict().items():
        weights.setdefault(key, value)
    torch.save(weights, file)
    loaded = load_weights(network, file)
    assert all(".fuse_layers." in name for name in loaded.left_out)
    parameters = {f"backbone.{name}" for name, _ in whole.named_parameters()}
    assert len(parameters & set(loaded.left_out)) == 39
    assert "lower resolutions" in loaded.told("x")[1]


def test_files_without_counters_are_of_an_old_torch(small):
    network, weights, file = small
    torch.save({k: v for k, v in weights.items() if "num_batches" not in k}, file)
    loaded = load_weights(network, file)
    assert loaded.counters_missing
    assert "does not count batches" in loaded.told("x")[1]


def test_another_width_is_named(loaded, tmp_path):
    torch.save(loaded("hrnet_w32")[0], tmp_path / "x.pth")
    with pytest.raises(PosematchError, match="those of hrnet_w32 with 17 joints"):
        load_weights(ours("hrnet_w18_small", 17), tmp_path / "x.pth")


def test_blue_green_red_is_remembered_with_the_weights(tmp_path):
    """Trained on from SimpleBaseline's file, a network's own checkpoints tell how it sees."""
    source = HeatmapNetwork("resnet18", 3, pretrained=False, color="bgr")
    torch.save(source.state_dict(), tmp_path / "x.pt")
    target = ours("resnet18", 3)
    assert load_weights(target, tmp_path / "x.pt").bgr
    crops = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(target(crops), source.eval()(crops), rtol=0, atol=0)
    said = save_weights(target, "official", tmp_path / "official.pth")
    assert said == []
    assert "bgr_to_rgb=False" in save_weights(target, "mmpose", tmp_path / "mmpose.pth")[0]
    red_first = HeatmapNetwork("resnet18", 3, pretrained=False, color="rgb")
    assert not load_weights(red_first, tmp_path / "official.pth").bgr
    said = save_weights(red_first, "official", tmp_path / "official.pth")
    assert "COLOR_RGB: true" in said[0]


@pytest.mark.parametrize("name", ["resnet18d", "regnetx_002"])
def test_what_the_other_project_does_not_have_is_not_written(tmp_path, name):
    network = HeatmapNetwork(name, 3, pretrained=False, deconv_channels=8)
    with pytest.raises(PosematchError, match="has no network of these weights"):
        save_weights(network, "official", tmp_path / "x.pth")
    with pytest.raises(PosematchError, match="layout=hrnet must be one of"):
        save_weights(network, "hrnet", tmp_path / "x.pth")
    assert list(tmp_path.iterdir()) == []
    save_weights(network, "posematch", tmp_path / "x.pth")
    load_weights(HeatmapNetwork(name, 3, pretrained=False, deconv_channels=8), tmp_path / "x.pth")


def test_color_is_one_of_three():
    with pytest.raises(PosematchError, match=r"backbone\.color=grey"):
        HeatmapNetwork("resnet18", 3, pretrained=False, color="grey")
