"""Random prediction tables, as runs leave them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from posematch.skeletons import MPII, Skeleton


def random_table(
    seed: int, people: int = 30, skeleton: Skeleton = MPII, photos: int = 10, spread_px: float = 30
) -> pd.DataFrame:
    """People of a few photos, near each other, predicted with errors of all sizes."""
    random = np.random.default_rng(seed)
    joints = skeleton.num_joints
    true_img = random.uniform(0, 200, (people, joints, 2))
    error_px = spread_px * random.standard_exponential((people, joints, 1))
    joints_img = true_img + error_px * random.normal(size=true_img.shape)
    by_heads = skeleton is MPII
    scale = random.uniform(20, 150, people) if by_heads else random.uniform(15, 200, people) ** 2
    visible = (random.random((people, joints)) < 0.8).astype(np.float32)
    image_ids = np.sort(random.integers(0, photos, people))
    first = true_img.min(axis=1)
    size = true_img.max(axis=1) - first
    of_person = {
        "image_id": image_ids,
        "box_score": random.uniform(0.3, 1, people),
        "box_center_x": first[:, 0] + size[:, 0] / 2,
        "box_center_y": first[:, 1] + size[:, 1] / 2,
        "box_width": 1.25 * size[:, 0],
        "box_height": 1.25 * size[:, 1],
        "crowd_index": (image_ids % 5) * 0.25,
        "head_size_img" if by_heads else "area": scale,
    }
    return pd.DataFrame(
        {
            "person_id": np.repeat(np.arange(people), joints),
            "joint": np.tile(skeleton.joints, people),
            "x": joints_img[..., 0].ravel(),
            "y": joints_img[..., 1].ravel(),
            "score": random.random(people * joints).round(2),
            "true_x": true_img[..., 0].ravel(),
            "true_y": true_img[..., 1].ravel(),
            "visible": visible.ravel(),
            "occluded": (random.random(people * joints) < 0.3) & (not by_heads),
            **{name: np.repeat(values, joints) for name, values in of_person.items()},
        }
    )
