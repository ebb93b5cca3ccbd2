"""One rule by head sizes and one by OKS: everything counts what PCKh and COCOeval count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from posematch.data.people import People
from posematch.evaluation.breakdown import breakdown
from posematch.evaluation.error_types import error_types
from posematch.metrics.columns import THRESHOLDS
from posematch.metrics.conventions import pckh_conventions
from posematch.metrics.hits import (
    NEAR,
    distances_heads,
    distances_px,
    head_similarity,
    is_near,
    joint_oks,
    within_heads,
)
from posematch.metrics.pckh import PCKh
from posematch.runs.predictions import PredictionTable
from posematch.skeletons import COCO, MPII
from posematch.statistics.figures import of_photos

N, K = 400, MPII.num_joints


def on_the_threshold() -> PredictionTable:
    """People of MPII whose joints lie on a threshold, or the next float beside it.

    A head's size is the distance as it is computed, divided by the threshold, and one bit more or
    less: which side of it a joint is on hangs on the last bit of every step.
    """
    random = np.random.default_rng(0)
    true_img = random.uniform(0, 900, (N, K, 2))
    joints_img = true_img + random.normal(0, 20, true_img.shape)
    thresholds = random.choice(list(THRESHOLDS.values()), N)
    head_size_img = distances_px(joints_img, true_img)[:, 0] / thresholds
    steps = random.integers(-1, 2, N)
    head_size_img = np.where(steps < 0, np.nextafter(head_size_img, 0), head_size_img)
    head_size_img = np.where(steps > 0, np.nextafter(head_size_img, np.inf), head_size_img)
    # The person's other joints lie as far from their places as the first one, in other directions.
    turns = random.choice([1, -1], (N, K, 2))
    offset_px = (joints_img[:, :1] - true_img[:, :1]) * turns
    true_img[:, 1:] = np.round(true_img[:, 1:] * 4) / 4
    joints_img[:, 1:] = (true_img + offset_px)[:, 1:]
    return PredictionTable(
        skeleton=MPII,
        person_ids=np.arange(N),
        image_ids=np.arange(N) // 3,
        joints_img=joints_img,
        true_img=true_img,
        labelled=random.random((N, K)) < 0.9,
        head_size_img=head_size_img,
        scores=np.ones((N, K)),
        occluded=np.zeros((N, K), np.bool_),
    )


@pytest.fixture(scope="module")
def table() -> PredictionTable:
    return on_the_threshold()


def by_torch(table: PredictionTable, threshold: float) -> np.ndarray:
    """PCKh's rule as it was computed before there was `posematch.metrics.hits`, in torch."""
    joints_img, true_img = (torch.tensor(one) for one in (table.joints_img, table.true_img))
    error_px = torch.linalg.vector_norm(joints_img - true_img, dim=2)
    error_heads = error_px / torch.tensor(table.head_size_img)[:, None]
    limit = torch.tensor([threshold], dtype=torch.float64)
    return (error_heads <= limit).numpy() & table.labelled


@pytest.mark.parametrize("threshold", THRESHOLDS.values())
def test_hits_are_those_of_pckh_to_the_last_bit(table: PredictionTable, threshold: float) -> None:
    expected = by_torch(table, threshold)
    assert np.array_equal(table.hits(threshold), expected)
    # The case is a hard one: numpy's own norm judges some of these joints otherwise.
    rounded = np.linalg.norm(table.joints_img - table.true_img, axis=2)
    rounded = rounded / table.head_size_img[:, None]
    assert not np.array_equal((rounded <= threshold) & table.labelled, expected)


def test_everything_that_counts_counts_the_same(table: PredictionTable) -> None:
    """PCKh, its conventions, the breakdown, the bootstrap and the kinds of errors."""
    metric = PCKh(People("hand-made", "valid", MPII, [], table.pckh_truth))
    for rows in np.array_split(np.arange(N), 7):
        ids = torch.from_numpy(rows)
        metric.update(ids, torch.from_numpy(table.joints_img[rows]), torch.ones(len(ids), K))
    figures = metric.compute()
    every = table.labelled.sum(axis=0)
    by_hits = dict(zip(MPII.joints, 100 * table.hits(0.5).sum(axis=0) / every, strict=True))
    of_joints = {joint: figures[f"PCKh@0.5/joint/{joint}"] for joint in MPII.joints}
    assert of_joints == by_hits
    frame = pckh_conventions(table.joints_img, table.pckh_truth).frame
    of_half = frame[frame["convention"] == "@0.5, <="].set_index("part")["value"]
    assert {joint: of_half[f"joint/{joint}"] for joint in MPII.joints} == by_hits
    assert breakdown(table, "joint")["PCKh@0.5"].to_dict() == pytest.approx(by_hits, rel=1e-15)
    names = [f"PCKh@0.5/joint/{joint}" for joint in MPII.joints]
    resampled = of_photos(table, names)(np.ones((1, len(table.photos))))[0]
    counted = resampled * every / 100  # whole numbers, but for this rounding
    assert counted.round().astype(int).tolist() == table.hits(0.5).sum(axis=0).tolist()
    assert np.abs(counted - counted.round()).max() < 1e-9
    assert np.array_equal(is_near(table.similarity), table.hits(0.5))
    own = np.isin(error_types(table), ["good", "jitter"])
    assert table.hits(0.5)[own].all()


def test_the_similarity_in_heads_is_near_exactly_where_pckh_ends() -> None:
    ulps = np.nextafter(0.5, [0.0, 0.5, 1.0])
    assert is_near(head_similarity(ulps)).tolist() == [True, True, False]
    assert head_similarity(np.array([0.0, 0.5, 1.0, np.inf])).tolist() == [1, NEAR, NEAR**4, 0]


def test_heads_without_a_size_and_joints_that_nobody_found_are_no_hits() -> None:
    joints_img = np.array([[[1.0, 1.0]], [[1.0, 1.0]], [[np.nan, np.nan]]])
    heads = distances_heads(joints_img, np.ones((3, 1, 2)), [0.0, 10.0, 10.0])
    assert heads[:2].tolist() == [[np.inf], [0.0]]
    assert within_heads(heads, 0.5).tolist() == [[False], [True], [False]]


def test_distances_do_not_depend_on_the_layout_in_memory() -> None:
    """torch rounds otherwise where x and y do not lie next to each other."""
    random = np.random.default_rng(1)
    joints_img, true_img = random.uniform(0, 500, (2, 300, K, 2))
    straight = distances_px(joints_img, true_img)
    apart = np.asfortranarray(joints_img), np.asfortranarray(true_img)
    assert np.array_equal(distances_px(*apart), straight)
    assert np.array_equal(distances_px(joints_img[7:9], true_img[7:9]), straight[7:9])


def test_oks_of_a_joint_is_cocoevals() -> None:
    """COCOeval's formula, a joint at a time; 1 at the place, also without an area."""
    random = np.random.default_rng(2)
    joints_img, true_img = random.uniform(0, 500, (2, 20, 17, 2))
    area = random.uniform(100, 9e4, 20)
    found = joint_oks(joints_img, true_img, area, COCO.oks_sigmas)
    for n in range(20):
        for k, sigma in enumerate(COCO.oks_sigmas):
            dx, dy = joints_img[n, k] - true_img[n, k]
            e = (dx**2 + dy**2) / (sigma * 2) ** 2 / (area[n] + np.spacing(1)) / 2
            assert found[n, k] == np.exp(-e)
    assert (joint_oks(true_img, true_img, np.zeros(20), COCO.oks_sigmas) == 1).all()
