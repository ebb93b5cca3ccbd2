"""What has been found so far, kept part by part, so that a stopped command goes on.

A part is a parquet file in ``OUTPUT/.parts``: a row for each person, and one for each picture
without people or that could not be read. It is written in one piece once all that belongs to its
pictures (drawings, heatmaps) is on the disk.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from posematch.errors import PosematchError
from posematch.files import write_bytes, write_json
from posematch.inference.sources import Source
from posematch.prediction import Poses
from posematch.untrusted import open_file, read_json

PARTS = ".parts"
SETTINGS = "predict.json"
LOCK = ".predict.lock"
_NUMBERS = pa.list_(pa.float64())
# One row a person; person is null in the row of a picture without any.
_SCHEMA = pa.schema(
    [
        ("input", pa.string()),
        ("frame", pa.int64()),  # of a video, from 0; null of a photo
        ("stamp", pa.string()),  # of the file, by which it is known to be the same
        ("frames", pa.int64()),  # of a video, in its last frame's row: how many it has
        ("error", pa.string()),
        ("image_id", pa.int64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("person", pa.int64()),
        ("box", _NUMBERS),  # x, y, width, height
        ("box_score", pa.float64()),
        ("x", _NUMBERS),
        ("y", _NUMBERS),
        ("score", _NUMBERS),
        ("covariance", _NUMBERS),  # var_x, cov_xy, var_y of each joint in a row
    ]
)
_MOST_PART_BYTES = 2**30


@dataclass(frozen=True)
class Place:
    """A photo, or one frame of a video."""

    source: Source
    frame: int | None

    @property
    def told(self) -> str:
        """For messages."""
        return self.source.name if self.frame is None else f"{self.source.name}, frame {self.frame}"


def stamp_of(path: Path) -> str:
    """By which a file is known to be the one that was looked at."""
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{status.st_size}-{status.st_mtime_ns}"


class Journal:
    """The parts of one output folder, which its lock keeps others out of.

    Parameters
    ----------
    output
        The folder; it is there.
    settings
        What the predictions follow from; plain data.

    Raises
    ------
    PosematchError
        The folder holds predictions that follow from something else, or cannot be written.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        self._folder = output / PARTS
        self._rows: list[dict[str, Any]] = []
        stored = output / SETTINGS
        try:
            if stored.exists():
                self._check(output, read_json(stored), settings)
            elif any(one.name != LOCK for one in output.iterdir()):
                raise PosematchError(
                    f"output={output} holds files that are not predictions of posematch; name a new"
                    " or empty folder."
                )
            else:
                write_json(stored, settings)
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            raise PosematchError(
                f"output={output} cannot be written ({error.strerror}); name another folder."
            ) from error
        numbers = [int(one.stem) for one in self._folder.glob("*.parquet") if one.stem.isdigit()]
        self._next = max(numbers, default=-1) + 1

    @staticmethod
    def _check(output: Path, stored: Any, settings: Mapping[str, Any]) -> None:
        wanted = json.loads(json.dumps(settings))
        if not isinstance(stored, dict):
            stored = {}
        other = [key for key in wanted if stored.get(key) != wanted[key]]
        if other:
            raise PosematchError(
                f"output={output} holds predictions with another {', '.join(other)}"
                f" ({SETTINGS} there says which); name another folder, or delete it."
            )

    @property
    def unsaved(self) -> int:
        """Rows that are in no part yet."""
        return len(self._rows)

    def add(self, place: Place, poses: Poses, image_id: int | None, stamp: str) -> None:
        """Note what was found."""
        height, width = poses.picture_size
        row = self._row(place, stamp) | {"width": width, "height": height, "image_id": image_id}
        if not len(poses):
            self._rows.append(row)
        covariance = poses.covariance_img[..., [0, 0, 1], [0, 1, 1]]
        for person in range(len(poses)):
            self._rows.append(
                row
                | {
                    "person": person,
                    "box": poses.boxes_img[person],
                    "box_score": poses.box_scores[person],
                    "x": poses.joints_img[person, :, 0],
                    "y": poses.joints_img[person, :, 1],
                    "score": poses.scores[person],
                    "covariance": covariance[person].ravel(),
                }
            )

    def add_error(self, place: Place, error: str, stamp: str) -> None:
        """Note that a picture could not be read."""
        self._rows.append(self._row(place, stamp) | {"error": error})

    def add_end(self, source: Source, frames: int, error: str, stamp: str) -> None:
        """Note that a video has no more frames, and what was wrong with it, if anything."""
        row = self._row(Place(source, None), stamp) | {"frames": frames, "error": error or None}
        self._rows.append(row)

    @staticmethod
    def _row(place: Place, stamp: str) -> dict[str, Any]:
        return {"input": place.source.name, "frame": place.frame, "stamp": stamp}

    def flush(self) -> None:
        """Write what is in no part yet as one."""
        if not self._rows:
            return
        columns = {name: [row.get(name) for row in self._rows] for name in _SCHEMA.names}
        content = io.BytesIO()
        pq.write_table(pa.table(columns, _SCHEMA), content)
        write_bytes(self._folder / f"{self._next:06d}.parquet", content.getvalue())
        self._next += 1
        self._rows = []

    def read(self, sources: Sequence[Source]) -> pd.DataFrame:
        """All parts, of files that are there as they were; pictures in the order of the sources.

        Raises
        ------
        PosematchError
            A part is damaged.
        """
        tables = list(self._tables())
        whole = pa.concat_tables(tables) if tables else _SCHEMA.empty_table()
        rows: pd.DataFrame = whole.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
        # Of what was looked at again, the last part alone.
        part = np.repeat(np.arange(len(tables)), [len(one) for one in tables])
        rows = rows.assign(part=part, of_frame=rows["frame"].fillna(-1))
        last = rows.groupby(["input", "of_frame"])["part"].transform("max")
        rows = rows[rows["part"] == last].drop(columns=["part", "of_frame"])
        stamps = {one.name: stamp_of(one.path) for one in sources}
        rows = rows[rows["stamp"] == rows["input"].map(stamps)]
        order = {one.name: place for place, one in enumerate(sources)}
        rows = rows.assign(order=rows["input"].map(order))
        rows = rows.sort_values(["order", "frame", "person"], kind="stable")
        return rows.drop(columns="order").reset_index(drop=True)

    def _tables(self) -> Iterator[pa.Table]:
        for part in sorted(self._folder.glob("*.parquet")):
            try:
                with open_file(part, _MOST_PART_BYTES, "a part") as file:
                    yield pq.read_table(file).select(_SCHEMA.names).cast(_SCHEMA)
            except (pa.ArrowException, KeyError, ValueError, OSError) as error:
                raise PosematchError(
                    f"{part} cannot be read ({type(error).__name__}); delete it, and its pictures"
                    " are looked at again."
                ) from error


def joints_of(people: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(N, K, 6) x, y, score, var_x, cov_xy, var_y of rows that have a person."""
    parts = [np.stack(people[name].to_list()) for name in ("x", "y", "score")]
    covariance = np.stack(people["covariance"].to_list())
    joints = np.stack(parts, axis=-1)
    return np.concatenate([joints, covariance.reshape(*joints.shape[:2], 3)], axis=-1)
