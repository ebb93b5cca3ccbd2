"""A prediction table as arrays, and how near each joint is by the data set's own measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from posematch.errors import PosematchError
from posematch.metrics.suppression import joint_similarity
from posematch.skeletons import COCO, SKELETONS, Skeleton

# Similarities of Ronchi and Perona (ICCV 2017): from NEAR on a joint is at the place, from GOOD on
# it is as near as human annotators are to each other.
NEAR, GOOD = 0.5, 0.85
# MPII has no OKS. Here a joint's similarity falls with the distance in heads by the same Gaussian,
# and is NEAR where PCKh@0.5 ends; so it is GOOD up to 0.5 sqrt(ln 0.85 / ln 0.5) = 0.242 heads.
NEAR_HEADS = 0.5


@dataclass(frozen=True, eq=False)
class ScoredJoints:
    """Predicted and true joints of N people.

    Attributes
    ----------
    joints_img, true_img
        (N, K, 2) photo pixels; true ones mean nothing where not labelled.
    labelled
        (N, K) bool.
    scores
        (N, K).
    image_ids
        (N,).
    size_img
        (N,) pixels: the head size (MPII), or the root of the area (COCO).
    skeleton
        Joints, mirror pairs and, for COCO's measure, sigmas.
    by_heads
        Whether the measure is PCKh's head sizes; else OKS.
    """

    joints_img: NDArray[np.float64]
    true_img: NDArray[np.float64]
    labelled: NDArray[np.bool_]
    scores: NDArray[np.float64]
    image_ids: NDArray[np.int64]
    size_img: NDArray[np.float64]
    skeleton: Skeleton
    by_heads: bool

    @cached_property
    def error_px(self) -> NDArray[np.float64]:
        """(N, K) distance to the truth; NaN where not labelled."""
        error = np.linalg.norm(self.joints_img - self.true_img, axis=2)
        return np.where(self.labelled, error, np.nan)

    @cached_property
    def similarity(self) -> NDArray[np.float64]:
        """(N, K) `similarity_to` the own truth; NaN where not labelled."""
        similarity = self.similarity_to(self.joints_img, self.true_img, self.size_img)
        return np.where(self.labelled, similarity, np.nan)

    @property
    def right(self) -> NDArray[np.bool_]:
        """(N, K) labelled and near: PCKh@0.5's rule, or a joint's OKS of at least 0.5."""
        if self.by_heads:
            return np.nan_to_num(self.error_px, nan=np.inf) <= NEAR_HEADS * self.size_img[:, None]
        return np.nan_to_num(self.similarity, nan=-1) >= NEAR

    def similarity_to(
        self,
        joints_img: NDArray[np.float64],
        true_img: NDArray[np.float64],
        size_img: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """(..., K) in [0, 1] of (..., K, 2) predicted and true joints of people of size (...)."""
        if not self.by_heads:
            return joint_similarity(joints_img, true_img, size_img**2, self.skeleton.oks_sigmas)
        squared_px = np.sum((joints_img - true_img) ** 2, axis=-1)
        near_px = NEAR_HEADS * size_img[..., None]
        similarity: NDArray[np.float64] = NEAR ** (squared_px / near_px**2)
        return similarity


def scored_joints(table: pd.DataFrame, skeleton: Skeleton | None = None) -> ScoredJoints:
    """Read a prediction table (`posematch.runs.predictions.predictions_table`).

    Parameters
    ----------
    table
        With ``head_size_img`` (PCKh) or ``area`` (OKS).
    skeleton
        Of its joints; None where they are MPII's or COCO's.

    Raises
    ------
    PosematchError
        A column is missing, a prediction is not finite, joints are unknown or do not fit the
        skeleton, or nothing is labelled (as in predictions on a detector's boxes).
    """
    need(table, "image_id", "joint", "x", "y", "score", "true_x", "true_y", "visible")
    names = tuple(dict.fromkeys(table["joint"]))
    skeleton = skeleton or _skeleton(names)
    repeated = np.tile(names, len(table) // max(len(names), 1))
    if skeleton.joints != names or not np.array_equal(table["joint"].to_numpy(str), repeated):
        raise PosematchError(
            f"the predictions' joints ({', '.join(names[:3])} ...) are not those of the skeleton"
            f" {skeleton.name}, a row for each person and joint in its order."
        )
    by_heads = "head_size_img" in table
    if not by_heads:
        need(table, "area")
        if not skeleton.oks_sigmas:
            raise PosematchError(f"the skeleton {skeleton.name} has no OKS sigmas.")
    shape = (-1, len(names))
    labelled = table["visible"].to_numpy().reshape(shape) > 0
    if not labelled.any():
        raise PosematchError(
            "no joint of the predictions is labelled, so there is nothing to measure: use"
            " predictions on annotated boxes."
        )
    joints_img = table[["x", "y"]].to_numpy(np.float64).reshape(*shape, 2)
    scores = table["score"].to_numpy(np.float64).reshape(shape)
    if not (np.isfinite(joints_img).all() and np.isfinite(scores).all()):
        raise PosematchError("a predicted joint or score is NaN or infinite.")
    size = table["head_size_img" if by_heads else "area"].to_numpy(np.float64).reshape(shape)[:, 0]
    if (size[labelled.any(axis=1)] <= 0).any():
        raise PosematchError("a labelled person has a size of 0, so distances have no measure.")
    return ScoredJoints(
        joints_img=joints_img,
        true_img=table[["true_x", "true_y"]].to_numpy(np.float64).reshape(*shape, 2),
        labelled=labelled,
        scores=scores,
        image_ids=table["image_id"].to_numpy(np.int64).reshape(shape)[:, 0],
        # Nobody reads the size of a person without labelled joints.
        size_img=np.where(size > 0, size if by_heads else np.sqrt(np.maximum(size, 0)), 1.0),
        skeleton=skeleton,
        by_heads=by_heads,
    )


def need(table: pd.DataFrame, *columns: str) -> None:
    """See that a prediction table has these columns.

    Raises
    ------
    PosematchError
        It lacks one, perhaps because it was written before that column was part of tables.
    """
    if missing := [column for column in columns if column not in table]:
        raise PosematchError(
            f"the predictions lack {', '.join(missing)}: write them again from the checkpoint."
        )


def _skeleton(names: Sequence[str]) -> Skeleton:
    for skeleton in SKELETONS.values():
        if skeleton.joints == tuple(names):
            return skeleton
    raise PosematchError(
        f"the predictions' {len(names)} joints are neither MPII's nor COCO's"
        f" {COCO.num_joints}: say which skeleton they are of."
    )
