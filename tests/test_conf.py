"""Every configuration composes and builds; keys are what something reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from posematch.config import make, register_resolvers
from posematch.training.build import build_loss

CONF = Path(__file__).resolve().parents[1] / "conf"
GROUPS = sorted(
    (str(path.parent.relative_to(CONF)), path.stem) for path in CONF.glob("*/**/*.yaml")
)


def composed(*overrides: str):
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=list(overrides))


@pytest.mark.parametrize(("group", "choice"), GROUPS, ids=lambda value: value)
def test_every_choice_composes_and_resolves(group, choice):
    OmegaConf.to_container(composed(f"{group}={choice}"), resolve=True)


@pytest.mark.parametrize("choice", [c for g, c in GROUPS if g == "loss"])
def test_every_loss_is_built_and_carries_its_own_name(choice):
    cfg = composed(f"loss={choice}")
    assert cfg.loss.name == choice
    build_loss(cfg.loss)


@pytest.mark.parametrize(
    "choice", [c for g, c in GROUPS if g == "augmentation/appearance" and c != "none"]
)
def test_every_appearance_is_built(choice):
    make(composed(f"augmentation/appearance={choice}").augmentation.appearance)


def test_bare_command_is_the_embedded_data_with_the_matching_loss():
    """DESIGN, Settled."""
    cfg = composed()
    assert (cfg.data.name, cfg.loss.name, cfg.backbone.pretrained) == (
        "synthetic",
        "matching",
        False,
    )


@pytest.mark.parametrize(
    ("data", "size", "sigma", "rotation", "scale"),
    # PROTOCOLS 2.10's table.
    [("mpii", [256, 256], 2, 30, 0.25), ("coco", [256, 192], 2, 45, 0.35)],
)
def test_real_data_brings_the_published_recipe(data, size, sigma, rotation, scale):
    cfg = composed(f"data={data}")
    assert cfg.backbone.name == "hrnet_w48"
    assert cfg.backbone.pretrained
    assert (list(cfg.data.input_size), cfg.data.sigma) == (size, sigma)
    assert (cfg.optimizer._target_, cfg.optimizer.lr) == ("torch.optim.Adam", 1e-3)
    assert list(cfg.schedule.milestones_epochs) == [170, 200]
    assert (cfg.trainer.max_epochs, cfg.data.batch_size) == (210, 32)
    assert cfg.augmentation.geometry.rotation_deg == rotation
    assert cfg.augmentation.geometry.scale_factor == scale


def test_what_the_user_says_wins_over_what_the_data_brings():
    cfg = composed("data=mpii", "backbone=hrnet_w32", "schedule=cosine", "trainer.max_epochs=3")
    assert (cfg.backbone.name, cfg.trainer.max_epochs) == ("hrnet_w32", 3)
    assert cfg.schedule._target_.endswith("cosine")
    assert composed("data=mpii", "experiment=cpu").backbone.name == "hrnet_w18_small"


@pytest.mark.parametrize(("height", "sigma"), [(128, 1), (256, 2), (384, 3)])
def test_sigma_follows_the_heatmap(height, sigma):
    assert composed(f"data.input_size=[{height},{height}]").loss.get("sigma", sigma) == sigma
    assert composed(f"data.input_size=[{height},{height}]", "loss=gaussian_mse").loss.sigma == sigma


@pytest.mark.parametrize("override", ["trainer.max_epoch=3", "los=matching", "loss=matchin"])
def test_a_misspelt_override_is_refused(override):
    with pytest.raises(ConfigCompositionException):
        composed(override)


def test_evaluate_composes():
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("evaluate", overrides=["predictions=x", "data=coco"])
    assert cfg.data.name == "coco"
