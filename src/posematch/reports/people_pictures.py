"""The people on whom two sides differ most, as pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from posematch.data.crops import read_photo
from posematch.errors import PosematchError
from posematch.files import below
from posematch.rendering import Picture, poses_panel, save_png
from posematch.reports.compare import Comparison
from posematch.runs.predictions import PredictionTable
from posematch.statistics.figures import Floats

_SIDE_PX = 256
_MARGIN = 1.4  # of the picture around the labelled joints
_NO_PHOTO = 90  # grey
FILES = {True: "b_better.png", False: "a_better.png"}


def save_people(
    comparison: Comparison, folder: Path, people: int, root: Path | None = None
) -> list[Path]:
    """Write ``b_better.png`` and ``a_better.png``: truth, a and b of so many people each.

    Parameters
    ----------
    comparison
        Of several seeds, the first of each side is drawn.
    folder
        Where the pictures go.
    people
        How many on each; those alone on whom that side is the better one.
    root
        Folder of the data set that the user named. Where it has not the photo, or none is named,
        the skeletons stand on grey.

    Raises
    ------
    PosematchError
        The folder cannot be written.
    """
    written = []
    for b_better, name in FILES.items():
        order = comparison.people if b_better else comparison.people[::-1]
        gain = order["difference"] if b_better else -order["difference"]
        chosen = order[gain > 0].head(people)
        if len(chosen):
            save_png(folder / name, people_picture(comparison, chosen, root))
            written.append(folder / name)
    return written


def people_picture(
    comparison: Comparison, chosen: pd.DataFrame, root: Path | None = None
) -> Picture:
    """Rows of ``comparison.people`` as a panel."""
    a, b = (side[0] for side in comparison.sides)
    row_of = {int(person): row for row, person in enumerate(a.person_ids)}
    rows = [row_of[int(person)] for person in chosen["person_id"]]
    true_img = a.true_img[rows]
    labelled = a.labelled[rows]
    crops, scales, corners = [], [], []
    for row, joints_img, counts in zip(rows, true_img, labelled, strict=True):
        corner, scale = _window(joints_img[counts])
        crops.append(_crop(_photo(a, row, root), corner, scale))
        corners.append(corner)
        scales.append(scale)
    corner_img, scale_up = np.array(corners)[:, None], np.array(scales)[:, None, None]

    def in_crop(joints_img: Floats) -> torch.Tensor:
        return torch.from_numpy((joints_img - corner_img) * scale_up)

    return poses_panel(
        torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2),
        {"a": in_crop(a.joints_img[rows]), "b": in_crop(b.joints_img[rows])},
        in_crop(true_img),
        torch.from_numpy(labelled.astype(np.float32)),
        a.skeleton,
        captions=[
            f"{person}: {of_a:.2f} to {of_b:.2f}"
            for person, of_a, of_b in chosen[["person_id", "a", "b"]].itertuples(index=False)
        ],
        height_px=_SIDE_PX,
    )


def _window(joints_img: Floats) -> tuple[Floats, float]:
    """Left top corner of the picture in photo pixels, and its pixels per photo pixel."""
    low, high = joints_img.min(axis=0), joints_img.max(axis=0)
    side_img = _MARGIN * max(float((high - low).max()), 20.0)
    return (low + high) / 2 - side_img / 2, _SIDE_PX / side_img


def _photo(one: PredictionTable, row: int, root: Path | None) -> Picture | None:
    """The person's photo, RGB; None where there is none."""
    if root is None or one.images is None:
        return None
    try:
        # A table comes from anybody: it may not lead out of the data set's folder.
        file = below(root, str(one.images[row]), f"The table of {one.name}")
        photo = read_photo(file, one.photo_sizes.get(int(one.person_ids[row])))
    except PosematchError:
        return None
    return np.asarray(cv2.cvtColor(photo, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _crop(photo: Picture | None, corner_img: Floats, scale: float) -> Picture:
    """(H, W, 3) what of the photo lies in the picture."""
    if photo is None:
        return np.full((_SIDE_PX, _SIDE_PX, 3), _NO_PHOTO, dtype=np.uint8)
    matrix = np.array([[scale, 0, -scale * corner_img[0]], [0, scale, -scale * corner_img[1]]])
    size = (_SIDE_PX, _SIDE_PX)
    return np.asarray(cv2.warpAffine(photo, matrix, size, flags=cv2.INTER_AREA), dtype=np.uint8)
