"""A training step with the network captured as CUDA graphs, without, and in plain float32."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterator

import torch

from gpu_pieces.shared import (
    Bench,
    Case,
    LossFunction,
    Maps,
    OutOfTimeError,
    Row,
    draw_crops,
    draw_maps,
    in_turn,
    make_losses,
    make_network,
    pairwise_ratio,
    peak_mib,
    spread,
    value_and_gradient,
)

Shape = tuple[str, tuple[int, int], int]  # network, crops (H, W), batch
SECONDS_A_CASE = 90.0  # HRNet-W48: cuDNN's choices, the capture, 6 x 25 steps


def cases(bench: Bench) -> list[Case]:
    """The two recipes of the papers."""
    shapes: list[Shape] = [("hrnet_w18_small", (64, 64), 2)] if bench.small else [
        ("hrnet_w48", (384, 288), 32), ("hrnet_w32", (256, 256), 64),
    ]  # fmt: skip
    return [
        Case(
            f"{name}, {size[0]} x {size[1]}, batch {batch}",
            functools.partial(_steps, bench, (name, size, batch)),
        )
        for name, size, batch in shapes
    ]


def _steps(bench: Bench, shape: Shape) -> Row:
    """Milliseconds of the steps in turn, and what the matching loss takes of the captured one.

    ``tried``: captured while cuDNN tries its algorithms out; ``matching_share``: what a captured
    step takes longer with it than with the mean of the maps.
    """
    if bench.seconds_left < (0 if bench.small else SECONDS_A_CASE):
        raise OutOfTimeError
    name, size, batch = shape
    losses = make_losses(size[0] // 4)
    gaussian, matching = losses["gaussian_mse"](), losses["matching relu"]()
    maps = draw_maps(batch, 17, (size[0] // 4, size[1] // 4), "fresh")
    maps = maps.to(bench.device, torch.float32)
    crops = draw_crops(batch, size).to(bench.device)
    ours = OurStep(bench, name, crops, maps)
    tried = OurStep(bench, name, crops, maps)
    with tried_algorithms():
        tried.run(gaussian)  # captures
    plain = plain_step(bench, name, crops, maps, gaussian)
    runs: dict[str, Callable[[], None]] = {
        "plain": plain,
        "eager": functools.partial(ours.run, gaussian, captured=False),
        "graphs": functools.partial(ours.run, gaussian),
        "eager_matching": functools.partial(ours.run, matching, captured=False),
        "graphs_matching": functools.partial(ours.run, matching),
        "graphs_bare": functools.partial(ours.run, _mean),
        "tried": functools.partial(tried.run, gaussian),
        "tried_matching": functools.partial(tried.run, matching),
    }
    times = in_turn(runs, bench, 20)
    alone = functools.partial(value_and_gradient, matching, _as_in_a_step(maps, bench.device))
    row: Row = {f"{key}_ms": spread(values) for key, values in times.items()}
    row |= {
        "images_per_second": 1e3 * batch / statistics.median(times["graphs_matching"]),
        "images_per_second_tried": 1e3 * batch / statistics.median(times["tried_matching"]),
        "ratio_eager_tried": pairwise_ratio(times["eager_matching"], times["tried_matching"]),
        "ratio_plain_tried": pairwise_ratio(times["plain"], times["tried_matching"]),
        "ratio_eager": pairwise_ratio(times["eager"], times["graphs"]),
        "ratio_eager_matching": pairwise_ratio(times["eager_matching"], times["graphs_matching"]),
        "ratio_plain": pairwise_ratio(times["plain"], times["graphs"]),
        "ratio_plain_matching": pairwise_ratio(times["plain"], times["graphs_matching"]),
        "matching_share": 1 - pairwise_ratio(times["graphs_bare"], times["graphs_matching"]),
        "matching_alone_ms": spread(in_turn({"loss": alone}, bench, 20)["loss"]),
        "captured": float(ours.is_captured),
        "peak_mib": peak_mib(runs["graphs_matching"], bench.device),
    }
    return row | _on_device(alone, "matching", bench.device)


@contextlib.contextmanager
def tried_algorithms() -> Iterator[None]:
    """`trainer.benchmark=true`: cuDNN tries its algorithms out for each shape that it meets."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _as_in_a_step(maps: Maps, device: torch.device) -> Maps:
    """Maps as a channels_last network under autocast gives them."""
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    heatmaps = maps.heatmaps.detach().to(kind, memory_format=torch.channels_last)
    return dataclasses.replace(maps, heatmaps=heatmaps.requires_grad_())


def _mean(heatmaps: torch.Tensor, joints_hm: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    return heatmaps.float().mean()


class OurStep:
    """A step as the training makes it: channels_last, bf16, one wait, fused Adam.

    Parameters
    ----------
    bench, name
        Where, and which network.
    crops, maps
        (B, 3, H, W) uint8, and the dots of their people.
    """

    def __init__(self, bench: Bench, name: str, crops: torch.Tensor, maps: Maps) -> None:
        from posematch.training.fused import prefer_fused
        from posematch.training.graphs import DEVICES, CapturedModel

        self.device = bench.device
        network = make_network(name).to(bench.device)
        self.network = network.to(memory_format=torch.channels_last).train()
        # A CPU has nothing that could be captured: there both ways are the network itself.
        self._captured = CapturedModel(self.network) if bench.device.type in DEVICES else None
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-4)
        prefer_fused(self.optimizer)
        self.crops = crops.contiguous(memory_format=torch.channels_last)
        self.maps = maps

    @property
    def is_captured(self) -> bool:
        return self._captured is not None and self._captured.is_captured

    def run(self, loss: LossFunction, captured: bool = True) -> None:
        """A step with that loss."""
        from posematch.arithmetic import put_off_checks

        passes = self._captured if captured and self._captured else self.network
        bf16 = self.device.type == "cuda"  # most CPUs only emulate it
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):
            heatmaps = passes(self.crops)
            with put_off_checks():
                value = loss(heatmaps, self.maps.joints_hm, self.maps.visible)
        value.backward()
        norm = torch.nn.utils.get_total_norm(
            [one.grad for one in self.network.parameters() if one.grad is not None]
        )
        torch.stack([value.detach(), norm]).tolist()  # the one question of a step
        self.optimizer.step()
        self.optimizer.zero_grad()


def plain_step(
    bench: Bench, name: str, crops: torch.Tensor, maps: Maps, loss: LossFunction
) -> Callable[[], None]:
    """A step as one would write it: NCHW, float32 as torch has it by default, Adam."""
    network = make_network(name).to(bench.device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

    def run() -> None:
        loss(network(crops), maps.joints_hm, maps.visible).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def _on_device(function: Callable[[], object], name: str, device: torch.device) -> Row:
    """Kernels of a call and their time on the device's own clock, by torch's profiler."""
    if device.type != "cuda":
        return {}
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    function()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities) as profile:
        function()
        torch.cuda.synchronize()
    kernels = [one for one in profile.events() if one.device_type == torch.autograd.DeviceType.CUDA]
    return {
        f"{name}_kernels": float(len(kernels)),
        f"{name}_device_ms": sum(one.self_device_time_total for one in kernels) / 1e3,
    }
