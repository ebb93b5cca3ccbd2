"""Exported files compute what the model does, at other batch sizes, and say what they are of."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from exported import model_of

from posematch.app.main import run as run_verb
from posematch.decoding import Argmax
from posematch.errors import PosematchError
from posematch.exporting.checking import JOINTS_TOLERANCE_PX, MAPS_TOLERANCE, compare
from posematch.exporting.crops import crops_to_check
from posematch.exporting.export import export, model_to_export
from posematch.exporting.formats import check_installed
from posematch.exporting.graph import ABOUT, Graph
from posematch.skeletons import MPII

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = REPOSITORY / "tests" / "golden" / "runs" / "gaussian_mse-0"
FORMATS = ("onnx", "torchscript", "exported_program")
DECODERS = {
    "argmax": "Argmax",
    "quarter_offset": "QuarterOffset",
    "quarter_offset_mmpose": "QuarterOffset",
    "barycentre": "Barycentre",
    "mode": "Mode",
    "expected_metric": "ExpectedMetric",
    "dark": "DARK",
    "dark_edge": "EdgeDARK",
    "soft_argmax": "SoftArgmax",
    "udp": "UDP",
    "udp_combined": "UDPCombined",
}


def decoder_of(choice: str) -> dict[str, object]:
    """As conf/decoder has it; for maps of 16 pixels kernels are narrow."""
    config: dict[str, object] = {"_target_": f"posematch.decoding.{DECODERS[choice]}"}
    if choice in ("dark", "dark_edge", "udp", "udp_combined"):
        config["kernel"] = 3
    if choice == "quarter_offset_mmpose":
        config["edge_rule"] = "mmpose"
    return config


def drawn(size=(64, 64), count=8) -> torch.Tensor:
    return crops_to_check([], count, size, "hrnet")


def exported(model, kind, output, decode, crops=None):
    graph = Graph(model, decode).eval()
    return export(graph, kind, output, drawn() if crops is None else crops, model.record.decoder)


def within(differences) -> None:
    """The issue's limits: 1e-4 of the maps' highest value, 0.01 px."""
    assert differences.tolerable, str(differences)
    assert (MAPS_TOLERANCE, JOINTS_TOLERANCE_PX) == (1e-4, 0.01)


def test_every_choice_of_decoder_is_tried():
    choices = {one.stem for one in (REPOSITORY / "conf" / "decoder").glob("*.yaml")} - {"auto"}
    assert choices == set(DECODERS)


@pytest.mark.parametrize("decode", [True, False])
def test_torchscript(tmp_path, decode):
    model = model_of(loss="relu")
    within(exported(model, "torchscript", tmp_path / "model.pt", decode))
    extra = {ABOUT: ""}
    again = torch.jit.load(tmp_path / "model.pt", _extra_files=extra)
    about = json.loads(extra[ABOUT])
    assert about["joints"] == list(MPII.joints)
    assert about["outputs"] == (["joints_crop", "scores"] if decode else ["heatmaps"])
    assert about["normalisation"] == model.normalisation.plain()
    crops = drawn(count=7)  # no size that anything was recorded or checked with
    found = model.estimate(crops)
    wanted = (found.joints_crop, found.scores) if decode else (found.maps,)
    for one, other in zip(again(crops), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_onnx_by_the_command(tmp_path, capsys):
    import onnx
    import onnxruntime

    output = tmp_path / "pose.onnx"
    run_verb("export", [str(RUN), f"output={output}", "decode=true", "crops=6"])
    told = capsys.readouterr().out
    assert "joints_crop and scores, with flip test" in told
    assert "largest differences on 6 crops, in batches of 1, 2, 5" in told
    session = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.shape, given.type) == ("crops", ["batch", 3, 64, 64], "tensor(uint8)")
    about = json.loads(session.get_modelmeta().custom_metadata_map["posematch"])
    assert (about["convention"], about["padding"], about["flip_test"]) == ("hrnet", 1.25, True)
    crops = drawn(count=7)
    found = model_to_export(str(RUN)).estimate(crops)
    joints_crop, scores = session.run(None, {"crops": crops.numpy()})
    np.testing.assert_allclose(joints_crop, found.joints_crop, atol=0.01)
    np.testing.assert_allclose(scores, found.scores, atol=1e-4)
    onnx.checker.check_model(onnx.load(output))
    assert b"/src/posematch" not in output.read_bytes()  # no paths of this machine


def test_a_file_that_computes_something_else_is_not_kept(tmp_path):
    class Restless(torch.nn.Module):
        """Does not give the same maps twice."""

        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, crops):
            maps = self.network(crops)
            return maps + 0.01 * torch.rand_like(maps)

    model = model_of()
    model.network = Restless(model.network)
    output = tmp_path / "model.pt"
    output.write_text("of before")
    with pytest.raises(PosematchError, match=r"something else than the model.*no file was kept"):
        exported(model, "torchscript", output, decode=False)
    assert [one.name for one in tmp_path.iterdir()] == ["model.pt"]
    assert output.read_text() == "of before"


def test_what_the_maps_do_not_determine_is_told_and_nothing_else_is_let_through():
    """Two pixels of the same height: either may win. A joint moved for no reason counts."""
    model = model_of()
    model.flip_test, model.decoder = False, Argmax()
    crops = drawn(count=2)
    maps = torch.zeros(2, 16, 16, 16)
    maps[..., 3, 3] = 1.0
    maps[0, 0, 9, 9] = 1.0 - 1e-6

    class Fixed(torch.nn.Module):
        def forward(self, given):
            return maps[: len(given)]

    model.network = Fixed()
    at = torch.full((2, 16, 2), 12.0)
    tie = at.clone()
    tie[0, 0] = 36.0
    graph, scores = Graph(model, decoded=True), torch.ones(2, 16)

    def told(joints):
        rows = iter([0, 1, slice(0, 2), slice(0, 2)])

        def run(given):
            row = next(rows)
            rows_of = [row] if isinstance(row, int) else row
            return joints[rows_of], scores[rows_of]

        return compare(graph, run, crops)

    # Crops of both people give the first map here when run one at a time: one person is enough.
    maps[1] = maps[0]
    tie[1] = tie[0]
    assert told(at).undetermined == 0
    found = told(tie)
    assert found.tolerable
    assert (found.undetermined, found.joints_px) == (2, 0.0)
    assert "left out: 2 of 32 joints, up to 33.94 px" in str(found)
    wrong = at.clone()
    wrong[:, 5] += 4.0
    assert not told(wrong).tolerable
    assert not dataclasses.replace(found, joints_px=float("nan")).tolerable


def test_packages_that_are_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(PosematchError, match=r"pip install 'posematch\[export\]'"):
        check_installed("onnx")
    check_installed("torchscript")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["format=caffe"], "format=caffe must be one of onnx, torchscript, exported_program"),
        (["photos=nowhere"], "photos=nowhere is no folder"),
        (["decoder=udp_combined"], "reads 3 maps a joint, and the network has 1"),
        (["checkpoint=nowhere.ckpt"], "nowhere.ckpt does not exist"),
    ],
)
def test_wrong_commands(tmp_path, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as ended:
        run_verb("export", [str(RUN), f"output={tmp_path / 'x'}", *arguments])
    assert ended.value.code == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("choice", DECODERS)
def test_decoders(tmp_path, choice, kind):
    loss = "combined" if choice == "udp_combined" else "heights"
    model = model_of(loss=loss, decoder=decoder_of(choice))
    within(exported(model, kind, tmp_path / "model", decode=True))


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["softmax", "relu", "sparsemax"])
@pytest.mark.parametrize("choice", ["barycentre", "dark_edge", "soft_argmax"])
def test_decoders_of_masses(tmp_path, choice, loss):
    model = model_of(loss=loss, decoder=decoder_of(choice), convention="udp")
    within(exported(model, "onnx", tmp_path / "model", decode=True))


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("loss", ["heights", "softmax"])
@pytest.mark.parametrize(
    "name", ["hrnet_w18_small", "tf_efficientnet_lite0", "resnet18", "resnet50"]
)
def test_networks(tmp_path, name, loss, decode, kind):
    within(exported(model_of(name, loss), kind, tmp_path / "model", decode))


def test_blue_green_red_is_inside(tmp_path):
    model = model_of(color="bgr")
    within(exported(model, "torchscript", tmp_path / "model", decode=False))
