"""The one exception that scripts turn into a sentence and exit code 1."""

from __future__ import annotations


class PosematchError(Exception):
    """A bad input, told in one sentence: what is wrong, where, and what to do about it."""
