"""The benchmarks run, and what they measure against answers what ours does."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from posematch.data.crops import CropDataset
from posematch.data.mpii import read_mpii
from posematch.losses import gaussian_targets
from posematch.transport import Cost

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def test_the_plain_data_set_answers_crops_and_targets_of_ours(shared_data, monkeypatch):
    """Not augmented: the validation crop, normalised; Gaussians of HRNet's, cut at 3 sigma."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from plain_dataset import PlainDataset

    people = read_mpii(shared_data / "mpii", "valid", (128, 128))
    plain = PlainDataset(people, (128, 128), 1, augmented=False)
    ours = CropDataset(people, (128, 128), "hrnet", 0)
    for place in range(0, len(people.people), 40):
        crop, target, weight, _ = plain[place]
        expected = ours[(0, place)]
        mean, std = (torch.tensor(one)[:, None, None] for one in
                     ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))  # fmt: skip
        levels = (crop * std + mean) * 255
        # HRNet's three points are float32: hundredths of a pixel.
        difference = (levels - expected["crop"].float()).abs()
        assert float(difference.mean()) < 0.2
        joints_hm = expected["joints_crop"][None] / 4
        whole = gaussian_targets(joints_hm, (32, 32), 1.0, "quantised")[0]
        counted = (weight > 0) & (expected["visible"] > 0)
        assert counted.any()
        # exp(-(3 + 1)^2 / 2) is what lies outside its patch.
        assert float((target - whole)[counted].abs().max()) < 4e-4 + np.exp(-8)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["loader.py", "data.root={mpii}", "--people=64", "--rounds=1", "--side=64"],
        ["end_to_end.py", "data=mpii", "data.root={mpii}", "data.cache_folder={tmp}",
         "data.train_people=64", "data.input_size=[64,64]", "--rounds=1", "--steps=1"],
        ["startup.py", "--rounds=1"],
        ["scaling.py", "--rounds=1", "data.root={tmp}", "data.spec.train_photos=12"],
        ["train_step.py", "data=mpii", "data.root={mpii}", "experiment=cpu",
         "data.input_size=[64,64]", "loss=gaussian_mse"],
        ["loss_step.py", "--pairs=1", "data=mpii", "data.root={mpii}",
         "data.input_size=[64,64]"],
    ],
    ids=lambda command: command[0],
)  # fmt: skip
def test_they_run(shared_data, tmp_path, command):
    places = {"mpii": shared_data / "mpii", "tmp": tmp_path}
    arguments = [one.format(**places) for one in command[1:]]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / command[0]), *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "ratio" in done.stdout or "over" in done.stdout


@pytest.mark.parametrize("name", ["pot_sinkhorn", "pot_proximal"])
@pytest.mark.parametrize(("cost", "epsilon"), [("l2", 0.1), ("squared_l2", 3.0)])
def test_others_solve_the_transport_of_ours(monkeypatch, name, cost, epsilon):
    """Else their times mean nothing; POT's proximal solver is asked for another regulariser."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    transport = importlib.import_module("transport")
    torch.manual_seed(0)
    problem = transport.problem_of(4, (16, 16), 4, Cost(cost), epsilon, "trained")
    calls, _ = transport.others(problem, inner_reg=0.1)
    # Float32's potentials of a few pixels, over epsilon, in the exponent: 1e-6 times 10.
    assert transport.error_of(problem, calls[name](1000)) < 1e-5
