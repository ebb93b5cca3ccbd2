"""Pictures from files: how large, by the header alone; how turned; and their pixels."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from posematch.errors import PosematchError
from posematch.untrusted import MIB, read_bytes

MOST_PIXELS = 10**8  # 300 MB of colours
MOST_PHOTO_BYTES = 256 * MIB
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_ORIENTATION = 0x0112  # EXIF's tag
# What turns stored pixels into what a viewer shows, by EXIF's number.
_TURNS = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x.swapaxes(0, 1)[::-1],
}
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
# Start of frame; C4, C8 and CC lie between them and mean something else.
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})


def photos_in(folder: Path, key: str) -> list[Path]:
    """The photos that lie in a folder, by name.

    Parameters
    ----------
    folder
        Not the folders below it.
    key
        Of the configuration, for messages.

    Raises
    ------
    PosematchError
        There is no such folder, or no photo in it.
    """
    if not folder.is_dir():
        raise PosematchError(f"{key}={folder} is no folder; name one with photos.")
    found = sorted(one for one in folder.iterdir() if one.suffix.lower() in _SUFFIXES)
    if not found:
        raise PosematchError(f"{key}={folder} holds no photo ({', '.join(_SUFFIXES)}).")
    return found


def picture_size(content: bytes) -> tuple[int, int] | None:
    """Width and height that a picture's file claims; None if it is none.

    JPEG and PNG are looked at here, in a few microseconds, since every sample of a training is one;
    the others by Pillow.
    """
    if content.startswith(_JPEG):
        return _jpeg_size(content)
    if content.startswith(_PNG):
        if content[12:16] != b"IHDR" or len(content) < 24 or not _has_its_chunks(content):
            return None
        width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
        return (width, height) if width and height else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                return image.size
    except Image.DecompressionBombError:
        return 2**31, 2**31
    except Exception:  # of each format's own parser
        return None


def decode_photo(
    content: bytes, what: str, otherwise: str, reduction: int = 1, padded: bool = False
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """A photo's file as (H, W, 3) BGR uint8, as it is stored, and its width and height.

    Parameters
    ----------
    content
        Of the file.
    what, otherwise
        How sentences about it begin, and what to do where it is no picture.
    reduction
        1, 2, 4 or 8: a JPEG file is decoded at that part of its width and height, rounded up, which
        is faster. Other files are decoded as they are; the array's shape tells. The width and
        height that are answered are those of the whole photo.
    padded
        See `decode_pixels`.

    Raises
    ------
    PosematchError
        It is no picture, or one of more than `MOST_PIXELS` pixels.
    """
    photo = None
    # By its header, before any memory is taken: a PNG of a few kilobytes may have 40000 x 40000.
    size = picture_size(content)
    if size is not None:
        if size[0] * size[1] > MOST_PIXELS:
            raise PosematchError(
                f"{what} has {size[0]} x {size[1]} pixels, more than the"
                f" {MOST_PIXELS / 1e6:.0f} million that are read; scale it down."
            )
        photo = decode_pixels(content, size, reduction, padded)
    if photo is None:
        raise PosematchError(f"{what} is not a readable image; {otherwise}.")
    assert size is not None
    return np.asarray(photo, dtype=np.uint8), size


def decode_pixels(
    content: bytes, size: tuple[int, int], reduction: int = 1, padded: bool = False
) -> NDArray[np.uint8] | None:
    """A picture's file as (H, W, 3) BGR uint8, as it is stored; None if it is no picture.

    JPEG by simplejpeg, which calls the same library as OpenCV and answers the same pixels, a third
    faster, and parts of the resolution, too; what it refuses (CMYK, say), and all others, by
    OpenCV.

    Parameters
    ----------
    content
        Of the file.
    size
        Its width and height, see `picture_size`.
    reduction
        See `decode_photo`.
    padded
        Give each pixel a fourth byte that means nothing: OpenCV warps such pixels in two thirds of
        the time, to the same values.
    """
    if content[:3] == _JPEG:
        width, height = size
        with contextlib.suppress(ValueError):
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
                content,
                colorspace="BGRX" if padded else "BGR",
                min_width=-(-width // reduction),
                min_height=-(-height // reduction),
                min_factor=1,
            )
            return pixels
    with contextlib.suppress(cv2.error):
        how = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        photo = cv2.imdecode(np.frombuffer(content, np.uint8), how)
        if photo is not None:
            photo = cv2.cvtColor(photo, cv2.COLOR_BGR2BGRA) if padded else photo
            return np.asarray(photo, dtype=np.uint8)
    return None


def size_of_photo(path: Path, where: str) -> tuple[int, int]:
    """Width and height of a photo as a viewer shows it, for annotations that do not tell it.

    Raises
    ------
    PosematchError
        There is no photo.
    """
    content = read_bytes(path, MOST_PHOTO_BYTES, f"the photo of {where}, whose size it tells")
    size = picture_size(content)
    if size is None:
        raise PosematchError(f"The photo {path} is not a readable image; restore the file.")
    return size[::-1] if orientation_of(content) >= 5 else size


def orientation_of(content: bytes) -> int:
    """EXIF's number for how a viewer turns the stored pixels, 1 to 8; 1 where it says nothing."""
    if b"Exif" not in content[:4096] and b"eXIf" not in content[:4096]:
        return 1
    with contextlib.suppress(Exception), warnings.catch_warnings():  # of each format's own parser
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(content)) as image:
            number = image.getexif().get(_ORIENTATION, 1)
        return number if type(number) is int and 1 <= number <= 8 else 1
    return 1


