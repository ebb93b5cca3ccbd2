"""People a second of ``posematch predict`` against those of its network alone on crops in memory.

    python benchmarks/predict.py checkpoint=RUN input=FOLDER [boxes=FILE.json] [rounds=5]

Both in turns, in one process: what is told is the median of the ratios of neighbours. 1 would be
reading, cutting, decoding and writing for nothing.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import torch

from posematch.inference.boxes import GivenBoxes, WholePicture
from posematch.inference.predict import predict
from posematch.inference.reading import Reader
from posematch.inference.sources import find_sources
from posematch.inference.wanted import Wanted
from posematch.loading import load


@contextmanager
def quiet(name: str, count: int):
    yield lambda pictures, people: None


def main() -> None:
    said = dict(one.split("=", 1) for one in sys.argv[1:])
    boxes, rounds = said.get("boxes", "whole"), int(said.get("rounds", 5))
    batch = int(said.get("batch_size", 16))
    torch.manual_seed(0)
    model = load(said["checkpoint"])
    finder = (
        WholePicture()
        if boxes == "whole"
        else GivenBoxes(Path(boxes), 0.5, find_sources(said["input"], Path("none")).sources)
    )
    requests = list(
        Reader(model, finder, False, 2).read(find_sources(said["input"], Path("none")).sources, {})
    )
    crops = torch.cat([one.crops.pixels for one in requests if len(one.boxes_img)])

    def network_alone() -> float:
        began = time.perf_counter()
        with torch.no_grad():
            for start in range(0, len(crops), batch):
                model.maps(crops[start : start + batch])
        return len(crops) / (time.perf_counter() - began)

    def whole(draw: bool) -> float:
        with tempfile.TemporaryDirectory() as folder:
            wanted = Wanted(
                said["checkpoint"], said["input"], f"{folder}/out", boxes, "", None, 0.5, "csv",
                True, draw, False, None, "cpu", batch, [],
            )  # fmt: skip
            done = predict(wanted, quiet, lambda _: None)
            return done.looked_at / done.seconds

    network_alone()  # warm
    ratios: dict[bool, list[float]] = {False: [], True: []}
    speeds = []
    for _ in range(rounds):
        for draw in ratios:
            speeds.append(network_alone())
            ratios[draw].append(whole(draw) / speeds[-1])
    print(f"{len(crops)} people, network alone {statistics.median(speeds):.1f} people/s")
    for draw, found in ratios.items():
        told = ", ".join(f"{one:.2f}" for one in sorted(found))
        print(f"draw={str(draw).lower()}: {statistics.median(found):.2f} of it ({told})")


if __name__ == "__main__":
    main()
