"""Reading MATLAB files that nobody vouches for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import scipy.io
from numpy.typing import NDArray

from posematch.errors import PosematchError


def variable_shapes(mat_file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the variables of a MATLAB 5 file, without reading their values.

    Raises
    ------
    PosematchError
        The file is missing or damaged.
    """
    try:
        return {name: shape for name, shape, _ in scipy.io.whosmat(mat_file, appendmat=False)}
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
            mat_file, appendmat=False, variable_names=names
        )
        return variables
    except Exception as error:  # as above
        raise _unreadable(mat_file, error) from error


def _unreadable(mat_file: Path, error: Exception) -> PosematchError:
    if not mat_file.is_file():
        return PosematchError(
            f"There is no file {mat_file}: set data.root to its data set, or name the file."
        )
    return PosematchError(
        f"{mat_file} cannot be read as a MATLAB file ({type(error).__name__}): fetch it again."
    )
