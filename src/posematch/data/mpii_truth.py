"""What PCKh is measured against: MPII's ``gt_valid.mat``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from posematch.data.matlab import read_variables
from posematch.data.people import PCKhTruth
from posematch.errors import PosematchError
from posematch.skeletons import MPII

# MPII's own evaluation takes 0.6 of the head box's diagonal as the size of the head.
HEAD_SIZE_OF_DIAGONAL = 0.6
# The file's names of the joints, in the order of the skeleton.
JOINT_NAMES = "rank rkne rhip lhip lkne lank pelv thor neck head rwri relb rsho lsho lelb lwri"


def read_pckh_truth(mat_file: Path) -> PCKhTruth:
    """Read ``gt_valid.mat`` (docs/protocols.md, PCKh).

    Parameters
    ----------
    mat_file
        With ``dataset_joints``, ``jnt_missing`` (16, N), ``pos_gt_src`` (16, 2, N) and
        ``headboxes_src`` (2, 2, N); its pixels are 1-based.

    Returns
    -------
    PCKhTruth
        0-based.

    Raises
    ------
    PosematchError
        The file or a field is missing, has another shape or joint order, or a labelled joint or a
        head box is not usable.
    """
    fields = read_variables(
        mat_file, ("dataset_joints", "jnt_missing", "pos_gt_src", "headboxes_src")
    )
    num_people = fields["jnt_missing"].shape[-1]
    expected = {
        "jnt_missing": (16, num_people),
        "pos_gt_src": (16, 2, num_people),
        "headboxes_src": (2, 2, num_people),
    }
    for name, shape in expected.items():
        if fields[name].shape != shape or fields[name].dtype.kind not in "fiub":
            raise PosematchError(
                f"{name} of {mat_file} is {fields[name].dtype} {fields[name].shape}, "
                f"not numbers {shape}: use MPII's gt_valid.mat."
            )
    names = " ".join(str(np.squeeze(name)) for name in fields["dataset_joints"].ravel())
    if names != JOINT_NAMES:
        raise PosematchError(
            f"dataset_joints of {mat_file} is {names[:100]!r}, not {JOINT_NAMES!r}: "
            "use MPII's gt_valid.mat."
        )

    joints_img = fields["pos_gt_src"].astype(np.float64).transpose(2, 0, 1) - 1
    visible = (fields["jnt_missing"].T == 0).astype(np.float32)
    near_corner, far_corner = fields["headboxes_src"].astype(np.float64)
    head_size_img = HEAD_SIZE_OF_DIAGONAL * np.linalg.norm(far_corner - near_corner, axis=0)
    has_head = np.isfinite(head_size_img) & (head_size_img > 0)
    usable = np.isfinite(joints_img).all(axis=2) & has_head[:, None]
    if broken := np.flatnonzero(((visible > 0) & ~usable).any(axis=1)).tolist():
        raise PosematchError(
            f"row {broken[0]} of {mat_file} has a labelled joint without a place or an empty head "
            "box: fetch the file again."
        )
    return PCKhTruth(joints_img, visible, head_size_img, MPII)
