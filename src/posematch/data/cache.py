"""Crop cache: per person the part of the photo that any of its crops can need, in two files.

Reading whole photos costs most of loading's time, and takes all of them along to another machine.
The cache of one split is a folder ``<split>-<key>`` with

``regions.bin``
    Encoded pictures one after another, read through a memory map.
``index.npy``
    A row per person: where its picture lies, its checksum, the map from photo to region pixels.
``manifest.json``
    What it was made of; the photos with their sizes, times and hashes.

The key covers everything the pictures depend on but the photos' contents, and a photo that is
there and differs from the one that was cached makes the cache stale: it is made anew. Photos that
are not there are not asked for, so the folder alone, next to the annotations, serves a training.

How close crops from the cache are to crops from the photos:

- joints and ``crop_affine`` (photo to crop) are the same, bit for bit;
- without augmentation (validation) the crop itself is stored, without loss: the same pixels;
- with augmentation the region is stored as JPEG of quality 95 (or WebP or raw, see `CacheSpec`),
  downscaled where crops shrink the photo, to ``resolution`` pixels per pixel of the most magnified
  crop possible. Where nothing is downscaled, crops differ by less than 1.2 grey levels on average
  (drawn photos). Where it is, they get softer: a bilinear warp from the full photo aliases, and no
  smaller picture repeats that. On
  MPII at a resolution of 1 the mean absolute difference is 1.5 grey levels at 256 x 256 and 3.4 at
  128 x 128, with 7 % and 12 % less contrast between neighbouring pixels.

2,338 people of MPII, with 163 MiB of photos, take 56 MiB at 128 x 128 (51 of them for the 2,074
with augmentation) and 150 MiB at 256 x 256, with a resolution of 0.5 65 MiB.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import zlib
from collections.abc import Callable, Collection, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from posematch.data.augmentation import GeometricAugmentation, half_body_box
from posematch.data.crops import read_photo
from posematch.data.people import People, Person
from posematch.data.regions import (
    FORMATS,
    JPEG_QUALITY,
    WEBP_QUALITY,
    PhotoRegion,
    RegionFormat,
    decode_region,
    encode_region,
)
from posematch.errors import PosematchError
from posematch.files import drafting, locked, put, remove_free_lock, set_aside
from posematch.geometry import Convention, Size, box_to_crop_affine
from posematch.processes import available_cores
from posematch.skeletons import Skeleton

Item = TypeVar("Item")
Result = TypeVar("Result")

FORMAT = 2
REGIONS, INDEX, MANIFEST = "regions.bin", "index.npy", "manifest.json"
# Region pixels around what crops show: bilinear sampling asks for neighbours.
_MARGIN_PX = 2
_ROW = np.dtype(
    [
        ("offset", "<i8"),
        ("length", "<i8"),
        ("crc32", "<u4"),
        ("photo_width_px", "<i4"),
        ("size", "<i4", (2,)),  # height and width of the picture
        ("affine", "<f8", (2, 3)),
    ]
)


@dataclass(frozen=True)
class CacheSpec:
    """What a split's crops may be; two specs that differ never share a cache.

    Attributes
    ----------
    input_size
        (H, W) of the crops.
    convention
        How the box is laid over the crop.
    geometry
        The augmentation that crops are drawn with; None for none, then crops themselves are stored.
    resolution
        Region pixels per crop pixel, along an axis, of the most magnified crop; regions never get
        more pixels than the photo has. Takes no part without augmentation.
    """

    input_size: Size
    convention: Convention
    geometry: GeometricAugmentation | None = None
    resolution: float = 1.0
    kept_as: RegionFormat = "jpeg"

    def __post_init__(self) -> None:
        if self.kept_as not in FORMATS:
            raise PosematchError(
                f"data.cache_format={self.kept_as} must be one of {', '.join(FORMATS)}."
            )
        if not 0 < self.resolution < math.inf:
            raise PosematchError(
                f"data.cache_resolution={self.resolution} must be a positive number of cached"
                " pixels per crop pixel."
            )

    def key(self, people: People) -> str:
        """Hash of all that the cached pictures depend on, the photos' contents left out."""
        half_body = self.geometry is not None and self.geometry.half_body_probability > 0
        about = {
            "format": FORMAT,
            "input_size": list(self.input_size),
            "convention": self.convention,
            # 30 and 30.0 are the same angle.
            "geometry": {name: float(value) for name, value in asdict(self.geometry).items()}
            if self.geometry
            else None,
            "resolution": float(self.resolution) if self.geometry else None,
            "kept_as": self.kept_as,
            "jpeg_quality": JPEG_QUALITY,
            "skeleton": people.skeleton.name,
        }
        if self.kept_as == "webp":
            about["webp_quality"] = WEBP_QUALITY
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        for person in people.people:
            digest.update(f"\n{person.person_id} {person.image.name} ".encode())
            digest.update(person.center_img.astype("<f8").tobytes())
            digest.update(person.box_size_img.astype("<f8").tobytes())
            if half_body:  # only then do the joints say where a crop may lie
                digest.update(person.joints_img.astype("<f8").tobytes())
                digest.update(person.visible.astype("<f4").tobytes())
        return digest.hexdigest()


