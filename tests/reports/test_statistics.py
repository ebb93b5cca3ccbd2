"""Intervals of differences, over photos and seeds; what they cover is in test_coverage.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from folders import make_run, pckh_figures, random_people, with_errors
from scipy import stats

from posematch.errors import PosematchError
from posematch.runs.finished import find_runs
from posematch.runs.predictions import PredictionTable
from posematch.skeletons import COCO
from posematch.statistics.figures import of_photos
from posematch.statistics.intervals import (
    distribution,
    figure_interval,
    multiplicities,
    paired_interval,
    paired_intervals,
)

PEOPLE = random_people(photos=30)
A, B = with_errors(PEOPLE, 0.4, seed=1), with_errors(PEOPLE, 0.35, seed=2)


def predictions(table, seed=None):
    return PredictionTable.from_frame(table, name=f"seed {seed}", seed=seed)


def test_once_every_photo_is_the_figure_of_the_metric():
    """Every figure of PCKh, to the last bit but for the order of sums."""
    figures = pckh_figures(A)
    measured = of_photos(predictions(A), list(figures))(np.ones((1, 30)))[0]
    assert dict(zip(figures, measured, strict=True)) == pytest.approx(figures, abs=1e-12)


def test_a_photo_that_counts_twice_is_all_its_people_twice():
    weights = np.random.default_rng(0).multinomial(30, [1 / 30] * 30).astype(np.float64)
    photos = predictions(A).photos
    parts = [
        A[A["image_id"] == p] for p, n in zip(photos, weights, strict=True) for _ in range(int(n))
    ]
    repeated = pckh_figures(pd.concat(parts, ignore_index=True))
    measured = of_photos(predictions(A), list(repeated))(weights[None])[0]
    assert dict(zip(repeated, measured, strict=True)) == pytest.approx(repeated, abs=1e-12)


def test_any_threshold_and_plain_values():
    one = predictions(A.assign(mass_within_2px=np.arange(len(A)) / len(A)))
    labelled = (A["visible"] > 0).to_numpy()
    error = np.hypot(A["x"] - A["true_x"], A["y"] - A["true_y"]).to_numpy()
    wrist = (A["joint"] == "left_wrist").to_numpy() & labelled
    expected = {
        "PCKh@0.37/joint/left_wrist": 100 * np.mean((error / A["head_size_img"])[wrist] <= 0.37),
        "EPE": error[labelled].mean(),
        "EPE/joint/left_wrist": error[wrist].mean(),
        "mass_within_2px": one.compactness["mass_within_2px"].ravel()[labelled].mean(),
    }
    measured = of_photos(one, list(expected))(np.ones((1, 30)))[0]
    assert dict(zip(expected, measured, strict=True)) == pytest.approx(expected, rel=1e-12)


def test_oks_is_the_mean_over_people():
    """COCOeval's formula, person by person."""
    table = with_errors(random_people(photos=5, skeleton=COCO), 3.0)
    each = []
    for _, person in table.groupby("person_id"):
        squared = (person["x"] - person["true_x"]) ** 2 + (person["y"] - person["true_y"]) ** 2
        variance = (2 * np.array(COCO.oks_sigmas)) ** 2
        oks = np.exp(-squared / variance / person["area"] / 2)
        each.append(oks[person["visible"] > 0].mean())
    measured = of_photos(predictions(table), ["OKS"])(np.ones((1, 5)))
    assert measured.item() == pytest.approx(np.mean(each), rel=1e-12)
    assert 0.1 < np.mean(each) < 0.99


def test_a_draw_has_as_many_photos_and_each_as_often():
    drawn = multiplicities(50, 4000, np.random.default_rng(0))
    assert (drawn.sum(axis=1) == 50).all()
    # A photo's count is binomial, mean 1, variance 1 - 1/50; 5 standard errors.
    assert np.abs(drawn.mean(axis=0) - 1).max() < 5 * np.sqrt(0.98 / 4000)
    assert drawn.var() == pytest.approx(0.98, abs=0.03)


