"""Files from strangers, read as data: what they are and how large is known before they are read.

A run folder, a checkpoint, an annotation or a prediction file may come from anybody. Each reader
here takes ordinary files only (a named pipe would be waited for), looks at sizes in the metadata
before it reads anything into memory, never builds an object that a file names, and ends in one
sentence.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import zipfile
from collections.abc import Sequence
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import yaml

from posematch.errors import PosematchError

if TYPE_CHECKING:
    import numpy as np

MIB = 2**20
# Configurations, environments, results: a few kilobytes each.
SMALL_BYTES = 8 * MIB
# Annotations and results of a whole data set; COCO's largest keypoint file has 240 MB.
LARGE_BYTES = 1024 * MIB
# HRNet-W48 with Adam's state has 0.7 GiB.
_MOST_CHECKPOINT = 64 * 1024 * MIB
MOST_ARRAYS = 512 * MIB  # the heatmaps of 300 people have 15
# Nested deeper than anything posematch writes; Python's own limit is a thousand calls.
_MOST_NESTED = 100
# Brackets of an interpolation or an override that are open at once: OmegaConf's parser makes some
# ten calls for each.
MOST_OPEN = 50
_MOST_BITS = 1024  # of a whole number; larger ones are beyond every float
_STEPS = {**dict.fromkeys("([{", 1), **dict.fromkeys(")]}", -1)}
_BRACKET = re.compile(r"[](){}[]")


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
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def open_checkpoint(path: Path) -> BinaryIO:
    """Open a file of weights; errors as `open_file`, and a word for who names a run folder."""
    if path.is_dir():
        raise PosematchError(
            f"checkpoint={path} is a folder; name a file such as RUN_FOLDER/checkpoints/last.ckpt."
        )
    return open_file(path, _MOST_CHECKPOINT, "a checkpoint")


def check_weights(path: Path) -> None:
    """Refuse what ``backbone.weights`` names if no file is there; errors as `open_file`."""
    try:
        open_file(path, _MOST_CHECKPOINT, "a file of weights").close()
    except PosematchError as error:
        raise PosematchError(f"backbone.weights={error}") from None


def read_bytes(path: Path, most_bytes: int = LARGE_BYTES, what: str = "") -> bytes:
    """The content; errors as `open_file`."""
    try:
        with open_file(path, most_bytes, what) as file:
            # Not all that may be: Python would take memory for it first.
            return file.read(os.fstat(file.fileno()).st_size)
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
        than any memory holds), is nested more deeply than any configuration, or has a number that
        is larger than any.
    """
    text = read_text(path, what=what)
    check_yaml(text, path)
    try:
        content = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _not_yaml(path, error) from None
    _check_values(content, path)
    return content


def _check_values(value: Any, path: Path) -> None:
    """Raise a sentence about what would break those who write, compare or resolve a value."""
    if isinstance(value, dict):
        for key, one in value.items():
            _check_values(key, path)
            _check_values(one, path)
    elif isinstance(value, list | tuple | set):
        for one in value:
            _check_values(one, path)
    # Of 5000 numerals to the base of 60, say (1:1:1), which Python makes and does not write.
    elif isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise PosematchError(
            f"{path} has a whole number that is larger than any that is read; is it the right file?"
        )
    elif isinstance(value, str) and "${" in value and depth_of(value) > MOST_OPEN:
        raise PosematchError(
            f"{path} has an interpolation that is nested more than {MOST_OPEN} levels deep; write"
            " its value out."
        )


def depth_of(text: str) -> int:
    """How many brackets and braces of a text are open at once, at most."""
    return max(accumulate((_STEPS[one] for one in _BRACKET.findall(text)), initial=0))


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


def read_arrays(path: Path, names: Sequence[str], most_bytes: int = MOST_ARRAYS) -> list[Any]:
    """Arrays of an ``.npz``, of numbers or texts, by their names.

    Each array's header is looked at before its values are unpacked.

    Raises
    ------
    PosematchError
        As `open_file`; one is missing or damaged, holds objects, or all are larger than that.
    """
    import numpy as np

    left = most_bytes
    found = []
    with open_file(path, most_bytes) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                for name in names:
                    with archive.open(f"{name}.npy") as member:
                        shape, by_columns, kind = _array_header(member)
                        size = math.prod(shape) * kind.itemsize
                        left -= size
                        if kind.hasobject or kind.names or left < 0 or min(shape, default=0) < 0:
                            raise PosematchError(
                                f"{path}: {name} is {kind} {shape}, which is not read of such a"
                                " file; restore it."
                            )
                        content = member.read(size)
                        order: Literal["F", "C"] = "F" if by_columns else "C"
                        found.append(np.ndarray(shape, kind, bytearray(content), order=order))
                        member.read(1)  # the end, where the checksum is compared
        except PosematchError:
            raise
        # zipfile, zlib and numpy's header parser fail in their own ways.
        except Exception as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise PosematchError(f"{path} cannot be read as npz ({reason}); restore it.") from error
    return found


def _array_header(member: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    import numpy as np

    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(member)
    return np.lib.format.read_array_header_2_0(member)
