"""The short form of ``sweeps.py``: each way once."""

from __future__ import annotations

import pytest
import sweeps


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    return root / "data", sweeps.run_undisturbed(root, root / "data")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "delay"), [("ctrl-c", 12.0), ("term", 20.0), ("kill", 16.0), ("sweep", 8.0)]
)
def test_a_stopped_sweep_leaves_no_orphan_and_goes_on(tmp_path, undisturbed, way, delay):
    data, wanted = undisturbed
    sweeps.stop_and_repeat(way, delay, tmp_path / way, data, wanted)
