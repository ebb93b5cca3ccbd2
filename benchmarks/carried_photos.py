r"""Photos as far as people's crops need them, made from a crop cache on another machine.

    python benchmarks/carried_photos.py --mpii-root FOLDER --cache-folder FOLDER --out FOLDER

A crop cache is of one division of the people, one crop size and one augmentation. Trainings that
hold out other people (`data.holdout`, `data.fold`) or have other crops need the photos, which are
five times as large as a cache in WebP. This puts every person's region back to its place in an
otherwise black photo, beside a copy of ``--mpii-root``'s ``annot/``; ``data.root=OUT`` then serves
any training. What is lost is the cache's: its JPEG or WebP, and pixels where it was made at a lower
resolution. Figures compare with those of trainings on the same photos, and with no others.

The cache is what ``python benchmarks/gpu.py --prepare`` writes: of both splits, whole.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from posematch.data.cache import CropCache
from posematch.data.mpii import read_mpii
from posematch.data.people import Person
from posematch.data.regions import PhotoRegion
from posematch.processes import available_cores

_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95]
_INPUT_SIZE = (256, 256)  # sets boxes, which do not matter here
_ONE_BY_ONE = np.eye(2, 3)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the photos of both splits."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--mpii-root", type=Path, required=True, help="folder with annot/")
    parser.add_argument(
        "--cache-folder", type=Path, required=True, help="crop caches of both splits"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to be data.root")
    options = parser.parse_args(arguments)
    for split in ("train", "valid"):
        found = sorted(options.cache_folder.glob(f"{split}-*"))
        if len(found) != 1:
            parser.error(
                f"--cache-folder {options.cache_folder}: {len(found)} caches of {split}, not 1"
            )
        people = read_mpii(options.mpii_root, split, _INPUT_SIZE).people
        make_photos(CropCache(found[0]), people, options.out / "images")
    shutil.copytree(options.mpii_root / "annot", options.out / "annot", dirs_exist_ok=True)
    return 0


def make_photos(cache: CropCache, people: Sequence[Person], folder: Path) -> None:
    """Write a photo for each of the people's, with their regions in their places.

    Parameters
    ----------
    cache
        Of exactly these people.
    people
        In the cache's order.
    folder
        Gets a JPEG of each photo's name.

    Raises
    ------
    ValueError
        The cache is of another number of people.
    """
    if len(cache) != len(people):
        raise ValueError(f"{cache.folder} has {len(cache)} people, the annotations {len(people)}.")
    folder.mkdir(parents=True, exist_ok=True)
    of_photo: dict[str, list[int]] = defaultdict(list)
    for index, person in enumerate(people):
        of_photo[person.image.name].append(index)
    jobs = list(of_photo.items())
    with ProcessPoolExecutor(available_cores()) as executor:
        made = executor.map(functools.partial(_write, cache, folder), jobs, chunksize=16)
        for _ in track(made, f"photos of {cache.folder.name}", total=len(jobs)):
            pass


def _write(cache: CropCache, folder: Path, job: tuple[str, list[int]]) -> None:
    name, indices = job
    photo = with_regions([cache[index] for index in indices])
    if not cv2.imwrite(str(folder / name), photo, _JPEG):
        raise OSError(f"{folder / name} cannot be written.")


def with_regions(regions: Sequence[PhotoRegion]) -> NDArray[np.uint8]:
    """An (H, W, 3) BGR photo of the original's width, as high as its regions reach."""
    inverses = [
        cv2.invertAffineTransform(_ONE_BY_ONE if one.affine is None else one.affine)
        for one in regions
    ]
    width = regions[0].photo_width_px
    height = max(_lowest(one, inverse) for one, inverse in zip(regions, inverses, strict=True))
    photo = np.zeros((height, width, 3), np.uint8)
    for region, inverse in zip(regions, inverses, strict=True):
        pixels = np.ascontiguousarray(region.pixels_bgr[..., :3])
        placed = functools.partial(cv2.warpAffine, M=inverse, dsize=(width, height))
        whole = placed(pixels, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        there = placed(np.ones(pixels.shape[:2], np.uint8), flags=cv2.INTER_NEAREST) > 0
        photo[there] = whole[there]
    return photo


def _lowest(region: PhotoRegion, to_photo: NDArray[np.float64]) -> int:
    height, width = region.pixels_bgr.shape[:2]
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], np.float64)
    return max(1, int(np.ceil((corners @ to_photo[1]).max())))


if __name__ == "__main__":
    sys.exit(main())
