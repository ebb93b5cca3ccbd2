"""Weights from files, trusted and not."""

from __future__ import annotations

import pickle

import pytest
import torch

from posematch.errors import PosematchError
from posematch.networks.checkpoints import load_weights
from posematch.networks.heatmap_network import HeatmapNetwork


def network(joints: int = 4, name: str = "hrnet_w18_small") -> HeatmapNetwork:
    return HeatmapNetwork(name, joints, pretrained=False)


def equal(one: HeatmapNetwork, other: HeatmapNetwork, but: str = " ") -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for (name, a), b in pairs if not name.startswith(but))


@pytest.mark.parametrize("prefix", ["", "network.", "module.network.", "network._orig_mod."])
def test_own_weights_come_back(tmp_path, prefix):
    source, target = network(), network()
    assert not equal(source, target)
    state = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    # What stands beside the network in a Lightning checkpoint.
    content = {"state_dict": state | {"loss.x": torch.ones(1)}, "epoch": 3} if prefix else state
    torch.save(content, tmp_path / "x.ckpt")
    loaded = load_weights(target, tmp_path / "x.ckpt")
    assert (loaded.layout.name, loaded.afresh, loaded.told("x")) == ("posematch", (), [])
    assert equal(source, target)


def test_head_of_other_joints_starts_afresh(tmp_path):
    source, target = network(4), network(5)
    head = target.to_heatmaps.weight.clone()
    torch.save(source.state_dict(), tmp_path / "x.pt")
    loaded = load_weights(target, tmp_path / "x.pt")
    assert loaded.afresh == ("to_heatmaps.weight", "to_heatmaps.bias")
    assert "start afresh" in loaded.told("x")[0]
    assert equal(target, source, but="to_heatmaps")
    assert torch.equal(target.to_heatmaps.weight, head)


def test_head_of_other_joints_is_refused_where_nothing_is_trained(tmp_path):
    torch.save(network(4).state_dict(), tmp_path / "x.pt")
    target = network(5)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(PosematchError, match="hrnet_w18_small with 4 joints"):
        load_weights(target, tmp_path / "x.pt", new_head=False)
    assert all(torch.equal(tensor, before[n]) for n, tensor in target.state_dict().items())


def refused(tmp_path, words, target=None):
    with pytest.raises(PosematchError, match=words) as caught:
        load_weights(target or network(), tmp_path / "x.pt")
    assert str(caught.value).endswith(".")


def test_another_network_is_named(tmp_path):
    torch.save(network(4, "resnet18").state_dict(), tmp_path / "x.pt")
    refused(tmp_path, r"another network than this command")


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    flag = tmp_path / "ran"

    class Attack:
        def __reduce__(self):
            return (flag.write_text, ("owned",))

    torch.save({"state_dict": network().state_dict(), "x": Attack()}, tmp_path / "x.pt")
    refused(tmp_path, "objects besides tensors")
    (tmp_path / "x.pt").write_bytes(pickle.dumps(Attack()))
    refused(tmp_path, "no checkpoint|cannot be read")
    assert not flag.exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_what_is_no_checkpoint(tmp_path, content):
    if content is None:
        refused(tmp_path, "does not exist")
    else:
        (tmp_path / "x.pt").write_bytes(content)
        refused(tmp_path, "x.pt")


def test_folder_cut_file_and_a_list(tmp_path):
    (tmp_path / "x.pt").mkdir()
    refused(tmp_path, "is a folder")
    (tmp_path / "x.pt").rmdir()
    torch.save(network().state_dict(), tmp_path / "x.pt")
    whole = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path, "is damaged: the end of its archive is missing")
    torch.save([1, 2], tmp_path / "x.pt")
    refused(tmp_path, "no state dict")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weight: weight * float("nan"), "NaN or infinite"),
        (lambda weight: weight.fill_(float("inf")), "NaN or infinite"),
        (lambda weight: weight.long(), "is of int64, and floating-point numbers belong there"),
        (lambda weight: weight.to(torch.complex64), "is of complex64"),
        (lambda weight: weight > 0, "is of bool"),
    ],
)
def test_weights_that_would_score_as_nonsense(tmp_path, change, words):
    state = network().state_dict()
    state["to_heatmaps.weight"] = change(state["to_heatmaps.weight"])
    torch.save(state, tmp_path / "x.pt")
    refused(tmp_path, f"to_heatmaps.weight .*{words}")


def test_half_and_double_precision_still_load(tmp_path):
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        state = {
            k: v.to(kind) if v.is_floating_point() else v for k, v in network().state_dict().items()
        }
        torch.save(state, tmp_path / "x.pt")
        load_weights(network(), tmp_path / "x.pt")
