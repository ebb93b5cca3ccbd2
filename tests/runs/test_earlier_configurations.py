"""Configurations of runs that were made before a loss had all of its keys."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from posematch.app.commands import compose
from posematch.runs.folder import config_differences, read_config

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "runs" / "matching-0" / "config.yaml"


def without(config, key):
    """The configuration as a run of before that key has it, wherever the key is."""
    if not isinstance(config, dict):
        return config
    return {name: without(one, key) for name, one in config.items() if name != key}


@pytest.mark.parametrize("key", ["even_share", "revive", "pool"])
@pytest.mark.parametrize("loss", ["matching", "cross_entropy_then_matching"])
def test_a_run_of_before_a_key_is_the_same_training(loss, key):
    config = OmegaConf.to_container(compose([f"loss={loss}"]), resolve=True)
    old = without(copy.deepcopy(config), key)
    assert config_differences(old, config) == []


@pytest.mark.parametrize(
    "loss",
    [
        "gaussian_mse",
        "ohkm",
        "dot_mse",
        "adaptive_wing",
        "spatial_cross_entropy",
        "kl",
        "js",
        "dsnt",
        "simcc",
    ],
)
def test_a_run_of_before_every_loss_had_a_temperature(loss):
    config = OmegaConf.to_container(compose([f"loss={loss}"]), resolve=True)
    old = copy.deepcopy(config)
    del old["loss"]["temperature"]
    assert config_differences(old, config) == []


def test_another_value_is_told():
    config = OmegaConf.to_container(compose(["loss=matching", "loss.revive=true"]), resolve=True)
    old = without(copy.deepcopy(config), "revive")
    assert config_differences(old, config) == [("loss.revive", False, True)]


def test_golden_runs_lack_no_key_that_counts():
    """A run of the first versions, resumed by its own overrides today."""
    old = read_config(GOLDEN)
    today = OmegaConf.to_container(compose([]), resolve=True)
    told = {key for key, before, _ in config_differences(old, today) if before == "nothing"}
    assert not {key for key in told if key.startswith(("loss.", "measure."))}
