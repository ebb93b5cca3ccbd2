"""Networks."""

import sys

# timm imports wandb if it is there, for a function that nobody here calls. That costs a second, and
# wandb makes folders in TMPDIR that stay when the process is killed. None: an import fails.
_hidden = "wandb" not in sys.modules
if _hidden:
    sys.modules["wandb"] = None  # type: ignore[assignment]
try:
    import timm.utils.summary  # noqa: F401
finally:
    if _hidden:
        del sys.modules["wandb"]
