"""Where the joints of the people on one picture are: what a prediction returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.console import RenderableType
from rich.table import Table

Floats = NDArray[np.float64]
_MOST_ROWS = 12  # of people that are shown


@dataclass(frozen=True, eq=False)
class Poses:
    """Joints of N people on one picture; pixels are the picture's as a viewer shows it.

    Attributes
    ----------
    names
        Of the K joints.
    joints_img
        (N, K, 2) float64 x, y; pixel centres lie at integers.
    scores
        (N, K) in [0, 1].
    score_means
        What a score is, in words.
    covariance_img
        (N, K, 2, 2) square pixels: that of the joint's mass over the map, so a blob's width and
        direction, the training target's own width included; NaN of a map without mass.
    boxes_img
        (N, 4) x, y, width, height: what the people were cut out by, before the padding.
    box_scores
        (N,) the detector's confidence; 1 of boxes that were given.
    picture_size
        (H, W).
    limbs
        Pairs of joints that lines are drawn between.
    maps
        (N, K, h, w) float32 what was decoded, where it was asked for: probabilities of a network
        whose loss was of masses, else its heatmaps.
    heatmap_affines
        (N, 2, 3) picture to heatmap pixels.

    Examples
    --------
    >>> poses = Poses.nobody(("head", "foot"), (480, 640))
    >>> len(poses), poses.joints_img.shape
    (0, (0, 2, 2))
    """

    names: tuple[str, ...]
    joints_img: Floats
    scores: Floats
    score_means: str
    covariance_img: Floats
    boxes_img: Floats
    box_scores: Floats
    picture_size: tuple[int, int]
    limbs: tuple[tuple[int, int], ...]
    heatmap_affines: Floats
    maps: NDArray[np.float32] | None = None

    @classmethod
    def nobody(
        cls,
        names: tuple[str, ...],
        picture_size: tuple[int, int],
        limbs: tuple[tuple[int, int], ...] = (),
        score_means: str = "",
    ) -> Poses:
        """Of a picture without people."""
        joints = len(names)
        return cls(
            names,
            np.zeros((0, joints, 2)),
            np.zeros((0, joints)),
            score_means,
            np.zeros((0, joints, 2, 2)),
            np.zeros((0, 4)),
            np.zeros(0),
            picture_size,
            limbs,
            np.zeros((0, 2, 3)),
        )

    @property
    def masses(self) -> NDArray[np.float32] | None:
        """(N, K, h, w) the positive part of each map, of sum 1; zero where there is none."""
        if self.maps is None:
            return None
        positive = self.maps.clip(min=0)
        total = positive.sum(axis=(2, 3), keepdims=True)
        return np.asarray(positive / np.where(total > 0, total, 1), dtype=np.float32)

    def __len__(self) -> int:
        return len(self.joints_img)

    def __getitem__(self, people: Any) -> Poses:
        """Some of the people, by an index, a slice or a mask."""
        chosen = np.atleast_1d(np.arange(len(self))[people])
        of_people = {
            one.name: getattr(self, one.name)[chosen]
            for one in fields(self)
            if isinstance(getattr(self, one.name), np.ndarray)
        }
        return replace(self, **of_people)

    def __iter__(self) -> Iterator[Poses]:
        """Each person."""
        return (self[person] for person in range(len(self)))

    def __repr__(self) -> str:
        height, width = self.picture_size
        people = f"{len(self)} {'person' if len(self) == 1 else 'people'}"
        return f"Poses({people}, {len(self.names)} joints, picture of {width} x {height})"

    def __rich__(self) -> RenderableType:
        table = Table(title=repr(self), caption=f"score: {self.score_means}")
        table.add_column("joint")
        shown = list(self)[:_MOST_ROWS]
        for person, _ in enumerate(shown):
            table.add_column(f"person {person}: x, y, score", justify="right")
        for joint, name in enumerate(self.names):
            cells = [
                "{:.1f}, {:.1f}, {:.2f}".format(*one.joints_img[0, joint], one.scores[0, joint])
                for one in shown
            ]
            table.add_row(name, *cells)
        return table

    def to_pandas(self) -> pd.DataFrame:
        """A row for each person and joint: ``person, joint, x_img, y_img, score``."""
        people, joints = self.scores.shape
        return pd.DataFrame(
            {
                "person": np.repeat(np.arange(people), joints),
                "joint": np.tile(np.array(self.names, dtype=object), people),
                "x_img": self.joints_img[..., 0].ravel(),
                "y_img": self.joints_img[..., 1].ravel(),
                "score": self.scores.ravel(),
            }
        )

    def to_torch(self, device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
        """The arrays as tensors, by the names of the attributes."""
        return {
            one.name: torch.from_numpy(value).to(device)
            for one in fields(self)
            if isinstance(value := getattr(self, one.name), np.ndarray)
        }
