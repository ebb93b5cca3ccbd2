"""People to crops: one affine map, one warp from the full-resolution photo.

A sample's randomness comes from one generator keyed by (seed, epoch, person id), so a crop does
not depend on workers, processes, order or resumes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypedDict

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from posematch.data.augmentation import Appearance, GeometricAugmentation, sample_placement
from posematch.data.people import People, Person
from posematch.data.pictures import MOST_PIXELS, picture_size
from posematch.errors import PosematchError
from posematch.geometry import Convention, Size, apply_affine, box_to_crop_affine
from posematch.untrusted import MIB, read_bytes

_MOST_PHOTO_BYTES = 256 * MIB


class Regions(Protocol):
    """What `CropDataset` reads instead of photos."""

    def __getitem__(self, index: int) -> PhotoRegion:
        """Region of the split's person number ``index``."""
        ...


class Crop(TypedDict):
    """One sample, as `CropDataset` yields it and the default collation batches it."""

    crop: torch.Tensor  # (3, H, W) uint8 RGB; normalised on the device
    joints_crop: torch.Tensor  # (K, 2) float32
    visible: torch.Tensor  # (K,) float32
    crop_affine: torch.Tensor  # (2, 3) float64, image -> crop
    person_id: int


class Batch(TypedDict):
    """Crops of B people."""

    crop: torch.Tensor  # (B, 3, H, W) uint8
    joints_crop: torch.Tensor  # (B, K, 2) float32
    visible: torch.Tensor  # (B, K) float32
    crop_affine: torch.Tensor  # (B, 2, 3) float64
    person_id: torch.Tensor  # (B,) int64


def read_photo(path: Path) -> NDArray[np.uint8]:
    """Read a photo as (H, W, 3) BGR uint8, EXIF rotation ignored on purpose (PROTOCOLS 2.4).

    Raises
    ------
    PosematchError
        There is no ordinary file, it is no picture, or one of more than `MOST_PIXELS` pixels.
    """
    content = read_bytes(path, _MOST_PHOTO_BYTES, "a photo (below data.root)")
    photo = None
    # By its header, before any memory is taken: a PNG of a few kilobytes may have 40000 x 40000.
    size = picture_size(content)
    if size is not None:
        if size[0] * size[1] > MOST_PIXELS:
            raise PosematchError(
                f"The photo {path} has {size[0]} x {size[1]} pixels, more than the"
                f" {MOST_PIXELS / 1e6:.0f} million that are read; scale it down."
            )
        with contextlib.suppress(cv2.error):
            how = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
            photo = cv2.imdecode(np.frombuffer(content, np.uint8), how)
    if photo is None:
        raise PosematchError(
            f"The photo {path} is not a readable image; check data.root, or restore the file."
        )
    return np.asarray(photo, dtype=np.uint8)


