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
from posematch.metrics.columns import NOT_IN_MEANS
from posematch.metrics.crowding import LEVELS, crowd_level
from posematch.metrics.hits import GOOD, is_near, within_heads
from posematch.runs.predictions import PredictionTable

By = Literal["joint", "size", "occlusion", "crowding"]
SIZES = ("small", "medium", "large")
COCO_AREA_BOUNDS = (32.0**2, 96.0**2)
MPII_HEAD_BOUNDS_PX = (55.0, 90.0)
# What the groups mean, for a table's caption.
RULES: dict[str, str] = {
    "joint": "near, good: shares of joints with an OKS of at least 0.5 and of 0.85, as near as"
    " annotators are to each other",
    "size": "MPII: heads up to 55 and 90 px; COCO: areas up to 32^2 and 96^2 px",
    "occlusion": "of the joint, as annotated",
    "crowding": "CrowdPose's levels of the photo's crowd index: up to 0.1, below 0.8, above",
}


def groups(table: PredictionTable, by: By) -> NDArray[np.str_]:
    """(N, K) group of each joint, see the module; "" where there is none.

    Raises
    ------
    PosematchError
        The table lacks what it takes.
    """
    shape = table.labelled.shape
    match by:
        case "joint":
            return np.broadcast_to(np.array(table.skeleton.joints), shape)
        case "size":
            scale, bounds = table.head_size_img, MPII_HEAD_BOUNDS_PX
            if scale is None:
                scale, bounds = table.need("area"), COCO_AREA_BOUNDS
            names = np.array(SIZES)[np.digitize(scale, bounds, right=True)]
            of_person = np.where(scale > 0, names, "")
        case "occlusion":
            occluded = table.need("occluded")
            told = ("visible", "occluded") if occluded.any() else ("not told", "")
            return np.where(occluded, told[1], told[0])
        case "crowding":
            index = table.need("crowd_index")
            of_person = np.where(np.isnan(index), "", crowd_level(index))
        case _:
            raise PosematchError(f"by={by} must be one of {', '.join(get_args(By))}.")
    return np.broadcast_to(of_person[:, None], shape)


def counted_joints(table: PredictionTable) -> NDArray[np.bool_]:
    """(N, K) which joints are in means: the labelled ones, of MPII without pelvis and thorax."""
    if not table.by_heads:
        return table.labelled
    return table.labelled & ~np.isin(table.skeleton.joints, NOT_IN_MEANS)


def breakdown(table: PredictionTable, by: By) -> pd.DataFrame:
    """Figures of each group.

    Parameters
    ----------
    table
        With its truth.
    by
        See the module.

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
        As `groups` and `PredictionTable.check_measurable`.
    """
    table.check_measurable()
    group = groups(table, by)
    counted = table.labelled if by == "joint" else counted_joints(table)
    order = {"joint": table.skeleton.joints, "size": SIZES, "crowding": LEVELS}.get(
        by, ("visible", "occluded", "not told")
    )
    rows = {one: counted & (group == one) for one in order}
    frame = pd.DataFrame(
        {one: _figures(table, chosen) for one, chosen in rows.items() if chosen.any()}
    ).T.rename_axis(by)
    # No group at all: nobody's size or photo is known.
    return frame.astype({"people": int, "joints": int}) if len(frame) else frame


def _figures(table: PredictionTable, chosen: NDArray[np.bool_]) -> dict[str, float]:
    figures = {
        "people": float(chosen.any(axis=1).sum()),
        "joints": float(chosen.sum()),
        "EPE_px": float(table.errors_px[chosen].mean()),
    }
    if table.by_heads:
        errors = table.errors[chosen]
        return figures | {
            "PCKh@0.5": 100 * float(within_heads(errors, 0.5).mean()),
            "PCKh@0.1": 100 * float(within_heads(errors, 0.1).mean()),
            "EPE_heads": float(errors.mean()),
        }
    similarity = table.joint_oks[chosen]
    return figures | {
        "OKS": float(similarity.mean()),
        "near": float(is_near(similarity).mean()),
        "good": float((similarity >= GOOD).mean()),
    }
