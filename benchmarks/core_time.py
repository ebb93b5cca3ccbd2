"""Processor time of this process and its loader workers."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path


def core_seconds() -> float:
    """Seconds so far, of this process and of the children that live (Linux)."""
    ticks = 0
    for process in [os.getpid(), *(one.pid for one in multiprocessing.active_children())]:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
