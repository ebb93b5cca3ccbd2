"""COCO's AP and AR as functions of how often each photo counts.

pycocotools matches poses and people photo by photo, once. What resampling changes is only how often
a photo's matches count in the precision-recall curve, so that alone is made again, for many draws
at a time: as ``COCOeval.accumulate`` does it for a data set in which the photos lie so often.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import sparse

from posematch.data.coco import PERSON_CATEGORY, read_annotations
from posematch.data.people import OKSTruth, People, Person
from posematch.errors import PosematchError
from posematch.metrics import COCOKeypointAP
from posematch.runs.truth import StoredTruth, read_truth

if TYPE_CHECKING:
    from posematch.statistics.figures import Predicted

Floats = NDArray[np.float64]
AREAS = {"(M)": "medium", "(L)": "large"}


def average_precision(one: Predicted, figures: Sequence[str]) -> Callable[[Floats], Floats]:
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
    evaluation = evaluate_photos(one)
    labels = list(evaluation.params.areaRngLbl)
    needed = {name: _parse(name) for name in figures}
    curves = {
        (area, t): _curve(evaluation, labels.index(area), t)
        for area, t in sorted({(area, t) for _, area, ts in needed.values() for t in ts})
    }
    recalls = np.asarray(evaluation.params.recThrs, dtype=np.float64)

    def measure(weights: Floats) -> Floats:
        found = {key: curve(weights, recalls) for key, curve in curves.items()}
        columns = [
            np.mean([found[area, t][kind] for t in ts], axis=0)
            for kind, area, ts in needed.values()
        ]
        return np.stack(columns, axis=1)

    return measure


def truth_of(one: Predicted) -> Path:
    """The file of the truth.

    Raises
    ------
    PosematchError
        There is none.
    """
    if one.truth is None:
        raise PosematchError(
            f"{one.name} has no truth.json that AP could be measured against: it was written by an"
            " older posematch, or is no run on COCO; train it again, or name an annotation file."
        )
    return one.truth


def evaluate_photos(one: Predicted) -> Any:
    """``COCOeval`` of the poses, evaluated photo by photo and not yet accumulated.

    Raises
    ------
    PosematchError
        As `average_precision`.
    """
    path = truth_of(one)
    stored = read_truth(path)
    results = poses(one) if one.results is None else one.results
    strangers = {int(result["image_id"]) for result in results} - set(stored.oks.image_ids)
    if strangers:
        raise PosematchError(
            f"{one.name} has poses in photo {min(strangers)}, which is not in {path}: score"
            " predictions against the annotations they were made for."
        )
    with redirect_stdout(StringIO()):
        truth = _coco(path, stored)
        found = COCO()
        if results:
            # A bbox would make pycocotools take the size of the person from it.
            kept = ("image_id", "category_id", "keypoints", "score")
            found = truth.loadRes([{key: result[key] for key in kept} for result in results])
        else:
            found.dataset = {**truth.dataset, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, "keypoints")
        evaluation.params.imgIds = sorted(stored.oks.image_ids)
        evaluation.params.catIds = [PERSON_CATEGORY]
        evaluation.params.kpt_oks_sigmas = np.array(stored.oks.skeleton.oks_sigmas)
        evaluation.evaluate()
    return evaluation


def _coco(path: Path, stored: StoredTruth) -> Any:
    truth = COCO()
    truth.dataset = read_annotations(path, stored.oks.skeleton)
    truth.createIndex()
    return truth


def poses(one: Predicted) -> list[dict[str, Any]]:
    """The table's poses as the metric scores them: rescored, near-duplicates suppressed.

    Raises
    ------
    PosematchError
        Padded boxes of the people are in neither the table nor the truth.
    """
    path = truth_of(one)
    stored = read_truth(path)
    ids = one.people["person_id"].to_numpy()
    sizes = stored.box_sizes
    if {"box_width", "box_height"} <= set(one.table.columns):
        width, height = (one.grid(f"box_{side}")[:, 0] for side in ("width", "height"))
        sizes = {int(i): (w, h) for i, w, h in zip(ids, width, height, strict=True)}
    if missing := sorted(set(ids.tolist()) - sizes.keys()):
        raise PosematchError(
            f"{path} has no box of person {missing[0]}, which {one.name} has predictions of:"
            " OKS-NMS needs it; name the run folder that the predictions are from."
        )
    box_scores = one.grid("box_score")[:, 0]
    people = [
        Person(
            person_id=int(person),
            image_id=int(photo),
            image=Path(),
            center_img=np.zeros(2),
            box_size_img=np.array(sizes[int(person)], dtype=np.float64),
            joints_img=np.zeros((0, 2)),
            visible=np.zeros(0, dtype=np.float32),
            occluded=np.zeros(0, dtype=np.bool_),
            box_score=float(score),
        )
        for person, photo, score in zip(ids, one.people["image_id"], box_scores, strict=True)
    ]
    truth = OKSTruth(path, stored.oks.image_ids, stored.oks.boxes, stored.oks.skeleton)
    metric = COCOKeypointAP(People("coco", "valid", stored.oks.skeleton, people, truth))
    joints_img = torch.from_numpy(np.stack([one.grid("x"), one.grid("y")], axis=-1))
    # A copy: pandas hands out read-only arrays, which torch warns of.
    metric.update(torch.tensor(ids.tolist()), joints_img, torch.tensor(one.grid("score")))
    return metric.results()


def _parse(name: str) -> tuple[int, str, list[int]]:
    """0 for precision or 1 for recall, name of the area range, indices of OKS thresholds."""
    kind = 0 if name.startswith("AP") else 1
    rest = name[2:]
    if rest in AREAS:
        return kind, AREAS[rest], list(range(10))
    return kind, "all", [round((float(rest) - 50) / 5)] if rest else list(range(10))


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


def _curve(evaluation: Any, area: int, threshold: int) -> _Curve:
    """Of ``evaluation.evalImgs``, with poses in the order of ``COCOeval.accumulate``."""
    photos = len(evaluation.params.imgIds)
    of_photo = evaluation.evalImgs[area * photos : (area + 1) * photos]
    there = [(p, one) for p, one in enumerate(of_photo) if one is not None]
    if not there:
        raise PosematchError("None of the scored photos has a person to find, or a pose.")
    to_find = np.zeros(photos)
    for p, one in there:
        to_find[p] = np.count_nonzero(np.asarray(one["gtIgnore"]) == 0)
    scores = np.concatenate([np.asarray(one["dtScores"], dtype=np.float64) for _, one in there])
    order = np.argsort(-scores, kind="mergesort")
    photo = np.concatenate([np.full(len(one["dtScores"]), p, dtype=np.intp) for p, one in there])
    matched = np.concatenate([one["dtMatches"][threshold] for _, one in there]) != 0
    ignored = np.concatenate([one["dtIgnore"][threshold] for _, one in there]) != 0
    counts = order[~ignored[order]]
    is_match = matched[counts]
    matches = int(is_match.sum())
    # Poses behind the last match change nothing.
    segment = np.cumsum(is_match) - is_match
    inside = segment < matches
    since_match = sparse.csr_array(
        (np.ones(int(inside.sum())), (segment[inside], photo[counts][inside])),
        shape=(matches, photos),
    )
    return _Curve(photo[counts][is_match], since_match, to_find)
