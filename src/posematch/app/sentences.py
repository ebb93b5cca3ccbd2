"""Errors as one sentence on stderr and an exit code."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from posematch.console import tell
from posematch.errors import PosematchError, is_out_of_memory

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space; over a quota; over a limit


@contextmanager
def one_sentence_errors(debug: bool = False) -> Iterator[None]:
    """Turn a bad input into one sentence on stderr and exit code 1.

    Works around a ``with`` block and as a decorator. A bug of ours keeps its traceback.

    Parameters
    ----------
    debug
        Let the traceback through instead.

    Raises
    ------
    SystemExit
        With code 1.
    """
    try:
        yield
    except KeyboardInterrupt:
        tell("Stopped.")
        raise SystemExit(1) from None
    except Exception as error:
        if _is_interrupt(error):
            tell("Stopped.")
            raise SystemExit(1) from None
        sentence = _sentence(error)
        if sentence is None:
            error.add_note("No input is meant to end like this: it is a mistake in the code.")
        if debug or sentence is None:
            raise
        tell(sentence)
        raise SystemExit(1) from error


def _is_interrupt(error: Exception) -> bool:
    """Whether Ctrl-C is behind it: Python 3.11 wraps what is raised while a class is made."""
    return isinstance(error, RuntimeError) and isinstance(error.__cause__, KeyboardInterrupt)


def _sentence(error: Exception) -> str | None:
    """What to tell about an error in a script's task; None: nothing, it is a bug."""
    if isinstance(error, PosematchError):
        return str(error)
    if type(error).__module__.startswith("omegaconf."):
        return _of_configuration(error)
    if isinstance(error, OSError) and error.errno in _FULL:
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{where}; free some space or set run_root to another disk."
    if isinstance(error, PermissionError) and error.filename:
        return f"{error.filename} may not be written or read ({error.strerror})."
    if is_out_of_memory(error):
        wanted = re.search(r"ried to allocate ([\d.]+ \w+)", str(error))
        return (
            f"Out of memory{f' ({wanted.group(1)} more were needed)' if wanted else ''}; lower"
            " data.batch_size (and raise trainer.accumulate_grad_batches), or set"
            " backbone.activation_checkpointing=true."
        )
    return None


def _of_configuration(error: Exception) -> str | None:
    # Here, since no error but its own can be one where it is not imported.
    from omegaconf.errors import (
        ConfigAttributeError,
        ConfigKeyError,
        MissingMandatoryValue,
        OmegaConfBaseException,
    )

    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is not set: add {error.full_key}=... to the command."
    if isinstance(error, ConfigAttributeError | ConfigKeyError):
        return f"The configuration lacks {error.full_key}."
    if isinstance(error, OmegaConfBaseException):
        return f"{error.full_key or 'The configuration'}: {first_line(error.msg or error)}."
    return None


def first_line(text: object) -> str:
    """Of a message of several lines, without its full stop."""
    return str(text).strip().split("\n")[0].rstrip(". ")
