"""People to crops: one affine map, one warp from the full-resolution photo.

A sample's randomness comes from one generator keyed by (seed, epoch, person id), so a crop does
not depend on workers, processes, order or resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypedDict

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from posematch.data.augmentation import Appearance, GeometricAugmentation, sample_placement
from posematch.data.people import People, Person
from posematch.data.pictures import (
    MOST_PHOTO_BYTES,
    decode_photo,
    turn_of,
    turned,
)
from posematch.errors import PosematchError
from posematch.geometry import Convention, Size, apply_affine, box_to_crop_affine
from posematch.untrusted import read_bytes


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
    counted: bool  # False: only there so that this process has a batch, see `EpochSampler`


class Batch(TypedDict):
    """Crops of B people."""

    crop: torch.Tensor  # (B, 3, H, W) uint8
    joints_crop: torch.Tensor  # (B, K, 2) float32
    visible: torch.Tensor  # (B, K) float32
    crop_affine: torch.Tensor  # (B, 2, 3) float64
    person_id: torch.Tensor  # (B,) int64
    counted: torch.Tensor  # (B,) bool; all of a batch or none, see `EpochSampler`


class Sample(NamedTuple):
    """What `EpochSampler` yields and `CropDataset` is addressed by."""

    epoch: int
    place: int  # of the person in the split
    counted: bool = True


def read_photo(path: Path, told: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read a photo as (H, W, 3) BGR uint8, as it is stored (docs/protocols.md, Crop).

    Parameters
    ----------
    path
        The file.
    told
        (width, height) by the annotation. Where that is the stored one exchanged, and EXIF says
        that the photo is to be turned, it is; see `posematch.data.pictures.turn_of`.

    Raises
    ------
    PosematchError
        There is no ordinary file, it is no picture, one of more than `MOST_PIXELS` pixels, or not
        of the told size.
    """
    content = read_bytes(path, MOST_PHOTO_BYTES, "a photo (below data.root)")
    how = "check data.root, or restore the file"
    photo, size = decode_photo(content, f"The photo {path}", how)
    return turned(photo, turn_of(content, size, told, path))


def warp_crop(
    photo_bgr: NDArray[np.uint8], affine: NDArray[np.float64], crop_size: Size
) -> NDArray[np.uint8]:
    """Warp a BGR photo into an (H, W, 3) RGB crop; see docs/protocols.md, Crop."""
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
    """Crops of one split, addressed by `Sample` (or its first two members).

    What goes wrong with a photo is a `PosematchError` that names it, whatever the process.

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

    def __getitem__(self, key: tuple[int, int] | Sample) -> Crop:
        epoch, index, counted = Sample(*key)
        person = self.people.people[index]
        rng = np.random.default_rng([self.seed, epoch, person.person_id])
        try:
            crop = self.make_crop(person, self._region(index), rng)
        except (cv2.error, OSError, MemoryError) as error:
            raise PosematchError(_photo_sentence(person.image, error)) from error
        if not counted:
            crop["counted"] = False
            crop["visible"] = torch.zeros_like(crop["visible"])  # no weight in any loss
        return crop

    def _region(self, index: int) -> PhotoRegion:
        if self.regions is not None:
            return self.regions[index]
        person = self.people.people[index]
        photo_bgr = read_photo(person.image, person.photo_size)
        return PhotoRegion(photo_bgr, photo_bgr.shape[1])

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
            counted=True,
        )


def _photo_sentence(photo: Path, error: Exception) -> str:
    """What to tell about a photo that is there and cannot be made into a crop."""
    if isinstance(error, MemoryError) or getattr(error, "code", None) == cv2.Error.StsNoMem:
        return (
            f"There is not enough memory to read the photo {photo}; lower data.workers, or take"
            " the photo out of the annotations if it is far larger than the others."
        )
    why = error.strerror if isinstance(error, OSError) else getattr(error, "err", None)
    return (
        f"The photo {photo} cannot be read ({' '.join(str(why or error).split())}); restore the"
        " file (and with data.cache=true the crop cache)."
    )


class EpochSampler(Sampler[Sample]):
    """Yields `Sample` for one process of a training, resumable inside an epoch.

    Global batch g of an epoch is the same set of people whatever the number of processes, and each
    takes its slice of it. All have the same number of batches, each full but for the last: people
    of an incomplete global batch are split evenly. A process left with nobody gets the first of
    them once more as a sample that does not count, so that it has a step to take part in;
    otherwise nobody is repeated. The first process always has somebody who counts.

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
        self._length = length
        global_batch = batch_size * world_size
        self._used = length
        if drop_incomplete and length >= global_batch:
            self._used = length - length % global_batch

    @property
    def batches(self) -> int:
        """Batches of an epoch, the same for every process."""
        return -(-self._used // (self.batch_size * self.world_size))

    def __len__(self) -> int:
        """Samples of an epoch, for this process."""
        whole, rest = divmod(self._used, self.batch_size * self.world_size)
        last = max(1, len(np.array_split(np.arange(rest), self.world_size)[self.rank]))
        return whole * self.batch_size + (last if rest else 0)

    def __iter__(self) -> Iterator[Sample]:
        epoch = self._epoch()
        order = np.arange(self._length)
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(self._length)
        global_batch = self.batch_size * self.world_size
        for start in range(self._batches_done() * global_batch, self._used, global_batch):
            everybody = order[start : min(start + global_batch, self._used)]
            # A complete batch splits into slices of batch_size.
            own = np.array_split(everybody, self.world_size)[self.rank]
            for index in own:
                yield Sample(epoch, int(index))
            if len(own) == 0:
                yield Sample(epoch, int(everybody[0]), counted=False)
