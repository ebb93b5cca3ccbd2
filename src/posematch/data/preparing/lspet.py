"""LSP-Extended in COCO's format: ``joints.mat`` and photos to ``train.json`` and ``valid.json``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from posematch.data.matlab import read_variables
from posematch.data.pictures import size_of_photo
from posematch.errors import PosematchError

# The data set's order. `neck` and `head_top` have no names of COCO's.
JOINTS = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
    "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
    "neck", "head_top",
)  # fmt: skip
# 1-based, as COCO's are.
LIMBS = (
    (1, 2), (2, 3), (4, 5), (5, 6), (7, 8), (8, 9), (10, 11), (11, 12), (9, 13), (10, 13), (13, 14),
    (3, 4), (3, 9), (4, 10),
)  # fmt: skip
# Photos of one person stand next to each other, so whole blocks are validated on, spread over the
# sports, which follow each other, too.
BLOCK = 20
EVERY = 10
_NUMBER = re.compile(r"(\d+)\.\w+$")


@dataclass(frozen=True)
class Split:
    """One json file: its content, and who is not in it."""

    content: dict[str, Any]
    left_out: int

    def told(self) -> str:
        """One line."""
        out = f" (left out: {self.left_out} without labelled joints)" if self.left_out else ""
        return f"{len(self.content['annotations'])} people in as many photos{out}"


def is_valid(number: int) -> bool:
    """Whether photo ``number``, counted from 1, is validated on: the last of ten blocks of 20.

    >>> [number for number in (180, 181, 200, 201, 381) if is_valid(number)]
    [181, 200, 381]
    """
    return (number - 1) // BLOCK % EVERY == EVERY - 1


def convert(mat_file: Path, photos: Sequence[Path]) -> dict[str, Split]:
    """Both splits, by ``"train"`` and ``"valid"``.

    Parameters
    ----------
    mat_file
        ``joints`` (14, 3, N) or (3, 14, N): x, y, and 1 where the joint is labelled.
    photos
        Their names end with the number of their person, counted from 1; or, where as many are there
        as people, in the order of their numbers.

    Returns
    -------
    Joints are taken as they are (the data set does not say whether its pixels count from 0 or 1);
    boxes are those of the labelled joints, and areas the boxes'.

    Raises
    ------
    PosematchError
        The file is no such file, a photo has no number or is none, or a labelled joint has no
        place.
    """
    joints = _joints(mat_file)
    by_number = _by_number(photos, len(joints), mat_file)
    images: dict[str, list[dict[str, Any]]] = {"train": [], "valid": []}
    annotations: dict[str, list[dict[str, Any]]] = {"train": [], "valid": []}
    left_out = {"train": 0, "valid": 0}
    for row, photo in by_number:
        number = row + 1
        split = "valid" if is_valid(number) else "train"
        labelled = joints[row, :, 2] > 0
        places = joints[row, labelled, :2]
        if not labelled.any():
            left_out[split] += 1
            continue
        if not np.isfinite(places).all():
            raise PosematchError(
                f"person {number} of {mat_file} has a labelled joint at no finite place; get the"
                " file again."
            )
        width, height = size_of_photo(photo, f"person {number} of {mat_file}")
        first, last = places.min(axis=0), places.max(axis=0)
        keypoints = np.where(labelled[:, None], joints[row], 0.0)
        keypoints[:, 2] = 2 * labelled
        images[split].append(
            {"id": number, "file_name": photo.name, "width": width, "height": height}
        )
        annotations[split].append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "keypoints": keypoints.ravel().tolist(),
                "num_keypoints": int(labelled.sum()),
                "bbox": [*first.tolist(), *(last - first).tolist()],
                "area": float(np.prod(last - first)),
                "iscrowd": 0,
            }
        )
    person = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(JOINTS),
        "skeleton": [list(limb) for limb in LIMBS],
    }
    return {
        split: Split(
            {
                "images": images[split],
                "annotations": annotations[split],
                "categories": [person],
            },
            left_out[split],
        )
        for split in images
    }


def _joints(mat_file: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(N, 14, 3)."""
    joints = read_variables(mat_file, ("joints",))["joints"]
    K = len(JOINTS)
    if (
        joints.ndim != 3
        or joints.dtype.kind not in "fiu"
        or joints.shape[:2]
        not in (
            (K, 3),
            (3, K),
        )
    ):
        raise PosematchError(
            f"joints of {mat_file} is {joints.dtype} {joints.shape}, not numbers (14, 3, N): use"
            " LSP-Extended's joints.mat."
        )
    order = (2, 0, 1) if joints.shape[0] == K else (2, 1, 0)
    return joints.astype(np.float64).transpose(order)


def _by_number(photos: Sequence[Path], people: int, mat_file: Path) -> list[tuple[int, Path]]:
    """Row of ``joints`` and photo, for each photo."""
    numbered = []
    for photo in photos:
        found = _NUMBER.search(photo.name)
        if found is None:
            raise PosematchError(
                f"{photo} has no number in its name that tells whose photo it is; names of"
                " LSP-Extended are im00001.jpg and so on."
            )
        numbered.append((int(found[1]), photo))
    numbered.sort()
    if len(numbered) == people:  # the high-resolution version has gaps in its numbers
        return [(row, photo) for row, (_, photo) in enumerate(numbered)]
    numbers = [number for number, _ in numbered]
    if not numbers or len(set(numbers)) < len(numbers) or numbers[0] < 1 or numbers[-1] > people:
        raise PosematchError(
            f"{mat_file} has {people} people, and their photos are {len(numbered)}, whose numbers"
            " do not tell who is who; restore the photos."
        )
    return [(number - 1, photo) for number, photo in numbered]
