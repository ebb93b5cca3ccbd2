"""Which pose finds which person: COCOeval's matching of all photos at once, and its ten figures.

``pycocotools.cocoeval.COCOeval`` for keypoints, step by step the same and with the same numbers to
the last bit (``computeOks``, ``evaluateImg``, ``accumulate``, ``summarize``), but for arrays of all
photos instead of loops over poses, people, thresholds and sizes. Parameters are pycocotools' own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.cocoeval import Params

from posematch.data.annotated import AnnotatedPeople
from posematch.metrics.columns import FIGURES

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Rows = NDArray[np.intp]

_PARAMS = Params("keypoints")
OKS_THRESHOLDS: Floats = np.asarray(_PARAMS.iouThrs, dtype=np.float64)
RECALLS: Floats = np.asarray(_PARAMS.recThrs, dtype=np.float64)
SIZES: tuple[str, ...] = tuple(_PARAMS.areaRngLbl)
_AREAS: Floats = np.asarray(_PARAMS.areaRng, dtype=np.float64)
_MOST_POSES: int = _PARAMS.maxDets[-1]
# Pairs of a pose and a person whose similarity is computed in one go, and cells of a photo's
# matching (people x sizes x thresholds) that are worked on in one go: a few MB each.
_PAIRS_AT_ONCE, _CELLS_AT_ONCE = 50_000, 500_000


@dataclass(frozen=True, eq=False)
class Matches:
    """Poses against people; A sizes (`SIZES`), T thresholds (`OKS_THRESHOLDS`), P photos, D poses.

    Attributes
    ----------
    photos
        (P,) ids of the scored photos, ascending.
    photo
        (D,) the place of each pose's photo in these; poses are in the order of photos, the best
        first, of each photo the 20 best.
    scores
        (D,).
    matched, ignored
        (A, T, D) whether the pose has somebody, and whether it does not count.
    to_find
        (A, P) people to find.
    best
        (N,) for each person of the file the row of the result that is most similar, of equal ones
        that of the highest score; -1 where the photo has none or is not scored.
    """

    photos: NDArray[np.int64]
    photo: Rows
    scores: Floats
    matched: Bools
    ignored: Bools
    to_find: Rows
    best: Rows

    @property
    def by_score(self) -> Rows:
        """(D,) the poses of all photos, best score first."""
        return np.argsort(-self.scores, kind="stable")

    def figures(self) -> dict[str, float]:
        """COCO's ten figures; without those of sizes that nobody has."""
        sizes, thresholds = self.matched.shape[:2]
        precision = np.full((sizes, thresholds, len(RECALLS)), -1.0)
        recall = np.full((sizes, thresholds), -1.0)
        order = self.by_score
        for size in range(sizes):
            people = int(self.to_find[size].sum())
            if not people:
                continue
            matched = self.matched[size][:, order]
            counts = ~self.ignored[size][:, order]
            right = np.cumsum(matched & counts, axis=1).astype(np.float64)
            wrong = np.cumsum(~matched & counts, axis=1).astype(np.float64)
            for t, (tp, fp) in enumerate(zip(right, wrong, strict=True)):
                recalled = tp / people
                at = tp / (fp + tp + np.spacing(1))
                at = np.maximum.accumulate(at[::-1])[::-1]
                place = np.searchsorted(recalled, RECALLS, side="left")
                reached = place < len(at)
                precision[size, t] = 0.0
                precision[size, t, reached] = at[place[reached]]
                recall[size, t] = recalled[-1] if len(recalled) else 0.0
        found = {}
        for name in FIGURES:
            kind, label, chosen = figure_parts(name)
            values = (precision if kind == "AP" else recall)[SIZES.index(label)][chosen]
            if (values > -1).any():
                found[name] = float(np.mean(values[values > -1]))
        return found


def figure_parts(name: str) -> tuple[str, str, list[int]]:
    """``AP`` or ``AR``, the size's name, and the places of the OKS thresholds of a figure.

    >>> figure_parts("AR75")
    ('AR', 'all', [5])
    """
    kind, rest = name[:2], name[2:]
    size = {"(M)": "medium", "(L)": "large"}.get(rest, "all")
    every = list(range(len(OKS_THRESHOLDS)))
    return kind, size, [round((float(rest) - 50) / 5)] if rest.isdigit() else every


