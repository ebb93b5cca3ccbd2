"""``backbone.weights=FILE`` in a training (docs/weights.md), and after: nobody opens the file."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from light import LIGHT
from omegaconf import OmegaConf

import posematch
from posematch.app.verbs.train import check_training
from posematch.errors import PosematchError
from posematch.evaluation.export import export_weights
from posematch.networks.checkpoint_files import read_checkpoint
from posematch.networks.quiet_timm import timm
from posematch.runs.folder import read_config
from posematch.training.rerun import rerun
from posematch.training.run import train

SHORT = (*LIGHT, "loss=gaussian_mse", "schedule=hrnet", "trainer.max_epochs=1")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Weights of timm's whole network, its classifier included."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("weights") / "test_resnet.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    return path


@pytest.fixture(scope="module")
def once(composed_in, tmp_path_factory, file):
    """A run that starts from the file, though its recipe asks for timm's own weights."""
    cfg = composed_in(tmp_path_factory.mktemp("once"), *SHORT, "backbone.pretrained=true",
                      "optimizer.lr=0")  # fmt: skip
    cfg.backbone.weights = str(file)
    return train(cfg).folder


def test_the_run_starts_from_the_file_and_says_so(once, file):
    state = read_checkpoint(once.last_checkpoint)["state_dict"]
    content = torch.load(file, weights_only=True)
    for name in ("conv1.0.weight", "layer4.0.conv1.weight"):  # lr=0: as they began
        name = name if name in content else name.replace("conv1.0", "conv1")
        assert torch.equal(state[f"network.backbone.{name}"], content[name])
    assert read_config(once.config)["backbone"]["weights"] == str(file)
    noted = json.loads(once.environment.read_text())["backbone_weights"]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert noted == {"path": str(file), "sha256": digest}


def test_nobody_opens_it_afterwards(once, tmp_path):
    """Loading, exporting, and the record in the checkpoint; a named pipe would be waited for."""
    config = OmegaConf.load(once.config)
    before = once.config.read_bytes()
    config.backbone.weights = str(tmp_path / "nothing.pth")
    OmegaConf.save(config, once.config)
    try:
        content = read_checkpoint(once.last_checkpoint)
        assert "weights" not in content["model"]["backbone"]
        posematch.load(once.path)
        # Of a stranger, who writes the record, too.
        content["model"]["backbone"]["weights"] = str(tmp_path / "nothing.pth")
        torch.save(content, tmp_path / "alone.ckpt")
        assert "weights" not in posematch.load(tmp_path / "alone.ckpt").record.backbone
        del content["model"]
        (tmp_path / "run" / "checkpoints").mkdir(parents=True)
        torch.save(content, tmp_path / "run" / "checkpoints" / "last.ckpt")
        OmegaConf.save(config, tmp_path / "run" / "config.yaml")
        posematch.load(tmp_path / "run")
        overrides = [f"checkpoint={once.path}", f"output={tmp_path / 'x.pth'}", "layout=posematch"]
        export_weights(posematch.compose(overrides, "export_weights"), overrides)
        assert (tmp_path / "x.pth").is_file()
    finally:
        once.config.write_bytes(before)


def test_it_is_evaluated_without_it(once, file, drawn):
    moved = file.rename(file.with_suffix(".moved"))
    try:
        found = posematch.evaluate(once.path, overrides=["data=synthetic", f"data.root={drawn}"])
        assert found is not None
    finally:
        moved.rename(file)


def test_a_resumed_run_takes_its_checkpoint(composed, once, tmp_path):
    """With the file gone: its path is what the command says, and what the run says."""
    cfg = composed(*SHORT, "backbone.pretrained=true", "optimizer.lr=0", "trainer.max_epochs=2",
                   f"resume={once.path}")  # fmt: skip
    config = read_config(once.config)
    gone = str(tmp_path / "gone.pth")
    config["backbone"]["weights"] = cfg.backbone.weights = gone
    before = once.config.read_bytes()
    OmegaConf.save(OmegaConf.create(config), once.config)
    try:
        check_training(cfg)
        assert train(cfg).resumed
    finally:
        once.config.write_bytes(before)
    cfg.resume = None
    with pytest.raises(PosematchError, match=rf"backbone\.weights={gone} does not exist"):
        check_training(cfg)
    with pytest.raises(PosematchError, match=rf"backbone\.weights={gone} does not exist"):
        train(cfg)
    assert not (tmp_path / "runs").exists()


def test_one_file_is_enough(composed, once, file):
    cfg = composed(*SHORT, f"checkpoint={once.last_checkpoint}")
    cfg.backbone.weights = str(file)
    with pytest.raises(PosematchError, match="name one of them"):
        train(cfg)


@pytest.fixture(scope="module")
def folder(composed_in, tmp_path_factory, file):
    """A run that starts from the file, to be trained again."""
    cfg = composed_in(tmp_path_factory.mktemp("rerun"), *SHORT)
    cfg.backbone.weights = str(file)
    return train(cfg).folder


class TestRerun:
    def test_it_needs_the_file(self, folder, drawn, tmp_path, file):
        again = rerun(folder.path, str(tmp_path / "again"), str(drawn), weights=str(file))
        assert again.results == ()

    def test_another_one_is_refused(self, folder, drawn, tmp_path, file):
        content = {k: v + 1 for k, v in torch.load(file, weights_only=True).items()}
        torch.save(content, tmp_path / "other.pth")
        for named, words in (
            (None, r"say where they are with backbone\.weights=FILE"),
            (tmp_path / "other.pth", "is not the file that the run started from: its SHA-256"),
            (tmp_path / "gone.pth", "does not exist"),
        ):
            with pytest.raises(PosematchError, match=words):
                rerun(folder.path, str(tmp_path / "again"), str(drawn),
                      weights=named and str(named))  # fmt: skip
        assert not (tmp_path / "again").exists()

    def test_a_run_of_no_file_takes_none(self, finished, drawn, tmp_path, file):
        first = finished(*SHORT).folder
        with pytest.raises(PosematchError, match="started from no file"):
            rerun(first.path, str(tmp_path / "again"), str(drawn), weights=str(file))
