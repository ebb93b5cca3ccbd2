"""What crops are warped from: a photo, or the part of it that one person's crops can need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from posematch.data.pictures import decode_pixels, picture_size
from posematch.geometry import Size

RegionFormat = Literal["jpeg", "webp", "raw"]
FORMATS: tuple[RegionFormat, ...] = get_args(RegionFormat)
JPEG_QUALITY = 95
# Photos are 4:2:0 themselves; 4:4:4 costs a fifth more for a quarter of a grey level.
_JPEG = [
    cv2.IMWRITE_JPEG_QUALITY,
    JPEG_QUALITY,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
]
# To travel: a third of the JPEGs' bytes, for twice their error.
WEBP_QUALITY = 75
_WEBP = [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY]
# Above 100 means lossless; a third smaller than PNG and faster to decode.
_WEBP_LOSSLESS = [cv2.IMWRITE_WEBP_QUALITY, 101]


def warp_crop(
    photo_bgr: NDArray[np.uint8], affine: NDArray[np.float64], crop_size: Size
) -> NDArray[np.uint8]:
    """Warp a BGR photo into an (H, W, 3) RGB crop; see docs/protocols.md, Crop."""
    return np.ascontiguousarray(_warped(photo_bgr, affine, crop_size)[..., 2::-1])


def _warped(
    photo_bgr: NDArray[np.uint8], affine: NDArray[np.float64], crop_size: Size
) -> NDArray[np.uint8]:
    height, width = crop_size
    crop = cv2.warpAffine(photo_bgr, affine, (width, height), flags=cv2.INTER_LINEAR)
    return np.asarray(crop, dtype=np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class PhotoRegion:
    """What crops are warped from: a photo, or the part of it that one person's crops can need.

    Attributes
    ----------
    pixels_bgr
        (h, w, 3) uint8, or (h, w, 4), the last meaning nothing.
    photo_width_px
        Width of the whole photo, about which it is mirrored.
    affine
        (2, 3) photo to region pixels; None for the whole photo.
    """

    pixels_bgr: NDArray[np.uint8]
    photo_width_px: int
    affine: NDArray[np.float64] | None = None

    def crop(self, affine: NDArray[np.float64], crop_size: Size) -> NDArray[np.uint8]:
        """`warp_crop` by a map from *photo* pixels to crop pixels."""
        return warp_crop(self.pixels_bgr, self._to_crop(affine), crop_size)

    def planes(self, affine: NDArray[np.float64], crop_size: Size) -> NDArray[np.uint8]:
        """`crop` as (3, H, W), in one pass."""
        warped = _warped(self.pixels_bgr, self._to_crop(affine), crop_size)
        planes = np.empty((3, *crop_size), dtype=np.uint8)
        cv2.mixChannels([warped], list(planes), [2, 0, 1, 1, 0, 2])
        return planes

    def _to_crop(self, affine: NDArray[np.float64]) -> NDArray[np.float64]:
        return affine if self.affine is None else region_to_crop(affine, self.affine)


def region_to_crop(
    photo_to_crop: NDArray[np.float64], photo_to_region: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The (2, 3) map from region to crop pixels."""
    linear = photo_to_crop[:, :2] @ np.linalg.inv(photo_to_region[:, :2])
    shift = photo_to_crop[:, 2] - linear @ photo_to_region[:, 2]
    return np.concatenate([linear, shift[:, None]], axis=1)


def reduced_affine(reduction: int) -> NDArray[np.float64]:
    """(2, 3) photo to reduced pixels: pixel edges coincide, centres lie half a pixel inside."""
    shift = 0.5 / reduction - 0.5
    return np.array([[1 / reduction, 0.0, shift], [0.0, 1 / reduction, shift]])


def encode_region(pixels_bgr: NDArray[np.uint8], kept_as: RegionFormat, exact: bool) -> bytes:
    """(h, w, 3) pixels as they stand in a cache's file.

    Parameters
    ----------
    pixels_bgr
        The region.
    kept_as
        ``jpeg``, ``webp``, or ``raw``: as they are, one row after another, each with a fourth
        byte, see `posematch.data.pictures.decode_pixels`.
    exact
        Instead of one with losses take WebP without.
    """
    if kept_as == "raw":
        return bytes(cv2.cvtColor(pixels_bgr, cv2.COLOR_BGR2BGRA).tobytes())
    suffix, options = (".webp", _WEBP) if kept_as == "webp" else (".jpg", _JPEG)
    if exact:
        suffix, options = ".webp", _WEBP_LOSSLESS
    written, encoded = cv2.imencode(suffix, pixels_bgr, options)
    assert written, f"OpenCV cannot write {suffix}"
    return bytes(encoded.tobytes())


def decode_region(
    encoded: NDArray[np.uint8], size: tuple[int, int], kept_as: RegionFormat
) -> NDArray[np.uint8] | None:
    """(h, w, 4) pixels from (n,) bytes of a cache's file; None if they are not of that size.

    ``raw`` ones are a view of the bytes.
    """
    height, width = size
    if kept_as == "raw":
        fits = len(encoded) == height * width * 4
        return encoded.reshape(height, width, 4) if fits else None
    content = encoded.tobytes()
    if picture_size(content) != (width, height):
        return None
    return decode_pixels(content, (width, height), padded=True)
