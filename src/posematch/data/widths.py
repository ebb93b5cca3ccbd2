"""How wide a joint is: the length in which a data set's metric measures how near a prediction is.

OKS is exp(-d^2 / (2 w^2)) of a distance d, w = 2 sigma_k sqrt(area); PCKh counts d <= w as right,
w half a head (docs/protocols.md, COCO scoring and PCKh).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posematch.data.people import People
from posematch.skeletons import Skeleton

Floats = NDArray[np.float64]
WIDTH_HEADS = 0.5  # of PCKh's main threshold


def sizes_img(area: ArrayLike, head_size_img: ArrayLike, skeleton: Skeleton) -> Floats:
    """What widths are shares of, photo pixels: sqrt(area) for OKS, the head's size for PCKh.

    Parameters
    ----------
    area
        Square pixels, any shape; 0 where there is none.
    head_size_img
        Photo pixels, same shape; 0 where there is none.
    skeleton
        Whose joints are measured: by OKS where they have sigmas.

    Returns
    -------
    Same shape; 0 where the annotation does not tell.
    """
    if skeleton.oks_sigmas:
        return np.sqrt(np.asarray(area, dtype=np.float64))
    return np.asarray(head_size_img, dtype=np.float64)


def width_shares(skeleton: Skeleton) -> Floats:
    """(K,) width of each joint as a share of the person's size.

    >>> from posematch.skeletons import COCO, MPII
    >>> width_shares(COCO)[:3], width_shares(MPII)[:3]
    (array([0.052, 0.05 , 0.05 ]), array([0.5, 0.5, 0.5]))
    """
    if skeleton.oks_sigmas:
        return 2 * np.array(skeleton.oks_sigmas)
    return np.full(skeleton.num_joints, WIDTH_HEADS)


def have_widths(people: People) -> bool:
    """Whether anybody has a size that widths follow from."""
    rows = people.rows
    return bool((sizes_img(rows.areas, rows.head_sizes_img, people.skeleton) > 0).any())
