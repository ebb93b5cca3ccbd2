"""Milliseconds of each loss, forward and backward, and their ratio to the Gaussian MSE's."""

from __future__ import annotations

import functools
import itertools

import torch

from gpu_pieces.shared import (
    Bench,
    Case,
    Row,
    draw_maps,
    in_turn,
    make_losses,
    pairwise_ratio,
    peak_mib,
    spread,
    value_and_gradient,
)


def cases(bench: Bench) -> list[Case]:
    """Forward and backward of each loss, as a ratio to the Gaussian MSE's."""
    shapes = [(2, 5, (16, 12))] if bench.small else [
        (32, 17, (64, 48)), (32, 17, (64, 64)), (32, 17, (96, 72)),
    ]  # fmt: skip
    return [
        Case(
            f"{name}, {batch} x {joints} x {size[0]} x {size[1]}, {kind} maps",
            functools.partial(_time_loss, bench, name, batch, joints, size, kind),
        )
        for (batch, joints, size), kind, name in itertools.product(
            shapes, ("trained", "fresh"), make_losses(64)
        )
    ]


def _time_loss(
    bench: Bench, name: str, batch: int, joints: int, size: tuple[int, int], kind: str
) -> Row:
    maps = draw_maps(batch, joints, size, kind).to(bench.device, torch.float32)
    makers = make_losses(size[0])
    calls = {
        key: functools.partial(value_and_gradient, makers[key](), maps)
        for key in dict.fromkeys((name, "gaussian_mse"))
    }
    times = in_turn(calls, bench, 40)
    return {
        "milliseconds": spread(times[name]),
        "gaussian_mse_milliseconds": spread(times["gaussian_mse"]),
        "ratio": pairwise_ratio(times[name], times["gaussian_mse"]),
        "peak_mib": peak_mib(calls[name], bench.device),
    }
