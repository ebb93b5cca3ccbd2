"""A folder of its own for the temporary files of a test session, which must be empty at its end."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
import time
import weakref
from pathlib import Path

_MOST_SECONDS = 30  # processes that a test has started clean up at their end

# For the scripts that tests start, too. Pytest's own folders stay where they are always.
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
_SCRATCH = Path(tempfile.mkdtemp(prefix="posematch-tests-"))
os.environ["TMPDIR"] = tempfile.tempdir = str(_SCRATCH)


def close() -> list[str]:
    """Remove the folder; what was left in it that no process removes at its end."""
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()  # its service, which would end with this process
    ends = time.monotonic() + _MOST_SECONDS
    while (left := _left_behind()) and time.monotonic() < ends:
        time.sleep(0.5)
    shutil.rmtree(_SCRATCH, ignore_errors=True)
    return left


def _left_behind() -> list[str]:
    gc.collect()
    # A TemporaryDirectory that is still referred to: of libraries that keep one as long as they are
    # imported.
    finalizers = [one.peek() for one in gc.get_objects() if type(one) is weakref.finalize]
    own = {str(one[2][0]) for one in finalizers if one is not None and one[2]}
    own.add(os.environ.get("TORCHINDUCTOR_CACHE_DIR", ""))  # compiled code, for the whole session
    return sorted(str(one) for one in _SCRATCH.iterdir() if str(one) not in own)
