"""What kind of error each joint is: good, jitter, inversion, swap, miss.

Source: Ronchi and Perona, Benchmarking and error diagnosis in multi-instance pose estimation, ICCV
2017. A predicted joint is compared with the true places of the same joint and of its mirror twin,
of the person and of everybody else in the photo (people of the table), by the similarity to each;
the nearest decides.

| | nearest true place | similarity to it |
|---|---|---|
| good | the joint's own | at least 0.85 |
| jitter | the joint's own | 0.5 to 0.85 |
| inversion | the mirror twin of the same person | at least 0.5 |
| swap | the joint or its twin of another person | at least 0.5 |
| miss | any | below 0.5 |

The similarity is a joint's OKS with the area of the person whose place it is (COCO), or its
analogue in head sizes: 0.5 at 0.5 heads, 0.85 at 0.242 (MPII, see `posematch.metrics.hits`).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from posematch.evaluation.breakdown import By, counted_joints, groups
from posematch.metrics.hits import (
    GOOD,
    NEAR,
    Floats,
    distances_heads,
    head_similarity,
    joint_oks,
)
from posematch.metrics.suppression import photo_blocks
from posematch.runs.predictions import PredictionTable

ERROR_TYPES = ("good", "jitter", "inversion", "swap", "miss")
# People of a photo times joints: far fewer pairs fit into memory than without joints and twins.
_PAIRS_AT_ONCE = 10_000


def error_types(table: PredictionTable) -> NDArray[np.str_]:
    """(N, K) kind of error of each joint: one of `ERROR_TYPES`, or "" where it is not labelled.

    Raises
    ------
    PosematchError
        As `PredictionTable.check_measurable`.
    """
    table.check_measurable()
    own = np.nan_to_num(table.similarity, nan=-1.0)
    twin = np.full(own.shape, -1.0)
    others = np.full(own.shape, -1.0)
    mirrored = list(table.skeleton.flip_permutation)
    for rows in photo_blocks(table.image_ids, _PAIRS_AT_ONCE):
        predicted = table.joints_img[rows][:, :, None]  # (photos, of whom, everybody, K, 2)
        straight, crossed = (
            np.where(
                table.labelled[rows][:, None][..., order],
                _similarity(table, rows, predicted, table.true_img[rows][:, None][..., order, :]),
                -1.0,
            )
            for order in (slice(None), mirrored)
        )
        people = np.arange(rows.shape[1])
        twin[rows] = crossed[:, people, people]
        nearest = np.maximum(straight, crossed)
        nearest[:, people, people] = -1.0  # not another person
        others[rows] = nearest.max(axis=2)
    best = np.maximum(own, np.maximum(twin, others))
    return np.select(
        [~table.labelled, best < NEAR, own >= best, twin > others],
        ["", "miss", np.where(own >= GOOD, "good", "jitter"), "inversion"],
        default="swap",
    )


def error_shares(table: PredictionTable, by: By | None = None) -> pd.DataFrame:
    """Share of each kind of error among the labelled joints.

    Of MPII without pelvis and thorax, as PCKh, unless ``by`` is ``joint``.

    Parameters
    ----------
    table
        With its truth.
    by
        As for `posematch.evaluation.breakdown.groups`; None for all joints together.

    Returns
    -------
    DataFrame
        A column for each of `ERROR_TYPES`, fractions that sum to 1, and ``joints``, their number;
        a row per group in the natural order, or one named ``all``.

    Raises
    ------
    PosematchError
        As `error_types` and `posematch.evaluation.breakdown.groups`.
    """
    kinds = error_types(table)
    counted = table.labelled if by == "joint" else counted_joints(table)
    group = np.full(kinds.shape, "all") if by is None else groups(table, by)
    counted = counted & (group != "")
    there = set(group[counted].tolist())
    names = [one for one in dict.fromkeys(group.ravel().tolist()) if one in there]
    counts = pd.crosstab(group[counted], kinds[counted])
    counts = counts.reindex(index=names, columns=list(ERROR_TYPES), fill_value=0)
    counts = counts.rename_axis(index=by or "", columns=None)
    joints = counts.sum(axis=1)
    return counts.div(joints, axis=0).assign(joints=joints)


def _similarity(
    table: PredictionTable, rows: NDArray[np.intp], joints_img: Floats, true_img: Floats
) -> Floats:
    """Of predicted joints to true ones of people whose sizes are those of the true ones."""
    if table.head_size_img is not None:
        size_img = table.head_size_img[rows][:, None]
        return head_similarity(distances_heads(joints_img, true_img, size_img))
    area = table.need("area")[rows][:, None]
    return joint_oks(joints_img, true_img, area, table.skeleton.oks_sigmas)
