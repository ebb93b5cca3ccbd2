"""``python -m posematch.data.preparing.mpii_release_process``: MPII's own annotations as tables.

Reads ``mpii_human_pose_v1_u12_1.mat`` on standard input and writes an npz to standard output. A
process of its own for the reasons of `posematch.data.matlab_process`.

``RELEASE`` is nested: ``annolist`` (1, N) has ``image.name`` and ``annorect`` (1, n), which has
``objpos`` (x, y), ``scale`` and ``annopoints.point`` (1, p) with ``id``, ``x``, ``y``;
``img_train`` (1, N); ``single_person`` (N, 1), 1-based rows of annorect. Any of these may be empty,
and fields that nobody in a photo has are missing there.

| written | |
|---|---|
| ``photos`` (N,), ``train`` (N,) | names; 1 where annotated |
| ``people`` (P, 2), ``place`` (P, 3) | photo and row in it; x, y, scale, NaN where missing |
| ``alone`` (P,) | 1 where far enough from others (``single_person``) |
| ``joints`` (P, 16, 2), ``labelled`` (P, 16) | 1-based pixels as they are; -1 where not labelled |
"""

from __future__ import annotations

import sys
from io import BytesIO
from typing import Any

import numpy as np
import scipy.io

try:
    import resource
except ImportError:  # not a POSIX system
    resource = None  # type: ignore[assignment]

_MOST_MEMORY = 12 * 2**30  # every number of RELEASE is an array of its own
_JOINTS = 16


def main() -> None:
    """Read and write; whatever goes wrong ends in an exit code."""
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    content = BytesIO(sys.stdin.buffer.read())
    release = scipy.io.loadmat(content, variable_names=["RELEASE"])["RELEASE"]
    written = BytesIO()
    np.savez(written, allow_pickle=False, **tables(release))
    sys.stdout.buffer.write(written.getvalue())


def tables(release: Any) -> dict[str, Any]:
    """The arrays of the module's table, of a struct as `scipy.io.loadmat` gives it."""
    annolist = _rows(_field(release, "annolist"))
    train = np.asarray(_field(release, "img_train")).ravel()
    # A cell for each photo; MATLAB leaves out an empty field.
    alone = np.asarray(_field(release, "single_person"), dtype=object).ravel()
    if len(train) != len(annolist) or len(alone) not in (0, len(annolist)):
        raise ValueError("annolist, img_train and single_person differ in length")
    photos, people, place, lonely, joints, labelled = [], [], [], [], [], []
    for number, photo in enumerate(annolist):
        photos.append(_text(_field(_field(photo, "image"), "name")))
        chosen = set(np.asarray(alone[number]).ravel().tolist()) if len(alone) else set()
        for row, person in enumerate(_rows(_field(photo, "annorect"))):
            position = _field(person, "objpos")
            people.append((number, row))
            place.append(
                (
                    _number(_field(position, "x")),
                    _number(_field(position, "y")),
                    _number(_field(person, "scale")),
                )
            )
            lonely.append(row + 1 in chosen)
            xy, has = np.full((_JOINTS, 2), -1.0), np.zeros(_JOINTS, dtype=np.uint8)
            for point in _rows(_field(_field(person, "annopoints"), "point")):
                k = _number(_field(point, "id"))
                x, y = (_number(_field(point, axis)) for axis in "xy")
                if not (k.is_integer() and 0 <= k < _JOINTS):
                    raise ValueError("a point's id is no joint's")
                if np.isfinite([x, y]).all():
                    xy[int(k)], has[int(k)] = (x, y), 1
            joints.append(xy)
            labelled.append(has)
    return {
        "photos": np.array(photos, dtype=str),
        "train": (train.astype(np.float64) == 1).astype(np.uint8),
        "people": np.array(people, dtype=np.int64).reshape(-1, 2),
        "place": np.array(place, dtype=np.float64).reshape(-1, 3),
        "alone": np.array(lonely, dtype=np.uint8),
        "joints": np.array(joints, dtype=np.float64).reshape(-1, _JOINTS, 2),
        "labelled": np.array(labelled, dtype=np.uint8).reshape(-1, _JOINTS),
    }


def _rows(struct: Any) -> list[Any]:
    """The elements of a struct array; none of what is empty."""
    array = np.asarray(struct)
    return list(array.ravel()) if array.dtype.names else []


def _field(struct: Any, name: str) -> Any:
    """A field of a struct of one element; an empty array where it is missing or empty."""
    array = np.asarray(struct)
    if array.dtype.names is None or name not in array.dtype.names or array.size != 1:
        return np.zeros((0, 0))
    return array[name].ravel()[0]


def _number(value: Any) -> float:
    """NaN for what is empty."""
    array = np.asarray(value).ravel()
    return float(array[0]) if array.size else float("nan")


def _text(value: Any) -> str:
    array = np.asarray(value).ravel()
    return str(array[0]) if array.size else ""


if __name__ == "__main__":
    main()
