"""``scripts/export_weights.py`` as its users run it."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch

from posematch.loading import load
from posematch.networks.checkpoints import load_weights
from posematch.networks.heatmap_network import HeatmapNetwork

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "export_weights.py"


def export(folder: Path, *overrides: str) -> None:
    main = runpy.run_path(str(SCRIPT))["main"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [str(SCRIPT), *overrides])
        main()


def test_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = HeatmapNetwork("hrnet_w18_small", 5, pretrained=False)
    torch.save(network.state_dict(), tmp_path / "ours.pt")
    export(tmp_path, "checkpoint=ours.pt", "backbone=hrnet_w18_small", "output=a/official.pth")
    export(
        tmp_path, "checkpoint=a/official.pth", "backbone=hrnet_w18_small", "layout=mmpose0",
        "output=mmpose.pth",
    )  # fmt: skip
    told = capsys.readouterr().out
    assert "written to a/official.pth" in told
    assert "has the names of HRNet's and SimpleBaseline's code" in told
    back = HeatmapNetwork("hrnet_w18_small", 5, pretrained=False)
    assert load_weights(back, tmp_path / "mmpose.pth").layout.name == "mmpose0"
    for name, tensor in network.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name


def test_our_own_layout_keeps_what_the_weights_are_of(tmp_path: Path) -> None:
    run = SCRIPT.parents[1] / "tests" / "golden" / "runs" / "gaussian_mse-0"
    model = load(run)
    content = {"state_dict": model.network.state_dict(), "model": model.record.model_dump()}
    torch.save(content, tmp_path / "alone.ckpt")
    export(tmp_path, "checkpoint=alone.ckpt", "layout=posematch", "output=out.pt")
    again = load(tmp_path / "out.pt")
    assert again.record == model.record
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("checkpoint=none.pt", "output=x"), "none.pt does not exist"),
        (("output=x",), "checkpoint is not set"),
        (
            ("checkpoint=ours.pt", "output=x", "layout=hrnet"),
            "layout=hrnet must be one of",
        ),
        (
            ("checkpoint=ours.pt", "output=x", "backbone=resnet50"),
            "those of hrnet_w18_small",
        ),
        (("checkpoint=no_pose.pt", "output=x"), "no last layer that makes heatmaps"),
        (("checkpoint=ours.pt", "output=ours.pt/x"), "ours.pt/x cannot be written"),
    ],
)
def test_wrong_input_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: tuple[str, ...], words: str
) -> None:
    network = HeatmapNetwork("hrnet_w18_small", 5, pretrained=False)
    torch.save(network.state_dict(), tmp_path / "ours.pt")
    torch.save({"fc.weight": torch.ones(2, 2)}, tmp_path / "no_pose.pt")
    chosen = [] if any(one.startswith("backbone") for one in overrides) else ["backbone=small"]
    with pytest.raises(SystemExit) as ended:
        export(tmp_path, *overrides, *chosen)
    assert ended.value.code == 1
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert words in told.err
    assert {file.name for file in tmp_path.iterdir()} == {"ours.pt", "no_pose.pt"}