def turn_of(content: bytes, size: tuple[int, int], told: tuple[int, int] | None, path: Path) -> int:
    """How stored pixels are to be turned to be those of the annotation; 1: as they are.

    Published code takes pixels as they are stored (docs/protocols.md, Crop), and so do we where
    that agrees with the size that the annotation tells.

    Parameters
    ----------
    content
        The photo's file.
    size
        (width, height) as stored.
    told
        (width, height) by the annotation; None: not told.
    path
        For messages.

    Raises
    ------
    PosematchError
        The sizes differ, and EXIF does not explain it.
    """
    if told is None or told == size:
        return 1
    orientation = orientation_of(content)
    if told == size[::-1] and orientation >= 5:
        return orientation
    raise PosematchError(
        f"The photo {path} has {size[0]} x {size[1]} pixels, and the annotation says"
        f" {told[0]} x {told[1]}: it was resized, turned or swapped since, so joints lie elsewhere"
        " in it; restore the photo, or scale the annotations."
    )


def turned(photo: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """(H, W, ...) stored pixels as a viewer shows them."""
    if orientation not in _TURNS:
        return photo
    return np.ascontiguousarray(_TURNS[orientation](photo))


def _has_its_chunks(content: bytes) -> bool:
    """Whether no chunk of a PNG claims to be longer than the file.

    OpenCV takes memory for what a chunk claims before it looks for it: 2 GiB of zeros, in twenty
    seconds, for a file of a kilobyte.
    """
    place = len(_PNG)
    while place + 8 <= len(content):
        length, kind = (
            int.from_bytes(content[place : place + 4], "big"),
            content[place + 4 : place + 8],
        )
        place += 12 + length
        if place > len(content):
            return False
        if kind == b"IEND":
            break
    return True


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Of the first frame, as libjpeg finds it: what is between segments is passed over."""
    place = 2
    while (place := content.find(b"\xff", place)) >= 0:
        while content[place : place + 1] == b"\xff":  # filling
            place += 1
        marker = content[place : place + 1]
        if not marker:
            return None
        place += 1
        code = marker[0]
        if code in (0, 1) or 0xD0 <= code <= 0xD8:  # no segment follows
            continue
        if code in _FRAMES:
            frame = content[place : place + 7]
            if len(frame) < 7:
                return None
            return int.from_bytes(frame[5:7], "big"), int.from_bytes(frame[3:5], "big")
        if code in (0xD9, 0xDA):  # the end, or the picture, without a frame before it
            return None
        place += max(int.from_bytes(content[place : place + 2], "big"), 2)
    return None
