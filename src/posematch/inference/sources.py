"""What ``input=`` names: photos and videos, and by what name each is told."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from posematch.errors import PosematchError

PHOTOS = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
VIDEOS = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})
_GLOB = frozenset("*?[")


@dataclass(frozen=True)
class Source:
    """A photo or a video.

    Attributes
    ----------
    path
        The file.
    name
        Its path below the folder that ``input=`` names, with ``/``; in tables and below the output.
    is_video
        By its ending.
    """

    path: Path
    name: str
    is_video: bool


@dataclass(frozen=True)
class Sources:
    """All that is looked at.

    Attributes
    ----------
    sources
        By name.
    passed_over
        Of a folder's files that are neither photos nor videos by their endings: how many, by
        ending.
    drawn
        Below ``drawn/``, by name: where the picture with joints goes; no two have the same.
    """

    sources: tuple[Source, ...]
    passed_over: Mapping[str, int]

    @property
    def drawn(self) -> dict[str, str]:
        names = {one.name for one in self.sources}
        drawn = {}
        for one in self.sources:
            ending = ".mp4" if one.is_video else ".jpg"
            name = one.name if one.name.endswith(ending) else one.name + ending
            drawn[one.name] = name if name == one.name or name not in names else f"{name}{ending}"
        return drawn


def find_sources(named: str, output: Path) -> Sources:
    """Photos and videos of a file, a folder (at any depth) or a pattern.

    Parameters
    ----------
    named
        A path; or a pattern with ``*``, ``?``, ``[...]`` or ``**``.
    output
        What lies below it is left out: drawings of the same command.

    Raises
    ------
    PosematchError
        There is nothing.
    """
    path = Path(named).expanduser()
    if path.is_dir():
        return _of_folder(path, output.absolute())
    if os.path.lexists(path):
        if not path.is_file():
            raise PosematchError(f"input={named} is no ordinary file; name a photo or a video.")
        return Sources((_source(path, path.name),), {})
    if not _GLOB & set(named):
        raise PosematchError(
            f"input={named} does not exist; name a photo, a video, a folder of them or a pattern"
            " such as 'photos/*.jpg'."
        )
    found = sorted(Path(one) for one in glob.glob(str(path), recursive=True))  # noqa: PTH207
    own = output.absolute()
    files = [one for one in found if one.is_file() and not one.absolute().is_relative_to(own)]
    if not files:
        raise PosematchError(f"input={named} fits no file; check the pattern.")
    root = Path(os.path.commonpath([one.absolute().parent for one in files]))
    names = [one.absolute().relative_to(root).as_posix() for one in files]
    return Sources(tuple(map(_source, files, names)), {})


def _of_folder(folder: Path, output: Path) -> Sources:
    kept: list[Source] = []
    others: Counter[str] = Counter()
    for place, folders, files in os.walk(folder):  # links to folders are not followed
        folders[:] = [
            one
            for one in folders
            if not one.startswith(".") and Path(place, one).absolute() != output
        ]
        for file in files:
            path = Path(place, file)
            if path.suffix.lower() in PHOTOS | VIDEOS and not file.startswith("."):
                kept.append(_source(path, path.relative_to(folder).as_posix()))
            else:
                others[path.suffix.lower() or "without ending"] += 1
    if not kept:
        raise PosematchError(
            f"input={folder} holds no photo and no video ({others.total()} other files); photos end"
            f" in {', '.join(sorted(PHOTOS))}, videos in {', '.join(sorted(VIDEOS))}."
        )
    return Sources(tuple(sorted(kept, key=lambda one: one.name)), others)


def _source(path: Path, name: str) -> Source:
    return Source(path, name, path.suffix.lower() in VIDEOS)
