"""A trained network is used without its training: from a run folder, or a checkpoint alone."""

from __future__ import annotations

import copy
import doctest
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch.utils.data import default_collate

import posematch.model
import posematch.networks.normalisation
from posematch.app.objects import make
from posematch.errors import PosematchError
from posematch.loading import load
from posematch.losses import Matching, Scheduled, UDPCombined
from posematch.losses.gaussian_mse import GaussianMSE
from posematch.model import PoseModel
from posematch.model_record import ModelRecord
from posematch.networks.checkpoints import load_weights, read_checkpoint
from posematch.networks.heatmap_network import HeatmapNetwork
from posematch.networks.normalisation import IMAGENET, Normalisation
from posematch.skeletons import COCO, MPII

REPOSITORY = Path(__file__).resolve().parents[1]
RUN = REPOSITORY / "tests" / "golden" / "runs" / "gaussian_mse-0"
HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
TARGET = "posematch.networks.heatmap_network.HeatmapNetwork"


def record_of(
    name="test_resnet", loss=None, decoder=None, skeleton=MPII, **backbone
) -> ModelRecord:
    loss = loss or GaussianMSE(sigma=0.5)
    backbone = {"_target_": TARGET, "name": name, "pretrained": False, "deconv_channels": 8,
                **backbone}  # fmt: skip
    return ModelRecord.of(
        backbone=backbone,
        decoder=decoder or loss.decoder_config(),
        meaning=loss.meaning,
        skeleton=skeleton,
        input_size=(64, 96),
        convention="udp",
        flip_test=True,
        channels_last=False,
    )


