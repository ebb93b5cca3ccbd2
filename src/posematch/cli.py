"""How scripts end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from omegaconf.errors import MissingMandatoryValue

from posematch.errors import PosematchError


@contextmanager
def one_sentence_errors(debug: bool = False) -> Iterator[None]:
    """Turn a bad input into one sentence on stderr and exit code 1.

    Works around a ``with`` block and as a decorator.

    Parameters
    ----------
    debug
        Let the traceback through instead.

    Raises
    ------
    SystemExit
        With code 1, on a `PosematchError` or a config key that was left at ``???``.
    """
    try:
        yield
    except (PosematchError, MissingMandatoryValue) as error:
        if debug:
            raise
        sentence = str(error)
        if isinstance(error, MissingMandatoryValue):
            sentence = f"{error.full_key} is not set: add {error.full_key}=... to the command."
        print(sentence, file=sys.stderr)
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        raise SystemExit(1) from None
