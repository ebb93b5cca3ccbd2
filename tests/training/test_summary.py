"""``posematch summary``: counts of a configuration and of a checkpoint, without data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from posematch.app.main import run as run_verb
from posematch.loading import load
from posematch.training.summary import costs

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = REPOSITORY / "tests" / "golden" / "runs" / "gaussian_mse-0"


@pytest.mark.parametrize(
    ("backbone", "parameters", "arithmetic"),
    [
        ("hrnet_w18_small", "1.28 M", "0.5"),  # of this code: a published one takes a minute
        pytest.param("hrnet_w32", "28.54 M", "7.1", marks=pytest.mark.slow),
    ],
)
def test_of_a_configuration(tmp_path, monkeypatch, capsys, backbone, parameters, arithmetic):
    """GFLOPs and parameters: docs/protocols.md, Networks (HRNet-W32 at 256 x 192, COCO)."""
    monkeypatch.chdir(tmp_path)
    run_verb(
        "summary",
        ["data=coco", "loss=matching", f"backbone={backbone}", "seconds=0", "data.batch_size=2"],
    )
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert told["network"].startswith(backbone)
    assert told["joints"] == "17 (coco)"
    assert told["parameters"].startswith(parameters)
    assert told["arithmetic"].startswith(arithmetic)
    assert told["maps"] == "masses: relu over its sum"
    assert told["decoder"].startswith("Barycentre radius_px=")
    assert list(tmp_path.iterdir()) == []


def test_of_a_checkpoint(capsys):
    run_verb("summary", [str(RUN), "seconds=0.01", "data.batch_size=3"])
    told = capsys.readouterr().out
    assert "64 x 64, convention hrnet" in told
    assert "heights, as the loss fixes them" in told
    assert "speed, 1 at a time" in told
    assert "speed, 3 at a time" in told


def test_memory_is_what_is_kept():
    """By torch's own hooks on a real backward pass: what it keeps is most of a step's peak."""
    model = load(RUN)
    people = 6
    _, memory = costs(model, people)
    network = model.network.train()
    weights = {one.untyped_storage().data_ptr() for one in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        maps = network(torch.zeros((people, 3, *model.input_size), dtype=torch.uint8))
    learnt = sum(one.nbytes for one in network.parameters())
    step = memory.step - memory.weights - 2 * learnt  # without the weights and Adam's moments
    assert maps.requires_grad
    assert sum(kept.values()) <= step <= 1.5 * sum(kept.values()) + learnt
    assert memory.weights == sum(one.nbytes for one in network.state_dict().values())
    assert memory.weights < memory.forward < memory.step


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["checkpoint=nowhere.ckpt"], "nowhere.ckpt does not exist"),
        (["seconds=-1"], "seconds=-1 must be a number of at least 0"),
        (["backbone.name=resnet999"], "timm knows no backbone 'resnet999'"),
    ],
)
def test_wrong_commands(capsys, arguments, sentence):
    with pytest.raises(SystemExit):
        run_verb("summary", arguments)
    assert sentence in capsys.readouterr().err
