"""``posematch VERB ...``, which ``python scripts/VERB.py ...`` is, too."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from posematch.console import tell

VERBS = sorted(file.stem for file in (Path(__file__).parent / "verbs").glob("[a-z]*.py"))
# What stands alone after a verb is the key that the verb is about.
_ABOUT = {"rerun": "run", "replay_step": "run", "report": "runs", "evaluate": "checkpoint",
          "prepare_data": "what", "predict": "checkpoint", "publish": "run",
          "calibrate": "checkpoint", "export": "checkpoint", "summary": "checkpoint"}  # fmt: skip


def main() -> None:
    """The ``posematch`` command."""
    verb, *arguments = sys.argv[1:] or ["--help"]
    if verb in ("--help", "-h"):
        print("posematch VERB [key=value ...]; posematch VERB --help lists a verb's keys\n")
        for one in VERBS:
            print(f"  {one:16} {_first_line(one)}")
        return
    if verb == "--version":
        from posematch import __version__

        print(__version__)
        return
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        nearest = f"; the nearest is {close[0]}" if close else ""
        tell(f"posematch {verb}: no such verb{nearest}; see posematch --help.")
        raise SystemExit(2)
    run(verb, arguments)


def script(verb: str) -> Callable[[], None]:
    """What ``scripts/VERB.py`` does with its arguments."""

    def main() -> None:
        run(verb, sys.argv[1:])

    return main


def run(verb: str, arguments: Sequence[str]) -> None:
    """One verb with its arguments."""
    key, given = _ABOUT.get(verb), list(arguments)
    if key and given and "=" not in given[0] and not given[0].startswith(("-", "~")):
        given[0] = f"{key}={given[0]}"
    importlib.import_module(f"posematch.app.verbs.{verb}").run(given)


def _first_line(verb: str) -> str:
    said = importlib.import_module(f"posematch.app.verbs.{verb}").__doc__ or ""
    return said.partition("\n")[0]
