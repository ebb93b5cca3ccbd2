"""Boxes on a picture to the crops that a network takes, and the maps between the two."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from posematch.data.pictures import MOST_PIXELS
from posematch.errors import PosematchError
from posematch.geometry import Convention, Size, box_to_center_size, box_to_crop_affine
from posematch.prediction.pictures import Picture

MOST_PEOPLE = 10_000  # of one picture


class Crops(NamedTuple):
    """What a network takes of N people.

    Attributes
    ----------
    pixels
        (N, 3, H, W) uint8 RGB.
    affines
        (N, 2, 3) float64, picture to crop pixels.
    """

    pixels: torch.Tensor
    affines: torch.Tensor


def whole_picture(picture: Picture) -> NDArray[np.float64]:
    """(1, 4) x, y, w, h: the box that holds all of it."""
    height, width = picture.shape[:2]
    return np.array([[0.0, 0.0, width, height]])


def checked_boxes(boxes: ArrayLike, picture_size: Size, what: str = "boxes") -> NDArray[np.float64]:
    """Boxes as (N, 4) float64.

    Parameters
    ----------
    boxes
        (N, 4), or one box as (4,): x, y of the upper left corner, width and height, in picture
        pixels, as in COCO's format.
    picture_size
        (H, W).
    what
        How sentences about them begin.

    Raises
    ------
    PosematchError
        Another shape; a box that is not finite, without an area or wholly outside of the picture.

    Examples
    --------
    >>> checked_boxes([10, 20, 30, 40], (100, 100))
    array([[10., 20., 30., 40.]])
    """
    try:
        if isinstance(boxes, torch.Tensor):
            boxes = boxes.detach().cpu().numpy()
        xywh = np.asarray(boxes, dtype=np.float64)
    except (TypeError, ValueError):
        raise PosematchError(f"{what} must be numbers, (N, 4): x, y, width and height.") from None
    if xywh.size == 0:
        return np.zeros((0, 4))
    xywh = xywh[None] if xywh.ndim == 1 else xywh
    if xywh.ndim != 2 or xywh.shape[1] != 4 or len(xywh) > MOST_PEOPLE:
        raise PosematchError(
            f"{what} must be (N, 4), x, y, width and height of at most {MOST_PEOPLE} people, not"
            f" {xywh.shape}."
        )
    height, width = picture_size
    x, y, w, h = xywh.T
    good = np.isfinite(xywh).all(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        good &= (w > 0) & (h > 0) & (np.maximum(w, h) <= MOST_PIXELS)
        good &= (x < width) & (y < height) & (x + w > 0) & (y + h > 0)
    if not good.all():
        first = int(np.flatnonzero(~good)[0])
        shown = ", ".join(f"{number:g}" for number in xywh[first])
        raise PosematchError(
            f"{what}: number {first} ([{shown}]) must be x, y, width and height of a box with an"
            f" area that touches the picture of {width} x {height} pixels."
        )
    return xywh


def people_crops(
    picture: Picture,
    boxes_img: NDArray[np.float64],
    input_size: Size,
    convention: Convention,
    padding: float,
) -> Crops:
    """Cut people out of a picture, as trainings do it (docs/protocols.md, Crop).

    Parameters
    ----------
    picture
        (H, W, 3) uint8 RGB.
    boxes_img
        (N, 4) of `checked_boxes`.
    input_size
        (H, W) of the crops.
    convention
        See `posematch.geometry`.
    padding
        How much longer a crop's sides are than those of the box, once it has the crop's aspect.
    """
    height, width = input_size
    pixels = np.empty((len(boxes_img), height, width, 3), dtype=np.uint8)
    affines = np.empty((len(boxes_img), 2, 3))
    for person, box in enumerate(boxes_img):
        center_img, size_img = box_to_center_size(box, input_size, padding)
        affines[person] = box_to_crop_affine(
            center_img, size_img, input_size, convention=convention
        )
        cv2.warpAffine(
            picture, affines[person], (width, height), pixels[person], flags=cv2.INTER_LINEAR
        )
    return Crops(
        torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))),
        torch.from_numpy(affines),
    )
