"""OKS sigmas of joints of one's own: from labels of several people, or from a network's residuals.

COCO's are the standard deviation of a joint's place over annotators, as a share of the root of the
person's area: sigma^2 = E[d^2] / area, d the distance from the mean place. Squared distances of
normally distributed places have a median of E[d^2] ln 2, so median(d^2 / area) / ln 2 is sigma^2,
whatever the outliers are. Between two annotators d^2 is twice as large.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from posematch.data.annotations import Annotations, read_annotations
from posematch.errors import PosematchError
from posematch.runs.predictions import PredictionTable

Floats = NDArray[np.float64]
# Fewer distances of a joint give a sigma that is off by more than a tenth.
LEAST_DISTANCES = 50


def sigmas_of_labels(files: Sequence[Path]) -> pd.DataFrame:
    """From annotation files of the same photos by several people.

    Parameters
    ----------
    files
        Two or more. Photos are the same by name; people of a photo are put together so that the sum
        of their joints' distances is least.

    Returns
    -------
    DataFrame
        A row per joint: ``joint``, ``sigma``, ``distances`` (pairs of labels it is from).

    Raises
    ------
    PosematchError
        Files have other joints, or share no labelled joint.
    """
    if len(files) < 2:
        raise PosematchError("labels=[A,B] needs two annotation files of the same photos.")
    read = [read_annotations(file, None) for file in files]
    for one in read:
        if one.joints != read[0].joints or not one.joints:
            raise PosematchError(f"{one.file} has other joints than {read[0].file}.")
    squared = [_between(a, b) for a, b in itertools.combinations(read, 2)]
    shares = np.concatenate(squared) / 2
    if not np.isfinite(shares).any():
        raise PosematchError(
            f"{files[0]} and {files[1]} have no labelled joint of one person in common; photos must"
            " have the same file_name in both."
        )
    return _sigmas(read[0].joints, shares)


def sigmas_of_residuals(table: PredictionTable) -> pd.DataFrame:
    """From a trained network's distances to the labels, which hold its own errors, too.

    Parameters
    ----------
    table
        With true joints and areas.

    Returns
    -------
    DataFrame
        As `sigmas_of_labels`.

    Raises
    ------
    PosematchError
        The people have no areas (MPII), or nothing is labelled.
    """
    area = table.need("area")
    if not table.labelled.any():
        raise PosematchError(f"{table.name} has no labelled joint.")
    has_area = area > 0
    squared = table.errors_px**2 / np.where(has_area, area, 1.0)[:, None]
    return _sigmas(table.skeleton.joints, np.where(has_area[:, None], squared, np.nan))


def _sigmas(joints: Sequence[str], shares: Floats) -> pd.DataFrame:
    """Of (N, K) squared distances from the mean place over areas; NaN where there is none."""
    rows = []
    for k, joint in enumerate(joints):
        of_joint = shares[:, k][np.isfinite(shares[:, k])]
        sigma = math.sqrt(float(np.median(of_joint)) / math.log(2)) if len(of_joint) else math.nan
        rows.append({"joint": joint, "sigma": sigma, "distances": len(of_joint)})
    return pd.DataFrame(rows)


def _between(a: Annotations, b: Annotations) -> Floats:
    """(N, K) squared distances over the mean area of people that both files have."""
    of_a, of_b = _by_photo(a), _by_photo(b)
    K = len(a.joints)
    found = [np.zeros((0, K))]
    for photo in of_a.keys() & of_b.keys():
        first, second = of_a[photo], of_b[photo]
        distances = np.stack([[_squared(one, other) for other in second] for one in first])
        cost = np.nan_to_num(np.nanmean(np.where(np.isnan(distances), 1e12, distances), axis=2))
        rows, columns = linear_sum_assignment(cost)
        found.append(distances[rows, columns])
    return np.concatenate(found)


def _by_photo(annotations: Annotations) -> dict[str, list[tuple[Floats, float]]]:
    names = {one["id"]: str(one.get("file_name")) for one in annotations.content["images"]}
    people: dict[str, list[tuple[Floats, float]]] = {}
    for one in annotations.content["annotations"]:
        if one["num_keypoints"] > 0 and one["area"] > 0:
            keypoints = np.reshape(one["keypoints"], (-1, 3)).astype(np.float64)
            places = np.where(keypoints[:, 2:] > 0, keypoints[:, :2], np.nan)
            people.setdefault(names[one["image_id"]], []).append((places, float(one["area"])))
    return people


def _squared(one: tuple[Floats, float], other: tuple[Floats, float]) -> Floats:
    area = (one[1] + other[1]) / 2
    return np.asarray(((one[0] - other[0]) ** 2).sum(axis=1) / area)
