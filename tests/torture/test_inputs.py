"""Damaged and hostile inputs: a sentence, and nothing run, deleted or read elsewhere.

Each case goes through a script's ``main`` in a process of its own, whose time, memory and deeds are
looked at. The short ones run always; all of them in ``make test-all``. One case by itself:

    pytest tests/torture/test_inputs.py -k NAME
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from inputs.collection import ALL, SHORT, counts
from inputs.harness import Harness
from inputs.probe import DEEDS, probe


@pytest.fixture(scope="module")
def harness(tmp_path_factory) -> Iterator[Harness]:
    with Harness(tmp_path_factory.mktemp("torture")) as harness:
        yield harness


@pytest.mark.parametrize(
    "name", [one if one in SHORT else pytest.param(one, marks=pytest.mark.slow) for one in ALL]
)
def test_input(harness, tmp_path, name):
    outcome = harness.run(ALL[name], tmp_path / "case")
    assert not outcome.faults, f"{outcome.faults}\n{outcome.stderr[-2000:]}"


@pytest.mark.parametrize(
    "deed", [pytest.param(one, marks=pytest.mark.slow) if one == "spin" else one for one in DEEDS]
)
def test_the_harness_sees_what_is_not_to_be(harness, tmp_path, deed):
    faults = " ".join(harness.run(probe(deed), tmp_path / "case").faults)
    assert DEEDS[deed][1] in faults
    assert bool(faults) == (deed != "nothing"), faults


def test_there_are_as_many_as_promised():
    """300 malformed ones that must be refused, 40 hostile ones, and good ones of every kind."""
    kinds = counts()
    assert sum(kinds.values()) - kinds["hostile"] - kinds["good"] >= 300
    assert kinds["hostile"] >= 40
    damaged = {one.kind for one in ALL.values()} - {"hostile"}
    assert {ALL[name].kind for name in ALL if name.startswith("good-")} == damaged
