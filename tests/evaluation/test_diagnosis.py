"""Kinds of errors, breakdowns and reliability: by hand, and by plain loops over random tables."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from prediction_tables import random_table

from posematch.errors import PosematchError
from posematch.evaluation.breakdown import breakdown, groups
from posematch.evaluation.error_types import ERROR_TYPES, error_shares, error_types
from posematch.evaluation.reliability import (
    calibration,
    risk_coverage,
    score_calibration,
    score_risk_coverage,
)
from posematch.evaluation.scores import Evaluation, Part
from posematch.metrics.conventions import pckh_conventions
from posematch.runs.predictions import PredictionTable
from posematch.skeletons import COCO, MPII, Skeleton, skeleton_from_names

of = PredictionTable.from_frame


def plain_similarity(row: pd.Series, truth: pd.Series, skeleton: Skeleton, k: int) -> float:
    """Of a predicted joint to a true place, by the size of whose place it is."""
    squared = (row.x - truth.true_x) ** 2 + (row.y - truth.true_y) ** 2
    if skeleton is MPII:
        # 0.5 at half a head, and falling like a Gaussian.
        return float(math.exp(-math.log(2) * squared / (0.5 * truth.head_size_img) ** 2))
    return float(math.exp(-squared / (2 * truth.area * (2 * skeleton.oks_sigmas[k]) ** 2)))


def plain_kinds(table: pd.DataFrame, skeleton: Skeleton) -> list[str]:
    """Ronchi and Perona's definitions, one joint and one true place at a time."""
    twin = {**dict(skeleton.flip_pairs), **{b: a for a, b in skeleton.flip_pairs}}
    rows = list(table.itertuples())
    K, kinds = skeleton.num_joints, []
    for number, row in enumerate(rows):
        person, k = divmod(number, K)
        if row.visible == 0:
            kinds.append("")
            continue
        best, where = -1.0, "miss"
        for other in range(len(rows) // K):
            for joint in {k, twin.get(k, k)}:
                truth = rows[other * K + joint]
                if truth.image_id != row.image_id or truth.visible == 0:
                    continue
                place = "own" if joint == k else "inversion"
                place = place if other == person else "swap"
                similarity = plain_similarity(row, truth, skeleton, k)
                if similarity > best:
                    best, where = similarity, place
        if best < 0.5:
            kinds.append("miss")
        elif where == "own":
            kinds.append("good" if best >= 0.85 else "jitter")
        else:
            kinds.append(where)
    return kinds


@pytest.mark.parametrize("skeleton", [MPII, COCO], ids=lambda one: one.name)
def test_kinds_by_plain_loops(skeleton: Skeleton) -> None:
    table = random_table(seed=0, people=24, skeleton=skeleton, photos=4, spread_px=12)
    # Predictions on other joints and other people, so that all kinds are there.
    random = np.random.default_rng(1)
    moved = random.permutation(len(table))[: len(table) // 3]
    K = skeleton.num_joints
    twin = np.array(skeleton.flip_permutation)
    for row in moved:
        person, k = divmod(int(row), K)
        other = person if random.random() < 0.5 else min(person + 1, 23)
        table.loc[row, ["x", "y"]] = table.loc[other * K + twin[k], ["true_x", "true_y"]].to_numpy()
    kinds = error_types(of(table)).ravel()
    assert kinds.tolist() == plain_kinds(table, skeleton)
    assert set(kinds) == {*ERROR_TYPES, ""}


def hand_made() -> pd.DataFrame:
    """Two people of MPII in one photo, heads of 100 px, far from each other, all joints right."""
    true_img = np.zeros((2, 16, 2))
    true_img[..., 0] = 1000 * np.arange(16)
    true_img[1, :, 1] = 5000
    return pd.DataFrame(
        {
            "person_id": np.repeat([0, 1], 16),
            "image_id": 0,
            "joint": np.tile(MPII.joints, 2),
            "x": true_img[..., 0].ravel(),
            "y": true_img[..., 1].ravel(),
            "score": 1.0,
            "true_x": true_img[..., 0].ravel(),
            "true_y": true_img[..., 1].ravel(),
            "visible": 1.0,
            "head_size_img": 100.0,
        }
    )


def test_kinds_by_hand() -> None:
    table = hand_made()
    wrists = [MPII.joints.index(f"{side}_wrist") for side in ("right", "left")]
    table.loc[0, "y"] += 24  # below 0.242 heads
    table.loc[1, "y"] += 25  # above it, within half a head
    table.loc[2, "y"] += 51  # beyond half a head, near nothing else
    table.loc[wrists[0], "x"] = table.loc[wrists[1], "true_x"]  # the other wrist
    table.loc[4, "y"] = 5000  # the same joint of the other person
    kinds = error_types(of(table)).ravel()
    assert kinds[[0, 1, 2, wrists[0], 4]].tolist() == [
        "good", "jitter", "miss", "inversion", "swap",
    ]  # fmt: skip
    assert (np.delete(kinds, [0, 1, 2, wrists[0], 4]) == "good").all()
    shares = error_shares(of(table))
    assert shares.loc["all", "good"] == pytest.approx(24 / 28, rel=1e-15)
    assert shares.loc["all", "joints"] == 28  # without pelvis and thorax
    by_joint = error_shares(of(table), "joint")
    assert list(by_joint.index) == list(MPII.joints)
    assert by_joint.loc["right_wrist", "inversion"] == 0.5
    assert np.allclose(by_joint[list(ERROR_TYPES)].sum(axis=1), 1)


def test_near_joints_are_pckhs() -> None:
    """good, jitter and what is nearer to another place are, together, what PCKh@0.5 counts."""
    table = random_table(seed=5)
    distance = np.hypot(table.x - table.true_x, table.y - table.true_y) / table.head_size_img
    expected = ((distance <= 0.5) & (table.visible > 0)).to_numpy()
    assert of(table).hits(0.5).ravel().tolist() == expected.tolist()
    own = np.isin(error_types(of(table)).ravel(), ["good", "jitter"])
    assert expected[own].all()


@pytest.mark.parametrize("by", ["joint", "size", "occlusion", "crowding"])
@pytest.mark.parametrize("skeleton", [MPII, COCO], ids=lambda one: one.name)
def test_breakdown_by_plain_loops(by: str, skeleton: Skeleton) -> None:
    table = random_table(seed=2, people=40, skeleton=skeleton)
    frame = breakdown(of(table), by)  # type: ignore[arg-type]
    found: dict[str, list[tuple]] = {}
    for number, row in enumerate(table.itertuples()):
        k = number % skeleton.num_joints
        if row.visible == 0 or (
            skeleton is MPII and by != "joint" and row.joint in ("pelvis", "thorax")
        ):
            continue
        if by == "joint":
            group = row.joint
        elif by == "size" and skeleton is MPII:
            group = "small" if row.head_size_img <= 55 else "medium"
            group = group if row.head_size_img <= 90 else "large"
        elif by == "size":
            group = "small" if row.area <= 32**2 else "medium"
            group = group if row.area <= 96**2 else "large"
        elif by == "occlusion":
            group = "not told" if skeleton is MPII else ("visible", "occluded")[int(row.occluded)]
        else:
            group = {0.0: "easy", 0.25: "medium", 0.5: "medium", 0.75: "medium"}.get(
                row.crowd_index, "hard"
            )
        error = math.hypot(row.x - row.true_x, row.y - row.true_y)
        measure = (
            error / row.head_size_img if skeleton is MPII
            else plain_similarity(row, row, skeleton, k)
        )  # fmt: skip
        found.setdefault(group, []).append((row.person_id, error, measure))
    assert set(frame.index) == set(found)
    for group, rows in found.items():
        ids, errors, measures = map(np.array, zip(*rows, strict=True))
        got = frame.loc[group]
        assert (got["people"], got["joints"]) == (len(set(ids)), len(rows))
        assert got["EPE_px"] == pytest.approx(errors.mean(), rel=1e-12)
        if skeleton is MPII:
            assert got["PCKh@0.5"] == pytest.approx(100 * (measures <= 0.5).mean(), rel=1e-12)
            assert got["PCKh@0.1"] == pytest.approx(100 * (measures <= 0.1).mean(), rel=1e-12)
            assert got["EPE_heads"] == pytest.approx(measures.mean(), rel=1e-12)
        else:
            assert got["OKS"] == pytest.approx(measures.mean(), rel=1e-12)
            assert got["near"] == pytest.approx((measures >= 0.5).mean(), rel=1e-12)
            assert got["good"] == pytest.approx((measures >= 0.85).mean(), rel=1e-12)


def test_calibration_by_hand() -> None:
    """Four bins of two: |0.15-0|, |0.4-0.5|, |0.7-0.5|, |0.95-1|, equally weighted."""
    scores = [0.9, 1.0, 0.1, 0.2, 0.6, 0.8, 0.3, 0.5]
    right = [1, 1, 0, 0, 1, 0, 0, 1]
    result = calibration(scores, right, bins=4)
    assert result.error == pytest.approx((0.15 + 0.1 + 0.2 + 0.05) / 4, rel=1e-12)
    assert result.bins["joints"].tolist() == [2, 2, 2, 2]
    assert calibration([0.3, 0.9], [0, 1], bins=15).bins["joints"].tolist() == [1, 1]


def test_perfectly_calibrated_scores_have_a_small_error() -> None:
    """Right with the probability the score says: each of 15 bins of 4,000 is off by noise alone,
    |noise| of at most sqrt(1/4 / 4000) = 0.008 on average; scores squared are off by 1/6."""
    random = np.random.default_rng(0)
    scores = random.random(60_000)
    right = random.random(60_000) < scores
    assert calibration(scores, right).error < 0.008
    assert calibration(scores**2, right).error == pytest.approx(1 / 6, abs=0.008)


def test_risk_coverage_by_hand() -> None:
    """Best first: right, wrong, right: risks 0, 1/2, 1/3."""
    result = risk_coverage([0.5, 0.9, 0.1], [0, 1, 1])
    assert result.curve["coverage"].tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert result.curve["risk"].tolist() == pytest.approx([0, 0.5, 1 / 3])
    assert result.area == pytest.approx((0 + 0.5 + 1 / 3) / 3)


def test_ties_stand_for_their_mean_whatever_their_order() -> None:
    """One score for all says nothing: the risk is the share of errors at every coverage."""
    right = np.array([1, 0, 1, 1])
    result = risk_coverage(np.full(4, 0.5), right)
    assert result.area == 0.25
    assert result.curve.to_numpy().tolist() == [[1.0, 0.25]]
    random = np.random.default_rng(3)
    scores, right = random.random(300).round(1), random.random(300) < 0.7
    order = random.permutation(300)
    for function in (risk_coverage, calibration):
        one, two = function(scores, right), function(scores[order], right[order])
        frames = [getattr(x, "curve", getattr(x, "bins", None)) for x in (one, two)]
        pd.testing.assert_frame_equal(*frames, rtol=1e-12)


def test_reliability_of_a_table_counts_what_pckh_counts() -> None:
    table = random_table(seed=4)
    counted = (table.visible > 0) & ~table.joint.isin(["pelvis", "thorax"])
    distance = np.hypot(table.x - table.true_x, table.y - table.true_y)
    right = distance <= 0.5 * table.head_size_img
    expected = calibration(table.score[counted], right[counted])
    assert score_calibration(of(table)).error == expected.error
    area = risk_coverage(table.score[counted], right[counted]).area
    assert score_risk_coverage(of(table)).area == area
    coco = random_table(seed=4, skeleton=COCO)
    assert 0 < score_risk_coverage(of(coco)).area < 1


def test_evaluate_tells_kinds_of_errors_and_reliability(tmp_path: Path) -> None:
    """On the terminal, in table.md and in figures.json; no second computation of either."""
    table = of(random_table(seed=8))
    part = Part(pckh_conventions(table.joints_img, table.pckh_truth), table=table)
    evaluation = Evaluation("drawn", (part,))
    told = evaluation.diagnosis()
    kinds = told["kinds of errors"].set_index("joint")
    assert list(kinds.index) == ["all", *MPII.joints]
    assert kinds.loc["all"].equals(error_shares(table).loc["all"])
    (row,) = told["reliability of scores"].to_dict("records")
    assert row["calibration error"] == score_calibration(table).error
    wrong = table.labelled & ~table.hits(0.5)
    counted = table.labelled & ~np.isin(MPII.joints, ["pelvis", "thorax"])
    expected = wrong[counted].mean()
    assert row["share of errors"] == pytest.approx(expected, rel=1e-12)
    evaluation.write(tmp_path)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["diagnosis"]["reliability of scores"] == [row]
    assert "Kinds of errors:" in (tmp_path / "table.md").read_text()
    assert {str(one.title) for one in evaluation.tables()} >= set(told)


def test_own_skeletons_bring_their_sigmas() -> None:
    own = skeleton_from_names("own", ["left_tip", "right_tip"], [(0, 1)])
    table = random_table(seed=6, skeleton=own)
    with pytest.raises(PosematchError, match="have no OKS sigmas"):
        error_types(of(table))
    assert set(error_types(of(table, skeleton=own)).ravel()) <= {*ERROR_TYPES, ""}
    assert len(breakdown(of(table, skeleton=own), "joint")) == 2


def test_wrong_tables_are_told() -> None:
    table = random_table(seed=7)
    with pytest.raises(PosematchError, match="no column 'crowd_index'"):
        groups(of(table.drop(columns="crowd_index")), "crowding")
    with pytest.raises(PosematchError, match="by=weight"):
        breakdown(of(table), "weight")  # type: ignore[arg-type]
    with pytest.raises(PosematchError, match="nothing to measure"):
        error_types(of(table.assign(visible=0.0)))
    with pytest.raises(PosematchError, match="NaN"):
        of(table.assign(x=np.nan))
    with pytest.raises(PosematchError, match="in one order"):
        of(table.iloc[[*range(16), *range(31, 15, -1), *range(32, len(table))]])
    with pytest.raises(PosematchError, match="not those of the skeleton coco"):
        of(table, skeleton=COCO)
    with pytest.raises(PosematchError, match="no column 'area'"):
        error_types(of(table.drop(columns="head_size_img")))
    with pytest.raises(PosematchError, match="size of 0"):
        error_types(of(table.assign(head_size_img=0.0)))
    with pytest.raises(PosematchError, match="outside 0 to 1"):
        score_calibration(of(table.assign(score=2.0)))
    with pytest.raises(PosematchError, match="bins=0"):
        score_calibration(of(table), bins=0)
    with pytest.raises(PosematchError, match="at least one"):
        risk_coverage([], [])
    with pytest.raises(PosematchError, match="NaN"):
        risk_coverage([np.nan], [1])


def test_groups_that_nobody_is_in_are_no_rows() -> None:
    assert breakdown(of(hand_made().assign(crowd_index=np.nan)), "crowding").empty
