"""The files that stay: tables, COCO's results, drawn pictures, heatmaps, annotated videos."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from posematch.errors import PosematchError
from posematch.files import write_bytes, write_output
from posematch.inference.journal import Place, joints_of
from posematch.inference.sources import Source
from posematch.inference.videos import VideoFile
from posematch.metrics.coco_results import CocoPoses, write_results
from posematch.prediction import Picture, Poses
from posematch.rendering import skeletons_over
from posematch.skeletons import Skeleton

_JPEG_QUALITY = 92
_JOINT_COLUMNS = ("x_img", "y_img", "score", "var_x", "cov_xy", "var_y")
_MOST_NAMED = 20  # unreadable inputs in the terminal


def write_drawn(file: Path, picture: Picture, poses: Poses, skeleton: Skeleton) -> None:
    """Write a photo with its people's joints as a JPEG."""
    drawn = skeletons_over(
        picture, poses.joints_img, poses.scores, skeleton, poses.boxes_img[:, 2:].max(axis=1)
    )
    ok, content = cv2.imencode(
        ".jpg", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    )
    if not ok:  # more than JPEG's 65,535 pixels a side
        raise PosematchError(f"{file} is not drawn: a JPEG has at most 65,535 pixels a side.")
    write_bytes(file, content.tobytes())


def write_heatmaps(file: Path, poses: Poses) -> None:
    """Write ``maps`` (N, K, h, w) float16 and ``heatmap_affines`` (N, 2, 3) as npz."""
    assert poses.maps is not None
    content = io.BytesIO()
    maps = np.clip(poses.maps, -65504, 65504).astype(np.float16)  # its largest number
    np.savez_compressed(
        content, maps=maps, heatmap_affines=poses.heatmap_affines, boxes_img=poses.boxes_img
    )
    write_bytes(file, content.getvalue())


def write_tables(output: Path, rows: pd.DataFrame, skeleton: Skeleton, kind: str) -> Path:
    """Write a row for each person and joint.

    Parameters
    ----------
    output
        The folder.
    rows
        As `posematch.inference.journal.Journal.read` returns them.
    skeleton
        Names of the joints.
    kind
        ``csv`` or ``parquet``.
    """
    people = rows[rows["person"].notna()]
    joints, names = len(skeleton.joints), np.array(skeleton.joints, dtype=object)
    boxes = np.stack(people["box"].to_list()) if len(people) else np.zeros((0, 4))
    found = joints_of(people) if len(people) else np.zeros((0, joints, 6))
    table = people[["input", "frame", "person"]].assign(
        **dict(zip(("box_x", "box_y", "box_w", "box_h"), boxes.T, strict=True)),
        box_score=people["box_score"],
    )
    table = table.loc[table.index.repeat(joints)].reset_index(drop=True)
    table["joint"] = np.tile(names, len(people))
    for column, values in zip(_JOINT_COLUMNS, np.moveaxis(found, -1, 0), strict=True):
        table[column] = values.ravel()
    file = output / f"predictions.{kind}"
    (output / f"predictions.{'parquet' if kind == 'csv' else 'csv'}").unlink(missing_ok=True)
    if kind == "csv":
        return write_output(file, table.to_csv(index=False, float_format="%.6g"))
    content = io.BytesIO()
    table.to_parquet(content, index=False)
    return write_output(file, content.getvalue())


