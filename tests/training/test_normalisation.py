"""A network is normalised as its weights were, and a training goes on as it began."""

from __future__ import annotations

import pytest
import torch
import yaml

from posematch.errors import PosematchError
from posematch.loading import load
from posematch.networks.checkpoints import read_checkpoint
from posematch.networks.normalisation import IMAGENET
from posematch.runs.folder import read_config
from posematch.training.run import train

HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
# A backbone whose weights timm trained with 0.5, under a schedule that any length fits.
RESNET = (
    *("backbone.name=test_resnet", "backbone.head=deconv", "backbone.deconv_channels=8"),
    *("loss=gaussian_mse", "measure=none", "decoders=none", "schedule=hrnet"),
    "pictures.every_n_epochs=0",
)
TEN = "backbone.normalisation={mean:[0.1,0.1,0.1],std:[0.1,0.1,0.1]}"


@pytest.fixture(scope="module")
def once(composed_in, tmp_path_factory):
    """A run of one epoch; its configuration says the normalisation in numbers."""
    folder = tmp_path_factory.mktemp("once")
    return train(composed_in(folder, *RESNET, "trainer.max_epochs=1")).folder


def test_the_run_and_its_checkpoint_say_it(once, tmp_path):
    assert read_config(once.config)["backbone"]["normalisation"] == HALF
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes(once.last_checkpoint.read_bytes())
    model = load(alone)
    assert model.normalisation.plain() == HALF
    assert model.record == load(once.path).record


def test_a_run_of_before_goes_on_with_imagenets(composed_in, once, tmp_path):
    """The same command, whose ``auto`` means 0.5 today; and never with what it says otherwise."""
    run = tmp_path / "runs" / "before"
    (run / "checkpoints").mkdir(parents=True)
    config = read_config(once.config)
    del config["backbone"]["normalisation"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    content = read_checkpoint(once.last_checkpoint)
    del content["model"]
    torch.save(content, run / "checkpoints" / "last.ckpt")
    for name in ("metrics.csv", "environment.json"):
        (run / name).write_bytes((once.path / name).read_bytes())
    resumed = (*RESNET, "trainer.max_epochs=2", f"resume={run}")
    with pytest.raises(PosematchError, match=r"was trained with backbone\.normalisation"):
        train(composed_in(tmp_path, *resumed, TEN))
    result = train(composed_in(tmp_path, *resumed))
    assert result.resumed
    assert read_checkpoint(result.folder.last_checkpoint)["epoch"] == 1
    assert load(run).normalisation == IMAGENET


def test_fine_tuning_takes_that_of_the_checkpoint(composed_in, once, tmp_path):
    told = {"mean": [0.4] * 3, "std": [0.3] * 3}
    content = read_checkpoint(once.last_checkpoint)
    content["model"]["backbone"]["normalisation"] = told
    torch.save(content, tmp_path / "other.ckpt")
    start = (*RESNET, f"checkpoint={tmp_path / 'other.ckpt'}", "trainer.max_steps=1")
    folder = train(composed_in(tmp_path, *start)).folder
    assert read_config(folder.config)["backbone"]["normalisation"] == told
    assert load(folder.path).normalisation.plain() == told
