"""The capacity plan of docs/scaling.md: figures by hand, and the document's tables."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def capacity():
    spec = importlib.util.spec_from_file_location(
        "capacity", REPOSITORY / "benchmarks" / "capacity.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["capacity"] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["capacity"]


@pytest.fixture
def parts(capacity):
    return {name: one.value for name, one in capacity.PARTS.items()}


def test_speed_goes_through_what_was_measured(capacity, parts):
    assert capacity.images_a_second(parts, 32) == pytest.approx(209)
    assert capacity.images_a_second(parts, 128) == pytest.approx(496)


def test_one_gpu_is_people_times_epochs_over_speed(capacity, parts):
    """Nine trainings of 210 epochs at 209 images/s, and every tenth epoch both passes of the flip
    test over 104,125 boxes at a third of a training step's work; the rest of a batch is 0.01 %."""
    it = capacity.plan(parts, gpus=1, processes=1, batch=32)
    epochs = 210 * (149_813 + 104_125 * 2 / 3 / 10) / 209
    assert it.gpu_hours == pytest.approx(9 * (epochs + 120) / 3600, rel=1e-3)
    assert it.hours == it.gpu_hours
    assert it.efficiency == 1
    assert it.network_gbit == 0


def test_ring_of_two_nodes_sends_each_gradient_once_each_way(capacity, parts):
    """A ring of n sends 2 (n - 1) / n of 63.6 M floats: 7/4 inside a node of 8, 1 between two."""
    bits = 63.6e6 * 32
    seconds = 7 / 4 * bits / 2400e9 + bits / 100e9 + 4 * 20e-6 * 16
    assert capacity.all_reduce_ms(parts, 16) == pytest.approx(1e3 * seconds)


def test_the_document_has_its_tables(capacity, parts):
    document = (REPOSITORY / "docs" / "scaling.md").read_text("utf-8")
    for batch in (32, 128):
        for line in capacity.table(parts, [1, 8, 64], batch, "photos"):
            assert line in document
