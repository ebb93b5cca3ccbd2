"""How a training is asked to stop: by a signal, or by whoever watches over it.

The first Ctrl-C, SIGTERM or SIGUSR1 (SLURM's warning) is noted, and the training stops in good
order at its next step or batch of validation. A second signal stops at once. Where Ctrl-C was
ignored when the process began, as in a script's background, it stays so.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from posematch.errors import PosematchError

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)


class InterruptedTrainingError(PosematchError):
    """Training was stopped on request; the sentence says what was kept."""


class _Stop:
    def __init__(self) -> None:
        self.reason = ""
        self.in_order = False  # somebody looks at `requested` between steps
        self.quiet = False


_stop = _Stop()


def requested() -> bool:
    """Whether the training is to stop."""
    return bool(_stop.reason)


def request_stop(reason: str) -> None:
    """Ask for an orderly stop; asking twice is the same as once.

    Parameters
    ----------
    reason
        Why, shown to the user.
    """
    if _stop.reason:
        return
    _stop.reason = reason
    if not _stop.quiet:
        print(
            f"\n{reason}: stopping after this step (again to stop at once) ...",
            file=sys.stderr,
            flush=True,
        )


@contextlib.contextmanager
def watched(quiet: bool = False) -> Iterator[None]:
    """Note signals instead of dying of them, for the time of a training.

    Parameters
    ----------
    quiet
        Say nothing: in all processes of a training but the first.

    Raises
    ------
    KeyboardInterrupt
        In the block, at a second signal; or at the first one, until `in_order`.
    """
    global _stop
    _stop = _Stop()
    _stop.quiet = quiet
    here = threading.current_thread() is threading.main_thread()
    before = {one: signal.getsignal(one) for one in SIGNALS} if here else {}
    claim_signals()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _stop = _Stop()


def claim_signals() -> None:
    """Handle them here; again after a library put a handler of its own over ours."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def in_order(possible: bool) -> None:
    """Say whether `requested` is looked at from now on; else the first signal stops at once."""
    _stop.in_order = possible
    if possible and _stop.reason:
        raise KeyboardInterrupt


def _handle(number: int, frame: FrameType | None) -> None:
    again = requested()
    if not again:
        if _stop.in_order:
            request_stop(signal.Signals(number).name)
            return
        _stop.reason = signal.Signals(number).name
    raise KeyboardInterrupt
