"""Figures by joint, size, occlusion and crowding, from a prediction table.

| by | groups |
|---|---|
| ``joint`` | the skeleton's joints |
| ``size`` | COCO: its areas, small up to 32^2 px, medium up to 96^2, large. MPII: head size, small up to 55 px, medium up to 90, large: the terciles of its 2,958 validation people, rounded. An MPII person's box (``scale`` x 200 px) is 8 head sizes high, so it is a box size, too |
| ``occlusion`` | of the joint: ``visible`` or ``occluded`` (COCO's v = 1); ``not told`` where the table has no occluded joint at all, as MPII's annotation does not tell |
| ``crowding`` | CrowdPose's levels of the photo's crowd index: easy up to 0.1, medium, hard from 0.8 |
"""  # noqa: E501

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from posematch.errors import PosematchError
from posematch.metrics.crowding import LEVELS, crowd_level
from posematch.metrics.pckh import NOT_IN_MEANS
from posematch.metrics.scored_joints import GOOD, NEAR, ScoredJoints, need, scored_joints
from posematch.skeletons import Skeleton

By = Literal["joint", "size", "occlusion", "crowding"]
SIZES = ("small", "medium", "large")
COCO_AREA_BOUNDS = (32.0**2, 96.0**2)
MPII_HEAD_BOUNDS_PX = (55.0, 90.0)
# What the groups mean, for a table's caption.
RULES: dict[str, str] = {
    "joint": "",
    "size": "MPII: heads up to 55 and 90 px; COCO: areas up to 32^2 and 96^2 px",
    "occlusion": "of the joint, as annotated",
    "crowding": "CrowdPose's levels of the photo's crowd index: up to 0.1, below 0.8, above",
}


def groups(table: pd.DataFrame, by: By) -> pd.Series:
    """Group of each row, see the module; "" where there is none.

    Raises
    ------
    PosematchError
        The table lacks the column it takes.
    """
    match by:
        case "joint":
            values = table["joint"].to_numpy(str)
        case "size":
            by_heads = "head_size_img" in table
            if not by_heads:
                need(table, "area")
            size = table["head_size_img" if by_heads else "area"].to_numpy(np.float64)
            bounds = MPII_HEAD_BOUNDS_PX if by_heads else COCO_AREA_BOUNDS
            values = np.where(size > 0, np.array(SIZES)[np.digitize(size, bounds, right=True)], "")
        case "occlusion":
            need(table, "occluded")
            occluded = table["occluded"].to_numpy(bool)
            names = ("visible", "occluded") if occluded.any() else ("not told", "")
            values = np.where(occluded, names[1], names[0])
        case "crowding":
            need(table, "crowd_index")
            index = table["crowd_index"].to_numpy(np.float64)
            values = np.where(np.isnan(index), "", crowd_level(index))
        case _:
            raise PosematchError(f"by={by} must be one of {', '.join(get_args(By))}.")
    return pd.Series(values, index=table.index, name=by)


def breakdown(table: pd.DataFrame, by: By, skeleton: Skeleton | None = None) -> pd.DataFrame:
    """Figures of each group.

    Parameters
    ----------
    table
        Of `posematch.runs.predictions`.
    by
        See the module.
    skeleton
        Of the table's joints; None where they are MPII's or COCO's.

    Returns
    -------
    DataFrame
        A row per group that has a labelled joint, in the natural order, with ``people`` and
        ``joints`` (labelled), ``EPE_px`` (mean distance), and for MPII ``PCKh@0.5``, ``PCKh@0.1``
        (percent), ``EPE_heads``; for COCO ``OKS`` (mean similarity of joints), ``near`` and
        ``good`` (shares with a similarity of at least 0.5 and 0.85). Pelvis and thorax of MPII are
        in the groups by joint alone, as in no mean of PCKh.

    Raises
    ------
    PosematchError
        As `groups` and `posematch.metrics.scored_joints.scored_joints`.
    """
    joints = scored_joints(table, skeleton)
    group = groups(table, by).to_numpy().reshape(joints.labelled.shape)
    counted = joints.labelled.copy()
    if joints.by_heads and by != "joint":
        counted &= ~np.isin(joints.skeleton.joints, NOT_IN_MEANS)
    order = {"joint": joints.skeleton.joints, "size": SIZES, "crowding": LEVELS}.get(
        by, ("visible", "occluded", "not told")
    )
    rows = {one: counted & (group == one) for one in order}
    frame = pd.DataFrame(
        {one: _figures(joints, chosen) for one, chosen in rows.items() if chosen.any()}
    ).T.rename_axis(by)
    return frame.astype({"people": int, "joints": int})


def _figures(joints: ScoredJoints, chosen: NDArray[np.bool_]) -> dict[str, float]:
    error_px = joints.error_px[chosen]
    figures = {
        "people": float(chosen.any(axis=1).sum()),
        "joints": float(chosen.sum()),
        "EPE_px": float(error_px.mean()),
    }
    if joints.by_heads:
        error_heads = (joints.error_px / joints.size_img[:, None])[chosen]
        return figures | {
            "PCKh@0.5": 100 * float((error_heads <= 0.5).mean()),
            "PCKh@0.1": 100 * float((error_heads <= 0.1).mean()),
            "EPE_heads": float(error_heads.mean()),
        }
    similarity = joints.similarity[chosen]
    return figures | {
        "OKS": float(similarity.mean()),
        "near": float((similarity >= NEAR).mean()),
        "good": float((similarity >= GOOD).mean()),
    }
