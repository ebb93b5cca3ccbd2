"""The one exception that scripts turn into a sentence and exit code 1."""

from __future__ import annotations

import re

# What torch makes of an exception of a loader's worker: it raises the class anew, with this
# heading and the whole traceback for its text.
_IN_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.\nOriginal Traceback ")


class PosematchError(Exception):
    """A bad input, told in one sentence: what is wrong, where, and what to do about it.

    Raised in a worker of a data loader, it arrives with the same sentence.
    """

    def __init__(self, *arguments: object) -> None:
        if len(arguments) == 1 and isinstance(arguments[0], str):
            arguments = (_sentence_alone(arguments[0], type(self).__name__),)
        super().__init__(*arguments)


def _sentence_alone(text: str, kind: str) -> str:
    """The text without the traceback that a loader's worker puts before it."""
    if not _IN_WORKER.match(text):
        return text
    # The last one: those before are causes.
    *_, sentence = re.split(rf"^(?:\w+\.)*{kind}: ", text, flags=re.MULTILINE)
    return sentence.strip()