def match(
    people: AnnotatedPeople,
    results: Sequence[Mapping[str, Any]],
    image_ids: NDArray[np.int64],
    sigmas: Floats,
) -> Matches:
    """Match the results of photos with their people, as ``COCOeval.evaluate``.

    Parameters
    ----------
    people
        All of the file.
    results
        As the official server takes them, of photos of the file.
    image_ids
        (P,) the photos that are scored, ascending.
    sigmas
        (K,) OKS sigmas.
    """
    K = people.keypoints.shape[1]
    joints_img = np.array([one["keypoints"] for one in results], dtype=np.float64)
    joints_img = joints_img.reshape(len(results), K, 3)[..., :2]
    scores = np.array([one["score"] for one in results], dtype=np.float64)
    photo_of = np.array([one["image_id"] for one in results], dtype=np.int64)
    rows, photo = _of_photos(photo_of, image_ids)
    order = np.lexsort((-scores[rows], photo))
    rows, photo = rows[order], photo[order]
    start = np.searchsorted(photo, np.arange(len(image_ids)))
    rank = np.arange(len(rows)) - start[photo]
    best = rank < _MOST_POSES
    rows, photo, rank = rows[best], photo[best], rank[best]
    poses = np.bincount(photo, minlength=len(image_ids))
    first_pose = np.cumsum(poses) - poses

    everybody, their_photo = _of_photos(people.image_ids, image_ids)
    order = np.argsort(their_photo, kind="stable")
    everybody, their_photo = everybody[order], their_photo[order]
    there = np.bincount(their_photo, minlength=len(image_ids))
    first_person = np.cumsum(there) - there

    extent = joints_img[rows].max(axis=1, initial=-np.inf) - joints_img[rows].min(1, initial=np.inf)
    pose_areas = extent[:, 0] * extent[:, 1]
    outside = _outside(pose_areas)  # (A, D)
    unsought = ~people.counted[everybody] | _outside(people.areas[everybody])  # (A, N)
    to_find = np.stack(
        [np.bincount(their_photo[~one], minlength=len(image_ids)) for one in unsought]
    ).astype(np.intp)

    shape = (len(SIZES), len(OKS_THRESHOLDS), len(rows))
    matched, ignored = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    of_person = np.full(len(people.ids), -1, dtype=np.intp)
    for chosen, count, most in _blocks(there, poses):
        of_poses = np.arange(most)
        has_pose = of_poses < poses[chosen, None]
        pose = np.where(has_pose, first_pose[chosen, None] + of_poses, 0)
        person = first_person[chosen, None] + np.arange(count)
        similar = np.full((len(chosen), most, count), -1.0)
        photos, places = np.nonzero(has_pose)
        pairs = np.broadcast_to(person[photos][:, :], (len(photos), count))
        similar[photos, places] = _similarity(
            joints_img[rows[pose[photos, places]]], people, everybody[pairs], sigmas
        )
        of_person[everybody[person]] = rows[
            np.take_along_axis(pose, similar.argmax(axis=1), axis=1)
        ]
        found, of_nobody = _greedy(similar, unsought[:, person], people.crowds[everybody[person]])
        at = pose[photos, places]
        matched[:, :, at] = found[:, :, photos, places]
        ignored[:, :, at] = of_nobody[:, :, photos, places]
    ignored |= ~matched & outside[:, None]
    return Matches(image_ids, photo, scores[rows], matched, ignored, to_find, of_person)


def _of_photos(ids: NDArray[np.int64], photos: NDArray[np.int64]) -> tuple[Rows, Rows]:
    """Rows whose photo is among the ascending ones, and its place there."""
    rows = np.flatnonzero(np.isin(ids, photos))
    return rows, np.searchsorted(photos, ids[rows])


def _outside(areas: Floats) -> Bools:
    """(A, N) whether an area is of another size."""
    return (areas < _AREAS[:, :1]) | (areas > _AREAS[:, 1:])


