"""MPII's own annotations in HRNet's json layout, which `posematch.data.mpii` reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from posematch.data import matlab
from posematch.errors import PosematchError
from posematch.untrusted import MIB

# The real file has 16 MB, and some 200 MB unpacked.
_MOST_BYTES = 1024 * MIB
_MOST_SECONDS = 900.0


@dataclass(frozen=True)
class ReleasePeople:
    """People of MPII's annotated photos.

    Attributes
    ----------
    rows
        As HRNet's ``train.json``: ``image``, ``center`` and ``joints`` in MATLAB's 1-based pixels,
        ``scale`` (person's height / 200 px), ``joints_vis`` 1 where labelled, occluded or not;
        joints that are not labelled are at -1, -1. In the file's order.
    photos
        Of these people.
    alone
        Of these people, how many the file calls far enough from others (``single_person``).
    left_out
        By reason, how many.
    """

    rows: list[dict[str, Any]]
    photos: int
    alone: int
    left_out: dict[str, int]

    def told(self) -> str:
        """One line."""
        out = ", ".join(f"{count} {why}" for why, count in self.left_out.items())
        return (
            f"{len(self.rows)} people in {self.photos} photos, {self.alone} of them alone"
            f"{f' (left out: {out})' if out else ''}"
        )


def read_release(mat_file: Path, without: Container[str] = frozenset()) -> ReleasePeople:
    """Read ``mpii_human_pose_v1_u12_1.mat``.

    Parameters
    ----------
    mat_file
        MPII's release, a struct ``RELEASE``.
    without
        Names of photos whose people are left out: those of the validation split.

    Raises
    ------
    PosematchError
        The file is missing or is not MPII's release.
    """
    found = matlab.by_process(
        mat_file,
        "posematch.data.preparing.mpii_release_process",
        most_bytes=_MOST_BYTES,
        most_seconds=_MOST_SECONDS,
    )
    rows: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    alone = 0
    for index, (number, _) in enumerate(found["people"].tolist()):
        x, y, scale = found["place"][index].tolist()
        image = str(found["photos"][number])
        labelled = found["labelled"][index]
        if not found["train"][number]:
            continue  # MPII keeps the test photos' joints to itself
        why = (
            "without labelled joints" if not labelled.any()
            else "without place or size" if not (np.isfinite([x, y, scale]).all() and scale > 0)
            else "in photos of valid.json" if image in without
            else ""
        )  # fmt: skip
        if why:
            left_out[why] += 1
            continue
        alone += int(found["alone"][index])
        rows.append(
            {
                "joints_vis": labelled.tolist(),
                "joints": found["joints"][index].tolist(),
                "image": image,
                "scale": scale,
                "center": [x, y],
            }
        )
    if not rows:
        raise PosematchError(
            f"{mat_file} has no person with labelled joints to train on; is it MPII's release,"
            " mpii_human_pose_v1_u12_1.mat?"
        )
    photos = len({row["image"] for row in rows})
    return ReleasePeople(rows, photos, alone, dict(left_out))
