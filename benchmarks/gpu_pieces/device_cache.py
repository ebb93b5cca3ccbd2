"""Batches of crops made on the device from a crop cache in its memory, against the loader's."""

from __future__ import annotations

import functools
import statistics
import time
from typing import Any

import torch

from gpu_pieces.shared import (
    Bench,
    Case,
    NotApplicableError,
    OutOfTimeError,
    Row,
    in_turn,
    spread,
)
from gpu_pieces.training import compose, data_overrides

SECONDS_A_CASE = 45.0  # decoding the split onto the device, a few batches on one CPU core


def cases(bench: Bench) -> list[Case]:
    """Geometry alone, as the published recipes have it, and with colours and occlusion."""
    looks = {"geometry": "none", "geometry and look": "all"}
    return [Case(name, functools.partial(_batches, bench, look)) for name, look in looks.items()]


def _batches(bench: Bench, look: str) -> Row:
    """A batch's time on the device, of its draws on one core, and of the same crops by the loader.

    ``grey_level_error``: the largest mean difference of a crop's grey levels from the loader's.
    """
    try:
        from posematch.data.device_crops import DeviceCrops, PlacedPeople, collate_placed
        from posematch.data.device_look import LookPlan
    except ImportError as error:
        raise NotApplicableError(f"{error}: this version makes no crops on a device") from None
    if bench.seconds_left < (0 if bench.small else SECONDS_A_CASE):
        raise OutOfTimeError
    size, number = (64, 4) if bench.small else (256, 64)
    overrides = [
        f"data.input_size=[{size},{size}]", f"data.batch_size={number}", "data.workers=0",
        "data.cache=true", "data.device_cache=false", f"augmentation/appearance={look}",
    ]  # fmt: skip
    cfg = compose([*data_overrides(bench), *overrides, *bench.overrides])
    from posematch.training.build import build_datamodule

    datamodule = build_datamodule(cfg)
    datamodule.prepare_data()
    datamodule.setup("fit")
    crops: Any = datamodule.train_dataloader().dataset
    plan = LookPlan(crops.appearance, crops.input_size) if crops.appearance else None
    start = time.perf_counter()
    on_device = DeviceCrops(crops.regions, crops.input_size, bench.device, plan)
    seconds = time.perf_counter() - start
    people = PlacedPeople(crops)
    keys = [(0, place % len(people)) for place in range(number)]

    def draw() -> dict[str, Any]:
        return collate_placed([people[key] for key in keys], split="train")

    def load() -> torch.Tensor:
        return torch.stack([crops[key]["crop"] for key in keys])

    placed = draw()
    found, wanted = on_device.batch(dict(placed))["crop"].cpu().float(), load().float()
    error = (found - wanted).abs().mean((1, 2, 3)).max()
    times = in_turn({"device": lambda: on_device.batch(dict(placed))}, bench, 40)["device"]
    cpu = torch.device("cpu")
    host = in_turn({"draw": draw, "load": load}, Bench(**{**vars(bench), "device": cpu}), 3)
    return {
        "device_ms": spread(times),
        "draw_ms": spread(host["draw"]),
        "loader_ms": spread(host["load"]),
        "device_images_per_second": 1e3 * number / statistics.median(times),
        "grey_level_error": float(error),
        "people": len(people),
        "fill_seconds": seconds,
    }
