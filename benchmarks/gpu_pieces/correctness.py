"""Losses, transport solvers, decoders, flip test and network on the device against the CPU."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from gpu_pieces.shared import (
    ARITHMETIC,
    Bench,
    Case,
    NotApplicableError,
    Row,
    arithmetic,
    check_solver,
    draw_crops,
    draw_maps,
    make_losses,
    make_network,
    relative_error,
    small_size,
    value_and_gradient,
)


def cases(bench: Bench) -> list[Case]:
    """Device against CPU in float64."""
    from posematch.transport import SOLVERS

    listed = [
        Case(f"{name}, {how}", functools.partial(_check_loss, bench, name, how))
        for name in make_losses(64)
        for how in ARITHMETIC
    ]
    listed += [
        Case(
            f"solver {name}, epsilon {epsilon}, {how}",
            functools.partial(check_solver, bench, name, epsilon, how),
        )
        for name in SOLVERS
        if name.startswith("semidual")  # POT is a piece of its own; exact is not for devices
        for epsilon in (1.0, 0.3, 0.1, 0.03)
        for how in ("float32", "tf32")
    ]
    listed.append(Case("NaN is named", functools.partial(_check_nan, bench)))
    listed.append(Case("nothing waits in the loss", functools.partial(_check_waits, bench)))
    listed += [
        Case(f"decoder {name}", functools.partial(_check_decoder, bench, name))
        for name in _decoders()
    ]
    listed.append(Case("flip average", functools.partial(_check_flip, bench)))
    listed += [
        Case(f"network, {how}", functools.partial(_check_network, bench, how)) for how in ARITHMETIC
    ]
    return listed


def _check_loss(bench: Bench, name: str, how: str) -> Row:
    from posematch.losses import Matching

    batch, joints, size = small_size(bench)
    drawn = draw_maps(batch, joints, size, "trained")
    make = make_losses(size[0])[name]
    exact = make()
    if isinstance(exact, Matching):
        exact.distance = replace(exact.distance, tolerance=1e-10)
    value, gradient = value_and_gradient(exact, drawn.to(torch.device("cpu"), torch.float64))
    with arithmetic(how, bench.device):
        ours = value_and_gradient(make(), drawn.to(bench.device, torch.float32))
    row = {
        "value_error": relative_error(ours[0], value),
        "gradient_error": relative_error(ours[1], gradient),
        # Losses compute in float32 whatever the arithmetic around them; a transport solve also
        # stops at its tolerance.
        "limit": 1e-3 if name.startswith("matching") else 1e-5,
    }
    return row | {"passed": max(row["value_error"], row["gradient_error"]) <= row["limit"]}


def _check_nan(bench: Bench) -> Row:
    """The sample whose maps are not finite is named, though a device is asked at the end."""
    batch, joints, size = small_size(bench)
    named = []
    for name, make in make_losses(size[0]).items():
        maps = draw_maps(batch, joints, size, "trained").to(bench.device, torch.float32)
        with torch.no_grad():
            maps.heatmaps[1, 2, 3, 4] = float("nan")
        try:
            make()(maps.heatmaps, maps.joints_hm, maps.visible)
        except FloatingPointError as error:
            named += [name] * ("sample 1 " in str(error))
    return {"losses": float(len(named)), "passed": len(named) == len(make_losses(size[0]))}


def _check_waits(bench: Bench) -> Row:
    """Between the maps and the loss of each joint the host never waits for the device."""
    if bench.device.type != "cuda":
        raise NotApplicableError("only a GPU is waited for")
    batch, joints, size = small_size(bench)
    names = ("gaussian_mse", "matching relu")
    for name in names:
        loss = make_losses(size[0])[name]()
        maps = draw_maps(batch, joints, size, "trained").to(bench.device, torch.float32)
        value_and_gradient(loss, maps)  # tables are copied to the device once
        try:
            torch.cuda.set_sync_debug_mode("error")
            counted = loss.weights(maps.joints_hm, maps.visible, size) > 0
            loss.joint_losses(maps.heatmaps, maps.joints_hm, counted)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return {"losses": float(len(names)), "passed": True}


def _decoders() -> dict[str, Callable[[], Any]]:
    """The decoders that need no argument, by name."""
    from posematch import decoding

    classes = {name: getattr(decoding, name) for name in decoding.__all__ if name != "Decoder"}
    return {name: one for name, one in classes.items() if isinstance(one, type)}


def _check_decoder(bench: Bench, name: str) -> Row:
    from posematch.decoding import decode

    batch, joints, size = small_size(bench)
    # Float32 on both sides: the highest pixel must be the same one.
    maps = draw_maps(batch, joints, size, "trained").heatmaps.float()
    decoder = _decoders()[name]()
    channels = int(getattr(decoder, "channels_per_joint", 1))
    maps = maps.repeat_interleave(channels, dim=1)
    expected_hm, expected_scores = decode(decoder, maps, channels)
    with arithmetic("tf32", bench.device):
        joints_hm, scores = decode(decoder, maps.to(bench.device), channels)
    row = {
        "joint_error_px": float((joints_hm.cpu() - expected_hm).abs().max()),
        "score_error": float((scores.cpu() - expected_scores).abs().max()),
        "limit": 1e-4,
    }
    return row | {"passed": max(row["joint_error_px"], row["score_error"]) <= row["limit"]}


def _check_flip(bench: Bench) -> Row:
    from posematch.decoding import flip_average
    from posematch.losses import GaussianMSE, Matching
    from posematch.skeletons import COCO

    size = small_size(bench)[2]
    one = draw_maps(2, COCO.num_joints, size, "trained").heatmaps
    other = draw_maps(2, COCO.num_joints, size, "fresh").heatmaps
    one_there, other_there = (maps.float().to(bench.device) for maps in (one, other))
    losses = (GaussianMSE(2.0), Matching())
    errors = [
        relative_error(
            flip_average(one_there, other_there, COCO, loss.mass, shift),
            flip_average(one, other, COCO, loss.mass, shift),
        )
        for loss, shift in itertools.product(losses, (True, False))
    ]
    return {"value_error": max(errors), "limit": 1e-5, "passed": max(errors) <= 1e-5}


def _check_network(bench: Bench, how: str) -> Row:
    network = make_network("hrnet_w18_small").eval()
    crops = draw_crops(2, (64, 64) if bench.small else (256, 192))
    # The network casts its input to float32 itself: the CPU's float32 is the reference.
    with torch.no_grad():
        with arithmetic("float32", torch.device("cpu")):
            exact = network(crops)
        with arithmetic(how, bench.device):
            network = network.to(bench.device).to(memory_format=torch.channels_last)
            maps = network(crops.to(bench.device))
    error = relative_error(maps, exact)
    # By the bits of each arithmetic: 23, 10 and 7, over some fifty layers.
    limit = {"float32": 1e-4, "tf32": 2e-2, "bf16": 1e-1}[how]
    return {"value_error": error, "limit": limit, "passed": error <= limit}
