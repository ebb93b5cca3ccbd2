"""Time of every decoder against a plain loop over joints.

    python benchmarks/decoding.py [--batch 64] [--joints 17] [--size 96x72] [--repeats 5]
        [--threads 2] [--device cpu|cuda] [--clock wall|cpu] [--only dark,udp]

The loops are those that the tests hold the decoders against (tests/decoding/loops.py and
searching_loops.py): numpy, OpenCV and scipy, one joint after the other, on the CPU; from a GPU they
have to fetch the maps first. Those of `mode` and `expected_metric` start from one pixel, where the
decoders look at several; ``--only "mode by grid,expected_metric by grid" --batch 4`` has the tests'
brute force for loops. Called in turn A B A B ... in one process; the ratio is the median of the
pairs'. Maps are Gaussians with noise, as a trained network's. Also shown: what reading all maps
once takes (their sum, by torch), below which no decoder can be. ``--clock cpu`` counts the
process's own seconds of all its threads: for a machine that is busy with other work, with one
thread.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from posematch.decoding import (
    DARK,
    UDP,
    Argmax,
    Barycentre,
    Decoder,
    EdgeDARK,
    ExpectedMetric,
    Mode,
    QuarterOffset,
    SoftArgmax,
    UDPCombined,
)
from posematch.losses import UDPCombined as UDPCombinedLoss
from posematch.losses import gaussian_targets

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "decoding"))
from loops import LOOPS, over_joints
from searching_loops import SEARCHES

DECODERS: dict[str, Decoder] = {
    "argmax": Argmax(),
    "quarter_offset": QuarterOffset(),
    "quarter_offset_mmpose": QuarterOffset("mmpose"),
    "barycentre": Barycentre(),
    "soft_argmax": SoftArgmax(),
    "soft_argmax sharpened": SoftArgmax(temperature=0.1),
    "dark": DARK(),
    "dark_edge": EdgeDARK(),
    "udp": UDP(),
    "udp_combined": UDPCombined(),
    "mode": Mode(1.0),
    "expected_metric": ExpectedMetric("pckh", 3.2),
    "mode by grid": Mode(1.0),
    "expected_metric by grid": ExpectedMetric("pckh", 3.2),
}


def draw(
    batch: int, joints: int, size: tuple[int, int], channels: int, device: torch.device
) -> torch.Tensor:
    """(B, K times channels, H, W) maps with noise, 1 channel: Gaussians; 3: UDP's combined."""
    height, width = size
    generator = torch.Generator().manual_seed(0)
    dots = torch.rand(batch, joints, 2, generator=generator) * torch.tensor([width, height]) - 0.5
    if channels == 1:
        maps = gaussian_targets(dots, size, height / 32, "subpixel")
    else:
        disk, x, y = UDPCombinedLoss().targets(dots, size)
        maps = torch.stack([disk.float(), *(one.expand_as(disk) for one in (x, y))], dim=2)
        maps = maps.flatten(1, 2)
    noise = 0.02 * torch.randn(maps.shape, generator=generator)
    return (maps + noise).to(device)


def measure(
    name: str, maps: torch.Tensor, repeats: int, clock: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Milliseconds of the decoder and of its loop, pair by pair; the first pair warms up."""
    decoder, loop = DECODERS[name], (LOOPS | SEARCHES)[name]
    channels = getattr(decoder, "channels_per_joint", 1)

    def batched() -> None:
        decoder(maps)
        if maps.device.type == "cuda":
            torch.cuda.synchronize()

    def looped() -> None:
        # A joint of several maps comes as one (channels, H, W) piece.
        pieces = maps.unflatten(1, (-1, channels)) if channels > 1 else maps
        over_joints(loop, pieces.cpu().numpy())

    pairs = [(timed(batched, clock), timed(looped, clock)) for _ in range(repeats + 1)][1:]
    fast, slow = zip(*pairs, strict=True)
    return list(fast), list(slow)


def timed(call: Callable[[], object], clock: Callable[[], float]) -> float:
    """Milliseconds of one call."""
    start = clock()
    call()
    return 1e3 * (clock() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--joints", type=int, default=17)
    parser.add_argument("--size", default="96x72")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--only", default=",".join(name for name in DECODERS if "grid" not in name))
    options = parser.parse_args()
    height, width = (int(side) for side in options.size.split("x"))
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    device = torch.device(options.device)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    drawn = {
        channels: draw(options.batch, options.joints, (height, width), channels, device)
        for channels in (1, 3)
    }
    table = Table("decoder", "batched ms", "loop ms", "loop / batched", "batched / reading")
    for name in track(options.only.split(","), "Measuring", console=Console(stderr=True)):
        maps = drawn[getattr(DECODERS[name], "channels_per_joint", 1)]
        fast, slow = measure(name, maps, options.repeats, clock)

        def read(maps: torch.Tensor = maps) -> None:
            float(maps.sum())

        reading = statistics.median(timed(read, clock) for _ in range(options.repeats))
        ratio = statistics.median(s / f for f, s in zip(fast, slow, strict=True))
        table.add_row(
            name,
            f"{statistics.median(fast):.2f}",
            f"{statistics.median(slow):.1f}",
            f"{ratio:.1f}",
            f"{statistics.median(fast) / reading:.1f}",
        )
    console = Console(width=120)
    console.print(table)
    console.print(
        f"{options.batch} x {options.joints} x {options.size}, float32. torch"
        f" {torch.__version__}, {device}, {options.threads} threads, {options.clock} time."
    )


if __name__ == "__main__":
    main()
