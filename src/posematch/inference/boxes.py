"""Whose joints are looked for: boxes of a json, the whole picture, or a detector's."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posematch.data.annotations import PERSON_CATEGORY, number_of, whole_of
from posematch.errors import PosematchError
from posematch.inference.sources import Source
from posematch.prediction import Picture
from posematch.untrusted import LARGE_BYTES, read_json


@dataclass(frozen=True, eq=False)
class Boxes:
    """Of one picture: (N, 4) x, y, width, height, or None for the whole; (N,) confidences.

    What a file says is judged by `posematch.prediction.checked_boxes`, which knows the picture.
    """

    boxes_img: ArrayLike | None
    scores: NDArray[np.float64] | None = None


class BoxFinder(Protocol):
    """Boxes of each picture."""

    def of(self, source: Source, frame: int | None, picture: Picture) -> Boxes:
        """Boxes of a photo, or of a video's frame number ``frame`` (from 0)."""
        ...

    def image_id(self, source: Source) -> int | None:
        """COCO's id of a photo; None where nobody has said one."""
        ...

    def check_video(self, source: Source, frames: int) -> None:
        """Raise where boxes are said of frames that a video of so many does not have."""
        ...


class WholePicture:
    """Each picture is one person's."""

    def of(self, source: Source, frame: int | None, picture: Picture) -> Boxes:
        return Boxes(None)

    def image_id(self, source: Source) -> int | None:
        return None

    def check_video(self, source: Source, frames: int) -> None:
        pass


class GivenBoxes:
    """Boxes of a json, in one of three forms.

    Parameters
    ----------
    file
        ``{"photo.jpg": [[x, y, w, h], ...], "video.mp4": {"0": [[x, y, w, h]], ...}}``, where a
        video's may also be one list for all frames; or COCO's annotations (``images`` and
        ``annotations`` with ``bbox``); or a detector's COCO results (a list of ``image_id``,
        ``bbox``, ``score``), whose photos are named by their ids, as ``000000000139.jpg``.
    min_score
        Of a detector's results, boxes below it are left out.
    sources
        What is looked at.

    Raises
    ------
    PosematchError
        It is missing, no json, of another form, or names a file by a name that two have.
    """

    def __init__(self, file: Path, min_score: float, sources: Sequence[Source]) -> None:
        self._file = file
        content = read_json(file, LARGE_BYTES, "a json with boxes")
        self._ids: dict[str, int] | None = None  # of COCO's annotations
        self._by_name: dict[str, Any] | None = None
        self._by_id: dict[int, list[tuple[Any, float]]] = {}
        if isinstance(content, dict) and isinstance(content.get("images"), list):
            self._read_annotations(content)
        elif isinstance(content, list):
            self._by_id = self._entries(content, min_score)
        elif isinstance(content, dict):
            self._by_name = content
        else:
            raise PosematchError(
                f"boxes={file} must hold boxes by file name, COCO's annotations or a detector's"
                " results in COCO's format."
            )
        names = self._ids if self._ids is not None else self._by_name or {}
        by_file = [one.name for one in sources if one.name not in names]
        often = Counter(PurePosixPath(name).name for name in by_file)
        for name, number in often.items():
            if number > 1 and name in names:
                raise PosematchError(
                    f"boxes={file} names {name}, which {number} of the inputs are called; name each"
                    " by its path below the input."
                )

    def of(self, source: Source, frame: int | None, picture: Picture) -> Boxes:
        if self._by_name is None:
            image_id = self.image_id(source)
            if image_id is None:
                raise self._lacks(source)
            entries = self._by_id.get(image_id, [])
            return Boxes([box for box, _ in entries], np.array([score for _, score in entries]))
        named = _by_path(self._by_name, source.name)
        if isinstance(named, Mapping) and frame is not None:
            named = named.get(str(frame), [])
        if not isinstance(named, list):
            raise self._lacks(source)
        return Boxes(named, np.ones(len(named)))

    def check_video(self, source: Source, frames: int) -> None:
        """Raise where frames are named that a video of so many does not have (0: not known)."""
        named = _by_path(self._by_name or {}, source.name)
        if not isinstance(named, Mapping):
            return
        for frame in named:
            number = int(frame) if frame.isascii() and frame.isdigit() and len(frame) < 10 else None
            if number is None or number >= (frames or 10**9):
                raise PosematchError(
                    f"boxes={self._file}: {source.name} has no frame {frame!r}; its {frames or ''}"
                    " frames are named by numbers from 0, as in"
                    ' {"0": [[x, y, width, height]]}.'
                )

    def image_id(self, source: Source) -> int | None:
        if self._ids is not None:
            known: int | None = _by_path(self._ids, source.name)
            return known
        stem = PurePosixPath(source.name).stem
        is_number = stem.isascii() and stem.isdigit() and len(stem) < 19
        return int(stem) if self._by_name is None and is_number else None

    def _lacks(self, source: Source) -> PosematchError:
        return PosematchError(
            f"boxes={self._file} has none for {source.name}; add a list of [x, y, width, height],"
            " an empty one for nobody there."
        )

    def _read_annotations(self, content: dict[str, Any]) -> None:
        self._ids = {}
        for image in content["images"]:
            image_id = whole_of(image.get("id")) if isinstance(image, dict) else None
            name = image.get("file_name") if isinstance(image, dict) else None
            if image_id is None or not isinstance(name, str):
                raise PosematchError(
                    f"boxes={self._file}: each of its images needs an id and a file_name."
                )
            self._ids[name] = image_id
        self._by_id = self._entries(content.get("annotations") or [], -np.inf)

    def _entries(self, entries: Any, min_score: float) -> dict[int, list[tuple[Any, float]]]:
        found = defaultdict(list)
        for number, one in enumerate(entries):
            image_id = whole_of(one.get("image_id")) if isinstance(one, dict) else None
            score = number_of(one.get("score", 1.0)) if isinstance(one, dict) else None
            if image_id is None or score is None or "bbox" not in one:
                raise PosematchError(
                    f"boxes={self._file}: entry {number} must have image_id, bbox and, if any, a"
                    " score that is a number."
                )
            person = one.get("category_id", PERSON_CATEGORY) == PERSON_CATEGORY
            if person and score >= min_score and one.get("iscrowd") not in (1, True):
                found[image_id].append((one["bbox"], score))
        return dict(found)


def _by_path(known: Mapping[str, Any], name: str) -> Any:
    """By a path, else by the file's name alone."""
    return known.get(name, known.get(PurePosixPath(name).name))
