"""How large a picture is, by its header alone."""

from __future__ import annotations

import io
import warnings

from PIL import Image

MOST_PIXELS = 10**8  # 300 MB of colours
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
# Start of frame; C4, C8 and CC lie between them and mean something else.
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})


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
