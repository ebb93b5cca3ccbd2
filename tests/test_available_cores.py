"""Cores that a process may use, and the loader processes that follow from them."""

from __future__ import annotations

import os

import pytest

from posematch import processes
from posematch.processes import available_cores
from posematch.training import build
from posematch.training.build import automatic_workers


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux alone has affinities")
def test_affinity_counts():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert 1 <= available_cores() <= len(before)


@pytest.mark.parametrize(
    ("cores", "gpus", "devices", "environment", "workers"),
    [
        (2, 0, 1, {}, 1),  # a CPU: the training takes the rest
        (1, 0, 1, {}, 0),
        (64, 0, 1, {}, 8),
        (16, 1, 1, {}, 15),
        (128, 8, -1, {}, 15),  # all GPUs
        (128, 8, [0, 1], {}, 16),
        (16, 8, 8, {}, 1),
        (16, 8, 1, {"LOCAL_WORLD_SIZE": "4"}, 3),  # torchrun
        (16, 8, 8, {"SLURM_NTASKS": "8"}, 15),  # each task has cores of its own
    ],
)
def test_workers(monkeypatch, cores, gpus, devices, environment, workers):
    for name in ("LOCAL_WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(build, "available_cores", lambda: cores)
    monkeypatch.setattr(build.torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(build.torch.cuda, "device_count", lambda: gpus)
    assert automatic_workers("auto", devices) == workers
    assert processes.available_cores() >= 1
