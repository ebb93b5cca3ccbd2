"""Two runs' heatmaps next to each other, at the joints where they differ most (Figures 1 and 3).

Which joints are shown follows from the predictions of both runs, by a rule and nothing else:

gains
    b is nearer to the truth than a by the most.
losses
    the other way round, so that the picture of the gains is not the whole story.
failures
    b's largest errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from posematch.data.crops import read_photo
from posematch.data.regions import warp_crop
from posematch.errors import PosematchError
from posematch.files import below
from posematch.geometry import apply_affine, crop_to_heatmap
from posematch.runs.finished import Run, check_comparable, find_runs
from posematch.runs.heatmaps import StoredHeatmaps, read_heatmaps
from posematch.runs.predictions import COMPACTNESS, PredictionTable
from posematch.statistics.intervals import Interval, figure_intervals, paired_intervals

KINDS = ("gains", "losses", "failures")
# Of b's joints, by error: how many are called its worst when occlusion is counted.
WORST_SHARE = 0.05


@dataclass(frozen=True, eq=False)
class Pair:
    """Two comparable runs and what is known of each joint.

    Attributes
    ----------
    a, b
        The baseline and the other.
    maps_a, maps_b
        What they keep, of the same people.
    joints
        A row for each joint that is scored: person_id, image_id, joint, joint_index, occluded,
        true_x, true_y, x_a, y_a, x_b, y_b (photo pixels), error_a, error_b, gain (in ``unit``),
        where they are known the columns of `COMPACTNESS` with _a and _b, and ``drawable``: its maps
        are kept and its dot lies on them.
    unit
        Of errors.
    tells_occlusion
        Whether the annotation says which joints are hidden.
    """

    a: Run
    b: Run
    maps_a: StoredHeatmaps
    maps_b: StoredHeatmaps
    joints: pd.DataFrame
    unit: str
    tells_occlusion: bool

    @property
    def joint_names(self) -> list[str]:
        """In the skeleton's order."""
        return list(self.a.last_predictions.skeleton.joints)

    @property
    def frames(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(H, W) of crops and of heatmaps."""
        height, width = self.a.config["data"]["input_size"]
        map_h, map_w = self.maps_a.levels.shape[-2:]
        return (height, width), (map_h, map_w)

    def row(self, person_id: int) -> int:
        """Place of a person among those whose maps are kept."""
        return int(np.searchsorted(self.maps_a.person_id, person_id))

    def to_heatmap(self, person_id: int, points_img: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 2) photo pixels of that person's photo to heatmap pixels."""
        return _to_heatmap(self.maps_a.crop_affine[self.row(person_id)], points_img, self)

    def map_of(self, which: str, person_id: int, joint_index: int) -> NDArray[np.float32]:
        """(H, W) what run ``a`` or ``b`` predicts."""
        stored = self.maps_a if which == "a" else self.maps_b
        each = stored.levels.shape[1] // len(self.joint_names)  # the first of a joint's channels
        maps = stored.maps(np.array([self.row(person_id)]))
        return np.asarray(maps[0, joint_index * each])


def one_run(path: Path, key: str) -> Run:
    """The finished run that a script's ``key=path`` names.

    Raises
    ------
    PosematchError
        There is none, or there are several.
    """
    runs = find_runs([path])
    if len(runs) != 1:
        raise PosematchError(f"{key}={path} holds {len(runs)} runs; name the folder of one.")
    return runs[0]


def read_pair(a: Run, b: Run) -> Pair:
    """What two runs predicted, joint by joint.

    Raises
    ------
    PosematchError
        The runs are not comparable, keep no heatmaps, or those of different people.
    """
    check_comparable([a, b])
    maps_a, maps_b = read_heatmaps(a.folder), read_heatmaps(b.folder)
    names = f"{a.folder.path.name} and {b.folder.path.name}"
    if not np.array_equal(maps_a.person_id, maps_b.person_id) or (
        maps_a.levels.shape[-2:] != maps_b.levels.shape[-2:]
    ):
        raise PosematchError(
            f"{names} keep heatmaps of different people; train both with one pictures.heatmaps_of."
        )
    of_a, of_b = a.last_predictions, b.last_predictions
    joints = _joints(of_a)
    joints[["x_b", "y_b"]] = of_b.joints_img.reshape(-1, 2)
    joints["error_b"] = of_b.errors.ravel()
    for name in COMPACTNESS:
        if name in of_a.compactness and name in of_b.compactness:
            joints[f"{name}_a"] = of_a.compactness[name].ravel()
            joints[f"{name}_b"] = of_b.compactness[name].ravel()
    joints["gain"] = joints["error_a"] - joints["error_b"]
    tells = of_a.occluded is not None and bool(of_a.occluded.any())
    pair = Pair(a, b, maps_a, maps_b, joints, of_a.unit, tells)
    unknown = set(maps_a.person_id.tolist()) - set(of_a.person_ids.tolist())
    joint_count = len(pair.joint_names)
    if unknown or any(one.levels.shape[1] % joint_count for one in (maps_a, maps_b)):
        raise PosematchError(
            f"{a.folder.path} or {b.folder.path}: heatmaps and predictions do not fit."
        )
    joints["drawable"] = _drawable(pair)
    scored = np.isfinite(joints[["error_a", "error_b"]].to_numpy()).all(axis=1)
    return replace(pair, joints=joints[scored].reset_index(drop=True))


def _joints(table: PredictionTable) -> pd.DataFrame:
    """A row per person and joint of the first run's, see `Pair.joints`."""
    N, K = table.labelled.shape
    joints_img, true_img = table.joints_img.reshape(-1, 2), table.true_img.reshape(-1, 2)
    return pd.DataFrame(
        {
            "person_id": np.repeat(table.person_ids, K),
            "image_id": np.repeat(table.image_ids, K),
            "joint": np.tile(table.skeleton.joints, N),
            "occluded": False if table.occluded is None else table.occluded.ravel(),
            "true_x": true_img[:, 0],
            "true_y": true_img[:, 1],
            "x_a": joints_img[:, 0],
            "y_a": joints_img[:, 1],
            "joint_index": np.tile(np.arange(K), N),
            "error_a": table.errors.ravel(),
        }
    )


def choose(pair: Pair, kind: str, number: int, near: float | None = None) -> pd.DataFrame:
    """The joints that a figure shows, the most telling first, one of each person.

    Parameters
    ----------
    pair
        The runs.
    kind
        One of `KINDS`.
    number
        How many; fewer where there are no more.
    near
        Of gains and losses only joints that both runs miss by less than this, in ``pair.unit``:
        differences of localisation, not of which limb was found. None: all.
    """
    joints = pair.joints[pair.joints["drawable"]]
    if kind == "failures":
        order = -joints["error_b"]
    else:
        if near is not None:
            joints = joints[(joints["error_a"] < near) & (joints["error_b"] < near)]
        better = joints["gain"] if kind == "gains" else -joints["gain"]
        joints, order = joints[better > 0], -better[better > 0]
    joints = joints.assign(_order=order).sort_values(["_order", "person_id", "joint_index"])
    joints = joints.drop_duplicates("person_id").head(number).drop(columns="_order")
    return joints.reset_index(drop=True)


def compactness_intervals(pair: Pair) -> dict[str, tuple[Interval, Interval, Interval]]:
    """How concentrated the maps are: of a, of b, and b less a, paired by photo.

    By the columns of `COMPACTNESS` (`posematch.metrics.compactness.MapCompactness`), over labelled
    joints whose maps have mass in both runs; empty where the runs' predictions lack the columns.
    """
    names = [name for name in COMPACTNESS if f"{name}_a" in pair.joints]
    if not names:
        return {}
    tables = [run.last_predictions for run in (pair.a, pair.b)]
    there = ~np.isnan([[table.compactness[one] for one in names] for table in tables]).any((0, 1))
    # Photos where nobody's map counts are not drawn, hence no truth.
    a, b = ([replace(table, labelled=table.labelled & there, truth_file=None)] for table in tables)
    of_a, of_b = figure_intervals(a, names), figure_intervals(b, names)
    between = paired_intervals(a, b, names)
    return {name: (of_a[name], of_b[name], between[name]) for name in names}


def summary(pair: Pair) -> dict[str, float]:
    """What all scored joints say, next to the extremes that the figures show.

    ``joints``, ``drawable`` (how many), ``b_nearer`` (share of joints where b's error is smaller),
    ``median_error_a``, ``median_error_b``; where occlusion is annotated ``occluded`` (share of all)
    and ``occluded_of_worst`` (share of b's `WORST_SHARE` largest errors).
    """
    joints = pair.joints
    figures = {
        "joints": float(len(joints)),
        "drawable": float(joints["drawable"].sum()),
        "b_nearer": float((joints["gain"] > 0).mean()),
        "median_error_a": float(joints["error_a"].median()),
        "median_error_b": float(joints["error_b"].median()),
    }
    if pair.tells_occlusion:
        worst = joints.nlargest(max(1, round(WORST_SHARE * len(joints))), "error_b")
        figures["occluded"] = float(joints["occluded"].mean())
        figures["occluded_of_worst"] = float(worst["occluded"].mean())
    return figures


def choices_table(pair: Pair, chosen: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What the figures show as one table, a row per joint shown."""
    parts = []
    for kind, joints in chosen.items():
        part = joints.copy()
        part.insert(0, "figure", kind)
        part.insert(1, "rank", np.arange(1, len(part) + 1))
        part["image"] = [pair.maps_a.image[pair.row(one)] for one in joints["person_id"]]
        parts.append(part.drop(columns=["joint_index", "drawable"]))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(loss_a=pair.a.loss, loss_b=pair.b.loss, unit=pair.unit)


def crop_reader(pair: Pair, root: Path | None) -> Callable[[int], NDArray[np.uint8]] | None:
    """A function from a kept person's id to their (H, W, 3) RGB crop; None without photos.

    Parameters
    ----------
    pair
        The runs.
    root
        Folder of the data set, which the user named; photos outside of it are not read.
    """
    if root is None or not root.is_dir():
        return None
    try:
        files = [below(root, name, str(pair.a.folder.path)) for name in pair.maps_a.image.tolist()]
    except PosematchError:
        return None
    if not all(file.is_file() for file in files):
        return None
    size = pair.frames[0]
    told = pair.a.last_predictions.photo_sizes

    def crop(person_id: int) -> NDArray[np.uint8]:
        row = pair.row(person_id)
        photo = read_photo(files[row], told.get(person_id))
        return warp_crop(photo, pair.maps_a.crop_affine[row], size)

    return crop


def _to_heatmap(affine: NDArray[np.float64], points_img: Any, pair: Pair) -> NDArray[np.float64]:
    points_crop = torch.from_numpy(apply_affine(affine, np.asarray(points_img, np.float64)))
    convention = pair.a.config["data"].get("convention", "hrnet")
    return np.asarray(crop_to_heatmap(points_crop, *pair.frames, convention).numpy())


def _drawable(pair: Pair) -> NDArray[np.bool_]:
    """(rows,) whether a joint's maps are kept and its dot lies on them."""
    joints, kept = pair.joints, pair.maps_a.person_id
    rows = np.searchsorted(kept, joints["person_id"]).clip(max=len(kept) - 1)
    is_kept = kept[rows] == joints["person_id"].to_numpy()
    points = joints[["true_x", "true_y"]].to_numpy(np.float64)[:, None]
    dots = _to_heatmap(pair.maps_a.crop_affine[rows], points, pair)[:, 0]
    height, width = pair.frames[1]
    inside = (dots >= -0.5).all(1) & (dots[:, 0] < width - 0.5) & (dots[:, 1] < height - 0.5)
    return np.asarray(is_kept & inside)
