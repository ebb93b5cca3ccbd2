"""Checks of boxes, areas, and of people who are there twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from posematch.checks.findings import Finding, of_people
from posematch.checks.geometry import extents, robust_z
from posematch.checks.joints import box_place
from posematch.checks.split import Floats, Split

TINY_PX = 10.0
HUGE = 1.1  # photos
FAR_Z = 5.0
AREA_TIMES, BOX_TIMES = 4.0, 3.0
AREA_OF_BOX = 1.05
SAME_SHARE = 0.01  # of the person's extent, as the mean distance of joints
LEAST_JOINTS = 4  # that tell a person


def check_boxes(split: Split) -> list[Finding]:
    """All checks that take one split's boxes and people."""
    return [
        *areas(split),
        *tiny(split),
        *huge(split),
        *box_size(split),
        *box_place(split),
        *same_person(split),
        *same_joints(split),
    ]


def areas(split: Split) -> list[Finding]:
    """Areas larger than the box, and far off the split's usual share of it."""
    if not split.annotated_boxes:
        return []
    w, h = split.boxes_img[:, 2:].T
    with np.errstate(invalid="ignore", divide="ignore"):
        share = split.areas / (w * h)
    too_large = share > AREA_OF_BOX

    def said(row: int) -> str:
        return f"area {split.areas[row]:.0f}, box {w[row]:.0f} x {h[row]:.0f} px"

    logs = np.where(np.isfinite(share), np.log(np.maximum(share, 1e-12)), np.nan)
    z = np.nan_to_num(robust_z(logs, 0.02))
    middle = np.nanmedian(logs) if np.isfinite(logs).any() else 0.0
    off = np.abs(np.nan_to_num(logs - middle))
    far = (np.abs(z) > FAR_Z) & (off > np.log(AREA_TIMES)) & ~too_large
    return [
        *of_people("area_box", split, np.where(too_large, share, 0), said),
        *of_people("area_ratio", split, np.where(far, off, 0), said),
    ]


def tiny(split: Split) -> list[Finding]:
    """Boxes of less than `TINY_PX` along both sides, or joints within as much."""
    side = split.boxes_img[:, 2:].max(axis=1)
    return of_people(
        "tiny", split, np.where(side < TINY_PX, TINY_PX - side, 0), lambda row: _box(split, row)
    )


def huge(split: Split) -> list[Finding]:
    """Annotated boxes larger than the photo."""
    if not split.annotated_boxes:
        return []
    times = np.nan_to_num((split.boxes_img[:, 2:] / split.sizes).max(axis=1))

    def said(row: int) -> str:
        width, height = split.sizes[row]
        return f"{_box(split, row)} in a photo of {width:.0f} x {height:.0f}"

    return of_people("huge", split, np.where(times > HUGE, times, 0), said)


def box_size(split: Split) -> list[Finding]:
    """Boxes far larger or smaller than the split's are around joints of such an extent."""
    extent = extents(split.joints_img).max(axis=1, initial=0)
    many = split.labelled.sum(axis=1) >= max(LEAST_JOINTS, split.skeleton.num_joints // 2)
    side = split.boxes_img[:, 2:].max(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.where(many & (extent > 0) & (side > 0), np.log(side / extent), np.nan)
    z, middle = np.nan_to_num(robust_z(logs, 0.02)), np.nan
    if np.isfinite(logs).any():
        middle = np.nanmedian(logs)
    off = np.abs(np.nan_to_num(logs - middle))
    wrong = (np.abs(z) > FAR_Z) & (off > np.log(BOX_TIMES))
    return of_people(
        "box_size", split, np.where(wrong, off, 0),
        lambda row: f"{_box(split, row)}, joints over {extent[row]:.0f} px",
    )  # fmt: skip


def same_person(split: Split) -> list[Finding]:
    """Two people of a photo with the same joints, nearly or to the last digit."""
    order = np.argsort(split.photos, kind="stable")
    extent = np.maximum(extents(split.joints_img).max(axis=1, initial=0), 1.0)
    badness, twin = np.zeros(len(split)), np.full(len(split), -1)
    most = int(np.bincount(split.photos).max(initial=0)) if len(split) else 0
    for apart in range(1, most):
        a, b = order[:-apart], order[apart:]
        beside = split.photos[a] == split.photos[b]
        a, b = a[beside], b[beside]
        if not len(a):
            break
        distances = np.linalg.norm(split.joints_img[a] - split.joints_img[b], axis=2)
        both = np.isfinite(distances)
        count = both.sum(axis=1)
        mean = np.where(both, distances, 0).sum(axis=1) / np.maximum(count, 1)
        fewer = np.minimum(split.labelled[a].sum(axis=1), split.labelled[b].sum(axis=1))
        same = (count >= LEAST_JOINTS) & (2 * count > fewer) & (mean < SAME_SHARE * extent[a])
        badness[b[same]], twin[b[same]] = 1 / (1 + mean[same]), a[same]
    return of_people(
        "same_person", split, badness,
        lambda row: f"the same joints as person {split.people.people[twin[row]].person_id}",
    )  # fmt: skip


def same_joints(split: Split) -> list[Finding]:
    """People with the very joints of somebody in another photo."""
    first, rows = _same(_keys(split)), np.arange(len(split))
    told = split.labelled.sum(axis=1) >= LEAST_JOINTS
    wrong = told & (first != rows) & (split.photos[first] != split.photos)

    def said(row: int) -> str:
        other = split.people.people[first[row]]
        return f"the same joints as person {other.person_id} of {other.image.name}"

    return of_people("same_joints", split, wrong.astype(float), said)


def both_people(splits: Sequence[Split]) -> list[Finding]:
    """People of the second split with the very joints of somebody in the first."""
    if len(splits) != 2 or splits[0].skeleton.num_joints != splits[1].skeleton.num_joints:
        return []
    one, other = splits
    first = _same(np.concatenate([_keys(one), _keys(other)]))[len(one) :]
    wrong = (first < len(one)) & (other.labelled.sum(axis=1) >= LEAST_JOINTS)

    def said(row: int) -> str:
        twin = one.people.people[first[row]]
        return f"the same joints as person {twin.person_id} of {twin.image.name} in {one.name}"

    return of_people("both_people", other, wrong.astype(float), said)


def _keys(split: Split) -> Floats:
    """(N, 2 K) joints to a hundredth of a pixel, what is not labelled as one value."""
    rounded = np.round(np.nan_to_num(split.joints_img, nan=-1e7), 2)
    return np.ascontiguousarray(rounded.reshape(len(split), 2 * split.skeleton.num_joints))


def _same(keys: Floats) -> np.ndarray:
    """(N,) the first row with the same values."""
    if not len(keys):
        return np.zeros(0, dtype=np.int64)
    as_bytes = keys.view([("", keys.dtype)] * keys.shape[1]).ravel()
    _, first, inverse = np.unique(as_bytes, return_index=True, return_inverse=True)
    return np.asarray(first[inverse.ravel()])


def _box(split: Split, row: int) -> str:
    w, h = split.boxes_img[row, 2:]
    return f"box {w:.0f} x {h:.0f} px"
