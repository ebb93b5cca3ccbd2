"""Pictures as a viewer shows them: files by their EXIF, arrays and tensors as they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from posematch.data.pictures import (
    MOST_PHOTO_BYTES,
    decode_photo,
    orientation_of,
    turned,
)
from posematch.errors import PosematchError
from posematch.untrusted import read_bytes

Picture = NDArray[np.uint8]
# What `as_rgb` takes; PIL's images, too.
AnyPicture = str | os.PathLike[str] | NDArray[Any] | torch.Tensor | Image.Image


def read_upright(path: Path) -> Picture:
    """Read a photo as a viewer shows it: turned as its EXIF says.

    Trainings take pixels as they are stored where annotations do (`posematch.data.crops`); of a
    photo without annotations the picture that people see is the one that they mean.

    Returns
    -------
    (H, W, 3) uint8 RGB.

    Raises
    ------
    PosematchError
        There is no ordinary file, it is no picture, or one of more pixels than are read.
    """
    content = read_bytes(path, MOST_PHOTO_BYTES, "a photo")
    return decoded(content, f"The photo {path}")


def decoded(content: bytes, what: str) -> Picture:
    """A photo's file as (H, W, 3) uint8 RGB, upright; errors as `read_upright`.

    ``what``: how sentences about it begin.
    """
    photo, _ = decode_photo(content, what, "restore the file")
    rgb = cv2.cvtColor(photo, cv2.COLOR_BGR2RGB)
    return turned(np.asarray(rgb, dtype=np.uint8), orientation_of(content))


def as_rgb(image: AnyPicture, what: str = "image") -> Picture:
    """Whatever a picture comes as, as (H, W, 3) uint8 RGB.

    Parameters
    ----------
    image
        A path; an image of Pillow's (its EXIF is applied, as a path's is); an array (H, W, 3),
        (H, W, 4) or (H, W) of uint8, RGB (OpenCV's BGR: ``image[..., ::-1]``); or a tensor
        (3, H, W) or (1, H, W) of uint8, on any device.
    what
        How sentences about it begin.

    Raises
    ------
    PosematchError
        It is none of these, or as `read_upright`.

    Examples
    --------
    >>> as_rgb(torch.zeros(3, 4, 6, dtype=torch.uint8)).shape
    (4, 6, 3)
    """
    if isinstance(image, str | os.PathLike):
        return read_upright(Path(image).expanduser())
    if isinstance(image, Image.Image):
        upright = ImageOps.exif_transpose(image)
        return np.asarray((upright or image).convert("RGB"), dtype=np.uint8)
    if isinstance(image, torch.Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise PosematchError(
                f"{what}: a tensor must be (3, H, W), not {tuple(image.shape)}; of (H, W, 3) hand"
                " over image.permute(2, 0, 1), or an array."
            )
        image = image.detach().cpu().numpy().transpose(1, 2, 0)
    if not isinstance(image, np.ndarray):
        raise PosematchError(
            f"{what} is a {type(image).__name__}; hand over a path, an array (H, W, 3), a tensor"
            " (3, H, W) or an image of Pillow's."
        )
    if image.dtype != np.uint8:
        raise PosematchError(
            f"{what} has numbers of {image.dtype}; hand over uint8 in 0..255, such as"
            " (255 * image).round().astype('uint8') of colours in 0..1."
        )
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        raise PosematchError(f"{what}: an array must be (H, W, 3), not {image.shape}.")
    if image.shape[2] == 1:
        image = image.repeat(3, axis=2)
    return np.ascontiguousarray(image[..., :3])
