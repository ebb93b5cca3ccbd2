"""PCK, AUC and EPE as running metrics, fed as `posematch.metrics.PCKh` is."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from posematch.data.people import OKSTruth, PCKhTruth, People
from posematch.errors import PosematchError
from posematch.metrics.batches import check_seen_once, checked_batch, mark_seen, rows_of
from posematch.metrics.coco_truth import annotated_box_sides
from posematch.metrics.columns import NOT_IN_MEANS

# What a distance is divided by. `box`: the longer side of the person's annotated box (mmpose's
# bbox), of MPII 200 px times `scale`. `torso`: from left hip to right shoulder (Sapp and Taskar,
# MODEC, CVPR 2013); people who lack one of them do not count. `head`: PCKh's head size.
Norm = Literal["box", "torso", "head"]
TORSO = ("left_hip", "right_shoulder")
BOX_PADDING = 1.25


class JointErrors(Metric):
    """Distance of every predicted joint to its truth, kept until `compute`.

    MPII's means leave out pelvis and thorax, as PCKh's do.

    The state is each person's distances in a row of its own, as float64 bits in an integer: exact
    on devices without float64 and under half precision, and unchanged by the sum over processes.

    Parameters
    ----------
    people
        With true joints: a `PCKhTruth`, or an `OKSTruth` on annotated boxes.
    norm
        What distances are divided by; None for pixels.

    Raises
    ------
    PosematchError
        The people are a detector's boxes, or have no such size.
    """

    is_differentiable = False
    full_state_update = False

    error_bits: Tensor
    times_seen: Tensor

    def __init__(self, people: People, norm: Norm | None) -> None:
        super().__init__()
        truth = people.truth
        if truth is None or (isinstance(truth, OKSTruth) and truth.boxes != "gt"):
            raise PosematchError(
                f"{people.name}/{people.split} has no true joints of its people (a detector's"
                " boxes?), so distances cannot be measured."
            )
        self.joint_names = people.skeleton.joints
        if isinstance(truth, PCKhTruth):
            ids = np.arange(len(truth.joints_img))
            joints_img, labelled = truth.joints_img, truth.visible > 0
        else:
            by_id = sorted(people.people, key=lambda person: person.person_id)
            ids = np.array([person.person_id for person in by_id], dtype=np.int64)
            joints_img = np.stack([person.joints_img for person in by_id])
            labelled = np.stack([person.visible for person in by_id]) > 0
        self._person_ids = torch.as_tensor(ids, dtype=torch.int64)
        self._truth_joints_img = torch.as_tensor(joints_img, dtype=torch.float64)
        self._size_img = _sizes(people, ids, joints_img, labelled, norm)
        self._counted = labelled & (self._size_img > 0)[:, None]
        # As in PCKh: some published predictions have no pelvis and thorax, as nobody counts them.
        left_out = NOT_IN_MEANS if isinstance(truth, PCKhTruth) else ()
        self._in_means = ~np.isin(self.joint_names, left_out)
        num_people, num_joints = labelled.shape
        bits = torch.zeros((num_people, num_joints), dtype=torch.int64)
        self.add_state("error_bits", bits, dist_reduce_fx="sum")
        seen = torch.zeros(num_people, dtype=torch.int64)
        self.add_state("times_seen", seen, dist_reduce_fx="sum")

    def update(self, person_ids: Tensor, joints_img: Tensor, scores: Tensor) -> None:
        """Take in a batch.

        Parameters
        ----------
        person_ids
            (B,) ids of `posematch.data.people.Person`.
        joints_img
            (B, K, 2) predicted joints, 0-based photo pixels.
        scores
            (B, K); not used, they are here so that all metrics are fed alike.

        Raises
        ------
        ValueError
            Wrong shapes, an unknown person, or a person scored twice.
        PosematchError
            A prediction is not finite.
        """
        ids, predicted_img, _ = checked_batch(person_ids, joints_img, scores, len(self.joint_names))
        rows = rows_of(ids, self._person_ids)
        mark_seen(self.times_seen, rows.to(self.times_seen.device))
        offset_px = predicted_img - self._truth_joints_img[rows]
        bits = torch.linalg.vector_norm(offset_px, dim=2).view(torch.int64)
        self.error_bits[rows.to(self.error_bits.device)] = bits.to(self.error_bits.device)

    def compute(self) -> dict[str, float]:
        """Figures by name, the main one first; joints that nobody has are left out.

        Raises
        ------
        PosematchError
            No scored person has a joint that counts.
        ValueError
            Two processes scored the same person.
        """
        check_seen_once(self.times_seen)
        seen = self.times_seen.cpu().numpy() > 0
        error_px = self.error_bits.cpu().view(torch.float64).numpy()[seen]
        counted = self._counted[seen]
        if not counted[:, self._in_means].any():
            raise PosematchError(
                f"{type(self).__name__} has nothing to count: no scored person has a labelled"
                " joint and a size to measure by."
            )
        size_img = np.where(self._size_img > 0, self._size_img, np.nan)[seen, None]
        return self._figures(np.where(counted, error_px / size_img, np.nan))

    def _by_joint(self, values: NDArray[np.float64]) -> dict[str, float]:
        """(N, K) values, NaN where not counted: their mean over all of them, and by joint."""
        of_all = values[:, self._in_means]
        figures = {self.primary: float(of_all[~np.isnan(of_all)].mean())}
        for k, joint in enumerate(self.joint_names):
            of_joint = values[:, k][~np.isnan(values[:, k])]
            if len(of_joint):
                figures[f"{self.primary}/joint/{joint}"] = float(of_joint.mean())
        return figures

    @property
    @abstractmethod
    def primary(self) -> str:
        """Name of the main figure."""

    @abstractmethod
    def _figures(self, errors: NDArray[np.float64]) -> dict[str, float]:
        """Figures of (N, K) errors in sizes or pixels, NaN where not counted."""


class PCK(JointErrors):
    """Share of joints within a fraction of the person's size, in percent, ``<=``.

    The mean is over all labelled joints; ``/joint/<name>`` is one joint.

    Parameters
    ----------
    people
        See `JointErrors`.
    norm
        Size of a person, see `Norm`.
    threshold
        In sizes; 0.2 is usual for ``torso``, 0.05 to 0.2 for ``box``.
    """

    higher_is_better = True

    def __init__(self, people: People, norm: Norm = "torso", threshold: float = 0.2) -> None:
        super().__init__(people, norm)
        if not threshold > 0:
            raise PosematchError(f"threshold={threshold} of PCK must be positive.")
        self.norm, self.threshold = norm, threshold

    @property
    def primary(self) -> str:
        return f"PCK@{self.threshold:g}({self.norm})"

    def _figures(self, errors: NDArray[np.float64]) -> dict[str, float]:
        right = np.where(np.isnan(errors), np.nan, errors <= self.threshold)
        return self._by_joint(100.0 * right)


class AUC(JointErrors):
    """Area under the curve of `PCK` up to a threshold, divided by that threshold; percent.

    By the trapezoidal rule on ``steps`` + 1 thresholds, MPII's AUC with its defaults: PCKh from 0
    to 0.5 in steps of 0.01.

    Parameters
    ----------
    people, norm
        See `JointErrors`.
    limit
        Largest threshold, in sizes.
    steps
        Intervals.
    """

    higher_is_better = True

    def __init__(
        self, people: People, norm: Norm = "head", limit: float = 0.5, steps: int = 50
    ) -> None:
        super().__init__(people, norm)
        if not (limit > 0 and steps >= 1):
            raise PosematchError(f"AUC needs limit={limit} above 0 and steps={steps} from 1 on.")
        self.norm, self.limit, self.steps = norm, limit, steps

    @property
    def primary(self) -> str:
        return f"AUC@{self.limit:g}({self.norm})"

    def _figures(self, errors: NDArray[np.float64]) -> dict[str, float]:
        thresholds = np.arange(self.steps + 1) * self.limit / self.steps
        # A joint's own curve jumps from 0 to 1 at the first threshold that reaches its error: all
        # trapezoids after it are whole and the one before it is half.
        first = np.searchsorted(thresholds, errors)  # NaN comes after all of them
        area = np.clip(self.steps - first + np.where(first > 0, 0.5, 0.0), 0, None) / self.steps
        return self._by_joint(np.where(np.isnan(errors), np.nan, 100.0 * area))


class EPE(JointErrors):
    """Mean distance of labelled joints to their truth (end-point error).

    Parameters
    ----------
    people
        See `JointErrors`.
    norm
        None for photo pixels, or what distances are divided by (``EPE(head)``).
    """

    higher_is_better = False

    def __init__(self, people: People, norm: Norm | None = None) -> None:
        super().__init__(people, norm)
        self.norm = norm

    @property
    def primary(self) -> str:
        return f"EPE({self.norm or 'px'})"

    def _figures(self, errors: NDArray[np.float64]) -> dict[str, float]:
        return self._by_joint(errors)


def _sizes(
    people: People,
    person_ids: NDArray[np.int64],
    joints_img: NDArray[np.float64],
    labelled: NDArray[np.bool_],
    norm: Norm | None,
) -> NDArray[np.float64]:
    """(N,) what each person's distances are divided by; 0 where the person has none."""
    truth = people.truth
    match norm:
        case None:
            return np.ones(len(person_ids))
        case "torso" if set(TORSO) <= set(people.skeleton.joints):
            ends = [people.skeleton.joints.index(joint) for joint in TORSO]
            hip, shoulder = joints_img[:, ends].swapaxes(0, 1)
            has = labelled[:, ends].all(axis=1)
            return np.where(has, np.linalg.norm(shoulder - hip, axis=1), 0.0)
        case "head" if isinstance(truth, PCKhTruth):
            return truth.head_size_img
        case "box" if isinstance(truth, OKSTruth):
            sides = annotated_box_sides(truth)
            return np.array([max(sides[int(one)]) for one in person_ids])
        case "box" if people.people:
            by_id = {one.person_id: one.box_size_img.max() / BOX_PADDING for one in people.people}
            return np.array([by_id.get(int(one), 0.0) for one in person_ids])
    raise PosematchError(
        f"{people.name} has no size norm={norm}: choose another of {', '.join(get_args(Norm))}."
    )
