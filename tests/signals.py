"""Signals in tests, whoever started them: a script's background ignores Ctrl-C, and so do we then."""

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
