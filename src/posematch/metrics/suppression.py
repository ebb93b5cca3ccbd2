"""COCO's road from poses to results: similarity (OKS), rescoring, suppression of duplicates.

Source: docs/protocols.md, COCO scoring. All photos are worked on at once: those with as many poses
form one block.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posematch.metrics.hits import joint_oks

COUNTED_JOINT_SCORE = 0.2
NMS_THRESHOLD = 0.9
MAX_POSES = 20
# Pairs of poses whose similarity is computed in one go: 17 joints of them fill a few MB.
PAIRS_AT_ONCE = 50_000
# ... and those whose joints stay in a processor's cache meanwhile.
_PAIRS_IN_CACHE = 2_000


def oks(
    joints_a: ArrayLike,
    joints_b: ArrayLike,
    area_a: ArrayLike,
    area_b: ArrayLike,
    sigmas: ArrayLike,
) -> NDArray[np.float64]:
    """Object keypoint similarity of predicted poses, as suppression uses it.

    Every joint counts, and the size is the mean of both areas (COCOeval instead counts the labelled
    joints and divides by the truth's area).

    Parameters
    ----------
    joints_a, joints_b
        (..., K, 2) pixels; leading axes are broadcast.
    area_a, area_b
        (...) square pixels.
    sigmas
        (K,) COCO's per-joint standard deviations.

    Returns
    -------
    ndarray
        (...) in [0, 1].
    """
    area = (np.asarray(area_a, dtype=np.float64) + np.asarray(area_b, dtype=np.float64)) / 2
    similarity: NDArray[np.float64] = joint_oks(joints_a, joints_b, area, sigmas).mean(-1)
    return similarity


def rescore(
    box_scores: NDArray[np.float64],
    joint_scores: NDArray[np.float64],
    threshold: float = COUNTED_JOINT_SCORE,
) -> NDArray[np.float64]:
    """Score of a pose: its box's times the mean of its joints' that are above the threshold.

    Parameters
    ----------
    box_scores
        (N,).
    joint_scores
        (N, K).
    threshold
        Joints at or below it do not enter the mean; with none above it the score is 0.

    Returns
    -------
    ndarray
        (N,).
    """
    above = joint_scores > threshold
    mean = np.sum(joint_scores * above, axis=1) / np.maximum(above.sum(axis=1), 1)
    scores: NDArray[np.float64] = box_scores * mean
    return scores


def oks_nms(
    keypoints: NDArray[np.float64],
    scores: NDArray[np.float64],
    areas: NDArray[np.float64],
    sigmas: ArrayLike,
    threshold: float = NMS_THRESHOLD,
    image_ids: NDArray[np.int64] | None = None,
) -> NDArray[np.intp]:
    """Greedy suppression: the best pose stays, poses more similar to it than the threshold go.

    Parameters
    ----------
    keypoints
        (N, K, 2 or more) pixels, x and y first.
    scores, areas
        (N,); the areas are those of the padded boxes.
    sigmas
        (K,).
    threshold
        Poses with an OKS above it are one person.
    image_ids
        (N,) their photos, which have nothing to do with each other; None for one photo.

    Returns
    -------
    ndarray
        Kept indices, by photo, best score first; of equal scores the first comes first.
    """
    place = np.full(len(scores), -1, dtype=np.intp)
    for rows in photo_blocks(_photos(image_ids, scores)):
        order = np.argsort(-scores[rows], axis=1, kind="stable")
        rows = np.take_along_axis(rows, order, axis=1)
        similar = _similarity(keypoints[rows], areas[rows], sigmas) > threshold
        kept = np.zeros(rows.shape, dtype=np.bool_)
        gone = np.zeros(rows.shape, dtype=np.bool_)
        for rank in range(rows.shape[1]):
            kept[:, rank] = ~gone[:, rank]
            gone |= kept[:, rank, None] & similar[:, rank]
        place[rows[kept]] = np.nonzero(kept)[1]
    return _by_photo(place, _photos(image_ids, scores))


def soft_oks_nms(
    keypoints: NDArray[np.float64],
    scores: NDArray[np.float64],
    areas: NDArray[np.float64],
    sigmas: ArrayLike,
    threshold: float = NMS_THRESHOLD,
    image_ids: NDArray[np.int64] | None = None,
    max_poses: int = MAX_POSES,
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Soft suppression: the best pose stays and damps the others' scores by exp(-OKS^2/threshold).

    Then the best of the rest stays, and so on, up to ``max_poses`` a photo.

    Parameters
    ----------
    keypoints, scores, areas, sigmas, image_ids
        As `oks_nms`.
    threshold
        Width of the damping.
    max_poses
        Poses kept a photo.

    Returns
    -------
    kept
        Indices, by photo, in the order in which they were kept.
    damped
        (len(kept),) their scores when they were. HRNet's code uses them for the choice alone and
        writes the scores that went in.
    """
    place = np.full(len(scores), -1, dtype=np.intp)
    damped = np.array(scores, dtype=np.float64)
    for rows in photo_blocks(_photos(image_ids, scores)):
        damping = np.exp(-(_similarity(keypoints[rows], areas[rows], sigmas) ** 2) / threshold)
        left = damped[rows]
        waiting = np.ones(rows.shape, dtype=np.bool_)
        photos = np.arange(len(rows))
        for rank in range(min(max_poses, rows.shape[1])):
            best = np.where(waiting, left, -np.inf).argmax(axis=1)
            place[rows[photos, best]] = rank
            waiting[photos, best] = False
            left = np.where(waiting, left * damping[photos, best], left)
        damped[rows] = left
    kept = _by_photo(place, _photos(image_ids, scores))
    return kept, damped[kept]


def photo_blocks(
    image_ids: NDArray[np.int64], pairs_at_once: int = PAIRS_AT_ONCE
) -> Iterator[NDArray[np.intp]]:
    """Rows of each photo, photos with equally many rows together.

    Parameters
    ----------
    image_ids
        (N,) in any order.
    pairs_at_once
        A block of several photos has at most so many pairs of rows.

    Yields
    ------
    ndarray
        (photos, rows of each), rows of a photo in their order; together every row once.
    """
    order = np.argsort(image_ids, kind="stable")
    _, starts, counts = np.unique(image_ids[order], return_index=True, return_counts=True)
    for count in np.unique(counts):
        first = starts[counts == count]
        photos = max(1, pairs_at_once // int(count) ** 2)
        for begin in range(0, len(first), photos):
            yield order[first[begin : begin + photos, None] + np.arange(count)]


def _photos(image_ids: NDArray[np.int64] | None, scores: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.zeros(len(scores), dtype=np.int64) if image_ids is None else np.asarray(image_ids)


def _similarity(
    keypoints: NDArray[np.float64], areas: NDArray[np.float64], sigmas: ArrayLike
) -> NDArray[np.float64]:
    """(P, M, K, 2 or more) and (P, M) to the OKS of all pairs of a photo, (P, M, M)."""
    photos, poses = areas.shape
    # Of two poses once: which is the first changes no bit.
    first, second = np.triu_indices(poses, 1)
    similarity = np.ones((photos, poses, poses))
    for begin in range(0, len(first), _PAIRS_IN_CACHE):
        one, other = first[begin : begin + _PAIRS_IN_CACHE], second[begin : begin + _PAIRS_IN_CACHE]
        step = max(1, _PAIRS_IN_CACHE // len(one))
        for start in range(0, photos, step):
            part = slice(start, start + step)
            joints, area = keypoints[part, ..., :2], areas[part]
            found = oks(joints[:, one], joints[:, other], area[:, one], area[:, other], sigmas)
            similarity[part, one, other] = similarity[part, other, one] = found
    return similarity


def _by_photo(place: NDArray[np.intp], image_ids: NDArray[np.int64]) -> NDArray[np.intp]:
    """Rows that have a place in their photo, by photo and place."""
    rows = np.flatnonzero(place >= 0)
    return rows[np.lexsort((place[rows], image_ids[rows]))]
