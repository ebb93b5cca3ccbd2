"""People to crops: one affine map, one warp from the full-resolution photo.

A sample's randomness comes from one generator keyed by (seed, epoch, person id), so a crop does
not depend on workers, processes, order or resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol, TypedDict

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from posematch.data.augmentation import (
    Appearance,
    GeometricAugmentation,
    Placement,
    sample_placement,
)
from posematch.data.people import People, Person
from posematch.data.pictures import (
    MOST_PHOTO_BYTES,
    decode_photo,
    turn_of,
    turned,
)
from posematch.data.regions import PhotoRegion, reduced_affine
from posematch.data.widths import sizes_img, width_shares
from posematch.errors import PosematchError
from posematch.geometry import (
    Convention,
    Size,
    apply_affine,
    box_to_crop_affine,
    length_scale,
)
from posematch.untrusted import read_bytes


class Regions(Protocol):
    """What `CropDataset` reads instead of photos."""

    def __getitem__(self, index: int) -> PhotoRegion:
        """Region of the split's person number ``index``."""
        ...


class Placed(TypedDict):
    """A sample without its pixels."""

    joints_crop: torch.Tensor  # (K, 2) float32
    visible: torch.Tensor  # (K,) float32
    crop_affine: torch.Tensor  # (2, 3) float64, image -> crop
    widths_crop: torch.Tensor  # (K,) float32, see posematch.data.widths; 0: unknown
    person_id: int
    counted: bool  # False: only there so that this process has a batch, see `EpochSampler`


class Crop(Placed):
    """One sample, as `CropDataset` yields it and the default collation batches it."""

    crop: torch.Tensor  # (3, H, W) uint8 RGB; normalised on the device


class Batch(TypedDict):
    """Crops of B people."""

    crop: torch.Tensor  # (B, 3, H, W) uint8
    joints_crop: torch.Tensor  # (B, K, 2) float32
    visible: torch.Tensor  # (B, K) float32
    crop_affine: torch.Tensor  # (B, 2, 3) float64
    widths_crop: torch.Tensor  # (B, K) float32
    person_id: torch.Tensor  # (B,) int64
    counted: torch.Tensor  # (B,) bool; all of a batch or none, see `EpochSampler`


class Sample(NamedTuple):
    """What `EpochSampler` yields and `CropDataset` is addressed by."""

    epoch: int
    place: int  # of the person in the split
    counted: bool = True


# Parts of a JPEG's resolution that its decoder can answer.
_REDUCTIONS = (8, 4, 2)


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
    return read_region(path, told).pixels_bgr


def read_region(
    path: Path, told: tuple[int, int] | None = None, reduction: int = 1, padded: bool = False
) -> PhotoRegion:
    """`read_photo`, at a part of its resolution where that is to be had faster.

    Parameters
    ----------
    path, told
        See `read_photo`.
    reduction
        1, 2, 4 or 8: a JPEG file is decoded to that part of its width and height, averaged as its
        coefficients say. A photo that EXIF turns and one in another format are read whole.
    padded
        See `posematch.data.pictures.decode_pixels`.

    Raises
    ------
    PosematchError
        See `read_photo`.
    """
    content = read_bytes(path, MOST_PHOTO_BYTES, "a photo (below data.root)")
    how = "check data.root, or restore the file"
    what = f"The photo {path}"
    pixels, size = decode_photo(content, what, how, reduction, padded)
    turn = turn_of(content, size, told, path)
    if turn != 1 and pixels.shape[1::-1] != size:
        # The last pixel of a reduced row or column may stand for fewer than the others, and turned
        # it would be the first.
        pixels, size = decode_photo(content, what, how, padded=padded)
    pixels = turned(pixels, turn)
    whole = turn != 1 or pixels.shape[1::-1] == size
    width = pixels.shape[1] if whole else size[0]
    return PhotoRegion(pixels, width, None if whole else reduced_affine(reduction))


def reduction_for(placement: Placement, crop_size: Size) -> int:
    """How far a photo can be reduced so that it still has a pixel for each of the crop's."""
    per_crop_pixel = float(np.min(placement.box_size_img / np.array(crop_size[::-1])))
    return next((one for one in _REDUCTIONS if per_crop_pixel >= one), 1)


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
    reduced
        Read photos no larger than a crop needs, see `reduction_for`: faster, and softer.
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
        reduced: bool = False,
    ) -> None:
        self.people = people
        self.input_size = input_size
        self.convention: Convention = convention
        self.seed = seed
        self.geometry = geometry
        self.appearance = appearance
        self.regions = regions
        self.reduced = reduced
        self._flip_permutation = list(people.skeleton.flip_permutation)
        self._width_shares = width_shares(people.skeleton)

    def __len__(self) -> int:
        return len(self.people.people)

    def __getitem__(self, key: tuple[int, int] | Sample) -> Crop:
        epoch, index, counted = Sample(*key)
        person, placement, rng = self.draw(epoch, index)
        try:
            region = self._region(index, placement)
            placed = self.placed(person, placement, region.photo_width_px, counted)
            affine = placed["crop_affine"].numpy()
            if self.appearance is None:
                planes = region.planes(affine, self.input_size)
            else:
                pixels = region.crop(affine, self.input_size)
                pixels = self.appearance(pixels, int(rng.integers(2**31)))
                planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        except (cv2.error, OSError, MemoryError) as error:
            raise PosematchError(_photo_sentence(person.image, error)) from error
        return Crop(crop=torch.from_numpy(planes), **placed)

    def draw(self, epoch: int, index: int) -> tuple[Person, Placement, np.random.Generator]:
        """A person, where their crop is taken in an epoch, and the generator for what follows."""
        person = self.people.people[index]
        rng = np.random.default_rng([self.seed, epoch, person.person_id])
        placement = sample_placement(
            person, self.people.skeleton, self.input_size, self.geometry, rng
        )
        return person, placement, rng

    def _region(self, index: int, placement: Placement) -> PhotoRegion:
        if self.regions is not None:
            return self.regions[index]
        person = self.people.people[index]
        reduction = reduction_for(placement, self.input_size) if self.reduced else 1
        return read_region(person.image, person.photo_size, reduction, padded=True)

    def placed(
        self, person: Person, placement: Placement, photo_width_px: int, counted: bool = True
    ) -> Placed:
        """A sample without its pixels."""
        affine = box_to_crop_affine(
            placement.center_img,
            placement.box_size_img,
            self.input_size,
            placement.rotation_deg,
            photo_width_px if placement.mirrored else None,
            self.convention,
        )
        joints_crop = apply_affine(affine, person.joints_img)
        size_img = sizes_img(person.area, person.head_size_img, self.people.skeleton)
        # Not permuted in a mirrored crop: a joint there is judged by what it is taken for.
        widths_crop = self._width_shares * size_img * length_scale(affine)
        visible = person.visible
        if placement.mirrored:
            joints_crop = joints_crop[self._flip_permutation]
            visible = visible[self._flip_permutation]
        # Rows of unlabelled joints mean nothing; a fixed value keeps batches comparable.
        joints_crop = np.where(visible[:, None] > 0, joints_crop, 0.0)
        if not counted:
            visible = np.zeros_like(visible)  # no weight in any loss
        return Placed(
            joints_crop=torch.from_numpy(joints_crop.astype(np.float32)),
            visible=torch.from_numpy(np.ascontiguousarray(visible)),
            crop_affine=torch.from_numpy(affine),
            widths_crop=torch.from_numpy(widths_crop.astype(np.float32)),
            person_id=person.person_id,
            counted=counted,
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
