"""PCKh as docs/protocols.md, PCKh, has it."""

from __future__ import annotations

import copy
import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from posematch.data.mpii_truth import read_pckh_truth
from posematch.data.people import PCKhTruth, People
from posematch.data.predictions import read_mpii_predictions
from posematch.errors import PosematchError
from posematch.metrics import metric_for
from posematch.metrics.pckh import PCKh
from posematch.metrics.tables import figures_table, joints_table
from posematch.skeletons import MPII

K = MPII.num_joints
HEAD_TOP, UPPER_NECK, PELVIS, THORAX = (
    MPII.joints.index(name) for name in ("head_top", "upper_neck", "pelvis", "thorax")
)
HEAD_PX = 100.0


def people_with(visible: np.ndarray, joints_img: np.ndarray | None = None) -> People:
    """People whose joints lie at the origin and whose heads are 100 px, unless said otherwise."""
    num_people = len(visible)
    if joints_img is None:
        joints_img = np.zeros((num_people, K, 2))
    truth = PCKhTruth(joints_img, visible, np.full(num_people, HEAD_PX), MPII)
    return People("hand-made", "valid", MPII, [], truth)


def errors_to_joints(errors_px: np.ndarray) -> torch.Tensor:
    """(N, K) distances from the origin to (N, K, 2) places along x, which keeps them exact."""
    return torch.from_numpy(np.stack([errors_px, np.zeros_like(errors_px)], axis=-1))


def score(metric: PCKh, rows: torch.Tensor, joints_img: torch.Tensor) -> None:
    metric.update(rows, joints_img[rows], torch.ones(len(rows), K))


def figures_of(people: People, joints_img: torch.Tensor) -> dict[str, float]:
    metric = PCKh(people)
    score(metric, torch.arange(len(joints_img)), joints_img)
    return metric.compute()


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (
            "bearpaw-hg_s8_b1.mat",  # published, data/README.md
            {
                "PCKh@0.5/Head": 96.79,
                "PCKh@0.5/Shoulder": 95.19,
                "PCKh@0.5/Elbow": 90.08,
                "PCKh@0.5/Wrist": 85.32,
                "PCKh@0.5/Hip": 87.48,
                "PCKh@0.5/Knee": 84.26,
                "PCKh@0.5/Ankle": 80.73,
                "PCKh@0.5(plain mean)": 88.64,
                "PCKh@0.5": 89.09,
            },
        ),
        ("tompson.h5", {"PCKh@0.5(plain mean)": 81.46, "PCKh@0.5": 82.34}),
    ],
)
def test_published_figures(shared_data: Path, file: str, expected: dict[str, float]) -> None:
    truth = read_pckh_truth(shared_data / "mpii_full" / "annot" / "gt_valid.mat")
    joints_img = torch.from_numpy(
        read_mpii_predictions(shared_data / "predictions" / file, len(truth.joints_img))
    )
    figures = figures_of(People("mpii", "valid", MPII, [], truth), joints_img)
    for name, figure in expected.items():
        # Two decimals are published: half a unit of the last one, and no more.
        assert figures[name] == pytest.approx(figure, abs=0.005001), name


def test_subset_truth_is_part_of_the_whole(shared_data: Path) -> None:
    """The reader gives the same people, whichever of the two files they come from."""
    part = read_pckh_truth(shared_data / "mpii" / "annot" / "gt_valid.mat")
    whole = read_pckh_truth(shared_data / "mpii_full" / "annot" / "gt_valid.mat")
    index = json.loads((shared_data / "mpii/annot/valid_index_into_2958.json").read_text())
    rows = np.array(index)
    assert len(part.joints_img) == 264
    np.testing.assert_array_equal(part.visible, whole.visible[rows])
    np.testing.assert_array_equal(part.joints_img, whole.joints_img[rows])
    np.testing.assert_array_equal(part.head_size_img, whole.head_size_img[rows])


