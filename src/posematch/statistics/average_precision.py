"""COCO's AP and AR as functions of how often each photo counts.

Poses and people are matched photo by photo, once. What resampling changes is only how often
a photo's matches count in the precision-recall curve, so that alone is made again, for many draws
at a time: as ``COCOeval.accumulate`` does it for a data set in which the photos lie so often.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from posematch.data.people import OKSTruth
from posematch.errors import PosematchError
from posematch.metrics.coco_matching import RECALLS, SIZES, Matches, figure_parts
from posematch.metrics.coco_truth import evaluated
from posematch.runs.predictions import PredictionTable

Floats = NDArray[np.float64]


def average_precision(one: PredictionTable, figures: Sequence[str]) -> Callable[[Floats], Floats]:
    """COCO's figures as a function of the multiplicities of ``one.photos``.

    Parameters
    ----------
    one
        With its truth.
    figures
        Names of COCO's ten.

    Returns
    -------
    callable
        (D, P) whole multiplicities to (D, F) figures in 0..1; NaN where nobody is to be found.

    Raises
    ------
    PosematchError
        There is no truth, or the poses are not those of its photos.
    """
    truth = one.stored_truth.oks
    matches = evaluate_photos(one.name, one.coco_results(), truth)
    if not (len(matches.photo) or matches.to_find.any()):
        raise PosematchError("None of the scored photos has a person to find, or a pose.")
    needed = {name: figure_parts(name) for name in figures}
    order = matches.by_score
    curves = {
        (area, t): _curve(matches, order, SIZES.index(area), t)
        for area, t in sorted({(area, t) for _, area, ts in needed.values() for t in ts})
    }

    def measure(weights: Floats) -> Floats:
        found = {key: curve(weights, RECALLS) for key, curve in curves.items()}
        columns = [
            np.mean([found[area, t][kind == "AR"] for t in ts], axis=0)
            for kind, area, ts in needed.values()
        ]
        return np.stack(columns, axis=1)

    return measure


def evaluate_photos(name: str, results: Sequence[Mapping[str, Any]], oks: OKSTruth) -> Matches:
    """The poses matched with people, photo by photo.

    Raises
    ------
    PosematchError
        A pose is in a photo that the truth does not have; the sentence begins with the name.
    """
    try:
        return evaluated(oks.annotation_file, results, oks.image_ids, oks.skeleton)
    except PosematchError as error:
        raise PosematchError(f"{name}: {error}") from error


@dataclass(frozen=True, eq=False)
class _Curve:
    """Precision and recall at one OKS threshold, for people of one size.

    Attributes
    ----------
    photo_of_match
        (J,) the photo of each matched pose, best score first, as a column of the multiplicities.
    since_match
        (J, P) how many poses that count each photo has after the match before, up to this one.
    to_find
        (P,) people to find in each photo.
    """

    photo_of_match: NDArray[np.intp]
    since_match: sparse.csr_array
    to_find: Floats

    def __call__(self, weights: Floats, recalls: Floats) -> tuple[Floats, Floats]:
        """(D,) precision, averaged over ``recalls``, and (D,) recall."""
        to_find = weights @ self.to_find
        matched = np.cumsum(weights[:, self.photo_of_match], axis=1)
        draws, matches = matched.shape
        if matches == 0:
            nothing = np.where(to_find > 0, 0.0, np.nan)
            return nothing, nothing
        counted = np.cumsum((self.since_match @ weights.T).T, axis=1)
        # Precision falls from one match to the next, so its envelope lies on the matches; a pose
        # that counts several times is as good as its last repetition.
        precision = matched / (counted + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        needed = _least_matches(recalls, to_find)
        # One search in all rows: each row is lifted above the one before.
        lift = (matched[:, -1].max() + to_find.max() + 2) * np.arange(draws)[:, None]
        place = np.searchsorted((matched + lift).ravel(), (needed + lift).ravel())
        place = place.reshape(needed.shape) - matches * np.arange(draws)[:, None]
        reached = place < matches
        rows = np.arange(draws)[:, None]
        at_recalls = np.where(reached, envelope[rows, np.where(reached, place, 0)], 0.0)
        there = to_find > 0
        recall = matched[:, -1] / np.where(there, to_find, 1.0)
        return np.where(there, at_recalls.mean(axis=1), np.nan), np.where(there, recall, np.nan)


def _least_matches(recalls: Floats, to_find: Floats) -> Floats:
    """(D, R) the least numbers of matches whose recall, as floats divide, reaches each one."""
    total = np.maximum(to_find, 1.0)[:, None]
    least: Floats = np.ceil(recalls * total)
    least -= (least - 1) / total >= recalls
    least += least / total < recalls
    return least


def _curve(all_matches: Matches, order: NDArray[np.intp], area: int, threshold: int) -> _Curve:
    """Of poses in the order of ``COCOeval.accumulate``."""
    photos = len(all_matches.photos)
    counts = order[~all_matches.ignored[area, threshold, order]]
    is_match = all_matches.matched[area, threshold, counts]
    photo = all_matches.photo[counts]
    matches = int(is_match.sum())
    # Poses behind the last match change nothing.
    segment = np.cumsum(is_match) - is_match
    inside = segment < matches
    since_match = sparse.csr_array(
        (np.ones(int(inside.sum())), (segment[inside], photo[inside])),
        shape=(matches, photos),
    )
    return _Curve(photo[is_match], since_match, all_matches.to_find[area].astype(np.float64))
