"""What a figure must beat: the mean pose of the training people."""

from __future__ import annotations

import numpy as np
import torch

from posematch.data.people import People
from posematch.metrics import metric_for


def mean_pose_figures(train: People, valid: People) -> dict[str, float]:
    """Figures of predicting, in every validation box, the training people's mean pose.

    Parameters
    ----------
    train, valid
        Two splits of one data set. Poses are averaged in the frame of their boxes, where the
        centre is the origin and the padded box's width and height are 1, each joint over the
        people that have it.

    Returns
    -------
    As the data set's metric computes them.
    """
    centers, sizes, joints_img, visible = _stack(train)
    joints_box = (joints_img - centers[:, None]) / sizes[:, None]
    weight = visible[..., None]
    mean_pose_box = (joints_box * weight).sum(0) / np.maximum(weight.sum(0), 1)
    centers, sizes, _, _ = _stack(valid)
    predicted_img = centers[:, None] + mean_pose_box * sizes[:, None]
    metric = metric_for(valid)
    # Every process has everybody; those that torchrun or SLURM started are connected already.
    metric.distributed_available_fn = lambda: False
    ids = torch.from_numpy(valid.rows.person_ids)
    metric.update(ids, torch.from_numpy(predicted_img), torch.ones(predicted_img.shape[:2]))
    return metric.compute()


def _stack(people: People) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Box centres (N, 2), box sizes (N, 2), joints (N, K, 2), visibility (N, K)."""
    rows = people.rows
    return rows.centers_img, rows.box_sizes_img, rows.joints_img, rows.visible
