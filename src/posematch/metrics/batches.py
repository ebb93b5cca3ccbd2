"""What metrics ask of a batch, and how they see to it that nobody is scored twice."""

from __future__ import annotations

import torch
from torch import Tensor

from posematch.errors import PosematchError


def checked_batch(
    person_ids: Tensor, joints_img: Tensor, scores: Tensor, num_joints: int
) -> tuple[Tensor, Tensor, Tensor]:
    """One batch of predictions, checked and on the CPU, before it is counted.

    Parameters
    ----------
    person_ids
        (B,) integers.
    joints_img
        (B, K, 2), 0-based image pixels.
    scores
        (B, K).
    num_joints
        The K of the ground truth.

    Returns
    -------
    tuple of Tensor
        The three on the CPU, in int64, float64 and float64. They may come from several devices:
        joints are mapped to the photo in float64, which not every device has, scores stay where
        the maps are.

    Raises
    ------
    ValueError
        Shapes do not fit together.
    PosematchError
        A coordinate or score is NaN or infinite: counted as "wrong" it would hide a broken network.
    """
    batch = person_ids.shape[0] if person_ids.ndim == 1 else -1
    if joints_img.shape != (batch, num_joints, 2) or scores.shape != (batch, num_joints):
        raise ValueError(
            f"expected person_ids (B,), joints_img (B, {num_joints}, 2), scores (B, {num_joints}); "
            f"got {tuple(person_ids.shape)}, {tuple(joints_img.shape)}, {tuple(scores.shape)}"
        )
    ids = person_ids.detach().cpu().long()
    joints, each = (values.detach().cpu().double() for values in (joints_img, scores))
    broken = ~(joints.isfinite().all(dim=(1, 2)) & each.isfinite().all(dim=1))
    if broken.any():
        person = int(ids[broken.nonzero()[0, 0]])
        raise PosematchError(
            f"person {person} has a predicted joint or score that is NaN or infinite: "
            "check the heatmaps it was decoded from."
        )
    return ids, joints, each


def rows_of(person_ids: Tensor, known_ids: Tensor) -> Tensor:
    """(B,) place of each id in ``known_ids``, on the CPU.

    Parameters
    ----------
    person_ids
        (B,) integers.
    known_ids
        (N,) ascending, on the CPU.

    Raises
    ------
    ValueError
        An id is unknown.
    """
    ids = person_ids.cpu().long()
    unknown = ids[~torch.isin(ids, known_ids)]
    if unknown.numel():
        raise ValueError(f"nobody has the person id {int(unknown[0])}")
    return torch.searchsorted(known_ids, ids)


def mark_seen(times_seen: Tensor, rows: Tensor) -> None:
    """Add one to ``times_seen[rows]``, in place.

    Parameters
    ----------
    times_seen
        (N,) integers, how often each person was scored so far.
    rows
        (B,) the people of this batch, on the device of ``times_seen``.

    Raises
    ------
    ValueError
        Somebody is in the batch twice, or was scored before.
    """
    if len(set(rows.tolist())) != len(rows) or bool(times_seen[rows].any()):
        raise ValueError(
            "a person is scored twice: reset the metric between passes and use a sampler that "
            "does not repeat people"
        )
    times_seen[rows] += 1


def check_seen_once(times_seen: Tensor) -> None:
    """Check, after the sum over processes, that no two of them scored the same person.

    Raises
    ------
    ValueError
        They did, as a padding ``DistributedSampler`` makes them do.
    """
    repeated = int((times_seen > 1).sum())
    if repeated:
        raise ValueError(
            f"{repeated} people were scored by more than one process: use a sampler that does not "
            "repeat people to fill up the last batch"
        )
