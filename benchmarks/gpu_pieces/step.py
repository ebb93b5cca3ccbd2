"""A training step of HRNet-W48 in bf16: losses, memory layout, checkpointing, torch.compile."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from gpu_pieces.shared import (
    Bench,
    Case,
    LossFunction,
    Maps,
    NotApplicableError,
    OutOfTimeError,
    Row,
    draw_crops,
    draw_maps,
    in_turn,
    make_losses,
    make_network,
    peak_mib,
    spread,
)


@dataclass(frozen=True)
class Step:
    """How a training step is made."""

    loss: str = "gaussian_mse"
    channels_last: bool = True
    compiled: bool = False
    checkpointing: bool = False
    batch: int = 32

    @property
    def name(self) -> str:
        layout = "channels_last" if self.channels_last else "NCHW"
        parts = [self.loss, layout, f"batch {self.batch}"]
        parts += ["activation checkpointing"] * self.checkpointing + ["compiled"] * self.compiled
        return ", ".join(parts)


def cases(bench: Bench) -> list[Case]:
    """A training step of HRNet-W48 (small: HRNet-W18-small), the slowest to start last."""
    batch, large = (2, 4) if bench.small else (32, 128)
    relu = "matching relu"
    steps = [
        *(Step(loss, batch=batch) for loss in ("gaussian_mse", "dot_mse", relu)),
        Step(channels_last=False, batch=batch),
        Step(checkpointing=True, batch=batch),
        Step(relu, batch=large),
        Step(relu, batch=large, checkpointing=True),
        Step(compiled=True, batch=batch),
        Step(relu, compiled=True, batch=batch),
    ]
    return [Case(one.name, functools.partial(_time_step, bench, one)) for one in steps]


def _time_step(bench: Bench, how: Step) -> Row:
    if how.compiled and bench.small:
        raise NotApplicableError("--small compiles nothing")
    if how.compiled and bench.seconds_left < 200:
        raise OutOfTimeError  # compiling HRNet-W48 takes minutes
    size = (64, 64) if bench.small else (256, 192)
    run, _ = training_step(bench, how, size, make_losses(size[0] // 4)[how.loss]())
    start = time.perf_counter()
    run()
    if bench.device.type == "cuda":
        torch.cuda.synchronize()
    first = time.perf_counter() - start
    times = in_turn({"step": run}, bench, 20)["step"]
    return {
        "milliseconds": spread(times),
        "images_per_second": 1e3 * how.batch / statistics.median(times),
        "first_step_seconds": first,
        "peak_mib": peak_mib(run, bench.device),
    }


def training_step(
    bench: Bench, how: Step, size: tuple[int, int], loss: LossFunction
) -> tuple[Callable[[], None], Maps]:
    """A step on crops of that size, bf16, to be called again and again; and maps of its size."""
    network = make_network("hrnet_w18_small" if bench.small else "hrnet_w48")
    layout = torch.channels_last if how.channels_last else torch.contiguous_format
    network = network.to(bench.device).to(memory_format=layout).train()
    if how.checkpointing:
        checkpoint_activations(network)
    if how.compiled:
        torch.compiler.reset()
        network.compile()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    maps = draw_maps(how.batch, 17, (size[0] // 4, size[1] // 4), "fresh")
    maps = maps.to(bench.device, torch.float32)
    crops = draw_crops(how.batch, size).to(bench.device).contiguous(memory_format=layout)

    def run() -> None:
        with torch.autocast(bench.device.type, torch.bfloat16):
            heatmaps = network(crops)
        loss(heatmaps, maps.joints_hm, maps.visible).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run, maps


def checkpoint_activations(network: torch.nn.Module) -> None:
    """Recompute HRNet's high-resolution modules in the backward pass instead of keeping them."""
    from timm.models.hrnet import HighResolutionModule
    from torch.utils.checkpoint import checkpoint

    for module in network.modules():
        if isinstance(module, HighResolutionModule):
            kept = functools.partial(checkpoint, module.forward, use_reentrant=False)
            setattr(module, "forward", kept)  # noqa: B010 - mypy lets no method be assigned
