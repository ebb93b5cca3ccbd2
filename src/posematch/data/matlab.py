"""Reading MATLAB files that nobody vouches for."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from posematch.errors import PosematchError
from posematch.untrusted import MIB, in_memory

_MOST_BYTES = 128 * MIB  # MPII's truth and predictions have less than two
_MOST_SECONDS = 60.0
_HEADER = 128  # bytes of a MATLAB 5 file's
_MATRIX = 14  # code of a variable,
_COMPRESSED = 15  # and of one that is packed by zlib


def read_variables(mat_file: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Values of the named variables.

    Parameters
    ----------
    mat_file
        MATLAB 5 file. (7.3 is HDF5, which `scipy.io` does not read.)
    names
        All of them must be there.

    Raises
    ------
    PosematchError
        The file is missing or damaged, or lacks a variable.
    """
    shapes, values = read_with_shapes(mat_file, names)
    missing = set(names) - shapes.keys()
    if missing:
        raise PosematchError(
            f"{mat_file} has no field {min(missing)!r}: use a file that holds {', '.join(names)}."
        )
    if values.keys() < set(names):
        raise _unreadable(mat_file, "a field without a value")
    return values


def check_there(mat_file: Path) -> None:
    """Raise a sentence unless there is a file."""
    if not os.path.lexists(mat_file):
        raise PosematchError(
            f"There is no file {mat_file}: set data.root to its data set, or name the file."
        )


def read_with_shapes(
    mat_file: Path, names: tuple[str, ...]
) -> tuple[dict[str, tuple[int, ...]], dict[str, NDArray[Any]]]:
    """Shapes of all variables, and values of the named ones that are there.

    By a process of its own: what crashes it, or asks for more memory than any file of ours has,
    does no more than that.

    Raises
    ------
    PosematchError
        The file is missing or damaged.
    """
    found = by_process(mat_file, "posematch.data.matlab_process", names)
    shapes = {
        name.removeprefix("shape/"): tuple(shape.tolist())
        for name, shape in found.items()
        if name.startswith("shape/")
    }
    return shapes, {name: found[f"value/{name}"] for name in names if f"value/{name}" in found}


def by_process(
    mat_file: Path,
    module: str,
    arguments: Sequence[str] = (),
    most_bytes: int = _MOST_BYTES,
    most_seconds: float = _MOST_SECONDS,
) -> dict[str, NDArray[Any]]:
    """Arrays that a module, run as a program, makes of a MATLAB file on its standard input.

    Parameters
    ----------
    mat_file
        MATLAB 5 file.
    module
        Writes an npz to its standard output.
    arguments
        Of the program.
    most_bytes
        Of the file, and of what is compressed in it.
    most_seconds
        The program is ended then.

    Raises
    ------
    PosematchError
        The file is missing or too large, or the program fails.
    """
    content = _checked(mat_file, most_bytes).getbuffer()
    # Its working directory is not looked at for modules.
    command = [sys.executable, "-P", "-m", module, *arguments]
    package = str(Path(__file__).parents[2])
    paths = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        done = subprocess.run(
            command,
            input=content,
            capture_output=True,
            timeout=most_seconds,
            env=os.environ | {"PYTHONPATH": paths},
        )
    except subprocess.TimeoutExpired:
        raise _unreadable(mat_file, "its reader does not come to an end") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1].partition(":")[0] if lines and done.returncode > 0 else "damaged"
        raise _unreadable(mat_file, reason)
    with np.load(BytesIO(done.stdout), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _checked(mat_file: Path, most_bytes: int) -> BytesIO:
    """The file in memory, if what is compressed in it is no larger than any file of ours."""
    check_there(mat_file)
    file = in_memory(mat_file, most_bytes, "a MATLAB file")
    content = file.getbuffer()
    order: Literal["little", "big"] = "big" if bytes(content[126:128]) == b"MI" else "little"
    place, unpacked = _HEADER, 0
    while place + 8 <= len(content):
        kind = int.from_bytes(content[place : place + 4], order)
        size = int.from_bytes(content[place + 4 : place + 8], order)
        if kind not in (_MATRIX, _COMPRESSED) or not size:
            break  # no MATLAB 5 file, or a damaged one: its reader will tell
        if kind == _COMPRESSED:
            inflate = zlib.decompressobj()
            packed: bytes | memoryview = content[place + 8 : place + 8 + size]
            try:
                while packed and unpacked <= most_bytes:
                    unpacked += len(inflate.decompress(packed, MIB))
                    packed = inflate.unconsumed_tail
            except zlib.error:
                break
            if unpacked > most_bytes:
                raise PosematchError(
                    f"{mat_file} unpacks to more than {most_bytes // MIB} MiB; is it the right"
                    " file?"
                )
        place += 8 + size
    return file


def _unreadable(mat_file: Path, reason: str) -> PosematchError:
    return PosematchError(f"{mat_file} cannot be read as a MATLAB file ({reason}): fetch it again.")
