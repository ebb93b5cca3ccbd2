"""People a second of a processor core: our loaders against HRNet's way of writing one.

    python benchmarks/loader.py data.root=../shared/data/mpii [--people 512] [--rounds 3]
        [--side 256] [--csv FILE]

Each loader yields batches of 32 from one worker process, which stays, in turn, round after round
after one that is not counted; what counts is processor time, of worker and main process together,
so that other work on the machine matters less.
Rows: photos as HRNet's code reads them (`plain_dataset.py`), our photos, photos at reduced size,
the crop cache as JPEG and raw (and JPEG at half the resolution), and loaders that only draw where
a crop lies, with the batches made from decoded regions in memory (`data.device_cache=true`, here on
the CPU). Caches are made first, in a temporary folder. The last table is where a sample's time
goes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from core_time import core_seconds
from numpy.typing import NDArray
from plain_dataset import PlainDataset
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from posematch.app.sentences import one_sentence_errors
from posematch.data.augmentation import GeometricAugmentation
from posematch.data.cache import CropCache
from posematch.data.crops import CropDataset, EpochSampler
from posematch.data.datamodule import MPIIDataModule
from posematch.data.device_crops import DeviceCrops, PlacedPeople, collate_placed
from posematch.data.pictures import decode_photo, decode_pixels
from posematch.geometry import box_to_crop_affine

BATCH = 32
HRNET_MPII = GeometricAugmentation(0.25, 30.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", help="data.root=FOLDER of MPII")
    parser.add_argument("--people", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--csv", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as cache:
        measure(options, Path(cache))


def measure(options: argparse.Namespace, cache: Path) -> None:
    def module(**more: Any) -> MPIIDataModule:
        data = MPIIDataModule(
            options.root.removeprefix("data.root="),
            input_size=(options.side, options.side),
            batch_size=BATCH,
            workers=1,
            seed=0,
            geometry=HRNET_MPII,
            train_people=options.people,
            cache_folder=cache,
            **more,
        )
        data.setup("fit")
        return data

    photos = module()
    people = photos.train
    assert people is not None
    caches = {
        "cache, JPEG": module(cache=True),
        "cache, JPEG, resolution 0.5": module(cache=True, cache_resolution=0.5),
        "cache, raw": module(cache=True, cache_format="raw"),
    }
    loaders: dict[str, Callable[[], Iterator[Any]]] = {
        "HRNet's way": iterations(
            PlainDataset(people, (options.side, options.side), 2), shuffle=True
        ),
        "photos": ours(photos.crops("train")),
        "photos, reduced": ours(module(reduced_decode=True).crops("train")),
    }
    for name, data in caches.items():
        loaders[name] = ours(data.crops("train"))
    raw = caches["cache, raw"].crops("train")
    assert isinstance(raw.regions, CropCache)
    on_device = DeviceCrops(raw.regions, raw.input_size, torch.device("cpu"))
    drawn = ours(raw, on_device=True)
    loaders["drawn by the loader"] = drawn
    loaders["drawn by the loader, made in batches"] = lambda: map(on_device.batch, drawn())
    for loader in loaders.values():
        epoch_seconds(loader)
    times: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(options.rounds):
        for name, loader in loaders.items():
            times[name].append(epoch_seconds(loader))
    print_speeds(times, len(people.people), options)
    print_parts(photos.crops("train"))
    print_formats(
        [np.ascontiguousarray(raw.regions[at].pixels_bgr[..., :3]) for at in range(0, len(raw), 8)]
    )


def iterations(dataset: Dataset[Any], **more: Any) -> Callable[[], Iterator[Any]]:
    """What begins an epoch of a loader whose worker stays."""
    loader = DataLoader(dataset, BATCH, num_workers=1, persistent_workers=True, **more)
    return lambda: iter(loader)


def ours(crops: CropDataset, on_device: bool = False) -> Callable[[], Iterator[Any]]:
    return iterations(
        PlacedPeople(crops) if on_device else crops,
        sampler=EpochSampler(len(crops), BATCH, shuffle=True, drop_incomplete=False, seed=0),
        collate_fn=partial(collate_placed, split="train") if on_device else None,
    )


def epoch_seconds(loader: Callable[[], Iterator[Any]]) -> float:
    """Processor time of one epoch."""
    before = core_seconds()
    for _ in loader():
        pass
    return core_seconds() - before


def print_speeds(times: dict[str, list[float]], people: int, options: argparse.Namespace) -> None:
    plain = times["HRNet's way"]
    rows = []
    for name, all_of_one in times.items():
        ratios = [a / b for a, b in zip(plain, all_of_one, strict=True)]
        rows.append(
            {
                "loader": name,
                "people_per_core_second": people / statistics.median(all_of_one),
                "ratio": statistics.median(ratios),
                "least": min(ratios),
                "most": max(ratios),
            }
        )
    table = pd.DataFrame(rows)
    title = f"{people} people, {options.side} px, {options.rounds} rounds, {os.cpu_count()} cores"
    show(table, title)
    if options.csv:
        table.assign(side_px=options.side).to_csv(options.csv, index=False, float_format="%.4g")


def print_parts(crops: CropDataset) -> None:
    """Milliseconds of a sample's parts, one after another in this process."""
    people = crops.people.people
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(people))[:150].tolist()
    contents = {at: people[at].image.read_bytes() for at in chosen}
    photos = {at: decode_photo(contents[at], "photo", "")[0] for at in chosen}
    height, width = crops.input_size
    affines = {
        at: box_to_crop_affine(
            people[at].center_img, people[at].box_size_img, crops.input_size, 10.0
        )
        for at in chosen
    }
    parts: dict[str, Callable[[int], Any]] = {
        "draw": lambda at: crops.draw(0, at),
        "read": lambda at: people[at].image.read_bytes(),
        **{
            f"decode 1/{part}": lambda at, part=part: decode_photo(contents[at], "", "", part)
            for part in (1, 2, 4, 8)
        },
        "decode by OpenCV": lambda at: cv2.imdecode(
            np.frombuffer(contents[at], np.uint8), cv2.IMREAD_COLOR
        ),
        "warp": lambda at: cv2.warpAffine(photos[at], affines[at], (width, height)),
        "whole sample": lambda at: crops[(0, at)],
    }
    rows = []
    for name, function in parts.items():
        start = time.process_time()
        for at in chosen:
            function(at)
        rows.append({"part": name, "ms": 1e3 * (time.process_time() - start) / len(chosen)})
    show(pd.DataFrame(rows), "a sample from a photo")


