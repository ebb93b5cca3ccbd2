"""Curves from scores to probabilities: what is fitted is what was drawn, and nothing falls."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import SIZE_SLOPE, SLOPE, drawn, offsets

from posematch.calibration.fitting import fit_curve, fit_isotonic, fit_temperature
from posematch.calibration.labelled import LabelledScores
from posematch.calibration_record import MOST_KNOTS, score_logit
from posematch.errors import PosematchError

METHODS = ["temperature", "isotonic"]


def of(scores, targets, joints=0, sizes=0.0) -> LabelledScores:
    count = len(scores)
    filled = [np.broadcast_to(np.asarray(one), count) for one in (joints, sizes)]
    place = np.arange(count)
    return LabelledScores(np.asarray(scores), np.asarray(targets, float), filled[0].astype(np.intp),
                          place, place, filled[1].astype(float))  # fmt: skip


def test_a_known_law_is_recovered_within_its_standard_errors():
    """4 standard errors by the Fisher information at the truth (maximum likelihood)."""
    data = drawn(0, people=3000)
    curve = fit_temperature(data, 8)
    design = np.column_stack([score_logit(data.scores), data.log_sizes, np.eye(8)[data.joints]])
    truth = np.array([SLOPE, SIZE_SLOPE, *offsets(8)])
    right = 1 / (1 + np.exp(-design @ truth))
    deviations = np.sqrt(np.diag(np.linalg.inv((design.T * (right * (1 - right))) @ design)))
    found = np.array([curve.slope, curve.size_slope, *curve.offsets])
    assert (np.abs(found - truth) < 4 * deviations).all()
    assert deviations.max() < 0.06  # which tells more than zero and one apart


def test_expected_targets_give_the_law_itself():
    """Of an expectation there is no sampling; what is left is shrinking: 4 of 4 + 1000 x 0.22."""
    curve = fit_temperature(drawn(1, soft=True), 8)
    assert curve.slope == pytest.approx(SLOPE, abs=0.01)
    # Sizes beyond the 1st and 99th percentile are cut.
    assert curve.size_slope == pytest.approx(SIZE_SLOPE, abs=0.02)
    np.testing.assert_allclose(curve.offsets, offsets(8), atol=0.02)


def test_a_joint_without_a_label_gets_the_mean_of_the_others():
    """Where the loss says nothing, (b - mean)^2 is least at the mean of the rest."""
    data = drawn(2)
    curve = fit_temperature(data.chosen(data.joints != 3), 8)
    others = np.delete(curve.offsets, 3)
    assert curve.offsets[3] == pytest.approx(others.mean(), abs=1e-4)


def test_what_the_data_do_not_tell_is_left():
    same_size = drawn(3)
    same_size = replace(same_size, log_sizes=np.full(len(same_size), 0.3))
    assert fit_temperature(same_size, 8).size_slope == pytest.approx(0, abs=1e-9)
    same_score = of(np.full(100, 0.5), np.arange(100) % 4 == 0)
    curve = fit_temperature(same_score, 1)
    assert curve.slope == pytest.approx(1, abs=1e-9)
    assert curve.apply([[0.5]], [0.0]) == pytest.approx(0.25, abs=1e-3)
    assert fit_isotonic(same_score, 1).knots == [[0.5, pytest.approx(25.5 / 101)]]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_joints_that_are_all_right_or_all_wrong(method, target):
    data = of(np.linspace(0, 1, 200), np.full(200, target))
    found = fit_curve(data, 1, method).apply(np.linspace(0, 1, 50)[:, None], np.zeros(50))
    assert (np.abs(found - target) < 0.02).all()
    assert ((found > 0) & (found < 1)).all()


def test_isotonic_by_hand():
    """Levels 0 | 1 0 | 1; half a right and half a wrong joint are added to each."""
    curve = fit_isotonic(of([0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1]), 1)
    np.testing.assert_allclose(curve.knots, [[0.1, 0.25], [0.25, 0.5], [0.4, 0.75]])
    np.testing.assert_allclose(
        curve.apply([[0.0, 0.175, 0.3, 0.9]], [0.0]), [[0.25, 0.375, 0.5 + 0.25 / 3, 0.75]]
    )


def test_equal_scores_are_one_place():
    """Whatever the order of their rows."""
    scores, targets = [0.5, 0.5, 0.5, 0.8], [1, 0, 0, 1]
    one, other = (fit_isotonic(of(scores, t), 1) for t in (targets, [0, 0, 1, 1]))
    assert one == other
    assert one.knots[0] == [0.5, pytest.approx(1.5 / 4)]


def test_knots_are_few():
    data = drawn(4, people=3000)
    data = replace(data, targets=data.scores)  # every score is a level of its own
    curve = fit_isotonic(data, 8)
    assert 90 < len(curve.knots) <= MOST_KNOTS
    told = curve.apply(data.scores[:, None], data.log_sizes)[:, 0]
    inside = (data.scores > 0.1) & (data.scores < 0.9)
    np.testing.assert_allclose(told[inside], data.scores[inside], atol=0.01)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 2), st.floats(-3, 3)),
        min_size=1, max_size=40,
    )
)  # fmt: skip
def test_no_curve_falls(method, rows):
    """Any data: a joint's scores keep their order at each size, and are probabilities."""
    scores, targets, joints, sizes = map(np.array, zip(*rows, strict=True))
    curve = fit_curve(of(scores, targets, joints, sizes), 3, method)
    rising = np.repeat(np.linspace(0, 1, 101)[:, None], 3, axis=1)
    for size in (-5.0, 0.0, 2.0):
        told = curve.apply(rising, np.full(101, size))
        assert (np.diff(told, axis=0) >= 0).all()
        assert ((told >= 0) & (told <= 1)).all()


def test_a_temperature_ties_nothing():
    curve = fit_temperature(drawn(5), 8)
    rising = np.repeat(np.linspace(0.001, 0.999, 500)[:, None], 8, axis=1)
    assert (np.diff(curve.apply(rising, np.zeros(500)), axis=0) > 0).all()


def test_sizes_beyond_those_seen_count_as_the_last():
    curve = fit_temperature(drawn(6), 8)
    score = np.full((1, 8), 0.4)
    assert -1 <= curve.log_sizes[0] < curve.log_sizes[1] <= 1
    for beyond, last in ((-9, curve.log_sizes[0]), (9, curve.log_sizes[1])):
        assert (curve.apply(score, [beyond]) == curve.apply(score, [last])).all()


def test_nothing_to_fit_on_is_a_sentence():
    with pytest.raises(PosematchError, match="no labelled joint"):
        fit_curve(of([], []), 3, "isotonic")
