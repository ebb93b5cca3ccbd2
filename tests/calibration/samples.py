"""Labelled scores drawn from a known law."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit

from posematch.calibration.labelled import LabelledScores
from posematch.runs.predictions import PredictionTable
from posematch.skeletons import skeleton_from_names

SLOPE, SIZE_SLOPE = 0.6, 0.8
INPUT_SIZE = (64, 64)


def offsets(joints: int) -> np.ndarray:
    return np.linspace(-0.2, 0.8, joints)


def drawn(seed: int, people: int = 1000, joints: int = 8, calibrated: bool = False, soft=False):
    """Two people a photo, whose joints are right with sigmoid(slope logit(s) + b_k + c size).

    ``calibrated``: the score is that probability; ``soft``: so is the target.
    """
    random = np.random.default_rng(seed)
    scores = random.uniform(0.05, 0.95, (people, joints))
    sizes = random.uniform(-1, 1, people)
    right = expit(SLOPE * logit(scores) + offsets(joints) + SIZE_SLOPE * sizes[:, None])
    targets = right if soft else (random.random(right.shape) < right).astype(float)
    person, joint = np.nonzero(np.ones(right.shape))
    return LabelledScores(
        scores=(right if calibrated else scores).ravel(),
        targets=targets.ravel(),
        joints=joint,
        people=person,
        photos=person // 2,
        log_sizes=sizes[person],
    )


def table_of(seed: int, people: int, measure: str = "heads", joints: int = 4, labelled=0.8):
    """A run's table, by the same law: a joint is at its place or far away."""
    data = drawn(seed, people, joints)
    random = np.random.default_rng(seed)
    true_img = random.uniform(0, 200, (people, joints, 2))
    hit = data.targets.reshape(people, joints)
    shift = np.where(hit > 0, random.uniform(0, 2, hit.shape), random.uniform(60, 200, hit.shape))
    side = 64 * np.exp(data.log_sizes.reshape(people, joints)[:, :1])
    skeleton = skeleton_from_names("some", [f"joint {k}" for k in range(joints)], [])
    scale = {"heads": {"head_size_img": np.full(people, 20.0)},
             "oks": {"area": np.full(people, 1e4)}}[measure]  # fmt: skip
    return PredictionTable(
        skeleton=skeleton,
        person_ids=np.arange(people),
        image_ids=np.arange(people) // 2,
        joints_img=true_img + np.stack([shift, np.zeros_like(shift)], axis=2),
        true_img=true_img,
        labelled=random.random((people, joints)) < labelled,
        scores=data.scores.reshape(people, joints),
        box_size_img=np.repeat(side, 2, axis=1),
        box_scores=np.ones(people),
        **scale,
    )
