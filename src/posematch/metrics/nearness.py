"""How near joints are to their places, where everybody has a prediction: OKS, EPE, PCK.

AP counts people as found or missed, so it is 0 for as long as no pose is nearly right; these tell
progress from the first epoch on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from posematch.metrics.columns import PCK_THRESHOLDS
from posematch.metrics.hits import distances_px, joint_oks, within_heads
from posematch.skeletons import Skeleton

Floats = NDArray[np.float64]


def nearness(
    joints_img: Floats,
    true_img: Floats,
    labelled: NDArray[np.bool_],
    area: Floats,
    box_side_img: Floats,
    skeleton: Skeleton,
) -> dict[str, float]:
    """`posematch.metrics.columns.NEARNESS`, and OKS and EPE of each joint.

    Parameters
    ----------
    joints_img, true_img
        (N, K, 2) predicted and true, photo pixels.
    labelled
        (N, K) which joints count.
    area
        (N,) square pixels, for OKS.
    box_side_img
        (N,) the longer side of the annotated box, pixels.
    skeleton
        With OKS sigmas.

    Returns
    -------
    dict
        ``OKS`` (0 to 1, mean over people with labelled joints of the mean over these), ``EPE``
        (pixels, mean over joints), ``EPE(box)`` (sides of the box), ``PCK@0.1(box)`` and
        ``PCK@0.2(box)`` (percent), ``OKS/joint/<name>`` and ``EPE/joint/<name>`` of joints that
        somebody has. Nothing where nobody has any.
    """
    if not labelled.any():
        return {}
    errors_px = distances_px(joints_img, true_img)
    oks = joint_oks(joints_img, true_img, area, skeleton.oks_sigmas)
    counted = labelled.sum(axis=1)
    of_people = np.where(labelled, oks, 0).sum(axis=1)[counted > 0] / counted[counted > 0]
    has_side = labelled & (box_side_img > 0)[:, None]
    in_sides = errors_px / np.where(box_side_img > 0, box_side_img, 1.0)[:, None]
    figures = {"OKS": float(of_people.mean()), "EPE": float(errors_px[labelled].mean())}
    if has_side.any():
        figures["EPE(box)"] = float(in_sides[has_side].mean())
        figures |= {
            name: 100.0 * float(within_heads(in_sides[has_side], threshold).mean())
            for name, threshold in PCK_THRESHOLDS.items()
        }
    for k, joint in enumerate(skeleton.joints):
        if labelled[:, k].any():
            figures[f"OKS/joint/{joint}"] = float(oks[labelled[:, k], k].mean())
            figures[f"EPE/joint/{joint}"] = float(errors_px[labelled[:, k], k].mean())
    return figures
