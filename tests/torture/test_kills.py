"""The short form of tests/torture/kills.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).with_name("kills.py")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_killed_trainings_end_as_undisturbed_ones():
    done = subprocess.run(
        [sys.executable, str(KILLS), "--kills", "8"], capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 kills in" in done.stdout
