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
analogue in head sizes: 0.5 at 0.5 heads, 0.85 at 0.242 (MPII, see
`posematch.metrics.scored_joints`).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from posematch.metrics.pckh import NOT_IN_MEANS
from posematch.metrics.scored_joints import GOOD, NEAR, ScoredJoints, scored_joints
from posematch.metrics.suppression import photo_blocks
from posematch.skeletons import Skeleton

ERROR_TYPES = ("good", "jitter", "inversion", "swap", "miss")
# People of a photo times joints: far fewer pairs fit into memory than without joints and twins.
_PAIRS_AT_ONCE = 10_000


def error_types(table: pd.DataFrame, skeleton: Skeleton | None = None) -> pd.Series:
    """Kind of error of each row of a prediction table.

    Parameters
    ----------
    table
        Of `posematch.runs.predictions`.
    skeleton
        Of its joints; None where they are MPII's or COCO's.

    Returns
    -------
    Series
        One of `ERROR_TYPES`, or "" where the joint is not labelled; same index.

    Raises
    ------
    PosematchError
        As `posematch.metrics.scored_joints.scored_joints`.
    """
    joints = scored_joints(table, skeleton)
    return pd.Series(_kinds(joints).ravel(), index=table.index, name="error")


def error_shares(
    table: pd.DataFrame, by: str | None = None, skeleton: Skeleton | None = None
) -> pd.DataFrame:
    """Share of each kind of error among the labelled joints.

    Of MPII without pelvis and thorax, as PCKh, unless ``by`` is ``joint``.

    Parameters
    ----------
    table, skeleton
        As `error_types`.
    by
        A column of the table to break it down by, such as ``joint``; None for all joints together.

    Returns
    -------
    DataFrame
        A column for each of `ERROR_TYPES`, fractions that sum to 1, and ``joints``, their number;
        a row per value of ``by`` in order of appearance, or one named ``all``.
    """
    kinds = error_types(table, skeleton)
    counted = kinds != ""
    if "head_size_img" in table and by != "joint":
        counted &= ~table["joint"].isin(NOT_IN_MEANS)
    groups = table[by] if by is not None else pd.Series("all", index=table.index)
    counts = pd.crosstab(groups[counted], kinds[counted])
    counts = counts.reindex(columns=list(ERROR_TYPES), fill_value=0)
    counts = counts.loc[list(dict.fromkeys(groups[counted]))].rename_axis(by or "")
    shares = counts.div(counts.sum(axis=1), axis=0)
    shares["joints"] = counts.sum(axis=1)
    shares.columns.name = None
    return shares


def _kinds(joints: ScoredJoints) -> NDArray[np.str_]:
    own = np.nan_to_num(joints.similarity, nan=-1.0)
    twin = np.full(own.shape, -1.0)
    others = np.full(own.shape, -1.0)
    mirrored = list(joints.skeleton.flip_permutation)
    for rows in photo_blocks(joints.image_ids, _PAIRS_AT_ONCE):
        predicted = joints.joints_img[rows][:, :, None]  # (photos, of whom, everybody, K, 2)
        size = joints.size_img[rows][:, None]
        straight, crossed = (
            np.where(
                joints.labelled[rows][:, None][..., order],
                joints.similarity_to(
                    predicted, joints.true_img[rows][:, None][..., order, :], size
                ),
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
        [~joints.labelled, best < NEAR, own >= best, twin > others],
        ["", "miss", np.where(own >= GOOD, "good", "jitter"), "inversion"],
        default="swap",
    )