def write_coco(output: Path, rows: pd.DataFrame, skeleton: Skeleton) -> list[Path]:
    """Write COCO's results, and which photo has which id.

    Nothing is suppressed: each box has its pose, with the mean score of its joints times the box's,
    as scored everywhere (docs/protocols.md, COCO scoring). Ids are those of the boxes' file; where
    it has none, the number that a photo's name is; else 1, 2, ...
    """
    pictures = rows[rows["width"].notna()].drop_duplicates(["input", "frame"])
    ids = _image_ids(pictures)
    images = [
        {"id": image_id, "file_name": name, "width": int(width), "height": int(height)}
        | ({} if pd.isna(frame) else {"frame": int(frame)})
        for image_id, name, frame, width, height in zip(
            ids, *(pictures[key] for key in ("input", "frame", "width", "height")), strict=True
        )
    ]
    category = {
        "id": 1,
        "name": "person",
        "keypoints": list(skeleton.joints),
        "skeleton": [[start + 1, end + 1] for start, end in skeleton.limbs],
    }
    written = [output / "images.json"]
    write_output(written[0], json.dumps({"images": images, "categories": [category]}, indent=1))
    people = rows[rows["person"].notna()]
    written.append(output / "results.json")
    if people.empty:  # of before, or of nobody
        write_output(written[1], "[]")
        return written
    known = dict(zip(zip(*_keys(pictures), strict=True), ids, strict=True))
    boxes = np.stack(people["box"].to_list())
    poses = CocoPoses(
        np.array([known[key] for key in zip(*_keys(people), strict=True)], dtype=np.int64),
        joints_of(people)[..., :3],
        people["box_score"].to_numpy(dtype=np.float64),
        boxes[:, 2] * boxes[:, 3],
    )
    write_results(written[1], poses.results(np.ones(len(skeleton.joints)), "none"))
    return written


def _keys(rows: pd.DataFrame) -> tuple[list[Any], list[Any]]:
    return rows["input"].to_list(), rows["frame"].fillna(-1).to_list()


def _image_ids(pictures: pd.DataFrame) -> list[int]:
    said = pictures["image_id"]
    if len(pictures) and said.notna().all() and said.is_unique:
        return [int(one) for one in said]
    stems = [Path(name).stem for name in pictures["input"]]
    numbers = [int(stem) for stem in stems if stem.isascii() and stem.isdigit() and len(stem) < 19]
    if len(numbers) == len(set(numbers)) == len(stems):
        return numbers
    return list(range(1, len(stems) + 1))


def write_unreadable(output: Path, rows: pd.DataFrame) -> list[str]:
    """Write ``unreadable.csv``; sentences for the terminal, none where all was read."""
    bad = rows[rows["error"].notna()]
    file = output / "unreadable.csv"
    if bad.empty:
        file.unlink(missing_ok=True)
        return []
    write_output(file, bad[["input", "frame", "error"]].to_csv(index=False))
    of_inputs = bad.drop_duplicates("input")
    inputs = rows["input"].nunique()
    told = [f"Not read, or not all of it: {len(of_inputs)} of {inputs} inputs ({file}):"]
    told += [f"  {error}" for error in of_inputs["error"][:_MOST_NAMED]]
    if len(of_inputs) > _MOST_NAMED:
        told.append(f"  and {len(of_inputs) - _MOST_NAMED} more.")
    return told


def write_video(
    file: Path,
    source: Source,
    rows: pd.DataFrame,
    skeleton: Skeleton,
    tick: Callable[[int, int], None],
) -> None:
    """Write a video again with its people's joints drawn in, as MP4.

    ``rows``: of this video. ``tick`` is called with (1, 0) for each frame.

    Raises
    ------
    PosematchError
        It cannot be written.
    """
    people = rows[rows["person"].notna()]
    of_frames: dict[int, NDArray[np.float64]] = {}
    boxes: dict[int, NDArray[np.float64]] = {}
    for frame in people["frame"].unique().tolist():
        group = people[people["frame"] == frame]
        of_frames[int(frame)] = joints_of(group)
        boxes[int(frame)] = np.stack(group["box"].to_list())

    def drawn(frame: int, picture: Picture) -> Picture:
        tick(1, 0)
        if frame not in of_frames:
            return picture
        found = of_frames[frame]
        sizes_px = boxes[frame][:, 2:].max(axis=1)
        return skeletons_over(picture, found[..., :2], found[..., 2], skeleton, sizes_px)

    VideoFile(source.path).write_again(file, drawn)


def drawn_file(output: Path, name: str) -> Path:
    """Where a picture with joints goes; ``name``: as of `Sources.drawn`."""
    return output / "drawn" / name


def heatmap_file(output: Path, place: Place) -> Path:
    """Where the heatmaps go."""
    frame = "" if place.frame is None else f"/{place.frame:06d}"
    return output / "heatmaps" / f"{place.source.name}{frame}.npz"


def used(paths: Sequence[Path], output: Path) -> str:
    """Names below the output, for the terminal."""
    return ", ".join(path.relative_to(output).as_posix() for path in paths)
