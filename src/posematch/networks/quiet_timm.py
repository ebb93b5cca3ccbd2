"""timm, imported without W&B: the one way that posematch imports it.

timm imports wandb if it is there, for a function that nobody here calls. That costs a second, and
wandb makes folders in TMPDIR that stay when the process is killed.
"""

import sys

_hidden = "wandb" not in sys.modules
if _hidden:
    sys.modules["wandb"] = None  # type: ignore[assignment]  # an import fails
try:
    import timm
    import timm.models.hrnet
    import timm.utils.summary
finally:
    if _hidden:
        del sys.modules["wandb"]

__all__ = ["timm"]