def _blocks(people: Rows, poses: Rows) -> list[tuple[Rows, int, int]]:
    """Photos with both, those with equally many people together; people of each, most poses."""
    blocks = []
    for count in np.unique(people[(people > 0) & (poses > 0)]).tolist():
        photos = np.flatnonzero((people == count) & (poses > 0))
        # Photos with about as many poses: little is computed for those that are not there.
        photos = photos[np.argsort(poses[photos], kind="stable")]
        step = max(1, _CELLS_AT_ONCE // (count * len(SIZES) * len(OKS_THRESHOLDS)))
        for begin in range(0, len(photos), step):
            part = photos[begin : begin + step]
            blocks.append((part, count, int(poses[part].max())))
    return blocks


def _similarity(joints_img: Floats, people: AnnotatedPeople, rows: Rows, sigmas: Floats) -> Floats:
    """(M, N) OKS of (M, K, 2) poses to (M, N) people, as ``COCOeval.computeOks``.

    People with equally many labelled joints are summed together, over these alone: another number
    of summands would round otherwise.
    """
    variance = (sigmas * 2) ** 2
    labelled = people.keypoints[..., 2] > 0
    joints = labelled.sum(axis=1)
    flat = rows.ravel()
    pose = np.repeat(np.arange(len(rows)), rows.shape[1])
    similarity = np.zeros(len(flat))
    for count in np.unique(joints[flat]).tolist():
        pairs = np.flatnonzero(joints[flat] == count)
        for begin in range(0, len(pairs), _PAIRS_AT_ONCE):
            part = pairs[begin : begin + _PAIRS_AT_ONCE]
            person, found = flat[part], joints_img[pose[part]]
            if count:
                which = np.nonzero(labelled[person])[1].reshape(-1, count)
                found = np.take_along_axis(found, which[..., None], axis=1)
                true = np.take_along_axis(people.keypoints[person], which[..., None], axis=1)
                offset = found - true[..., :2]
                scale = variance[which]
            else:
                # Nobody knows the joints: how far outside of the doubled box.
                box = people.boxes_img[person]
                first, last = (
                    box[:, None, :2] - box[:, None, 2:],
                    box[:, None, :2] + (box[:, None, 2:] * 2),
                )
                offset = np.maximum(0, first - found) + np.maximum(0, found - last)
                scale = variance[None]
            size = people.areas[person][:, None] + np.spacing(1)
            exponent = (offset[..., 0] ** 2 + offset[..., 1] ** 2) / scale / size / 2
            similarity[part] = np.sum(np.exp(-exponent), axis=1) / exponent.shape[1]
    return similarity.reshape(rows.shape)


def _greedy(similar: Floats, unsought: Bools, crowds: Bools) -> tuple[Bools, Bools]:
    """Pose after pose takes the most similar person who is left, as ``COCOeval.evaluateImg``.

    Parameters
    ----------
    similar
        (P, D, N) of each photo's poses, best score first, to its people; -1: no such pose.
    unsought
        (A, P, N) who does not count; they are taken where nobody else is similar enough.
    crowds
        (P, N) who may be taken by several.

    Returns
    -------
    (A, T, P, D) whether a pose has somebody, and whether that is somebody unsought.
    """
    photos, poses, people = similar.shape
    shape = (len(unsought), len(OKS_THRESHOLDS), photos)
    least = np.minimum(OKS_THRESHOLDS, 1 - 1e-10)[:, None, None]
    taken = np.zeros((*shape, people), np.bool_)
    matched, ignored = np.zeros((*shape, poses), np.bool_), np.zeros((*shape, poses), np.bool_)
    sought = ~unsought[:, None]
    for pose in range(poses):
        near = similar[:, pose] >= least
        free = near & ~(taken & ~crowds)
        regular = free & sought
        free = np.where(regular.any(axis=-1, keepdims=True), regular, free)
        has = np.asarray(free.any(axis=-1))
        # Of equally similar people the last.
        backwards = np.where(free, similar[:, pose], -1.0)[..., ::-1]
        chosen = people - 1 - backwards.argmax(axis=-1)
        matched[..., pose] = has
        of_chosen = np.take_along_axis(
            np.broadcast_to(unsought[:, None], taken.shape), chosen[..., None], axis=-1
        )[..., 0]
        ignored[..., pose] = has & of_chosen
        before = np.take_along_axis(taken, chosen[..., None], axis=-1)
        np.put_along_axis(taken, chosen[..., None], before | has[..., None], axis=-1)
    return matched, ignored
