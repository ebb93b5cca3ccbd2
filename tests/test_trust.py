"""A stored configuration builds posematch's own things, each in its place, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from posematch.app.composition import register_resolvers
from posematch.errors import PosematchError
from posematch.trust import check_trusted

CONF = Path(__file__).resolve().parents[1] / "conf"
PLACES = (
    "loss", "loss.mask", "loss.first", "measure.x", "decoder", "decoders.x", "backbone", "data",
    "data.spec", "data.geometry", "data.appearance", "optimizer", "schedule", "callbacks.x",
    "logger.x", "trainer", "pictures", "",
)  # fmt: skip
FOREIGN = (
    "os.system", "subprocess.Popen", "builtins.exec", "torch.utils.collect_env.run", "torch.load",
    "posematch.training.run.shutil.rmtree", "posematch.files.os.remove", "posematch",
    "posematch.training.sweep.subprocess.run", "posematchx.losses.DotMSE", "posematch..losses",
    "posematch.losses.DotMSE.__init__", "posematch.losses.DotMSE.load_state_dict", 7, None,
    "posematch.untrusted:read_yaml", "posematch.losses", "posematch.no.such", "posematch.trust.re",
    "posematch.training.sweep.begin_sweep", "posematch.files.write_text", "hydra.utils.get_class",
    "posematch.app.commands.command",
    "posematch.networks.heatmap_network._create", "torch.nn.Module",
    "albumentations.Lambda", "torch.optim.swa_utils.AveragedModel", "torch.optim.Adam.load",
    "os", "posematch.training.callbacks.WeightAveraging", "posematch.losses.nn.Linear",
)  # fmt: skip


def at(place: str, node):
    for name in reversed(place.split(".") if place else []):
        node = {name: node}
    return node


@pytest.mark.parametrize("place", PLACES)
def test_nothing_foreign_is_built_anywhere(place):
    for target in FOREIGN:
        with pytest.raises(PosematchError, match=r"^config.yaml: ") as caught:
            check_trusted(at(place, {"_target_": target, "path": "x"}), "config.yaml")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "target"),
    [
        ("loss", "posematch.decoding.Argmax"),
        ("loss.losses.x", "posematch.training.run.train"),
        ("loss.mask", "posematch.data.synthetic.SyntheticSpec"),
        ("decoder", "posematch.decoding.Decoder"),
        ("decoder", "posematch.decoding.flip_average"),
        ("backbone", "posematch.losses.DotMSE"),
        ("data", "posematch.data.datamodule.PoseDataModule"),
        ("data.spec", "posematch.data.synthetic.write_synthetic"),
        ("data.appearance", "posematch.data.augmentation.GeometricAugmentation"),
        ("schedule", "posematch.training.schedules._check_warmup"),
        ("schedule", "posematch.training.run.train"),
        ("optimizer", "posematch.losses.DotMSE"),
        ("optimizer", "torch.optim.lr_scheduler.LambdaLR"),
        ("callbacks.x", "posematch.training.loggers.wandb_logger"),
        ("logger.x", "posematch.training.loggers.finish_wandb"),
        ("pictures", "posematch.losses.DotMSE"),
    ],
)
def test_ours_in_another_place_are_refused(place, target):
    with pytest.raises(PosematchError, match="does not belong there"):
        check_trusted(at(place, {"_target_": target}), "config.yaml")


@pytest.mark.parametrize(
    "config",
    [
        {"loss": {"_target_": "posematch.losses.DotMSE", "_args_": [1]}},
        {"loss": {"_target_": "posematch.losses.DotMSE", "_recursive_": False}},
        {"loss": {"_target_": "posematch.losses.DotMSE", "_partial_": True}},
        {"data": {"name": "${oc.env:HOME}"}},
        {"data": [["${loss.name}"]]},
        {"${x}": 1},
        {"decoder": {"_mode_": "x"}},
        {"backbone": {"_target_": "posematch.networks.heatmap_network.HeatmapNetwork",
                      "name": "hf-hub:someone/something"}},
        {"backbone": {"_target_": "posematch.networks.heatmap_network.HeatmapNetwork",
                      "name": "local-dir:/tmp"}},
        {"backbone": {"_target_": "posematch.networks.heatmap_network.HeatmapNetwork",
                      "name": "resnet18.hf-hub:x/y"}},
        {"data": {"appearance": {"_target_": "posematch.data.augmentation.Appearance",
                  "transforms": [{"_target_": "albumentations.TextImage", "font_path": "/x"}]}}},
        {"data": {"appearance": {"_target_": "posematch.data.augmentation.Appearance",
                  "transforms": [{"_target_": "albumentations.Lambda"}]}}},
    ],
)  # fmt: skip
def test_what_only_hydra_reads_and_names_that_fetch_are_refused(config):
    with pytest.raises(PosematchError, match=r"^config.yaml: \S+"):
        check_trusted(config, "config.yaml")


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["data=mpii", "augmentation/appearance=all", "callbacks=[ema,early_stopping]"],
        ["data=coco", "loss=gaussian_then_matching", "logger=[wandb,tensorboard]"],
        ["loss=udp_combined", "optimizer=adam", "schedule=cosine"],
    ],
)
def test_what_trainings_store_is_trusted(overrides):
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=overrides)
    check_trusted(yaml.safe_load(OmegaConf.to_yaml(cfg, resolve=True)), "config.yaml")


def test_a_package_is_built_only_when_it_is_trusted(tmp_path, monkeypatch):
    (tmp_path / "of_somebody.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).write_text('')\n"
        "from shutil import rmtree\nclass Decoder: ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = {"decoder": {"_target_": "of_somebody.Decoder"}}
    with pytest.raises(PosematchError, match="add trust=of_somebody"):
        check_trusted(config, "config.yaml")
    assert not (tmp_path / "ran").exists()  # it was not even imported
    check_trusted(config, "config.yaml", ["of_somebody"])
    with pytest.raises(PosematchError, match="which of_somebody does not define"):
        check_trusted({"decoder": {"_target_": "of_somebody.rmtree"}}, "x", ["of_somebody"])
    with pytest.raises(PosematchError, match=r"trust=a\.b must be the name of a package"):
        check_trusted(config, "config.yaml", ["a.b"])


def test_looking_targets_up_imports_nothing_else(tmp_path):
    """In a fresh interpreter: a foreign package that lies on the path stays unimported."""
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    code = (
        "import sys\nfrom posematch.trust import check_trusted\n"
        "from posematch.errors import PosematchError\n"
        "for name in ('evil.x', 'posematch.evil.x', 'posematch.losses.evil.x'):\n"
        "    try: check_trusted({'loss': {'_target_': name}}, 'x')\n"
        "    except PosematchError: pass\n"
        "    else: sys.exit('trusted')\n"
        "assert 'evil' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
