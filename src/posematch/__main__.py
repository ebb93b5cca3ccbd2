"""``posematch VERB ...``: the same as ``python scripts/VERB.py ...`` of the checkout."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from posematch.config import nearest
from posematch.console import tell

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
# What stands alone after a verb is the key that the verb is about.
_ABOUT = {"rerun": "run", "replay_step": "run", "report": "runs"}


def main() -> None:
    """Run the script of that name."""
    verbs = sorted(script.stem for script in SCRIPTS.glob("*.py"))
    verb, *arguments = sys.argv[1:] or ["--help"]
    script = SCRIPTS / f"{verb}.py"
    if verb not in verbs:
        if verb in ("--help", "-h"):
            print(f"posematch VERB ..., where VERB is one of: {', '.join(verbs)}")
            raise SystemExit(0)
        tell(f"posematch {verb}: no such verb{nearest(verb, verbs)}; see posematch --help.")
        raise SystemExit(2)
    key = _ABOUT.get(verb)
    if key and arguments and "=" not in arguments[0] and not arguments[0].startswith("-"):
        arguments[0] = f"{key}={arguments[0]}"
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
