"""The people of an annotation file in COCO's format, as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class AnnotatedPeople:
    """N annotated people, in the order of their file.

    Attributes
    ----------
    ids, image_ids
        (N,) of the annotation and of its photo.
    keypoints
        (N, K, 3) x, y in photo pixels, and COCO's flag.
    boxes_img
        (N, 4) x, y, width, height.
    areas
        (N,) square pixels.
    labelled
        (N,) who has a labelled joint.
    crowds
        (N,).
    photos
        (P,) ids of all photos of the file, ascending.
    """

    ids: NDArray[np.int64]
    image_ids: NDArray[np.int64]
    keypoints: Floats
    boxes_img: Floats
    areas: Floats
    labelled: Bools
    crowds: Bools
    photos: NDArray[np.int64]

    @classmethod
    def of(cls, content: Mapping[str, Any], joints: int) -> AnnotatedPeople:
        """Of `posematch.data.annotations.Annotations.content`, with so many joints."""
        people = content["annotations"]
        keypoints = np.array([one["keypoints"] for one in people], dtype=np.float64)
        crowds = np.array([one["iscrowd"] for one in people], dtype=np.bool_)
        labelled = np.array([one["num_keypoints"] > 0 for one in people], dtype=np.bool_)
        return cls(
            np.array([one["id"] for one in people], dtype=np.int64),
            np.array([one["image_id"] for one in people], dtype=np.int64),
            keypoints.reshape(-1, joints, 3),
            np.array([one["bbox"] for one in people], dtype=np.float64).reshape(-1, 4),
            np.array([one["area"] for one in people], dtype=np.float64),
            labelled,
            crowds,
            np.unique(np.array([one["id"] for one in content["images"]], dtype=np.int64)),
        )

    @property
    def counted(self) -> Bools:
        """(N,) who is to be found: not a crowd, and with a labelled joint."""
        return self.labelled & ~self.crowds
