"""Signals in tests, whoever started them: what a script starts in the background ignores Ctrl-C."""

from __future__ import annotations

import contextlib
import signal


@contextlib.contextmanager
def ctrl_c_interrupts():
    """Ctrl-C raises KeyboardInterrupt, as in a process that was started in a terminal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