def warp_crop(
    photo_bgr: NDArray[np.uint8], affine: NDArray[np.float64], crop_size: Size
) -> NDArray[np.uint8]:
    """Warp a BGR photo into an (H, W, 3) RGB crop, bilinear, black outside (PROTOCOLS 2.4)."""
    height, width = crop_size
    crop = cv2.warpAffine(photo_bgr, affine, (width, height), flags=cv2.INTER_LINEAR)
    return np.asarray(cv2.cvtColor(crop, cv2.COLOR_BGR2RGB), dtype=np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class PhotoRegion:
    """What crops are warped from: a photo, or the part of it that one person's crops can need.

    Attributes
    ----------
    pixels_bgr
        (h, w, 3) uint8.
    photo_width_px
        Width of the whole photo, about which it is mirrored.
    affine
        (2, 3) photo to region pixels; None for the whole photo.
    """

    pixels_bgr: NDArray[np.uint8]
    photo_width_px: int
    affine: NDArray[np.float64] | None = None

    def crop(self, affine: NDArray[np.float64], crop_size: Size) -> NDArray[np.uint8]:
        """`warp_crop` by a map from *photo* pixels to crop pixels."""
        if self.affine is not None:
            linear = affine[:, :2] @ np.linalg.inv(self.affine[:, :2])
            shift = affine[:, 2] - linear @ self.affine[:, 2]
            affine = np.concatenate([linear, shift[:, None]], axis=1)
        return warp_crop(self.pixels_bgr, affine, crop_size)


class CropDataset(Dataset[Crop]):
    """Crops of one split, addressed by (epoch, index) as `EpochSampler` yields them.

    Parameters
    ----------
    people
        The split.
    input_size
        (H, W) of the crops.
    convention
        How the box is laid over the crop, see `posematch.geometry`.
    seed
        Run seed; part of every sample's generator key.
    geometry, appearance
        Augmentation; None for none (validation).
    regions
        What crops are warped from, person by person (`posematch.data.cache`); None reads photos.
    """

    def __init__(
        self,
        people: People,
        input_size: Size,
        convention: Convention,
        seed: int,
        geometry: GeometricAugmentation | None = None,
        appearance: Appearance | None = None,
        regions: Regions | None = None,
    ) -> None:
        self.people = people
        self.input_size = input_size
        self.convention: Convention = convention
        self.seed = seed
        self.geometry = geometry
        self.appearance = appearance
        self.regions = regions
        self._flip_permutation = list(people.skeleton.flip_permutation)

    def __len__(self) -> int:
        return len(self.people.people)

    def __getitem__(self, key: tuple[int, int]) -> Crop:
        epoch, index = key
        person = self.people.people[index]
        rng = np.random.default_rng([self.seed, epoch, person.person_id])
        if self.regions is not None:
            return self.make_crop(person, self.regions[index], rng)
        photo_bgr = read_photo(person.image)
        return self.make_crop(person, PhotoRegion(photo_bgr, photo_bgr.shape[1]), rng)

    def make_crop(self, person: Person, region: PhotoRegion, rng: np.random.Generator) -> Crop:
        """Cut one person out of a photo, or out of the part of it that was kept."""
        placement = sample_placement(
            person, self.people.skeleton, self.input_size, self.geometry, rng
        )
        affine = box_to_crop_affine(
            placement.center_img,
            placement.box_size_img,
            self.input_size,
            placement.rotation_deg,
            region.photo_width_px if placement.mirrored else None,
            self.convention,
        )
        crop = region.crop(affine, self.input_size)
        joints_crop = apply_affine(affine, person.joints_img)
        visible = person.visible
        if placement.mirrored:
            joints_crop = joints_crop[self._flip_permutation]
            visible = visible[self._flip_permutation]
        # Rows of unlabelled joints mean nothing; a fixed value keeps batches comparable.
        joints_crop = np.where(visible[:, None] > 0, joints_crop, 0.0)
        if self.appearance is not None:
            crop = self.appearance(crop, int(rng.integers(2**31)))
        return Crop(
            crop=torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1))),
            joints_crop=torch.from_numpy(joints_crop.astype(np.float32)),
            visible=torch.from_numpy(np.ascontiguousarray(visible)),
            crop_affine=torch.from_numpy(affine),
            person_id=person.person_id,
        )


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index) for one process of a training, resumable inside an epoch.

    Global batch g of an epoch is the same set of people whatever the number of processes: each
    takes its slice of it. Nobody is padded or repeated.

    Parameters
    ----------
    length
        People in the split.
    batch_size
        People per step and process.
    shuffle
        A new order each epoch, keyed by (seed, epoch).
    drop_incomplete
        Leave out the people of an incomplete last global batch (training: every process needs the
        same number of steps, and batch statistics of a handful of people are poor). A split smaller
        than one batch is kept whole.
    epoch, batches_done
        Called when iteration starts: the epoch it is, and how many of its batches are done.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        shuffle: bool,
        drop_incomplete: bool,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        epoch: Callable[[], int] = lambda: 0,
        batches_done: Callable[[], int] = lambda: 0,
    ) -> None:
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._epoch = epoch
        self._batches_done = batches_done
        global_batch = batch_size * world_size
        self._used = length
        if drop_incomplete and length >= global_batch:
            self._used = length - length % global_batch
        self._length = length

    def _own(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        position = np.arange(len(order))
        mine = position % (self.batch_size * self.world_size) // self.batch_size == self.rank
        own: NDArray[np.int64] = order[mine]
        return own

    def __len__(self) -> int:
        return len(self._own(np.arange(self._used)))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self._epoch()
        order = np.arange(self._length)
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(self._length)
        mine = self._own(order[: self._used])
        for index in mine[self._batches_done() * self.batch_size :]:
            yield epoch, int(index)
