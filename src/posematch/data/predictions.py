"""Published prediction files, which are read as if their authors meant harm."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from posematch.data.annotations import PERSON_CATEGORY
from posematch.data.matlab import read_with_shapes
from posematch.errors import PosematchError
from posematch.skeletons import COCO, MPII
from posematch.untrusted import LARGE_BYTES, MIB, in_memory, open_file, read_json

FIELD = "preds"
_RESULTS = "COCO results (.json)"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_MOST_BYTES = 128 * MIB  # MPII's have less than one


def check_there(file: Path, data_name: str) -> None:
    """Raise a sentence unless there is a file of predictions for ``mpii`` or ``coco``."""
    if data_name == "coco":
        open_file(file, what=_RESULTS).close()
    elif not os.path.lexists(file):
        raise PosematchError(f"there is no file {file}: set predictions to a .mat or .h5 file.")


def read_mpii_predictions(file: Path, num_people: int) -> NDArray[np.float64]:
    """Read MPII predictions, MATLAB 5, MATLAB 7.3 or HDF5, told apart by content.

    Parameters
    ----------
    file
        Field ``preds`` in 1-based image pixels, (N, 16, 2), or (2, 16, N) as MATLAB's and Torch's
        axis order comes out of HDF5.
    num_people
        N, the rows of the truth.

    Returns
    -------
    ndarray
        (N, 16, 2), 0-based image pixels.

    Raises
    ------
    PosematchError
        The file is missing or damaged, or ``preds`` has another shape, or is not finite numbers.
    """
    check_there(file, "mpii")
    content = in_memory(file, _MOST_BYTES, "predictions (.mat or .h5)")
    if any(content.getvalue()[at : at + 8] == _HDF5 for at in (0, 512, 1024, 2048)):
        preds = _read_hdf5(file, content, num_people)
    else:
        shapes, values = read_with_shapes(file, (FIELD,))
        _check_shape(file, shapes.get(FIELD, ()), num_people)
        if FIELD not in values:
            raise PosematchError(f"{FIELD} of {file} has no values: store real numbers.")
        preds = values[FIELD]
    if preds.dtype.kind not in "fiu":
        raise PosematchError(f"{FIELD} of {file} is {preds.dtype}: store real numbers.")
    if preds.shape[0] == 2:
        preds = preds.transpose(2, 1, 0)
    if not np.isfinite(preds).all():
        person, joint = np.argwhere(~np.isfinite(preds))[0, :2].tolist()
        raise PosematchError(
            f"{FIELD} of {file} is NaN or infinite at person {person}, joint {MPII.joints[joint]}: "
            "give every joint a place."
        )
    return preds.astype(np.float64) - 1


def _read_hdf5(file: Path, opened: BytesIO, num_people: int) -> NDArray[Any]:
    try:
        with h5py.File(opened, "r") as content:
            # A link may point into any other file of the reader's; only data of this one is taken.
            link = content.get(FIELD, getlink=True)
            dataset = content[FIELD] if isinstance(link, h5py.HardLink) else None
            if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
                raise PosematchError(
                    f"{file} has no data set {FIELD!r}: use a file with predictions there."
                )
            _check_shape(file, dataset.shape, num_people)
            kind, chunk = dataset.dtype, int(np.prod(dataset.chunks or (0,), dtype=object))
            if kind.kind not in "fiu" or kind.itemsize > 8:
                raise PosematchError(f"{FIELD} of {file} is {kind}: store real numbers.")
            if chunk * kind.itemsize > _MOST_BYTES:
                raise PosematchError(
                    f"{FIELD} of {file} is stored in pieces of {dataset.chunks}, each larger than"
                    " all of it: store it again."
                )
            values: NDArray[Any] = dataset[()]
            return values
    except PosematchError:
        raise
    except Exception as error:  # h5py's and the library's own, of many kinds
        raise PosematchError(
            f"{file} cannot be read as HDF5 ({type(error).__name__}): fetch it again."
        ) from error


def _check_shape(file: Path, shape: tuple[int, ...], num_people: int) -> None:
    joints = MPII.num_joints
    if shape not in ((num_people, joints, 2), (2, joints, num_people)):
        found = f"is {shape}" if shape else "is missing"
        raise PosematchError(
            f"{FIELD} of {file} {found}, the truth has {num_people} people: it must be "
            f"({num_people}, {joints}, 2) or (2, {joints}, {num_people}), rows as in the truth."
        )
    if num_people == 2:
        raise PosematchError(
            f"{FIELD} of {file} is {shape}, which with two people can be read in two ways: "
            "score more people."
        )


def read_coco_results(
    file: Path, num_joints: int = COCO.num_joints, categories: Collection[int] = (PERSON_CATEGORY,)
) -> list[dict[str, Any]]:
    """Read COCO keypoint results.

    Parameters
    ----------
    file
        A json list of entries with ``image_id``, ``category_id``, ``keypoints`` (x, y in 0-based
        image pixels and score of each joint) and ``score``.
    num_joints
        K of the joints that are scored.
    categories
        Numbers of the category of people, besides 1.

    Returns
    -------
    list of dict
        The entries with these four keys alone, all of category 1.

    Raises
    ------
    PosematchError
        The file is missing or no such list; the sentence names the entry.
    """
    entries = read_json(file, LARGE_BYTES, _RESULTS)
    if not isinstance(entries, list):
        raise PosematchError(f"{file} is not a list of results: write them as COCO's server takes.")
    known = {PERSON_CATEGORY, *categories}
    plain = _plain_results(entries, num_joints, known)
    if plain is not None:
        return plain
    # Somewhere is a fault: found by looking at one after the other.
    return [
        _checked_result(file, position, entry, num_joints, known)
        for position, entry in enumerate(entries)
    ]


def _plain_results(
    entries: list[Any], num_joints: int, categories: Collection[int]
) -> list[dict[str, Any]] | None:
    """What `_checked_result` makes of entries that are all right, at once; None if one is not."""
    numbers, whole = {int, float}, 3 * num_joints
    try:
        for entry in entries:
            keypoints = entry["keypoints"]
            if type(keypoints) is not list or len(keypoints) != whole:
                return None
            if not numbers.issuperset(map(type, keypoints)) or type(entry["score"]) not in numbers:
                return None
            if type(entry["image_id"]) is not int or type(entry["category_id"]) is not int:
                return None
        keypoints = np.array([entry["keypoints"] for entry in entries], dtype=np.float64)
        scores = np.array([entry["score"] for entry in entries], dtype=np.float64)
        ids = np.array([entry["image_id"] for entry in entries], dtype=np.int64)
    except (TypeError, KeyError, OverflowError):
        return None
    fine = np.isfinite(keypoints).all() and np.isfinite(scores).all()
    if not fine or not {entry["category_id"] for entry in entries} <= set(categories):
        return None
    return [
        {
            "image_id": image_id,
            "category_id": PERSON_CATEGORY,
            "keypoints": of_entry,
            "score": score,
        }
        for image_id, of_entry, score in zip(
            ids.tolist(), keypoints.tolist(), scores.tolist(), strict=True
        )
    ]


def _checked_result(
    file: Path, position: int, entry: object, num_joints: int, categories: Collection[int]
) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise _bad_result(file, position, "is not an object")
    keypoints = entry.get("keypoints")
    if not isinstance(keypoints, list) or len(keypoints) != 3 * num_joints:
        raise _bad_result(file, position, f"needs keypoints, {3 * num_joints} numbers")
    if not all(_is_number(value) for value in [*keypoints, entry.get("score")]):
        raise _bad_result(file, position, "needs finite numbers as keypoints and score")
    if type(entry.get("image_id")) is not int or type(entry.get("category_id")) is not int:
        raise _bad_result(file, position, "needs whole numbers as image_id and category_id")
    if not -(2**63) <= entry["image_id"] < 2**63:
        raise _bad_result(file, position, "has an image_id that no file of COCO's can have")
    if entry["category_id"] not in categories:
        raise _bad_result(file, position, "has another category_id than 1, a person's")
    # As floats: of an integer that needs more than 64 bits numpy would make an object.
    return {
        "image_id": entry["image_id"],
        "category_id": PERSON_CATEGORY,
        "keypoints": [float(value) for value in keypoints],
        "score": float(entry["score"]),
    }


def _is_number(value: object) -> bool:
    # json reads NaN and Infinity, true is an int to Python, and an int may exceed every float.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -sys.float_info.max <= value <= sys.float_info.max


def _bad_result(file: Path, position: int, why: str) -> PosematchError:
    return PosematchError(
        f"entry {position} of {file} {why}: write results as COCO's server takes."
    )
