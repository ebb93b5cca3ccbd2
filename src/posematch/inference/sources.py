"""What ``input=`` names: photos and videos, and by what name each is told."""

from __future__ import annotations

import glob
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

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
        Files of a folder that are neither photos nor videos by their endings.
    drawn
        Below ``drawn/``, by name: where the picture with joints goes, without its ending; two
        photos never have the same.
    """

    sources: tuple[Source, ...]
    passed_over: int

    @property
    def drawn(self) -> dict[str, str]:
        stems = {one.name: str(PurePosixPath(one.name).with_suffix("")) for one in self.sources}
        often = Counter(stem.casefold() for stem in stems.values())
        return {name: stem if often[stem.casefold()] == 1 else name for name, stem in stems.items()}


def find_sources(named: str) -> Sources:
    """Photos and videos of a file, a folder (at any depth) or a pattern.

    Parameters
    ----------
    named
        A path; or a pattern with ``*``, ``?``, ``[...]`` or ``**``.

    Raises
    ------
    PosematchError
        There is nothing.
    """
    path = Path(named).expanduser()
    if path.is_dir():
        return _of_folder(path)
    if os.path.lexists(path):
        if not path.is_file():
            raise PosematchError(f"input={named} is no ordinary file; name a photo or a video.")
        return Sources((_source(path, path.name),), 0)
    if not _GLOB & set(named):
        raise PosematchError(
            f"input={named} does not exist; name a photo, a video, a folder of them or a pattern"
            " such as 'photos/*.jpg'."
        )
    found = sorted(Path(one) for one in glob.glob(str(path), recursive=True))  # noqa: PTH207
    files = [one for one in found if one.is_file()]
    if not files:
        raise PosematchError(f"input={named} fits no file; check the pattern.")
    root = Path(os.path.commonpath([one.absolute().parent for one in files]))
    names = [one.absolute().relative_to(root).as_posix() for one in files]
    return Sources(tuple(map(_source, files, names)), 0)


def _of_folder(folder: Path) -> Sources:
    kept: list[Source] = []
    others = 0
    for place, folders, files in os.walk(folder):  # links to folders are not followed
        folders[:] = [one for one in folders if not one.startswith(".")]
        for file in files:
            path = Path(place, file)
            if path.suffix.lower() in PHOTOS | VIDEOS and not file.startswith("."):
                kept.append(_source(path, path.relative_to(folder).as_posix()))
            else:
                others += 1
    if not kept:
        raise PosematchError(
            f"input={folder} holds no photo and no video ({others} other files); photos end in"
            f" {', '.join(sorted(PHOTOS))}, videos in {', '.join(sorted(VIDEOS))}."
        )
    return Sources(tuple(sorted(kept, key=lambda one: one.name)), others)


def _source(path: Path, name: str) -> Source:
    return Source(path, name, path.suffix.lower() in VIDEOS)
