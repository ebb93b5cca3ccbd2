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


def interruptible() -> None:
    """In a process that a test starts (``preexec_fn``): Ctrl-C interrupts it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
