"""Whether a predicted joint is at its place: one rule by head sizes, and one by OKS.

All that says "within half a head" or "an OKS of at least 0.5" says it by these functions, so that a
joint on the threshold is judged alike wherever it is counted.

Sources: docs/protocols.md (PCKh, COCO scoring); Ronchi and Perona, Benchmarking and error diagnosis
in multi-instance pose estimation, ICCV 2017 (`NEAR`, `GOOD`).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# Similarities from which on a joint is at the place, and as near as human annotators are to each
# other.
NEAR, GOOD = 0.5, 0.85
# MPII has no OKS. Its similarity falls with the distance in heads by the same Gaussian and is NEAR
# where PCKh@0.5 ends; so it is GOOD up to 0.5 sqrt(ln 0.85 / ln 0.5) = 0.242 heads.
NEAR_HEADS = 0.5


def distances_px(joints_img: ArrayLike, true_img: ArrayLike) -> Floats:
    """Distance of each joint to its true place.

    Parameters
    ----------
    joints_img, true_img
        (..., K, 2) pixels; leading axes are broadcast.

    Returns
    -------
    ndarray
        (..., K) pixels, float64.
    """
    offset_px = np.asarray(joints_img, dtype=np.float64) - np.asarray(true_img, dtype=np.float64)
    # torch's norm along a contiguous axis fuses the multiplication and the addition, so it differs
    # from numpy's in the last bit of every twelfth distance. It is the one that PCKh has always
    # been counted with here.
    contiguous = torch.from_numpy(np.ascontiguousarray(offset_px))
    return np.asarray(torch.linalg.vector_norm(contiguous, dim=-1).numpy())


def distances_heads(joints_img: ArrayLike, true_img: ArrayLike, head_size_img: ArrayLike) -> Floats:
    """`distances_px` in head sizes.

    Parameters
    ----------
    joints_img, true_img
        (..., K, 2) pixels.
    head_size_img
        (...) pixels.

    Returns
    -------
    ndarray
        (..., K); infinite where the head has no size, so that such a joint is near nothing.
    """
    size_px = np.asarray(head_size_img, dtype=np.float64)[..., None]
    has_size = size_px > 0
    heads = distances_px(joints_img, true_img) / np.where(has_size, size_px, 1.0)
    return np.asarray(np.where(has_size, heads, np.inf))


def within_heads(distance_heads: Floats, threshold: ArrayLike) -> NDArray[np.bool_]:
    """PCKh's rule: at most the threshold (``<=``); NaN is not.

    >>> within_heads(distances_heads([[3.0, 4.0]], [[0.0, 0.0]], 10.0), 0.5)
    array([ True])

    Parameters
    ----------
    distance_heads
        (..., K) by `distances_heads`.
    threshold
        In heads; an array of thresholds is broadcast.
    """
    return np.asarray(distance_heads <= np.asarray(threshold, dtype=np.float64))


def joint_oks(
    joints_a: ArrayLike, joints_b: ArrayLike, area: ArrayLike, sigmas: ArrayLike
) -> Floats:
    """OKS of each joint alone, exp(-d^2 / (2 area (2 sigma)^2)), computed as COCOeval does.

    Parameters
    ----------
    joints_a, joints_b
        (..., K, 2) pixels; leading axes are broadcast.
    area
        (...) square pixels.
    sigmas
        (K,) COCO's per-joint standard deviations.

    Returns
    -------
    ndarray
        (..., K) in [0, 1].
    """
    offset_px = np.asarray(joints_a, dtype=np.float64) - np.asarray(joints_b, dtype=np.float64)
    squared_px = np.sum(offset_px**2, axis=-1)
    variance = (2 * np.asarray(sigmas, dtype=np.float64)) ** 2
    # spacing(1) is COCO's guard against an empty box; keeping it keeps their figures.
    size = np.asarray(area, dtype=np.float64)[..., None] + np.spacing(1)
    return np.asarray(np.exp(-(squared_px / variance / size / 2)))


def head_similarity(distance_heads: Floats) -> Floats:
    """MPII's stand-in for `joint_oks`: `NEAR` at `NEAR_HEADS`, falling like a Gaussian.

    A joint has at least `NEAR` exactly where it is `within_heads` of `NEAR_HEADS`: dividing by 0.5
    and multiplying by itself keep what lies on either side of 1 apart.
    """
    share = distance_heads / NEAR_HEADS
    return np.asarray(NEAR ** (share * share))


def is_near(similarity: Floats) -> NDArray[np.bool_]:
    """OKS's rule: a similarity of at least `NEAR`; NaN is not."""
    return np.asarray(similarity >= NEAR)
