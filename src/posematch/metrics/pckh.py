"""PCKh: the share of joints predicted within a fraction of the head's size.

Source: docs/protocols.md, PCKh.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from posematch.data.people import PCKhTruth, People
from posematch.errors import PosematchError
from posematch.metrics.batches import check_seen_once, checked_batch, mark_seen
from posematch.metrics.columns import COLUMNS, NOT_IN_MEANS, PLAIN_MEAN, PRIMARY, THRESHOLDS
from posematch.metrics.hits import distances_heads, within_heads

_THRESHOLDS = np.array(list(THRESHOLDS.values()))


class PCKh(Metric):
    """PCKh of MPII, in percent.

    A joint is right where its distance to the truth, divided by the head size, is at most the
    threshold (``<=``). Pelvis and thorax are in no mean; the upper neck is in the means but in no
    column. The states are integer sums, so any split over batches and processes gives the same
    figures to the last bit.

    Parameters
    ----------
    people
        Its ``truth`` must be a `PCKhTruth`.
    primary
        The main figure's name.

    Raises
    ------
    TypeError
        It is not.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    correct: Tensor
    counted: Tensor
    times_seen: Tensor

    def __init__(self, people: People, primary: str = PRIMARY) -> None:
        super().__init__()
        self.primary = primary
        truth = people.truth
        if not isinstance(truth, PCKhTruth):
            raise TypeError(f"PCKh needs a PCKhTruth, {people.name} has {type(truth).__name__}")
        self.joint_names = truth.skeleton.joints
        # Arrays, not buffers: they stay in float64 on the CPU, so that neither TF32 nor a device
        # without float64 nor half precision touches a distance.
        self._truth = truth

        num_people, num_joints = truth.visible.shape
        correct = torch.zeros((len(THRESHOLDS), num_joints), dtype=torch.int64)
        self.add_state("correct", correct, dist_reduce_fx="sum")
        self.add_state("counted", torch.zeros(num_joints, dtype=torch.int64), dist_reduce_fx="sum")
        seen = torch.zeros(num_people, dtype=torch.int64)
        self.add_state("times_seen", seen, dist_reduce_fx="sum")
        self._people_scored: int | None = None  # by all processes, which only compute() sees

    @property
    def protocol(self) -> str:
        """How the figures are made, for a table's caption."""
        seen, everybody = self._people_scored, len(self.times_seen)
        if seen is None:
            seen = int((self.times_seen > 0).sum())
        people = (
            f"{everybody} people" if seen in (0, everybody) else f"{seen} of {everybody} people"
        )
        return f"count-weighted mean without pelvis and thorax, <=, {people}"

    def update(self, person_ids: Tensor, joints_img: Tensor, scores: Tensor) -> None:
        """Count a batch.

        Parameters
        ----------
        person_ids
            (B,) rows of the truth.
        joints_img
            (B, K, 2) predicted joints, 0-based image pixels.
        scores
            (B, K); PCKh does not use them, they are here so that all metrics are fed alike.

        Raises
        ------
        ValueError
            Wrong shapes, a row that the truth does not have, or a person scored twice.
        PosematchError
            A prediction is not finite.
        """
        rows, predicted_img, _ = checked_batch(
            person_ids, joints_img, scores, len(self.joint_names)
        )
        if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < len(self.times_seen):
            raise ValueError(
                f"person ids must be rows of the truth, 0 to {len(self.times_seen) - 1}"
            )
        mark_seen(self.times_seen, rows.to(self.times_seen.device))

        of = rows.numpy()
        distances = distances_heads(
            predicted_img.numpy(), self._truth.joints_img[of], self._truth.head_size_img[of]
        )
        labelled = self._truth.visible[of] > 0
        right = within_heads(distances, _THRESHOLDS[:, None, None]) & labelled
        self.correct += torch.from_numpy(right.sum(axis=1)).to(self.correct.device)
        self.counted += torch.from_numpy(labelled.sum(axis=0)).to(self.counted.device)

    def compute(self) -> dict[str, float]:
        """Figures in percent.

        Returns
        -------
        dict
            ``PCKh@0.5``, ``PCKh@0.1``, ``PCKh@0.11(legacy)``: means over the joints weighted by how
            often each is labelled (HRNet's Mean), which is the share of all labelled joints.
            ``PCKh@0.5(plain mean)``: every joint weighs the same. ``PCKh@0.5/Head`` and so on: the
            published columns, left and right averaged. ``PCKh@0.5/joint/<name>``: one joint. What
            no scored person has is left out.

        Raises
        ------
        PosematchError
            No scored person has a labelled joint that counts.
        ValueError
            Two processes scored the same person.
        """
        check_seen_once(self.times_seen)
        self._people_scored = int((self.times_seen > 0).sum())
        correct = self.correct.cpu().numpy()
        counted = self.counted.cpu().numpy()
        in_means = (counted > 0) & ~np.isin(self.joint_names, NOT_IN_MEANS)
        if not in_means.any():
            raise PosematchError(
                "PCKh has nothing to count, no scored person has a labelled joint: "
                "check that the predictions are for this data set."
            )
        means = 100.0 * correct[:, in_means].sum(axis=1) / counted[in_means].sum()
        by_joint = {
            joint: 100.0 * float(correct[0, k]) / float(counted[k])
            for k, joint in enumerate(self.joint_names)
            if counted[k] > 0
        }
        figures = {name: float(mean) for name, mean in zip(THRESHOLDS, means, strict=True)}
        figures[PLAIN_MEAN] = float(
            np.mean([rate for joint, rate in by_joint.items() if joint not in NOT_IN_MEANS])
        )
        for column, joints in COLUMNS.items():
            rates = [by_joint[joint] for joint in joints if joint in by_joint]
            if rates:
                figures[f"{PRIMARY}/{column}"] = float(np.mean(rates))
        figures |= {f"{PRIMARY}/joint/{joint}": rate for joint, rate in by_joint.items()}
        return figures
