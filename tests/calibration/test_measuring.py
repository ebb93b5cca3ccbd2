"""How calibrated scores are, on people that no fit has seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from samples import INPUT_SIZE, drawn, table_of

from posematch.calibration.calibrating import calibrate_table
from posematch.calibration.crossfit import FOLDS, cross_fitted, folds_of_photos
from posematch.calibration.labelled import LabelledScores
from posematch.calibration.measuring import BRIER, ERROR, LOG_LOSS, reliability
from posematch.errors import PosematchError
from posematch.evaluation.reliability import bin_shares, calibration

METHODS = ["temperature", "isotonic"]


def folds(data) -> np.ndarray:
    return folds_of_photos(data.photos)


@pytest.mark.parametrize("rounded", [None, 1], ids=["all different", "with ties"])
def test_bins_are_those_of_reliability(rounded):
    data = drawn(0, people=100)
    scores = data.scores if rounded is None else data.scores.round(rounded)
    shares = bin_shares(scores).toarray()
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    told = calibration(scores, data.targets)
    np.testing.assert_allclose(shares.sum(axis=0), told.bins["joints"])
    error = np.abs((scores - data.targets) @ shares).sum() / len(scores)
    assert error == pytest.approx(told.error, abs=1e-12)


def test_figures_by_hand():
    data = drawn(1, people=60)
    after = data.scores**2
    found = reliability(data, after, folds(data), draws=100)
    each = [folds(data) == k for k in range(FOLDS)]
    for side, scores in enumerate((data.scores, after)):
        errors = [calibration(scores[k], data.targets[k]).error for k in each]
        mean = np.average(errors, weights=[k.sum() for k in each])
        assert found.figures[ERROR][side].value == pytest.approx(mean)
        brier = np.mean((scores - data.targets) ** 2)
        assert found.figures[BRIER][side].value == pytest.approx(brier)
        logs = np.where(data.targets > 0, -np.log(scores), -np.log(1 - scores))
        assert found.figures[LOG_LOSS][side].value == pytest.approx(logs.mean(), rel=1e-3)
    for before, later, difference in found.figures.values():
        assert difference.value == pytest.approx(later.value - before.value)
        assert before.low <= before.value <= before.high
    assert sum(len(one) for one in found.bins_after) == FOLDS * len(found.bins_before)


def test_the_floor_is_the_error_of_calibrated_scores():
    """Mean over samples of scores that are the probabilities themselves."""
    samples = [drawn(seed, people=200, calibrated=True) for seed in range(20)]
    found = [reliability(one, one.scores, folds(one), draws=100) for one in samples]
    measured = np.mean([one.figures[ERROR][0].value for one in found])
    floor = np.mean([one.floors[0] for one in found])
    assert floor == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("measure", ["heads", "oks"])
def test_miscalibrated_scores_come_near_the_floor(method, measure):
    found = calibrate_table(table_of(2, 600, measure), INPUT_SIZE, "drawn", 3, method, draws=300)
    before, after, difference = found.reliability.figures[ERROR]
    assert before.value > 0.08
    assert difference.high < 0
    assert after.value < 1.6 * found.reliability.floors[1] < before.value
    for name in (BRIER, LOG_LOSS):
        assert found.reliability.figures[name][2].high < 0
    record = found.record
    assert record.meaning == {"heads": "within 0.5 head sizes", "oks": "expected OKS"}[measure]
    labelled = table_of(2, 600, measure).labelled
    assert record.people == labelled.any(axis=1).sum()
    assert (record.joints, record.photos, record.epoch) == (labelled.sum(), 300, 3)
    assert (record.error_before, record.error_after) == (before.value, after.value)
    assert found.caution == ""


@pytest.mark.parametrize("method", METHODS)
def test_calibrated_scores_stay(method):
    table = table_of(3, 600)
    data = LabelledScores.of(table, INPUT_SIZE)
    law = drawn(3, 600, 4, calibrated=True).scores.reshape(600, 4)
    table = replace(table, scores=law)
    found = calibrate_table(table, INPUT_SIZE, "drawn", 0, method, draws=300)
    _, _, difference = found.reliability.figures[LOG_LOSS]
    assert abs(difference.value) < 0.01
    told = found.record.apply(law, table.box_size_img, INPUT_SIZE)
    assert np.abs(told - law).mean() < 0.04
    assert len(data) == table.labelled.sum()


@pytest.mark.parametrize("method", METHODS)
def test_nobody_is_calibrated_by_what_became_of_himself(method):
    """Other truths of one photo change the scores of other folds, and none of its own."""
    table = table_of(4, 60)
    photo = table.image_ids == 7
    changed = replace(table, joints_img=np.where(photo[:, None, None], 1e4, table.joints_img))
    one, other = (
        cross_fitted(each, LabelledScores.of(each, INPUT_SIZE), INPUT_SIZE, method)
        for each in (table, changed)
    )
    own = folds_of_photos(table.image_ids) == folds_of_photos(table.image_ids)[photo][0]
    assert (one[own] == other[own]).all()
    assert (one[~own] != other[~own]).any()


def test_a_photo_is_in_one_fold():
    image_ids = np.array([5, 9, 5, 2, 2, 30, 31, 32, 33, 34, 9])
    fold = folds_of_photos(image_ids)
    assert set(fold) == set(range(FOLDS))
    for photo in set(image_ids):
        assert len(set(fold[image_ids == photo])) == 1
    with pytest.raises(PosematchError, match=r"on 4 photos.*takes 5"):
        folds_of_photos(np.array([1, 1, 2, 3, 4]))


def test_a_fit_to_noise_is_not_praised():
    """Scores that say nothing of a few people: in common bins of all folds any fit would seem
    better than a calibrated score."""
    random = np.random.default_rng(0)
    excess = []
    for seed in range(8):
        data = drawn(seed, people=60)
        data = replace(data, targets=(random.random(len(data)) < 0.5).astype(float))
        scores = data.scores.reshape(60, 8)
        table = replace(table_of(seed, 60, joints=8, labelled=1.0), scores=scores)
        miss = (data.targets.reshape(60, 8) == 0)[..., None]
        table = replace(table, joints_img=np.where(miss, 1e4, table.true_img))
        found = calibrate_table(table, INPUT_SIZE, "noise", 0, "isotonic", draws=100)
        excess.append(found.reliability.figures[ERROR][1].value - found.reliability.floors[1])
    assert np.mean(excess) > 0


def test_few_people():
    found = calibrate_table(table_of(5, 30), INPUT_SIZE, "few", 0, draws=100)
    assert found.caution.startswith("30 people are few")
    with pytest.raises(PosematchError, match=r"8 people with labelled joints.*needs 10"):
        calibrate_table(table_of(6, 8), INPUT_SIZE, "fewer", 0)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"scores": None}, "no column 'score'"),
        ({"box_size_img": None}, "no column 'box_width'"),
        ({"box_size_img": np.zeros((30, 2))}, "box without a size"),
        ({"scores": np.full((30, 4), 1.5)}, "scores outside 0 to 1"),
        ({"labelled": np.zeros((30, 4), bool)}, "no joint of the predictions is labelled"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_fitted_is_a_sentence(changed, words):
    with pytest.raises(PosematchError, match=words) as caught:
        calibrate_table(replace(table_of(7, 30), **changed), INPUT_SIZE, "odd", 0)
    assert "\n" not in str(caught.value)