class CropCache:
    """Regions of one split, as `find_cache` and `build_cache` give it.

    Parameters
    ----------
    folder
        ``<cache_folder>/<split>-<key>``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = np.load(folder / INDEX, allow_pickle=False)
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        self.kept_as: RegionFormat = manifest["spec"]["kept_as"]
        self._regions: NDArray[np.uint8] = np.memmap(folder / REGIONS, dtype=np.uint8, mode="r")
        self._seen = np.zeros(len(self.index), dtype=bool)

    def __reduce__(self) -> tuple[Any, ...]:
        # A memory map is pickled as its whole content; loader processes open their own.
        return CropCache, (self.folder,)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> PhotoRegion:
        """The region of the split's person number ``index``.

        Raises
        ------
        PosematchError
            The cache is damaged there.
        """
        row = self.index[index]
        pixels = None
        encoded = self._regions[row["offset"] : row["offset"] + row["length"]].view(np.ndarray)
        # Once is enough for a file that nobody changes, and of raw pixels it is half of the work.
        if self._seen[index] or zlib.crc32(encoded.data) == row["crc32"]:
            self._seen[index] = True
            pixels = decode_region(encoded, tuple(row["size"]), self.kept_as)
        if pixels is None:
            raise PosematchError(
                f"The crop cache {self.folder} is damaged at person number {index}; remove that"
                " folder and it is made anew."
            )
        return PhotoRegion(pixels, int(row["photo_width_px"]), row["affine"])


def find_cache(cache_folder: Path, people: People, spec: CacheSpec) -> CropCache | None:
    """The cache of these people, or None where there is none, or it is incomplete or stale.

    Photos that are there must be those that were cached; photos that are not there are not missed.
    """
    folder = _folder(cache_folder, people, spec)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if (folder / REGIONS).stat().st_size != manifest["bytes"]:
            return None
        cache = CropCache(folder)
        photos = _photos(people)
        if len(cache) != len(people.people) or len(manifest["photos"]) != len(photos):
            return None
        same = all(map(_is_cached, photos, manifest["photos"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return cache if same else None


def build_cache(cache_folder: Path, people: People, spec: CacheSpec) -> CropCache:
    """Make the cache of these people, unless another process has just made it.

    It is written into a draft folder and moved to its place at the end: nobody ever sees half of
    it, and what a killed build leaves is swept away by the next one in the same folder.

    Raises
    ------
    PosematchError
        A photo cannot be read, or the folder cannot be written.
    """
    folder = _folder(cache_folder, people, spec)
    try:
        cache_folder.mkdir(parents=True, exist_ok=True)
        for left in cache_folder.glob(".*-????????????????.lock"):  # of killed builds
            remove_free_lock(left)
        with locked(cache_folder / f".{folder.name}.lock"):
            cache = find_cache(cache_folder, people, spec)
            if cache is not None:
                return cache
            with drafting(folder) as draft:
                _write(draft, people, spec)
                old = set_aside(folder) if folder.exists() else None
                put(draft, folder)
            if old is not None:
                shutil.rmtree(old, ignore_errors=True)
            return CropCache(folder)
    except OSError as error:
        raise PosematchError(
            f"Cannot write the crop cache into {cache_folder} ({error.strerror or error}); set"
            " data.cache_folder to a folder that can be written, or data.cache=false."
        ) from error


def _folder(cache_folder: Path, people: People, spec: CacheSpec) -> Path:
    return cache_folder / f"{people.split}-{spec.key(people)[:16]}"


def _photos(people: People) -> list[Path]:
    """Each photo once, in order of its first person."""
    return list(dict.fromkeys(person.image for person in people.people))


def _is_cached(photo: Path, record: dict[str, Any]) -> bool:
    """Whether a photo is absent, or the one that was cached."""
    if photo.name != record["name"]:
        return False
    try:
        now = photo.stat()
    except FileNotFoundError:
        return True
    if now.st_size != record["bytes"]:
        return False
    # A copied data set has other times but the same contents.
    return bool(now.st_mtime_ns == record["mtime_ns"] or _hash(photo) == record["sha256"])


def _hash(photo: Path) -> str:
    with photo.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(draft: Path, people: People, spec: CacheSpec) -> None:
    positions: dict[Path, list[int]] = {photo: [] for photo in _photos(people)}
    for at, person in enumerate(people.people):
        positions[person.image].append(at)
    index = np.zeros(len(people.people), dtype=_ROW)
    records = []
    offset = 0

    def encode(photo: Path) -> tuple[dict[str, Any], list[tuple[bytes, int, Any, Any]]]:
        pixels = read_photo(photo, people.people[positions[photo][0]].photo_size)
        status = photo.stat()
        record = {
            "name": photo.name,
            "bytes": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "sha256": _hash(photo),
        }
        return record, [
            _encode(people.people[at], people.skeleton, spec, pixels) for at in positions[photo]
        ]

    encoding = closing(_in_threads(encode, positions, f"caching {people.split} crops"))
    with encoding as results, (draft / REGIONS).open("wb") as file:
        for photo, (record, regions) in zip(positions, results, strict=True):
            records.append(record)
            for at, (encoded, width, size, affine) in zip(positions[photo], regions, strict=True):
                index[at] = (offset, len(encoded), zlib.crc32(encoded), width, size, affine)
                file.write(encoded)
                offset += len(encoded)
    np.save(draft / INDEX, index, allow_pickle=False)
    manifest = {
        "format": FORMAT,
        "data": people.name,
        "split": people.split,
        "people": len(index),
        "bytes": offset,
        "spec": asdict(spec),
        "photos": records,
    }
    (draft / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def _in_threads(
    function: Callable[[Item], Result], items: Collection[Item], description: str
) -> Generator[Result, None, None]:
    """``map`` in threads (OpenCV leaves Python's lock alone), in order, with a progress bar."""
    executor = ThreadPoolExecutor(min(8, available_cores()))
    try:
        yield from track(
            executor.map(function, items),
            description=description,
            total=len(items),
            console=Console(stderr=True),
            transient=True,
        )
    finally:
        # After Ctrl-C or a broken photo the rest is not wanted.
        executor.shutdown(cancel_futures=True)


def _encode(
    person: Person, skeleton: Skeleton, spec: CacheSpec, photo_bgr: NDArray[np.uint8]
) -> tuple[bytes, int, tuple[int, int], NDArray[np.float64]]:
    """One person's encoded region, the photo's width, the region's size, photo to its pixels."""
    height, width = photo_bgr.shape[:2]
    if spec.geometry is None:
        affine = box_to_crop_affine(
            person.center_img, person.box_size_img, spec.input_size, convention=spec.convention
        )
        crop_h, crop_w = spec.input_size
        # The same warp as `posematch.data.regions.warp_crop`.
        region = np.asarray(
            cv2.warpAffine(photo_bgr, affine, (crop_w, crop_h), flags=cv2.INTER_LINEAR),
            dtype=np.uint8,
        )
    else:
        low_img, high_img, scale = _reach(person, skeleton, spec)
        low = np.clip(np.floor(low_img), 0, [width, height]).astype(int)
        high = np.clip(np.ceil(high_img) + 1, 0, [width, height]).astype(int)
        # A box beside its photo gives black crops only.
        region = np.zeros((1, 1, 3), dtype=np.uint8)
        ratio = np.ones(2)
        if (high > low).all():
            region = photo_bgr[low[1] : high[1], low[0] : high[0]]
            size = np.ceil((high - low) * scale).astype(int)
            ratio = size / (high - low)
            if scale < 1:
                # Of OpenCV's ways to shrink, the one whose crops come closest to the photo's.
                resized = cv2.resize(region, size.tolist(), interpolation=cv2.INTER_CUBIC)
                region = np.asarray(resized, dtype=np.uint8)
        # Pixel edges coincide, centres lie half a pixel inside.
        shift = (0.5 - low) * ratio - 0.5
        affine = np.concatenate([np.diag(ratio), shift[:, None]], axis=1)
    encoded = encode_region(region, spec.kept_as, exact=spec.geometry is None)
    return encoded, width, (region.shape[0], region.shape[1]), affine


def _reach(
    person: Person, skeleton: Skeleton, spec: CacheSpec
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """What augmentation can show of a photo.

    Returns
    -------
    low_img, high_img
        (2,) corners of the rectangle that holds every possible crop, photo pixels.
    scale
        Region pixels per photo pixel, at most 1.
    """
    geometry = spec.geometry
    assert geometry is not None
    boxes = [(person.center_img, person.box_size_img)]
    if geometry.half_body_probability > 0 and person.visible.sum() > geometry.half_body_above:
        halves = [
            half_body_box(person, skeleton, spec.input_size, upper) for upper in (True, False)
        ]
        boxes += [box for box in halves if box is not None]
    crop_h, crop_w = spec.input_size
    widest = math.radians(2 * abs(geometry.rotation_deg)) if geometry.rotation_probability else 0.0
    low, high, narrowest = [], [], math.inf
    for center, size in boxes:
        # Under ``hrnet`` the width alone sets the scale.
        w, h = float(size[0]), float(max(size[1], size[0] * crop_h / crop_w))
        narrowest = min(narrowest, w)
        reach = np.array([_turned(w, h, widest), _turned(h, w, widest)])
        reach *= (1 + abs(geometry.scale_factor)) / 2
        low.append(center - reach)
        high.append(center + reach)
    narrowest *= 1 - geometry.scale_factor
    scale = min(1.0, spec.resolution * crop_w / narrowest) if narrowest > 0 else 1.0
    margin = _MARGIN_PX / scale
    return np.min(low, axis=0) - margin, np.max(high, axis=0) + margin, scale


def _turned(along: float, across: float, widest: float) -> float:
    """Largest extent of a rectangle along an axis when it turns by up to ``widest`` radians."""
    angle = min(widest, math.atan2(across, along))
    return along * math.cos(angle) + across * math.sin(angle)