def saved(model: PoseModel, path: Path, **changed) -> Path:
    """As a training saves it, without what only a training reads."""
    weights = {f"network.{name}": value for name, value in model.network.state_dict().items()}
    record = model.record.model_dump() | changed
    torch.save({"state_dict": weights, "model": record, "epoch": 3}, path)
    return path


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The validation people of the kept run, drawn again, and their batch."""
    config = yaml.safe_load((RUN / "config.yaml").read_text())
    data = {k: v for k, v in config["data"].items() if k not in ("sigma", "geometry")}
    root = tmp_path_factory.mktemp("drawn")
    datamodule = make(data | {"root": str(root)}, "data")
    datamodule.prepare_data()
    datamodule.setup("validate")
    dataset = datamodule.val_dataloader().dataset
    return root, default_collate([dataset[(0, index)] for index in range(len(dataset))])


@pytest.fixture(scope="module")
def stored():
    """(people, joints, 2) photo pixels and (people, joints) scores that the run itself wrote."""
    table = pd.read_parquet(RUN / "predictions" / "epoch=003.parquet")
    people = table.person_id.nunique()
    joints = table[["x", "y"]].to_numpy().reshape(people, -1, 2)
    return table, joints, table.score.to_numpy().reshape(people, -1)


class TestOfBefore:
    """Run folders and checkpoints of before checkpoints said what they are of."""

    def test_joints_are_those_that_the_run_stored(self, drawn, stored):
        _, batch = drawn
        model = load(RUN)
        assert not model.training
        found = model.estimate(batch["crop"], batch["crop_affine"])
        _, joints_img, scores = stored
        np.testing.assert_allclose(found.joints_img.numpy(), joints_img, atol=2e-3)
        np.testing.assert_allclose(found.scores.numpy(), scores, atol=1e-5)

    def test_evaluation_predicts_what_the_run_stored(self, drawn, stored):
        sys.path.insert(0, str(REPOSITORY / "tests" / "evaluation"))
        try:
            from compositions import composed
        finally:
            sys.path.pop(0)
        from posematch.evaluation.checkpoints import evaluate_checkpoint

        # As it was stored: bf16 would choose other pixels of flat maps.
        overrides = [
            f"checkpoint={RUN}", f"data.root={drawn[0]}", "trainer.accelerator=cpu",
            "trainer.precision=32-true",
        ]  # fmt: skip
        evaluation = evaluate_checkpoint(composed("evaluate", *overrides), overrides)
        (part,) = evaluation.parts
        table, joints_img, _ = stored
        assert list(part.table.person_ids) == list(table.person_id.unique())
        np.testing.assert_allclose(part.table.joints_img, joints_img, atol=2e-3)

    def test_a_run_folder_completes_it_with_imagenets_normalisation(self, tmp_path):
        """Also a backbone whose weights were trained with another one."""
        run = tmp_path / "run"
        shutil.copytree(RUN, run, ignore=shutil.ignore_patterns("predictions", "heatmaps"))
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["backbone"]["name"] = "test_resnet"
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        network = HeatmapNetwork("test_resnet", 16, pretrained=False, deconv_channels=16)
        assert network.normalisation == HALF
        weights = {f"network.{name}": value for name, value in network.state_dict().items()}
        torch.save({"state_dict": weights}, run / "checkpoints" / "last.ckpt")
        model = load(run)
        assert model.normalisation == IMAGENET
        torch.testing.assert_close(model.network.mean.flatten() / 255, torch.tensor(IMAGENET.mean))
        assert load(run / "checkpoints" / "last.ckpt").normalisation == IMAGENET

    def test_weights_alone_say_what_is_missing(self, tmp_path):
        alone = shutil.copy(RUN / "checkpoints" / "last.ckpt", tmp_path / "alone.ckpt")
        with pytest.raises(PosematchError, match=r"holds weights alone.*config\.yaml") as caught:
            load(alone)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "channels"),
    [(Matching(supply="softmax", temperature=0.5), 1), (UDPCombined(), 3)],
)
def test_a_checkpoint_alone_is_the_model(tmp_path, loss, channels):
    model = PoseModel.of(record_of(loss=loss, skeleton=COCO)).eval()
    torch.nn.init.normal_(model.network.to_heatmaps.weight)
    again = load(saved(model, tmp_path / "m.ckpt"))
    assert again.record == model.record
    assert again.meaning == loss.meaning
    assert again.meaning.channels_per_joint == channels
    assert again.skeleton == COCO
    assert (again.input_size, again.convention) == ((64, 96), "udp")
    assert again.normalisation == HALF
    crops = torch.randint(0, 256, (3, 3, 64, 96), dtype=torch.uint8)
    affine = torch.tensor([[2.0, 0, 3], [0, 2, 5]]).expand(3, 2, 3)
    one, other = model.estimate(crops, affine), again.estimate(crops, affine)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)
    assert one.maps.shape == (3, 17, 16, 24)
    wanted = (one.joints_crop.double() - torch.tensor([3.0, 5])) / 2
    torch.testing.assert_close(one.joints_img, wanted, atol=1e-4, rtol=0)


def test_the_mirrored_crop_counts_in_the_flip_test():
    """A mirrored crop has the mirrored joints, and nothing has where the flip test is off."""
    model = PoseModel.of(record_of()).eval()
    for weight in model.network.parameters():
        if weight.ndim == 4:
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    crops = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    order = list(MPII.flip_permutation)
    maps, mirrored = (model.estimate(one).maps for one in (crops, crops.flip(-1)))
    scale = maps.std()
    torch.testing.assert_close(mirrored.flip(-1)[:, order] / scale, maps / scale, atol=1e-3, rtol=0)
    model.flip_test = False
    mirrored = model.estimate(crops.flip(-1)).maps
    assert (mirrored.flip(-1)[:, order] - maps).abs().max() > 0.1 * scale


def test_what_maps_mean_is_that_of_the_epoch():
    loss = Scheduled(GaussianMSE(sigma=0.5), Matching(), switch_epoch=2)
    assert loss.meaning.supply == "none"
    loss.start_epoch(2)
    assert loss.meaning.supply == "relu"


def test_crops_of_another_size_are_refused():
    model = PoseModel.of(record_of()).eval()
    with pytest.raises(PosematchError, match=r"must be \(B, 3, 64, 96\)"):
        model.estimate(torch.zeros(1, 3, 64, 64))


FOREIGN = {"_target_": "os.system", "command": "true"}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"schema_version": 2}, "of a later version of posematch"),
        ({"decoder": FOREIGN}, "decoder._target_ is os.system"),
        ({"backbone": FOREIGN}, "backbone._target_ is os.system"),
        ({"backbone": {"name": "test_resnet"}}, "does not say what it is"),
        (
            {"backbone": {"_target_": TARGET, "name": "hf-hub:someone/x", "pretrained": False}},
            "no model of timm's own",
        ),
        (
            {"backbone": {"_target_": TARGET, "name": "test_resnet", "deconv_channels": 10**7}},
            "deconv_channels",
        ),
        ({"input_size": [64, 65]}, "input_size"),
        ({"input_size": [64, 1 << 20]}, "input_size"),
        ({"convention": "mine"}, "convention"),
        ({"flip_test": "yes"}, "flip_test"),
        ({"more": 1}, "more"),
        ({"maps": {"supply": "none", "temperature": 0.0, "mirror_signs": [1]}}, "temperature"),
    ],
)  # fmt: skip
def test_a_strangers_record_is_refused_in_a_sentence(tmp_path, changed, words, monkeypatch):
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("run"))
    model = PoseModel.of(record_of())
    with pytest.raises(PosematchError, match=words) as caught:
        load(saved(model, tmp_path / "m.ckpt", **changed))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "harm",
    [
        lambda skeleton: skeleton["limbs"].append([0, 99]),
        lambda skeleton: skeleton["flip_pairs"].append(skeleton["flip_pairs"][0]),
        lambda skeleton: skeleton.pop("joints"),
        lambda skeleton: skeleton["oks_sigmas"].append(0.1),
    ],
)
def test_a_damaged_skeleton_is_refused_in_a_sentence(tmp_path, harm):
    model = PoseModel.of(record_of())
    skeleton = copy.deepcopy(model.record.model_dump()["skeleton"])
    harm(skeleton)
    with pytest.raises(PosematchError, match=r"its record of the network .* is damaged: skeleton"):
        load(saved(model, tmp_path / "m.ckpt", skeleton=skeleton))


def test_a_record_fetches_nothing(tmp_path):
    """``pretrained: true`` in a stranger's record asks no network for weights."""
    model = PoseModel.of(record_of())
    backbone = model.record.backbone | {"pretrained": True}
    assert load(saved(model, tmp_path / "m.ckpt", backbone=backbone)).record == model.record