def test_against_scipys_bootstrap():
    """Percentile limits of one paired difference, which scipy finds by resampling photos itself.

    They are its percentiles at the levels that P photos are expanded to; 30,000 draws of a limit
    have a standard error below 0.02 of the interval's width, and 0.05 is asked for.
    """
    measures = [of_photos(predictions(table), ["PCKh@0.5"]) for table in (A, B)]

    def difference(photos, axis):
        drawn = np.moveaxis(photos, axis, -1).reshape(-1, 30)
        weights = np.stack([np.bincount(row, minlength=30) for row in drawn]).astype(np.float64)
        values = measures[1](weights) - measures[0](weights)
        return values[:, 0].reshape(np.moveaxis(photos, axis, -1).shape[:-1])

    tail = stats.norm.cdf(np.sqrt(30 / 29) * stats.t.ppf(0.025, 29))
    theirs = stats.bootstrap(
        (np.arange(30),), difference, vectorized=True, n_resamples=30_000, method="percentile",
        confidence_level=1 - 2 * tail, rng=np.random.default_rng(3), batch=5000,
    ).confidence_interval  # fmt: skip
    ours = paired_interval([predictions(A)], [predictions(B)], "PCKh@0.5", draws=30_000)
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.05 * width)


def test_what_is_hard_for_both_cancels():
    """A difference on the same photos is surer than one on different ones would be."""
    b = A.assign(x=A["x"] + 0.02 * A["head_size_img"])
    paired = paired_interval([predictions(A)], [predictions(b)], "EPE")
    alone = figure_interval([predictions(A)], "EPE")
    assert paired.high - paired.low < 0.2 * (alone.high - alone.low)
    assert np.isnan(alone.better)


def test_lower_errors_are_better_and_turning_round_turns_the_interval():
    forth = paired_intervals([predictions(A)], [predictions(B)], ["EPE", "PCKh@0.5"])
    back = paired_intervals([predictions(B)], [predictions(A)], ["EPE", "PCKh@0.5"])
    assert forth["EPE"].value < 0
    assert forth["EPE"].better > 0.95
    assert forth["PCKh@0.5"].better > 0.95
    for name, one in forth.items():
        other = back[name]
        assert (other.low, other.high) == pytest.approx((-one.high, -one.low), abs=1e-9)
        assert other.better == pytest.approx(1 - one.better)


def test_one_with_itself_is_zero_and_no_better():
    found = paired_interval([predictions(A)], [predictions(A)], "PCKh@0.5", draws=200)
    assert (found.value, found.low, found.high, found.better) == (0, 0, 0, 0.5)


def test_the_same_call_gives_the_same_interval_and_memory_does_not_matter(monkeypatch):
    a, b = [predictions(A)], [predictions(B)]
    first = paired_interval(a, b, "PCKh@0.5", draws=500)
    assert paired_interval(a, b, "PCKh@0.5", draws=500) == first
    assert paired_interval(a, b, "PCKh@0.5", draws=500, seed=1) != first
    monkeypatch.setattr("posematch.statistics.intervals._CHUNK_FLOATS", 30 * 37)
    assert paired_interval(a, b, "PCKh@0.5", draws=500) == first


def test_with_many_photos_seeds_are_students_t():
    """Where photos say nothing, the interval is the textbook's, of paired and of Welch's t."""
    generator = np.random.default_rng(0)
    a, b = generator.normal(50, 2, size=4), generator.normal(53, 2, size=4)
    still = [(one, np.repeat(one[:, None], 20_000, axis=1)) for one in (a, b)]
    for paired, theirs in (
        (True, stats.ttest_rel(b, a)),
        (False, stats.ttest_ind(b, a, equal_var=False)),
    ):
        value, draws = distribution(*still, paired, photos=10_000)
        expected = theirs.confidence_interval(0.95)
        assert value == pytest.approx(b.mean() - a.mean())
        found = np.quantile(draws, [0.025, 0.975])
        assert found == pytest.approx([expected.low, expected.high], rel=1e-2)


def test_one_training_against_several_borrows_their_spread():
    """The t interval of a single new observation: s^2 (1 + 1/n), n - 1 degrees of freedom."""
    several = np.array([50.0, 52.0, 57.0])
    a, b = ((one, np.repeat(one[:, None], 20_000, axis=1)) for one in (several, np.array([60.0])))
    value, draws = distribution(a, b, paired=False, photos=10_000)
    half = stats.t.ppf(0.975, 2) * several.std(ddof=1) * np.sqrt(1 + 1 / 3)
    assert np.quantile(draws, 0.975) - value == pytest.approx(half, rel=1e-2)


