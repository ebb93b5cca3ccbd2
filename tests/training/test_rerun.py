"""A run trained again: the same to the bit, or told what differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from posematch.errors import PosematchError
from posematch.runs.folder import environment_differences
from posematch.training.rerun import rerun
from posematch.training.run import train

CONF = Path(__file__).resolve().parents[2] / "conf"

LOSSES = sorted(
    file.stem for file in CONF.glob("loss/*.yaml") if file.stem != "gaussian_mse_best_scale"
)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("loss", LOSSES)
def test_two_trainings_are_one(composed, drawn, tmp_path, loss, workers):
    first = train(composed(f"loss={loss}", f"data.workers={workers}", "trainer.max_epochs=1"))
    again = rerun(first.folder.path, str(tmp_path / "again"), str(drawn))
    assert again.results == ()
    assert again.environment == ()
    assert again.folder.path.parent == tmp_path / "again"


def test_what_differs_is_told(composed, drawn, tmp_path):
    first = train(composed("trainer.max_epochs=1", "measure=none"))
    state = torch.load(first.folder.last_checkpoint, weights_only=True)
    next(iter(state["state_dict"].values())).add_(1)
    torch.save(state, first.folder.last_checkpoint)
    environment = json.loads(first.folder.environment.read_text())
    environment["versions"]["torch"] = "1.0"
    first.folder.environment.write_text(json.dumps(environment))
    again = rerun(first.folder.path, str(tmp_path / "again"), str(drawn))
    assert len(again.results) == 1
    assert again.results[0].startswith("1 of ")
    assert [what for what, _, _ in again.environment] == ["versions.torch"]


def test_its_paths_are_not_followed(composed, tmp_path):
    first = train(composed("trainer.max_epochs=1", "measure=none"))
    with pytest.raises(PosematchError, match=r"say where they are with data\.root"):
        rerun(first.folder.path, str(tmp_path / "again"))
    config = OmegaConf.load(first.folder.config)
    config.optimizer = {"_target_": "os.system", "command": "true"}
    OmegaConf.save(config, first.folder.config)
    with pytest.raises(PosematchError, match=r"optimizer\._target_ is os\.system"):
        rerun(first.folder.path, str(tmp_path / "again"), str(tmp_path))
    assert not (tmp_path / "again").exists()


def test_what_figures_do_not_depend_on_is_no_difference():
    one = {"command": ["a"], "seed": 0, "versions": {"torch": "2.0"}, "resumed": [1]}
    other = {"command": ["b"], "seed": 0, "versions": {"torch": "2.1"}}
    assert environment_differences(one, other) == [("versions.torch", "2.0", "2.1")]