def test_truth_is_zero_based_and_heads_are_six_tenths(shared_data: Path) -> None:
    """Against the file itself: first row's head box is (914,79)-(1031,237), 1-based."""
    truth = read_pckh_truth(shared_data / "mpii_full" / "annot" / "gt_valid.mat")
    # The file stores corners to about 1e-4 px.
    assert truth.head_size_img[0] == pytest.approx(0.6 * np.hypot(117, 158), abs=1e-3)
    # valid.json has the same joints, 1-based; they agree in this row.
    row = json.loads((shared_data / "mpii_full" / "annot" / "valid.json").read_text())[0]
    np.testing.assert_allclose(truth.joints_img[0], np.array(row["joints"]) - 1, atol=1e-3)


def test_at_most_the_threshold_is_right() -> None:
    """`<=`: 50 px of a 100 px head is right, the next number above is not."""
    people = people_with(np.ones((1, K)))
    at = figures_of(people, errors_to_joints(np.full((1, K), 50.0)))
    above = figures_of(people, errors_to_joints(np.full((1, K), np.nextafter(50.0, 51.0))))
    assert at["PCKh@0.5"] == 100.0
    assert above["PCKh@0.5"] == 0.0


def test_legacy_threshold_is_0_11() -> None:
    """10.5 px of a 100 px head is right at 0.11, which others publish as 0.1, and wrong at 0.1."""
    figures = figures_of(people_with(np.ones((1, K))), errors_to_joints(np.full((1, K), 10.5)))
    assert figures["PCKh@0.1"] == 0.0
    assert figures["PCKh@0.11(legacy)"] == 100.0


def test_means_and_columns_by_hand() -> None:
    """Three people; head top labelled once and right, right wrist three times and wrong.

    Counted: 1 + 3, right: 1. Count-weighted 1/4, plain mean (100 + 0) / 2.
    """
    visible = np.zeros((3, K))
    visible[0, HEAD_TOP] = 1
    wrist = MPII.joints.index("right_wrist")
    visible[:, wrist] = 1
    errors_px = np.zeros((3, K))
    errors_px[:, wrist] = 51.0
    figures = figures_of(people_with(visible), errors_to_joints(errors_px))
    assert figures == {
        "PCKh@0.5": 25.0,
        "PCKh@0.1": 25.0,
        "PCKh@0.11(legacy)": 25.0,
        "PCKh@0.5(plain mean)": 50.0,
        "PCKh@0.5/Head": 100.0,
        "PCKh@0.5/Wrist": 0.0,  # nobody has the left one
        "PCKh@0.5/joint/head_top": 100.0,
        "PCKh@0.5/joint/right_wrist": 0.0,
    }


def test_column_is_the_plain_mean_of_left_and_right() -> None:
    """Left wrist right in 1 of 1, right wrist in 1 of 3: (100 + 33.3) / 2, not 2 of 4."""
    left, right = (MPII.joints.index(f"{side}_wrist") for side in ("left", "right"))
    visible = np.zeros((3, K))
    visible[0, left] = 1
    visible[:, right] = 1
    errors_px = np.zeros((3, K))
    errors_px[1:, right] = 1000.0
    figures = figures_of(people_with(visible), errors_to_joints(errors_px))
    assert figures["PCKh@0.5/Wrist"] == pytest.approx((100 + 100 / 3) / 2, rel=1e-15)
    assert figures["PCKh@0.5"] == 50.0


def test_pelvis_and_thorax_are_in_no_mean_but_upper_neck_is() -> None:
    errors_px = np.zeros((1, K))
    errors_px[:, [PELVIS, THORAX]] = 1000.0
    figures = figures_of(people_with(np.ones((1, K))), errors_to_joints(errors_px))
    assert figures["PCKh@0.5"] == figures["PCKh@0.5(plain mean)"] == 100.0
    assert figures["PCKh@0.5/joint/pelvis"] == 0.0

    errors_px = np.zeros((1, K))
    errors_px[:, UPPER_NECK] = 1000.0
    figures = figures_of(people_with(np.ones((1, K))), errors_to_joints(errors_px))
    assert figures["PCKh@0.5"] == pytest.approx(100 * 13 / 14, rel=1e-15)


