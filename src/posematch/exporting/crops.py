"""Crops that an exported file is checked on: of photos, or of people that posematch draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from posematch.data.crops import read_photo, warp_crop
from posematch.data.synthetic import draw, stage
from posematch.data.synthetic_spec import SyntheticSpec
from posematch.geometry import Convention, Size, box_to_center_size, box_to_crop_affine


def crop_of(
    photo_bgr: NDArray[np.uint8],
    box_img: NDArray[np.float64],
    input_size: Size,
    convention: Convention,
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The (H, W, 3) RGB crop of a person's (x, y, w, h) box, and its (2, 3) affine map.

    The box grows to the crop's shape and by a quarter, as a data set's do.
    """
    center_img, size_img = box_to_center_size(box_img, input_size)
    affine = box_to_crop_affine(center_img, size_img, input_size, convention=convention)
    return warp_crop(photo_bgr, affine, input_size), affine


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
    for (photo_bgr, box_img), _ in zip(found, range(count), strict=False):
        crop, _ = crop_of(photo_bgr, box_img, input_size, convention)
        crops.append(torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1))))
    return torch.stack(crops)


def _of_photos(
    files: Sequence[Path], count: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float64]]]:
    for place in np.unique(np.linspace(0, len(files) - 1, min(count, len(files))).astype(int)):
        photo_bgr = read_photo(files[place])
        height, width = photo_bgr.shape[:2]
        yield photo_bgr, np.array([0.0, 0.0, width, height])


def _drawn() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float64]]]:
    """Photos of the embedded data set with the boxes of their people, without end."""
    spec = SyntheticSpec()
    for index in range(spec.valid_photos * 1000):
        scene = stage(spec, "valid", index)
        photo_bgr, _ = draw(spec, "valid", index, scene)
        for person in scene.people:
            side = person.said_height_px
            yield photo_bgr, np.array([*(person.middle_img - side / 2), side, side])