def test_two_seeds_have_the_photos_interval_and_their_spread():
    """Student's t of one degree of freedom gave limits beyond -100 and 100 here."""
    tables = [(with_errors(PEOPLE, e, seed=9), with_errors(PEOPLE, e - g, seed=9))
              for e, g in ((0.3, 0.02), (0.6, 0.2), (0.5, 0.1))]  # fmt: skip
    a, b = ([predictions(pair[i], n) for n, pair in enumerate(tables)] for i in range(2))
    name = "PCKh@0.5"
    alone = [paired_interval([x], [y], name, draws=500) for x, y in zip(a, b, strict=True)]
    assert all(one.seeds_std is None for one in alone)
    two = paired_interval(a[:2], b[:2], name, draws=500)
    each = np.array([one.value for one in alone])
    assert two.seeds_std == pytest.approx(each[:2].std(ddof=1))
    assert two.value == pytest.approx(each[:2].mean())
    # The mean's interval is no wider than the wider one of its parts, on the same photos.
    assert two.high - two.low <= max(one.high - one.low for one in alone[:2])
    independent = paired_interval(a[:2], b[1:], name, draws=500)
    variances = [np.var([of(x) for x in side], ddof=1) for side in (a[:2], b[1:])]
    assert independent.seeds_std == pytest.approx(np.sqrt(sum(variances)))
    borrowed = paired_interval(a[:2], [replace(b[2], seed=7)], name, draws=500)
    assert borrowed.seeds_std == pytest.approx(np.sqrt(2 * variances[0]))
    assert figure_interval(a[:2], name).seeds_std == pytest.approx(np.sqrt(variances[0]))
    three = paired_interval(a, b, name, draws=500)
    assert three.seeds_std is None
    assert three.high - three.low > 2 * (two.high - two.low)


def of(one):
    return of_photos(one, ["PCKh@0.5"])(np.ones((1, 30))).item()


def test_seeds_are_paired_by_number_not_by_order(tmp_path):
    """Where every seed of b is two points better, only pairs see it."""
    tables = [with_errors(PEOPLE, error, seed=9) for error in (0.3, 0.5, 0.7)]
    better = [with_errors(PEOPLE, error - 0.02, seed=9) for error in (0.3, 0.5, 0.7)]
    a = [predictions(table, seed) for seed, table in enumerate(tables)]
    b = [predictions(table, seed) for seed, table in reversed(list(enumerate(better)))]
    paired = paired_interval(a, b, "EPE", draws=500)
    others = [predictions(table, seed + 5) for seed, table in enumerate(better)]
    independent = paired_interval(a, others, "EPE", draws=500)
    assert paired.value == pytest.approx(independent.value)
    assert 10 * (paired.high - paired.low) < independent.high - independent.low
    assert paired.better > 0.99 > independent.better


def test_runs_of_two_recipes(tmp_path):
    for seed in range(3):
        for loss, error in (("gaussian_mse", 0.4), ("matching", 0.3)):
            table = with_errors(PEOPLE, error, seed=10 * seed + len(loss))
            make_run(tmp_path / loss / str(seed), loss=loss, seed=seed, predictions={0: table})
    a, b = (find_runs([tmp_path / loss]) for loss in ("gaussian_mse", "matching"))
    found = paired_interval(a, b, "PCKh@0.5")
    means = [np.mean([run.figures["PCKh@0.5"] for run in runs]) for runs in (a, b)]
    assert found.value == pytest.approx(means[1] - means[0])
    assert found.low < found.value < found.high


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("PCKh@0.5/Knuckle", "no column of PCKh; there are: Head"),
        ("PCKh@0.5/joint/tail", "have no joint 'tail'"),
        ("beauty", "have no column 'beauty'"),
        ("AP", r"no truth\.json"),
        ("OKS", "have no OKS sigmas"),
    ],
)
def test_a_figure_that_is_not_there_is_told(name, told):
    with pytest.raises(PosematchError, match=told):
        figure_interval([predictions(A)], name)


def test_other_photos_one_photo_and_nobody_are_told():
    fewer = predictions(A[A["image_id"] > 0].reset_index(drop=True))
    with pytest.raises(PosematchError, match="30 and 29 photos are scored, not the same"):
        paired_interval([predictions(A)], [fewer], "PCKh@0.5")
    one = predictions(A[A["image_id"] == 0].reset_index(drop=True))
    with pytest.raises(PosematchError, match="an interval needs two"):
        figure_interval([one], "PCKh@0.5")
    with pytest.raises(PosematchError, match="a group has no runs"):
        paired_interval([], [one], "PCKh@0.5")
    with pytest.raises(PosematchError, match="in one order"):
        predictions(A.sample(frac=1, random_state=0).reset_index(drop=True))