def test_own_classes_are_built_on_trust(tmp_path, monkeypatch):
    (tmp_path / "own_decoders.py").write_text(
        "import posematch.decoding\n\nclass Middle(posematch.decoding.Argmax):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    model = PoseModel.of(record_of(decoder={"_target_": "own_decoders.Middle"}))
    file = saved(model, tmp_path / "m.ckpt")
    sys.modules.pop("own_decoders")
    with pytest.raises(PosematchError, match="add trust=own_decoders"):
        load(file)
    assert "own_decoders" not in sys.modules
    assert type(load(file, trust="own_decoders").decoder).__name__ == "Middle"


class TestNormalisation:
    @pytest.mark.parametrize(
        ("name", "expected"), [("test_resnet", HALF), ("hrnet_w18_small", IMAGENET)]
    )
    def test_it_is_that_of_the_weights(self, name, expected):
        network = HeatmapNetwork(name, 3, pretrained=False, deconv_channels=8)
        assert network.normalisation == expected
        seen = []
        network.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        network(torch.full((1, 3, 64, 64), 51, dtype=torch.uint8))
        colours = (0.2 - torch.tensor(expected.mean)) / torch.tensor(expected.std)
        torch.testing.assert_close(seen[0][0, :, 5, 5], colours, atol=1e-5, rtol=0)

    def test_it_can_be_chosen(self):
        chosen = {"mean": [0.1, 0.2, 0.3], "std": [1, 2, 3]}
        network = HeatmapNetwork("test_resnet", 3, False, deconv_channels=8, normalisation=chosen)
        assert network.normalisation.plain() == {"mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0]}

    @pytest.mark.parametrize(
        ("choice", "words"),
        [
            ("imagenet", r"auto \(as the weights were trained\) or"),
            ({"mean": [0, 0, 0]}, "must be auto"),
            ({"mean": [0, 0], "std": [1, 1, 1]}, "three numbers"),
            ({"mean": [0, 0, float("nan")], "std": [1, 1, 1]}, "three numbers"),
            ({"mean": [0, 0, 0], "std": [1, 1, 0]}, "must be positive"),
        ],
    )
    def test_what_is_none_is_told(self, choice, words):
        with pytest.raises(PosematchError, match=words):
            HeatmapNetwork("test_resnet", 3, False, deconv_channels=8, normalisation=choice)

    def test_fine_tuning_takes_that_of_the_file(self, tmp_path):
        """ImageNet's from a file that does not say one; unless the command has chosen."""

        def tuned(**chosen):
            network = HeatmapNetwork("test_resnet", 5, False, deconv_channels=8, **chosen)
            load_weights(network, file)
            return network.normalisation

        chosen = Normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
        model = PoseModel.of(record_of(normalisation=chosen.plain()))
        file = saved(model, tmp_path / "m.ckpt")
        assert tuned() == chosen
        assert tuned(normalisation=HALF.plain()) == HALF
        torch.save(read_checkpoint(file)["state_dict"], file)
        assert tuned() == IMAGENET


@pytest.mark.parametrize("module", [posematch.model, posematch.networks.normalisation])
def test_examples_in_the_docstrings_run(module, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    ran = doctest.testmod(module)
    assert ran.attempted > 0
    assert ran.failed == 0
