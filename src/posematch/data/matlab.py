"""Reading MATLAB files that nobody vouches for."""

from __future__ import annotations

import os
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import scipy.io
from numpy.typing import NDArray

from posematch.errors import PosematchError
from posematch.untrusted import MIB, in_memory

_MOST_BYTES = 128 * MIB  # MPII's truth and predictions have less than two
_HEADER = 128  # bytes of a MATLAB 5 file's
_MATRIX = 14  # code of a variable,
_COMPRESSED = 15  # and of one that is packed by zlib


def variable_shapes(mat_file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the variables of a MATLAB 5 file, without reading their values.

    Raises
    ------
    PosematchError
        The file is missing or damaged.
    """
    try:
        return {name: shape for name, shape, _ in scipy.io.whosmat(_checked(mat_file))}
    except PosematchError:
        raise
    except Exception as error:  # scipy's parser fails in its own, undocumented ways
        raise _unreadable(mat_file, error) from error


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
    missing = set(names) - variable_shapes(mat_file).keys()
    if missing:
        raise PosematchError(
            f"{mat_file} has no field {min(missing)!r}: use a file that holds {', '.join(names)}."
        )
    try:
        variables: dict[str, NDArray[Any]] = scipy.io.loadmat(
            _checked(mat_file), variable_names=names
        )
        return variables
    except PosematchError:
        raise
    except Exception as error:  # as above
        raise _unreadable(mat_file, error) from error


def _checked(mat_file: Path) -> BytesIO:
    """The file in memory, if what is compressed in it is no larger than any file of ours."""
    if not os.path.lexists(mat_file):
        raise PosematchError(
            f"There is no file {mat_file}: set data.root to its data set, or name the file."
        )
    file = in_memory(mat_file, _MOST_BYTES, "a MATLAB file")
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
                while packed and unpacked <= _MOST_BYTES:
                    unpacked += len(inflate.decompress(packed, MIB))
                    packed = inflate.unconsumed_tail
            except zlib.error:
                break
            if unpacked > _MOST_BYTES:
                raise PosematchError(
                    f"{mat_file} unpacks to more than {_MOST_BYTES // MIB} MiB; is it the right"
                    " file?"
                )
        place += 8 + size
    return file


def _unreadable(mat_file: Path, error: Exception) -> PosematchError:
    return PosematchError(
        f"{mat_file} cannot be read as a MATLAB file ({type(error).__name__}): fetch it again."
    )
