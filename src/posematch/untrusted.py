"""Files from strangers, read as data: what they are and how large is known before they are read.

A run folder, a checkpoint, an annotation or a prediction file may come from anybody. Each reader
here takes ordinary files only (a named pipe would be waited for), looks at sizes in the metadata
before it reads anything into memory, never builds an object that a file names, and ends in one
sentence.
"""

from __future__ import annotations

import json
import os
import stat
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from posematch.errors import PosematchError

MIB = 2**20
# Configurations, environments, results: a few kilobytes each.
SMALL_BYTES = 8 * MIB
# Annotations and results of a whole data set; COCO's largest keypoint file has 240 MB.
LARGE_BYTES = 1024 * MIB
# Nested deeper than anything posematch writes; Python's own limit is a thousand calls.
_MOST_NESTED = 100


def own_file(folder: Path, path: Path) -> Path:
    """A path below a folder that somebody else may have made, unless a link leads out of it.

    Parameters
    ----------
    folder
        The one that the user named; it may itself be reached through links.
    path
        Below it.

    Raises
    ------
    PosematchError
        A link on the way leads out of the folder.
    """
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, a NUL byte
        inside = False
    if not inside:
        raise PosematchError(
            f"{path} is a link that leads out of {folder}, so it is not followed; put the file"
            " itself there."
        )
    return path


def open_file(path: Path, most_bytes: int = LARGE_BYTES, what: str = "") -> BinaryIO:
    """Open an ordinary file of at most that size for reading.

    Parameters
    ----------
    path
        May be anything.
    most_bytes
        Larger files are refused.
    what
        What is looked for there, for messages.

    Raises
    ------
    PosematchError
        Nothing, a folder, a pipe or a device is there, it is too large, or may not be read.
    """
    looked_for = f": {what} is looked for there" if what else ""
    try:
        # O_NONBLOCK: opening a named pipe must not wait for its other end.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise PosematchError(f"{path} does not exist{looked_for}; check the path.") from None
    except (OSError, ValueError) as error:  # a NUL byte in the name
        reason = getattr(error, "strerror", None) or error
        raise PosematchError(f"{path} cannot be read ({reason}){looked_for}.") from None
    file = os.fdopen(handle, "rb")
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no ordinary file"
            raise PosematchError(f"{path} is {kind}{looked_for}; name an ordinary file.")
        if status.st_size > most_bytes:
            raise PosematchError(
                f"{path} has {status.st_size / MIB:.0f} MiB, more than the {most_bytes / MIB:.0f}"
                " MiB that are read of such a file; is it the right one?"
            )
    except PosematchError:
        file.close()
        raise
    return file


def read_bytes(path: Path, most_bytes: int = LARGE_BYTES, what: str = "") -> bytes:
    """The content; errors as `open_file`."""
    try:
        with open_file(path, most_bytes, what) as file:
            return file.read(most_bytes + 1)  # it may grow meanwhile
    except OSError as error:
        raise PosematchError(f"{path} cannot be read ({error.strerror}); restore it.") from None


def read_text(path: Path, most_bytes: int = SMALL_BYTES, what: str = "") -> str:
    """UTF-8 text; errors as `open_file`, and for bytes that are no text."""
    try:
        return read_bytes(path, most_bytes, what).decode("utf-8")
    except UnicodeDecodeError:
        raise PosematchError(f"{path} is no text in UTF-8; restore it.") from None


def read_json(path: Path, most_bytes: int = SMALL_BYTES, what: str = "") -> Any:
    """Plain values; errors as `read_text`, and for what is no json."""
    try:
        return json.loads(read_text(path, most_bytes, what))
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise PosematchError(f"{path} cannot be read as json ({reason}); restore it.") from None


def read_yaml(path: Path, what: str = "") -> Any:
    """Plain values of a YAML file, no tags and no aliases.

    Raises
    ------
    PosematchError
        As `read_text`; or it is not YAML, has aliases (a few lines of them stand for more values
        than any memory holds) or is nested more deeply than any configuration.
    """
    text = read_text(path, what=what)
    check_yaml(text, path)
    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _not_yaml(path, error) from None


def check_yaml(text: str, path: Path) -> None:
    """Raise a sentence if YAML has aliases or is nested too deeply; in linear time."""
    depth = 0
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if isinstance(event, yaml.AliasEvent):
                raise PosematchError(
                    f"{path}, line {_line(event)}, has an alias (*{event.anchor});"
                    " they are not read: write the values out."
                )
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _MOST_NESTED:
                raise PosematchError(
                    f"{path} is nested more than {_MOST_NESTED} levels deep; is it the right file?"
                )
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _not_yaml(path, error) from None


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _not_yaml(path: Path, error: Exception) -> PosematchError:
    mark = getattr(error, "problem_mark", None)
    line = f", line {mark.line + 1}," if mark is not None else ""
    problem = getattr(error, "problem", None) or type(error).__name__
    return PosematchError(f"{path}{line} is not YAML ({problem}); restore it.")


def in_memory(path: Path, most_bytes: int, what: str = "") -> BytesIO:
    """The whole content as a file, for parsers that would open a path again themselves."""
    return BytesIO(read_bytes(path, most_bytes, what))
