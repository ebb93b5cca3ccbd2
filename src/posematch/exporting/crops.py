"""Crops that an exported file is checked on: of photos, or of people that posematch draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from posematch.data.synthetic import draw, stage
from posematch.data.synthetic_spec import SyntheticSpec
from posematch.geometry import BOX_PADDING, Convention, Size
from posematch.prediction import Picture, people_crops, read_upright, whole_picture

Floats = NDArray[np.float64]


def crops_to_check(
    photos: Sequence[Path], count: int, input_size: Size, convention: Convention
) -> torch.Tensor:
    """(N, 3, H, W) uint8 crops.

    Parameters
    ----------
    photos
        Each is taken whole; none: people are drawn.
    count
        At most so many, spread over the photos.

    Raises
    ------
    PosematchError
        A photo cannot be read.
    """
    found = _of_photos(photos, count) if photos else _drawn()
    crops = []
    for (picture, box_img), _ in zip(found, range(count), strict=False):
        crops.append(people_crops(picture, box_img, input_size, convention, BOX_PADDING).pixels)
    return torch.cat(crops)


def _of_photos(files: Sequence[Path], count: int) -> Iterator[tuple[Picture, Floats]]:
    for place in np.unique(np.linspace(0, len(files) - 1, min(count, len(files))).astype(int)):
        picture = read_upright(files[place])
        yield picture, whole_picture(picture)


def _drawn() -> Iterator[tuple[Picture, Floats]]:
    """Photos of the embedded data set with the boxes of their people, without end."""
    spec = SyntheticSpec()
    for index in range(spec.valid_photos * 1000):
        scene = stage(spec, "valid", index)
        photo_bgr, _ = draw(spec, "valid", index, scene)
        for person in scene.people:
            side = person.said_height_px
            yield (
                np.ascontiguousarray(photo_bgr[..., ::-1]),
                np.array([[*(person.middle_img - side / 2), side, side]]),
            )
