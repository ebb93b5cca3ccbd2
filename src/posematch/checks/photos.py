"""Checks of photos: there, whole, of the size that is told, and only once."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from posematch.checks.findings import EXAMPLES, Example, Finding
from posematch.data.people import People
from posematch.data.pictures import MOST_PHOTO_BYTES, MOST_PIXELS, orientation_of, picture_size
from posematch.errors import PosematchError
from posematch.untrusted import open_file, read_bytes

HEAD_BYTES = 1 << 16  # holds the size, and what EXIF says
_TAIL_BYTES = 1 << 12
_JPEG, _END = b"\xff\xd8\xff", b"\xff\xd9"
_WHAT = "a photo (below data.root)"
_AT_ONCE = 8
Tick = Callable[[], None]


@dataclass(frozen=True)
class Look:
    """What the beginning and the end of a photo's file say.

    Attributes
    ----------
    there
        Whether there is an ordinary file.
    size_bytes
        Of it.
    size
        (width, height) as stored; None: it is no picture.
    orientation
        EXIF's number.
    ended
        False for a JPEG without its end marker.
    head
        Digest of the beginning, by which copies are looked for.
    """

    there: bool
    size_bytes: int = 0
    size: tuple[int, int] | None = None
    orientation: int = 1
    ended: bool = True
    head: bytes = b""


def look_at(path: Path) -> Look:
    """Read the beginning and the end of a file."""
    try:
        with open_file(path, MOST_PHOTO_BYTES, _WHAT) as file:
            content = file.read(HEAD_BYTES)
            size_bytes = file.seek(0, io.SEEK_END)
            file.seek(max(0, size_bytes - _TAIL_BYTES))
            tail = file.read()
    except (PosematchError, OSError):
        return Look(there=False)
    head = hashlib.blake2b(content, digest_size=16).digest()
    size = picture_size(content)
    if size is None and size_bytes > HEAD_BYTES:  # long before its first frame, or another format
        size = picture_size(read_bytes(path, MOST_PHOTO_BYTES, _WHAT))
    ended = not content.startswith(_JPEG) or _END in tail
    return Look(True, size_bytes, size, orientation_of(content), ended, head)


def look_at_all(paths: Iterable[Path], tick: Tick = lambda: None) -> dict[Path, Look]:
    """`look_at` each of them once; ``tick`` is called for each."""
    wanted = sorted(set(paths))
    found = {}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for path, look in zip(wanted, pool.map(look_at, wanted, chunksize=64), strict=True):
            found[path] = look
            tick()
    return found


def why_not_whole(path: Path) -> tuple[Literal["unreadable", "cut_off"], str] | None:
    """Decode a photo; None: all of it is there."""
    try:
        content = read_bytes(path, MOST_PHOTO_BYTES, _WHAT)
        size = picture_size(content)
        if size is None:
            return "unreadable", "no picture" if content else "an empty file"
        if size[0] * size[1] > MOST_PIXELS:
            return "unreadable", f"{size[0]} x {size[1]} pixels, more than are read"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                image.load()
    except Exception as error:  # of each format's own decoder
        said = " ".join(str(error).split()) or type(error).__name__
        return ("cut_off" if "truncated" in said else "unreadable"), said
    return None


def check_photos(
    people: People, looks: Mapping[Path, Look], decode: Sequence[Path], tick: Tick = lambda: None
) -> list[Finding]:
    """All checks that take one split's photos.

    Parameters
    ----------
    people
        Who tell of their photos' sizes.
    looks
        At each of their photos.
    decode
        Those of them to be decoded besides what looks cut off; ``tick`` is called for each.
    """
    photos = {one.image: one.photo_size for one in people.people}
    rows = {one.image: row for row, one in reversed(list(enumerate(people.people)))}
    cases: dict[str, list[tuple[Path, str]]] = {}
    for path, told in photos.items():
        look = looks[path]
        if not look.there:
            cases.setdefault("missing", []).append((path, ""))
        elif look.size is None:
            said = "no picture" if look.size_bytes else "an empty file"
            cases.setdefault("unreadable", []).append((path, said))
        elif told is not None and told != look.size:
            if not (told == look.size[::-1] and look.orientation >= 5):
                said = f"{look.size[0]} x {look.size[1]}, not {told[0]} x {told[1]}"
                cases.setdefault("size", []).append((path, said))
        elif look.orientation != 1:
            cases.setdefault("exif", []).append((path, f"orientation {look.orientation}"))
    cut = [path for path in photos if looks[path].size is not None and not looks[path].ended]
    chosen = dict.fromkeys([*cut, *(path for path in decode if looks[path].size is not None)])
    with ThreadPoolExecutor(_AT_ONCE // 4) as pool:
        for path, why in zip(chosen, pool.map(why_not_whole, chosen), strict=True):
            if why is not None:
                cases.setdefault(why[0], []).append((path, why[1]))
            tick()
    looked = {"unreadable": len(photos), "cut_off": len(chosen)}
    return [
        _finding(kind, people, found, looked.get(kind, len(photos)), rows)
        for kind, found in cases.items()
    ]


def spread(paths: Iterable[Path], most: int) -> list[Path]:
    """At most so many of them, spread evenly."""
    ordered = sorted(set(paths))
    if most <= 0:
        return []
    return ordered[:: max(1, -(-len(ordered) // most))]


def check_copies(splits: Sequence[People], looks: Mapping[Path, Look]) -> list[Finding]:
    """The same photo within a split under several names, and in two splits.

    Files of the same size with the same beginning are compared by their SHA-256.
    """
    alike: dict[tuple[int, bytes], list[Path]] = {}
    for path, look in looks.items():
        if look.there and look.size_bytes:
            alike.setdefault((look.size_bytes, look.head), []).append(path)
    content: dict[Path, bytes] = {}
    for paths in alike.values():
        for path in paths if len(paths) > 1 else ():
            whole = read_bytes(path, MOST_PHOTO_BYTES, _WHAT)
            content[path] = hashlib.sha256(whole).digest()
    found: list[Finding] = []
    of_split: list[dict[bytes | Path, Path]] = []
    for people in splits:
        rows = {one.image: row for row, one in reversed(list(enumerate(people.people)))}
        photos: dict[bytes | Path, Path] = {}
        again, shared = [], []
        for path in rows:
            key = content.get(path, path)
            if key in photos:
                again.append((path, f"the same as {photos[key].name}"))
                continue
            photos[key] = path
            if of_split and key in of_split[0]:
                shared.append((path, f"in {splits[0].split} as {of_split[0][key].name}"))
        of_split.append(photos)
        for kind, cases in (("same_photo", again), ("both_splits", shared)):
            if cases:
                found.append(_finding(kind, people, cases, len(rows), rows))
    return found


def _finding(
    kind: str,
    people: People,
    cases: Sequence[tuple[Path, str]],
    of: int,
    rows: Mapping[Path, int],
) -> Finding:
    examples = tuple(
        Example(said, str(path), people.people[rows[path]].person_id, rows[path])
        for path, said in cases[:EXAMPLES]
    )
    return Finding(kind, people.split, len(cases), of, examples)
