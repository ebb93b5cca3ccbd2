"""How people of a split are built, and who is built otherwise: sizes, bones, sides.

Everything is told by the split's own people: there is no model of a body here, so it holds for
dogs, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posematch.checks.split import Flags, Floats
from posematch.skeletons import Skeleton

_TORSO = ("shoulder", "hip")


def row_median(values: Floats) -> Floats:
    """(N,) medians of the finite values of (N, M); NaN of rows without any.

    >>> row_median(np.array([[3.0, np.nan, 1.0, 2.0], [np.nan] * 4]))
    array([ 2., nan])
    """
    ordered = np.sort(values, axis=1)  # NaN comes last
    count = np.isfinite(values).sum(axis=1)
    rows = np.arange(len(values))
    low, high = (np.maximum(count - 1, 0) // 2, count // 2)
    high = np.minimum(high, values.shape[1] - 1)
    return np.where(count > 0, (ordered[rows, low] + ordered[rows, high]) / 2, np.nan)


def robust_z(values: Floats, least_spread: float = 1e-9) -> Floats:
    """(N,) distances from the median in robust standard deviations (1.4826 MAD); NaN stays."""
    middle = np.nanmedian(values) if np.isfinite(values).any() else np.nan
    spread = 1.4826 * np.nanmedian(np.abs(values - middle)) if np.isfinite(middle) else np.nan
    return np.asarray((values - middle) / max(float(spread), least_spread))


def extents(joints_img: Floats) -> Floats:
    """(N, 2) width and height of the labelled joints; NaN with none."""
    low = np.where(np.isnan(joints_img), np.inf, joints_img).min(axis=1)
    high = np.where(np.isnan(joints_img), -np.inf, joints_img).max(axis=1)
    return np.where(np.isfinite(low), high - low, np.nan)


@dataclass(frozen=True, eq=False)
class Bones:
    """Lengths of limbs.

    Attributes
    ----------
    limbs
        (L, 2) joints, each limb once.
    ratio
        (N, L) length over that of the same limb of a typical person of this one's size: at most
        somewhat above 1, as perspective only shortens; NaN where an end is not labelled.
    scale_px
        (N,) the person's size: pixels of a limb over the typical share.
    """

    limbs: NDArray[np.int64]
    ratio: Floats
    scale_px: Floats


def bones_of(joints_img: Floats, skeleton: Skeleton) -> Bones:
    """Measure the limbs of (N, K, 2) joints."""
    limbs = np.array(sorted({(min(a, b), max(a, b)) for a, b in skeleton.limbs if a != b}))
    limbs = limbs.reshape(-1, 2).astype(np.int64)
    if not len(limbs):
        N = len(joints_img)
        return Bones(limbs, np.zeros((N, 0)), np.full(N, np.nan))
    lengths = np.linalg.norm(joints_img[:, limbs[:, 0]] - joints_img[:, limbs[:, 1]], axis=2)
    size = np.hypot(*extents(joints_img).T)
    many = np.isfinite(lengths).sum(axis=1) >= max(2, len(limbs) // 2)
    size = np.where(many & (size > 0), size, np.nan)
    whole = lengths / size[:, None]
    typical = np.array([_median(whole[:, limb]) for limb in range(len(limbs))])
    typical = np.where(typical > 0, typical, np.nan)
    # Most limbs of a person with one wrong joint are right, so their median is the person's size.
    scale = row_median(lengths / typical)
    scale = np.where(np.isfinite(lengths).sum(axis=1) >= 3, scale, np.nan)
    scale = np.where(scale > 0, scale, np.nan)
    return Bones(limbs, lengths / (typical * scale[:, None]), scale)


def _median(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else float("nan")


@dataclass(frozen=True, eq=False)
class Crossings:
    """How much limbs of a pair of sides cross.

    Attributes
    ----------
    links
        (E, 2) mirror pairs, by number, that a limb of each side joins.
    gain
        (N, E) how much shorter the two limbs would be with one end's sides swapped, over the
        person's size: positive where they cross; NaN where one of the four ends is not labelled.
    torso
        (E,) whether the link is that of shoulders and hips, which never cross.
    """

    links: NDArray[np.int64]
    gain: Floats
    torso: Flags


def crossings_of(joints_img: Floats, skeleton: Skeleton, scale_px: Floats) -> Crossings:
    """Measure the crossing of (N, K, 2) joints."""
    side = {}
    for pair, (left, right) in enumerate(skeleton.flip_pairs):
        side[left], side[right] = (pair, 0), (pair, 1)
    links = {
        (min(side[a][0], side[b][0]), max(side[a][0], side[b][0]))
        for a, b in skeleton.limbs
        if a in side and b in side and side[a][0] != side[b][0] and side[a][1] == side[b][1]
    }
    ends = [
        next(
            (
                pair
                for pair, (left, _) in enumerate(skeleton.flip_pairs)
                if part in skeleton.joints[left].lower()
            ),
            None,
        )
        for part in _TORSO
    ]
    torso = (-1, -1)
    if ends[0] is not None and ends[1] is not None:
        torso = (min(ends[0], ends[1]), max(ends[0], ends[1]))
        links.add(torso)
    ordered = np.array(sorted(links), dtype=np.int64).reshape(-1, 2)
    pairs = np.array(skeleton.flip_pairs, dtype=np.int64).reshape(-1, 2)
    gain = np.full((len(joints_img), len(ordered)), np.nan)
    for number, (p, q) in enumerate(ordered):
        a, b = (joints_img[:, pairs[one]] for one in (p, q))  # (N, 2 sides, 2)
        straight = np.linalg.norm(a - b, axis=2).sum(axis=1)
        crossed = np.linalg.norm(a - b[:, ::-1], axis=2).sum(axis=1)
        gain[:, number] = (straight - crossed) / scale_px
    return Crossings(ordered, gain, np.array([tuple(one) == torso for one in ordered.tolist()]))
