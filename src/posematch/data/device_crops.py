"""Crops made in batches on the device, from a crop cache that lies in its memory.

Loader processes only draw where a crop is taken and how it looks (`PlacedPeople`), with each
sample's own generator, as for crops made on the CPU; the warp and the colours of a whole batch are
done by `DeviceCrops.batch`, to within a grey level of those.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from posematch.data.cache import CropCache
from posematch.data.crops import Batch, CropDataset, Sample
from posematch.data.device_look import LookPlan
from posematch.data.regions import region_to_crop
from posematch.geometry import Size
from posematch.processes import available_cores

# Of the memory that is free; the rest is the network's, its optimizer's and its activations'.
MOST_OF_THE_MEMORY = 0.4
_PLACE, _INVERSE, _LOOK, _MADE, _MADE_AT = "place", "crop_to_region", "look", "made", "made_at"
_SPLIT = "split"


class PlacedPeople(Dataset[dict[str, Any]]):
    """`CropDataset` without its pixels: what `DeviceCrops` makes crops of.

    Parameters
    ----------
    crops
        Whose samples these are; its regions are a `CropCache`.
    """

    def __init__(self, crops: CropDataset) -> None:
        assert isinstance(crops.regions, CropCache)
        self.crops = crops
        self.index = crops.regions.index
        self.plan = LookPlan(crops.appearance, crops.input_size) if crops.appearance else None

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, key: tuple[int, int] | Sample) -> dict[str, Any]:
        epoch, place, counted = Sample(*key)
        row = self.index[place]
        person, placement, rng = self.crops.draw(epoch, place)
        placed = self.crops.placed(person, placement, int(row["photo_width_px"]), counted)
        affine = region_to_crop(placed["crop_affine"].numpy(), row["affine"])
        inverse = np.linalg.inv(np.concatenate([affine, [[0.0, 0.0, 1.0]]]))[:2]
        sample: dict[str, Any] = {**placed, _PLACE: place, _INVERSE: torch.from_numpy(inverse)}
        if self.plan is not None:
            look = self.plan.draw(int(rng.integers(2**31)))
            if look is None:  # a transform that is not done on batches: by the loader, then
                sample[_MADE] = self.crops[(epoch, place)]["crop"]
                look = np.zeros(self.plan.length)
            sample[_LOOK] = torch.from_numpy(look)
        return sample


def collate_placed(samples: Sequence[dict[str, Any]], split: str) -> dict[str, Any]:
    """Samples of `PlacedPeople` as a batch; crops that are made already stand apart."""
    made = {at: one.pop(_MADE) for at, one in enumerate(samples) if _MADE in one}
    batch: dict[str, Any] = default_collate(list(samples)) | {_SPLIT: split}
    if made:
        batch[_MADE_AT] = torch.tensor(list(made))
        batch[_MADE] = torch.stack(list(made.values()))
    return batch


class DeviceCrops:
    """Regions of one split in a device's memory, and crops of them.

    Parameters
    ----------
    cache
        The regions; they are decoded once, here.
    crop_size
        (H, W) of the crops.
    device
        Where they are to lie.
    plan
        What is done to the colours; None for nothing.
    """

    def __init__(
        self, cache: CropCache, crop_size: Size, device: torch.device, plan: LookPlan | None = None
    ) -> None:
        self.crop_size = crop_size
        self.device = device
        self.plan = plan
        sizes = cache.index["size"].astype(np.int64)
        pixels = sizes.prod(1)
        firsts = np.cumsum(pixels) - pixels
        self._sizes = torch.from_numpy(sizes).to(device)
        self._firsts = torch.from_numpy(firsts).to(device)
        # Threads write it, of which none is in the inference mode that a validation is set up in.
        with torch.inference_mode(False):
            self._pixels_rgb = torch.empty((int(pixels.sum()), 3), dtype=torch.uint8, device=device)

        def place(at: int) -> None:
            rgb = torch.from_numpy(cache[at].pixels_bgr[..., 2::-1].reshape(-1, 3).copy())
            self._pixels_rgb[firsts[at] : firsts[at] + pixels[at]] = rgb.to(device)

        with ThreadPoolExecutor(
            available_cores()
        ) as executor:  # decoding leaves Python's lock alone
            for _ in executor.map(place, range(len(cache))):
                pass

    @property
    def bytes(self) -> int:
        """Memory that the pictures take."""
        return self._pixels_rgb.numel()

    def batch(self, placed: dict[str, Any]) -> Batch:
        """What `collate_placed` answers, on the host, as a batch of crops on the device."""
        rest = dict(placed)
        del rest[_SPLIT]
        place, inverse = rest.pop(_PLACE), rest.pop(_INVERSE)
        look, made, made_at = (rest.pop(name, None) for name in (_LOOK, _MADE, _MADE_AT))
        crops = self.warped(place, inverse)
        if self.plan is not None and look is not None:
            crops = self.plan.apply(crops, look.numpy())
        if made is not None and made_at is not None:
            crops[self._sent(made_at)] = self._sent(made)
        batch: Any = {name: self._sent(value) for name, value in rest.items()}
        whole: Batch = batch | {"crop": crops}
        return whole

    def _sent(self, value: torch.Tensor) -> torch.Tensor:
        return value.to(self.device, non_blocking=True)

    def warped(self, place: torch.Tensor, crop_to_region: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) uint8 RGB crops of (B,) people by (B, 2, 3) maps, black outside.

        The bilinear warp of OpenCV 5, which weighs by the exact place. OpenCV 4 rounds that to
        32nds of a pixel: up to 4 grey levels at the sharpest edges.
        """
        height, width = self.crop_size
        place = self._sent(place)
        first, (region_h, region_w) = self._firsts[place], self._sizes[place].unbind(1)
        a = self._sent(crop_to_region)[..., None, None]
        x_crop = torch.arange(width, device=self.device, dtype=torch.float64)
        y_crop = torch.arange(height, device=self.device, dtype=torch.float64)[:, None]
        x = (a[:, 0, 0] * x_crop + (a[:, 0, 1] * y_crop + a[:, 0, 2])).float()
        y = (a[:, 1, 0] * x_crop + (a[:, 1, 1] * y_crop + a[:, 1, 2])).float()
        left, top = x.floor(), y.floor()
        right_share, lower_share = x - left, y - top
        columns, rows = left.long(), top.long()
        first, region_h, region_w = (one[:, None, None] for one in (first, region_h, region_w))
        crops = torch.zeros(*x.shape, 3, device=self.device)
        for down, share_y in ((0, 1 - lower_share), (1, lower_share)):
            row = rows + down
            row_inside = (row >= 0) & (row < region_h)
            for right, share_x in ((0, 1 - right_share), (1, right_share)):
                column = columns + right
                inside = row_inside & (column >= 0) & (column < region_w)
                at = torch.where(inside, first + row * region_w + column, first)
                crops.addcmul_(self._pixels_rgb[at], (share_x * share_y * inside)[..., None])
        return crops.round_().to(torch.uint8).permute(0, 3, 1, 2).contiguous()


def is_placed(batch: Any) -> bool:
    """Whether something is what `collate_placed` answers."""
    return isinstance(batch, dict) and _INVERSE in batch


def split_of(batch: dict[str, Any]) -> str:
    """Whose batch `collate_placed` made."""
    split: str = batch[_SPLIT]
    return split


def bytes_of(cache: CropCache) -> int:
    """Memory that a cache's regions take on a device."""
    return int(cache.index["size"].astype(np.int64).prod(1).sum()) * 3


def free_bytes(device: torch.device) -> int:
    """Memory that a device has left; of a CPU its whole."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