def print_formats(regions: list[NDArray[np.uint8]]) -> None:
    """Size, decoding time and error of ways to keep regions."""
    quality = {"JPEG": cv2.IMWRITE_JPEG_QUALITY, "WebP": cv2.IMWRITE_WEBP_QUALITY}
    ways: dict[str, tuple[str, list[int]]] = {
        f"{name} {value}": (suffix, [quality[name], value])
        for name, suffix, value in (
            ("JPEG", ".jpg", 95), ("JPEG", ".jpg", 90), ("WebP", ".webp", 84), ("WebP", ".webp", 95)
        )
    }  # fmt: skip
    ways |= {"WebP lossless": (".webp", [quality["WebP"], 101]), "PNG": (".png", [])}
    rows = [{"kept as": "raw", "KiB": sum(one.nbytes for one in regions), "ms": 0.0, "error": 0.0}]
    for name, (suffix, how) in ways.items():
        kept = [cv2.imencode(suffix, one, how)[1].tobytes() for one in regions]
        sizes = [one.shape[1::-1] for one in regions]
        start = time.process_time()
        read = [decode_pixels(one, size) for one, size in zip(kept, sizes, strict=True)]
        spent = 1e3 * (time.process_time() - start)
        errors = [
            np.abs(a.astype(int) - b).mean()
            for a, b in zip(read, regions, strict=True)
            if a is not None
        ]
        rows.append(
            {"kept as": name, "KiB": sum(map(len, kept)), "ms": spent, "error": sum(errors)}
        )
    table = pd.DataFrame(rows)
    table[["KiB", "ms", "error"]] /= len(regions)
    table["KiB"] /= 1024
    show(table, "a region: size, time to decode, mean error in grey levels")


def show(figures: pd.DataFrame, title: str) -> None:
    table = Table(title=title)
    for name in figures:
        table.add_column(str(name))
    for row in figures.itertuples(index=False):
        table.add_row(*(one if isinstance(one, str) else f"{one:.3g}" for one in row))
    Console().print(table)


if __name__ == "__main__":
    with one_sentence_errors():
        main()
