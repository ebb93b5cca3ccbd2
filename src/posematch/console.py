"""What the terminal gets: the one place where text from files and paths becomes harmless.

Paths may hold ``[brackets]``, which rich would take for markup, and names in a stranger's files
may hold escape sequences, which a terminal would obey.
"""

from __future__ import annotations

import re
import sys
from typing import IO, Any

from rich.console import Console
from rich.text import Text

# C0 but tab and newline, DEL, C1, and the marks that turn the direction of what follows.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# In a sentence these are a name's: what follows them would pass for a line of ours.
_LINE_ENDS = re.compile("[\n\u2028\u2029]")


def printable(text: object) -> str:
    """Text with each control character written out, such as ``\\x1b``."""
    return _CONTROL.sub(_written_out, str(text))


def _written_out(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode()


class PlainConsole(Console):
    """rich's console, in which text is what it says: no markup, no emoji, no control characters."""

    def __init__(self, file: IO[str] | None = None, **options: Any) -> None:
        super().__init__(file=file, markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options | {"markup": False, "emoji": False})


def say(*lines: object) -> None:
    """Print lines to standard output, or what rich renders, such as a table."""
    console = PlainConsole()
    for line in lines:
        if isinstance(line, str):
            print(printable(line), flush=True)
        else:
            console.print(line)


def tell(sentence: object) -> None:
    """Print a sentence to standard error, on one line whatever names are in it."""
    print(_LINE_ENDS.sub(_written_out, printable(sentence)), file=sys.stderr, flush=True)
