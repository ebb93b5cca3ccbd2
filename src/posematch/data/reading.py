"""What the readers share: files from strangers, read with checks and told about in sentences."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from posematch import untrusted
from posematch.errors import PosematchError
from posematch.skeletons import Skeleton


def check_there(path: Path, what: str, obtained: str = "") -> None:
    """Raise a sentence unless there is a file: ``what`` it is and how it is ``obtained``."""
    if not os.path.lexists(path):
        raise PosematchError(
            f"{path} does not exist: {what} is looked for there; set data.root to its folder"
            f"{obtained and '. '}{obtained}."
        )


def read_json(path: Path, what: str, obtained: str = "") -> Any:
    """Read a json file; errors as `check_there` and `posematch.untrusted.read_json`."""
    check_there(path, what, obtained)
    return untrusted.read_json(path, untrusted.LARGE_BYTES, what)


def require(condition: object, path: Path, what: str) -> None:
    """Raise a sentence unless the file holds ``what``."""
    if not condition:
        raise PosematchError(f"{path} does not hold {what}; is it the right file?")


def path_below(folder: Path, name: str, where: str) -> Path:
    """The path of a photo below its folder, in whichever system's way it is written.

    Raises
    ------
    PosematchError
        The name leads out of the folder, or is none.
    """
    parts = name.replace("\\", "/").split("/")
    if "" in parts or ".." in parts or "\0" in name or ":" in parts[0]:
        raise PosematchError(
            f"{where} names the photo {name!r}, which is no file below {folder}; name photos"
            " relative to their folder."
        )
    return folder.joinpath(*(part for part in parts if part != "."))


def check_joint_count(joints: int, flags: int, skeleton: Skeleton, where: str) -> None:
    """Raise a sentence unless both counts are the skeleton's."""
    if joints != skeleton.num_joints or flags != skeleton.num_joints:
        raise PosematchError(
            f"{where} has {joints} joints and {flags} visibility flags, but the skeleton"
            f" '{skeleton.name}' has {skeleton.num_joints}; for joints of your own use data=coco"
            " data.own_skeleton=true."
        )
