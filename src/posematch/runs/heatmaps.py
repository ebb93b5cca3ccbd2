"""Heatmaps of a fixed choice of validation people, kept in the run folder in a compact form.

Pictures of predicted heatmaps are made from run folders, after the checkpoints are gone, and of
people that are only known once two runs are compared. So each validation keeps the maps of the
same few hundred people, whatever the run; those of the last validation stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from posematch.data.people import Person
from posematch.errors import PosematchError
from posematch.files import replacing
from posematch.runs.folder import RunFolder
from posematch.untrusted import own_file, read_arrays

# A value v of a map with the peak p is stored as round(255 sqrt(v / p)): the root keeps values down
# to p / 260,000, so that sums over a map's faint parts survive. Largest error: p / 255 at the peak.
_LEVELS = 255


@dataclass(frozen=True, eq=False)
class StoredHeatmaps:
    """Maps of some people, as a run folder holds them.

    Attributes
    ----------
    person_id
        (N,), ascending.
    levels
        (N, K, H, W) uint8, see `maps`.
    peaks
        (N, K) float32: each map's highest value; 0 where none is positive.
    crop_affine
        (N, 2, 3) photo to crop pixels.
    image
        (N,) photos' paths, relative to the folder of the data set.
    """

    person_id: NDArray[np.int64]
    levels: NDArray[np.uint8]
    peaks: NDArray[np.float32]
    crop_affine: NDArray[np.float64]
    image: NDArray[np.str_]

    def maps(self, rows: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.float32]:
        """(n, K, H, W) positive parts of the maps that were decoded, within 0.4 % of the peak."""
        root = self.levels[rows].astype(np.float32) / _LEVELS
        return np.asarray(root * root * self.peaks[rows][..., None, None], np.float32)


def chosen_people(people: Sequence[Person], number: int) -> frozenset[int]:
    """Ids of whose maps are kept: the same for every run with these validation people.

    A random choice with a fixed seed; all of them where they are no more than ``number``.
    """
    ids = np.sort([person.person_id for person in people])
    order = np.random.default_rng(0).permutation(ids)
    return frozenset(order[:number].tolist())


def compress(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, K, H, W) maps to uint8 levels and (n, K) float32 peaks; see `StoredHeatmaps`."""
    positive = maps.detach().float().clamp_min(0)
    peaks = positive.amax((-2, -1))
    share = positive / peaks.clamp_min(torch.finfo(torch.float32).tiny)[..., None, None]
    return (share.sqrt() * _LEVELS).round().to(torch.uint8), peaks


def write_heatmaps(path: Path, stored: StoredHeatmaps) -> None:
    """Write an npz in one piece."""
    with replacing(path) as file:
        np.savez_compressed(
            file,
            person_id=stored.person_id,
            levels=stored.levels,
            peaks=stored.peaks,
            crop_affine=stored.crop_affine,
            image=stored.image,
        )


def read_heatmaps(folder: RunFolder) -> StoredHeatmaps:
    """The maps that a run keeps.

    Raises
    ------
    PosematchError
        There are none, or the file is damaged.
    """
    files = sorted(own_file(folder.path, folder.heatmaps(0).parent).glob("epoch=*.npz"))
    if not files:
        raise PosematchError(
            f"{folder.path} keeps no heatmaps; train it with pictures.heatmaps_of above 0."
        )
    names = ("person_id", "levels", "peaks", "crop_affine", "image")
    stored = StoredHeatmaps(*read_arrays(own_file(folder.path, files[-1]), names))
    kinds = (("iu", stored.person_id), ("u", stored.levels), ("f", stored.peaks),
             ("f", stored.crop_affine), ("U", stored.image))  # fmt: skip
    people, joints = stored.peaks.shape if stored.peaks.ndim == 2 else (-1, -1)
    whole = (
        all(array.dtype.kind in kind for kind, array in kinds)
        and stored.levels.ndim == 4
        and min(stored.levels.shape) > 0
        and stored.levels.shape[:2] == (people, joints)
        and stored.person_id.shape == stored.image.shape == (people,)
        and stored.crop_affine.shape == (people, 2, 3)
        and bool(np.isfinite(stored.crop_affine).all() and np.isfinite(stored.peaks).all())
        and bool((np.diff(stored.person_id.astype(np.int64)) > 0).all())
    )
    if not whole:
        raise PosematchError(f"{files[-1]} is not a file of heatmaps: its arrays do not fit.")
    return stored