def random_people(seed: int, num_people: int) -> tuple[People, torch.Tensor]:
    random = np.random.default_rng(seed)
    joints_img = random.uniform(0, 1000, (num_people, K, 2))
    people = people_with((random.random((num_people, K)) < 0.7).astype(np.float32), joints_img)
    return people, torch.from_numpy(joints_img + random.normal(0, 40, joints_img.shape))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    order=st.permutations(range(12)),
    cuts=st.sets(st.integers(1, 11)),
    processes=st.integers(1, 3),
)
def test_order_batches_and_processes_change_nothing(
    order: list[int], cuts: set[int], processes: int
) -> None:
    """Sums of integers: equal to the last bit."""
    people, joints_img = random_people(seed=0, num_people=12)
    whole = figures_of(people, joints_img)

    parts = [PCKh(people) for _ in range(processes)]
    for position, rows in enumerate(np.split(np.array(order), sorted(cuts))):
        score(parts[position % processes], torch.from_numpy(rows), joints_img)
    merged = parts[0]
    for part in parts[1:]:
        merged.merge_state(part)
    assert merged.compute() == whole


def test_reset_starts_anew() -> None:
    people, joints_img = random_people(seed=1, num_people=4)
    metric = PCKh(people)
    score(metric, torch.arange(4), joints_img)
    first = metric.compute()
    metric.reset()
    score(metric, torch.arange(4), joints_img)
    assert metric.compute() == first


def test_half_precision_modules_do_not_touch_the_figures() -> None:
    people, joints_img = random_people(seed=2, num_people=5)
    holder = torch.nn.Module()
    holder.metric = PCKh(people)
    holder.to(torch.bfloat16)
    score(holder.metric, torch.arange(5), joints_img)
    assert holder.metric.compute() == figures_of(people, joints_img)


@pytest.mark.parametrize(
    ("rows", "shape", "message"),
    [
        ([0, 0], (2, K, 2), "scored twice"),
        ([0, 4], (2, K, 2), "rows of the truth"),
        ([-1, 0], (2, K, 2), "rows of the truth"),
        ([0, 1], (2, K, 3), "joints_img"),
        ([0, 1], (2, K - 1, 2), "joints_img"),
    ],
)
def test_wrong_batches_raise(rows: list[int], shape: tuple[int, ...], message: str) -> None:
    metric = PCKh(people_with(np.ones((4, K))))
    with pytest.raises(ValueError, match=message):
        metric.update(torch.tensor(rows), torch.zeros(shape), torch.ones(2, K))


def test_a_person_counts_once_over_updates_and_processes() -> None:
    people, joints_img = random_people(seed=3, num_people=4)
    metric = PCKh(people)
    score(metric, torch.tensor([0, 1]), joints_img)
    other = copy.deepcopy(metric)
    with pytest.raises(ValueError, match="scored twice"):
        score(metric, torch.tensor([1, 2]), joints_img)
    other.merge_state(copy.deepcopy(other))
    with pytest.raises(ValueError, match="more than one process"):
        other.compute()


def test_nan_predictions_and_nothing_to_count_are_told() -> None:
    metric = PCKh(people_with(np.ones((1, K))))
    with pytest.raises(PosematchError, match=r"person 0 .* NaN"):
        metric.update(torch.tensor([0]), torch.full((1, K, 2), torch.nan), torch.ones(1, K))
    with pytest.raises(PosematchError, match="nothing to count"):
        figures_of(people_with(np.zeros((1, K))), torch.zeros(1, K, 2))


def test_metric_for_picks_pckh_and_refuses_people_without_truth() -> None:
    assert isinstance(metric_for(people_with(np.ones((1, K)))), PCKh)
    with pytest.raises(ValueError, match="no truth"):
        metric_for(People("mpii", "train", MPII, []))


def test_tables_show_every_figure_in_80_characters() -> None:
    people, joints_img = random_people(seed=4, num_people=6)
    figures = figures_of(people, joints_img)
    console = Console(width=80, record=True, file=StringIO())
    console.print(figures_table({"last": figures}, "title", "the protocol"))
    console.print(joints_table(figures, "title", "the protocol"))
    text = console.export_text()
    assert "…" not in text
    assert "the protocol" in text
    for name, figure in figures.items():
        assert f"{figure:.2f}" in text, name
