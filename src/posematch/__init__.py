"""posematch: which heatmap loss makes a pose network localise joints best, and why?

    import posematch

    model = posematch.load("runs/RUN_FOLDER")
    cfg = posematch.compose(["loss=matching", "trainer.max_epochs=3"])
    posematch.train(cfg)
    posematch.evaluate(checkpoint="runs/RUN_FOLDER")
    posematch.read_runs("runs")

Nothing large is imported before one of them is asked for.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posematch.app.commands import compose
    from posematch.app.face import evaluate, read_runs, train
    from posematch.loading import load

__version__ = "0.1.0"
__all__ = ["__version__", "compose", "evaluate", "load", "read_runs", "train"]

_COMPILE_CACHE = "TORCHINDUCTOR_CACHE_DIR"
_HOMES = {
    "compose": "posematch.app.commands",
    "evaluate": "posematch.app.face",
    "load": "posematch.loading",
    "read_runs": "posematch.app.face",
    "train": "posematch.app.face",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


def _remove_empty_compile_cache() -> None:
    # Importing PyTorch Lightning makes this folder in TMPDIR, whether anything is compiled or not.
    with contextlib.suppress(OSError, KeyError):
        os.rmdir(os.environ[_COMPILE_CACHE])  # noqa: PTH106


if _COMPILE_CACHE not in os.environ:  # else it is the user's, or a parent's that removes it
    atexit.register(_remove_empty_compile_cache)
