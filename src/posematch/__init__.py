"""posematch: which heatmap loss makes a pose network localise joints best, and why?"""

import atexit
import contextlib
import os

__version__ = "0.1.0"

_COMPILE_CACHE = "TORCHINDUCTOR_CACHE_DIR"


def _remove_empty_compile_cache() -> None:
    # Importing PyTorch Lightning makes this folder in TMPDIR, whether anything is compiled or not.
    with contextlib.suppress(OSError, KeyError):
        os.rmdir(os.environ[_COMPILE_CACHE])  # noqa: PTH106


if _COMPILE_CACHE not in os.environ:  # else it is the user's, or a parent's that removes it
    atexit.register(_remove_empty_compile_cache)
