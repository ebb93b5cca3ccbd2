r"""Every check that needs a GPU, in one command that goes on where it stopped.

    python benchmarks/gpu.py [--device cuda|cpu] [--small] [--pieces a,b] [--out FOLDER]
        [--budget-s 520] [--redo] [--report] [--prepare] [--mpii-root FOLDER]
        [--cache-folder FOLDER] [--seeds 0,1,2] [--overrides "key=value ..."] [--runs FOLDER]
        [--wheels FOLDER]

Pieces, in order of value:

``correctness``
    Losses, transport solvers, decoders, flip test and network on the device against the CPU in
    float64: in float32, with TF32 allowed everywhere, and under bf16 autocast.
``pot``
    POT's batched solver against the semi-dual, on the device and on the CPU.
``losses``
    Milliseconds of each loss, forward and backward, and their ratio to the Gaussian MSE's.
``step``
    A training step of HRNet-W48 at 256 x 192 in bf16: losses, memory layout, activation
    checkpointing, torch.compile; images a second and peak memory.
``fused``
    The Triton kernel of the semi-dual: against the CPU in float64; its time against the torch
    version's and POT's, all to a marginal error of 1e-6; bytes a second over the card's copy
    bandwidth; and the loss's share of a training step of HRNet-W48 at 384 x 288 in bf16. It is the
    default as long as ``ratio_torch`` is 2 or more everywhere.
``training``
    Trainings on MPII (``--mpii-root``, from its crop cache) by `posematch.training.run.train`, for
    each seed and loss, with ``experiment=cpu`` and ``--overrides``.

Each piece is a list of cases and a file ``<out>/<piece>.json``, rewritten after every case; a case
that is in it is not measured again (``--redo`` starts the chosen pieces anew). No case starts after
``--budget-s`` seconds, and a training stops then with a checkpoint below ``--runs``: the same
command goes on. A case that fails is recorded with its error and the next one goes on; the exit
code is then 1. ``--small`` takes tiny sizes, for tests. ``--report`` measures nothing and rewrites
this benchmark's section of benchmarks/RESULTS.md from the files in ``--out``.

Bare machines
-------------
The first, third, fourth and fifth piece need torch and timm alone, ``pot`` needs POT (``fused``
leaves POT's column out without), and ``training`` everything that posematch imports. On a machine
with torch, lightning, timm, opencv-python-headless, scipy, h5py, pandas, pyarrow, rich,
torchmetrics, requests and tqdm of its own these are missing:

    hydra-core omegaconf antlr4-python3-runtime==4.9.3 pycocotools POT
    pydantic pydantic-core annotated-types typing-inspection
    (albumentations and what it needs, for augmentation/appearance alone)

Made into wheels where there is a package index,

    pip wheel --no-deps -w wheels hydra-core omegaconf antlr4-python3-runtime==4.9.3 \
        pydantic annotated-types typing-inspection
    pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
        --platform manylinux2014_x86_64 -d wheels POT pycocotools \
        pydantic-core==VERSION   # the one that pydantic's metadata names

``--wheels wheels`` installs them into a folder of its own with

    pip install --no-index --no-deps --find-links wheels --target FOLDER wheels/*.whl

and puts it on the path of this process. posematch itself is taken from ../src. MPII travels as its
annotations and crop cache (`posematch.data.cache`), without photos: ``--prepare`` writes the cache
where the photos are; ``annot/`` and the cache folder are what to carry.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import csv
import functools
import hashlib
import itertools
import json
import os
import platform
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from posematch.losses import HeatmapLoss
    from posematch.losses.mass import MassSupply
    from posematch.networks.heatmap_network import HeatmapNetwork
    from posematch.transport import TransportProblem, TransportSolution

REPOSITORY = Path(__file__).resolve().parents[1]
CONF = REPOSITORY / "conf"
RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
BEGIN, END = "<!-- benchmarks/gpu.py: begin -->", "<!-- benchmarks/gpu.py: end -->"
LOSSES = ("gaussian_mse", "dot_mse", "matching")

# posematch is imported inside the functions that need it: what one piece lacks on a bare machine
# must not stop the others.
sys.path.insert(0, str(REPOSITORY / "src"))

Row = dict[str, Any]
LossFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class OutOfTimeError(Exception):
    """The budget ended inside a case, which goes on in the next call."""


class NotApplicableError(Exception):
    """A case cannot run here; its message says why."""


@dataclass(frozen=True)
class Bench:
    """What the command line asks for."""

    device: torch.device
    small: bool
    deadline: float  # of time.monotonic()
    mpii_root: Path
    cache_folder: Path | None
    runs: Path
    seeds: tuple[int, ...]
    overrides: tuple[str, ...]

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()


@dataclass(frozen=True)
class Case:
    """One measurement: a name that is unique in its piece, and what gives its row."""

    name: str
    measure: Callable[[], Row]


# ------------------------------------------------------------------------------------- inputs


@dataclass(frozen=True)
class Maps:
    """Raw heatmaps (B, K, H, W), dots (B, K, 2) in heatmap pixels, and who is visible (B, K)."""

    heatmaps: torch.Tensor
    joints_hm: torch.Tensor
    visible: torch.Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> Maps:
        return Maps(
            self.heatmaps.to(device, dtype).requires_grad_(),
            self.joints_hm.to(device, dtype),
            self.visible.to(device, dtype),
        )


def draw_maps(batch: int, joints: int, size: tuple[int, int], kind: str) -> Maps:
    """Heatmaps in float64 on the CPU, the same on every machine.

    ``fresh``: what a network starts from, noise around a bias of 1. ``trained``: a peak near the
    dot on noise around 0, one joint in sixteen without any positive pixel.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = size
    draw = functools.partial(torch.rand, generator=generator, dtype=torch.float64)
    joints_hm = draw(batch, joints, 2) * torch.tensor([width - 1.0, height - 1.0])
    visible = (draw(batch, joints) < 0.9).double()
    noise = torch.randn(batch, joints, height, width, generator=generator, dtype=torch.float64)
    if kind == "fresh":
        return Maps(1 + 0.05 * noise, joints_hm, visible)
    places = joints_hm + 4 * (draw(batch, joints, 2) - 0.5)
    dx = torch.arange(width) - places[..., 0, None]
    dy = torch.arange(height) - places[..., 1, None]
    peak = torch.exp(-(dx.square()[..., None, :] + dy.square()[..., :, None]) / 8)
    heatmaps = peak + 0.02 * noise
    dead = draw(batch, joints) < 1 / 16
    heatmaps = torch.where(dead[..., None, None], -heatmaps.abs() - 0.01, heatmaps)
    return Maps(heatmaps, joints_hm, visible)


def make_losses(height: int) -> dict[str, Callable[[], HeatmapLoss]]:
    """Every loss, by the name it is reported under, for maps so many pixels high."""
    from posematch.losses import DotMSE, GaussianMSE, Matching

    supplies: tuple[MassSupply, ...] = ("relu", "softplus", "softmax")
    sigma = height / 32
    return {
        "gaussian_mse": lambda: GaussianMSE(sigma),
        "gaussian_mse subpixel": lambda: GaussianMSE(sigma, centre="subpixel"),
        "dot_mse": DotMSE,
        **{f"matching {one}": functools.partial(Matching, supply=one) for one in supplies},
    }


def value_and_gradient(loss: LossFunction, maps: Maps) -> tuple[torch.Tensor, torch.Tensor]:
    """Scalar loss and its gradient in the heatmaps."""
    value = loss(maps.heatmaps, maps.joints_hm, maps.visible)
    (gradient,) = torch.autograd.grad(value, maps.heatmaps)
    return value.detach(), gradient


def relative_error(one: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest deviation over the reference's largest entry; NaN stays NaN."""
    one, reference = one.detach().double().cpu(), reference.detach().double().cpu()
    return float((one - reference).abs().max() / reference.abs().max().clamp_min(1e-300))


@contextlib.contextmanager
def arithmetic(name: str, device: torch.device) -> Iterator[None]:
    """``float32``, ``tf32`` (allowed wherever torch can) or ``bf16`` (autocast)."""
    precision = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("medium" if name == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = name == "tf32"
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=name == "bf16"):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = cudnn


ARITHMETIC = ("float32", "tf32", "bf16")


# ------------------------------------------------------------------------------- correctness


def correctness(bench: Bench) -> list[Case]:
    """Device against CPU in float64."""
    from posematch.transport import SOLVERS

    cases = [
        Case(f"{name}, {how}", functools.partial(_check_loss, bench, name, how))
        for name in make_losses(64)
        for how in ARITHMETIC
    ]
    cases += [
        Case(
            f"solver {name}, epsilon {epsilon}, {how}",
            functools.partial(_check_solver, bench, name, epsilon, how),
        )
        for name in SOLVERS
        if name.startswith("semidual")  # POT is a piece of its own; exact is not for devices
        for epsilon in (1.0, 0.3, 0.1, 0.03)
        for how in ("float32", "tf32")
    ]
    cases.append(Case("NaN is named", functools.partial(_check_nan, bench)))
    cases.append(Case("nothing waits in the loss", functools.partial(_check_waits, bench)))
    cases += [
        Case(f"decoder {name}", functools.partial(_check_decoder, bench, name))
        for name in _decoders()
    ]
    cases.append(Case("flip average", functools.partial(_check_flip, bench)))
    cases += [
        Case(f"network, {how}", functools.partial(_check_network, bench, how)) for how in ARITHMETIC
    ]
    return cases


def _check_nan(bench: Bench) -> Row:
    """The sample whose maps are not finite is named, though a device is asked at the end."""
    batch, joints, size = _size(bench)
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
    batch, joints, size = _size(bench)
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


Shape = tuple[int, int, tuple[int, int]]  # people, joints, and the heatmap's size


def _size(bench: Bench) -> Shape:
    return (2, 5, (16, 12)) if bench.small else (8, 17, (64, 48))


def _check_loss(bench: Bench, name: str, how: str) -> Row:
    from posematch.losses import Matching

    batch, joints, size = _size(bench)
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


def _problem(
    shape: Shape, epsilon: float, dtype: torch.dtype, device: torch.device
) -> TransportProblem:
    """Transport problems of the ``trained`` maps, ReLU supply."""
    from posematch.losses import to_mass
    from posematch.transport import TransportProblem, subpixel_demand

    batch, joints, size = shape
    drawn = draw_maps(batch, joints, size, "trained")
    mass = to_mass(drawn.heatmaps, "relu").flatten(0, 1).to(device, dtype)
    places_hm, demand = subpixel_demand(drawn.joints_hm.flatten(0, 1).to(device), size)
    return TransportProblem(mass, places_hm, demand, epsilon=epsilon)


def _solve(
    problem: TransportProblem, solver: str, tolerance: float, iterations: int = 10_000
) -> TransportSolution:
    from posematch.transport import SOLVERS

    return SOLVERS[solver](problem, tolerance, iterations)


def _check_solver(bench: Bench, name: str, epsilon: float, how: str) -> Row:
    shape = _size(bench)
    with arithmetic(how, bench.device):
        ours = _solve(_problem(shape, epsilon, torch.float32, bench.device), name, 1e-4)
    return _against_cpu(shape, epsilon, ours, 1e-3)


def _against_cpu(shape: Shape, epsilon: float, ours: TransportSolution, limit: float) -> Row:
    """A solution of `_problem` against the CPU's in float64."""
    cpu = torch.device("cpu")
    exact = _solve(_problem(shape, epsilon, torch.float64, cpu), "semidual", 1e-11)
    row = {
        "value_error": relative_error(ours.value, exact.value),
        "gradient_error": relative_error(ours.supply_potential, exact.supply_potential),
        "marginal_error": float(ours.marginal_error.max()),
        "iterations_mean": float(ours.iterations.double().mean()),
        "iterations_max": int(ours.iterations.max()),
        "limit": limit,
    }
    worst = max(row["value_error"], row["gradient_error"], row["marginal_error"])
    return row | {"passed": worst <= row["limit"]}


def _decoders() -> dict[str, Callable[[], Any]]:
    """The decoders that need no argument, by name."""
    from posematch import decoding

    classes = {name: getattr(decoding, name) for name in decoding.__all__ if name != "Decoder"}
    return {name: one for name, one in classes.items() if isinstance(one, type)}


def _check_decoder(bench: Bench, name: str) -> Row:
    from posematch.decoding import decode

    batch, joints, size = _size(bench)
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

    size = _size(bench)[2]
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


def _network(name: str) -> HeatmapNetwork:
    from posematch.networks.heatmap_network import HeatmapNetwork

    torch.manual_seed(0)
    # Maps large enough that an error in them shows.
    return HeatmapNetwork(name, num_joints=17, pretrained=False, head_init_std=0.05)


def _crops(batch: int, size: tuple[int, int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, 3, *size), generator=generator, dtype=torch.uint8)


def _check_network(bench: Bench, how: str) -> Row:
    network = _network("hrnet_w18_small").eval()
    crops = _crops(2, (64, 64) if bench.small else (256, 192))
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


# ---------------------------------------------------------------------------------- timings


def milliseconds(function: Callable[[], object], device: torch.device) -> float:
    """Time of one call, on the device's own clock."""
    if device.type != "cuda":
        start = time.perf_counter()
        function()
        return 1e3 * (time.perf_counter() - start)
    begin, end = (
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(2)
    )
    begin.record()
    function()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def in_turn(
    functions: Mapping[str, Callable[[], object]], bench: Bench, repeats: int
) -> dict[str, list[float]]:
    """Milliseconds of each function, called A B A B ...: a drifting machine hurts all alike."""
    for function in functions.values():
        for _ in range(1 if bench.small else min(5, repeats)):
            function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(3 if bench.small else repeats):
        for name, function in functions.items():
            times[name].append(milliseconds(function, bench.device))
    return times


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high}


def _ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Median of the pairwise ratios."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def peak_mib(function: Callable[[], object], device: torch.device) -> float | None:
    """Device memory in use at the peak of a call, weights and inputs included; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 2**20


# ---------------------------------------------------------------------------------- pot


def pot(bench: Bench) -> list[Case]:
    """POT's batched Sinkhorn: right, and how fast."""
    return [
        Case(f"{what}, epsilon {epsilon}", functools.partial(measure, bench, epsilon))
        for epsilon in (1.0, 0.3, 0.1)
        for what, measure in (("agreement", _pot_agreement), ("time", _pot_time))
    ]


def _need_pot() -> None:
    try:
        import ot.batch  # noqa: F401
    except ImportError as error:
        raise NotApplicableError(f"POT is not installed ({error})") from None


def _pot_agreement(bench: Bench, epsilon: float) -> Row:
    _need_pot()
    return _check_solver(bench, "pot", epsilon, "tf32")


def _pot_time(bench: Bench, epsilon: float) -> Row:
    _need_pot()
    places = {bench.device.type: bench.device, "cpu": torch.device("cpu")}
    row: Row = {}
    for place, device in places.items():
        problem = _problem(_size(bench), epsilon, torch.float32, device)
        solvers = {
            name: functools.partial(_solve, problem, name, 1e-4) for name in ("pot", "semidual")
        }
        on_device = in_turn(solvers, replace(bench, device=device), 3)
        row["problems"] = len(problem.supply)
        row |= {f"{name}_{place}_ms": spread(times) for name, times in on_device.items()}
        row[f"ratio_{place}"] = _ratio(on_device["pot"], on_device["semidual"])
    return row


# ---------------------------------------------------------------------------------- losses


def losses(bench: Bench) -> list[Case]:
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
        "ratio": _ratio(times[name], times["gaussian_mse"]),
        "peak_mib": peak_mib(calls[name], bench.device),
    }


# ---------------------------------------------------------------------------------- step


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


def step(bench: Bench) -> list[Case]:
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
    run, _ = _training_step(bench, how, size, make_losses(size[0] // 4)[how.loss]())
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


def _training_step(
    bench: Bench, how: Step, size: tuple[int, int], loss: LossFunction
) -> tuple[Callable[[], None], Maps]:
    """A step on crops of that size, bf16, to be called again and again; and maps of its size."""
    network = _network("hrnet_w18_small" if bench.small else "hrnet_w48")
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
    crops = _crops(how.batch, size).to(bench.device).contiguous(memory_format=layout)

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


# ---------------------------------------------------------------------------------- fused

FUSED_TOLERANCE = 1e-6
# Without an end POT would take minutes where float32 keeps it from the tolerance.
FUSED_POT_ITERATIONS = 1000


def fused(bench: Bench) -> list[Case]:
    """The Triton kernel: right, how fast, and what the loss then takes of a step."""
    shapes: list[Shape] = [(1, 3, (16, 12))] if bench.small else [
        (32, 17, (64, 48)), (32, 17, (64, 64)), (32, 17, (96, 72)), (8, 17, (128, 96)),
    ]  # fmt: skip
    epsilons = (0.1,) if bench.small else (1.0, 0.3, 0.1, 0.03)
    cases = [
        Case(
            f"{what}, {shape[0]} x {shape[1]} x {shape[2][0]} x {shape[2][1]}, epsilon {epsilon}",
            functools.partial(measure, bench, shape, epsilon),
        )
        for what, measure in (("agreement", _fused_agreement), ("time", _fused_time))
        for shape, epsilon in itertools.product(shapes, epsilons)
    ]
    return cases + [
        Case(f"share of a step, {solver}", functools.partial(_loss_share, bench, solver))
        for solver in ("semidual", "semidual_torch")
    ]


def _need_kernel(problem: TransportProblem) -> None:
    from posematch.transport.fused import applies

    if not applies(problem):
        raise NotApplicableError("the Triton kernel needs a GPU")


def _fused_agreement(bench: Bench, shape: Shape, epsilon: float) -> Row:
    problem = _problem(shape, epsilon, torch.float32, bench.device)
    _need_kernel(problem)
    with arithmetic("tf32", bench.device):
        ours = _solve(problem, "semidual", FUSED_TOLERANCE)
    # Values and potentials as float32 has them; the marginal as asked for.
    return _against_cpu(shape, epsilon, ours, 1e-5)


def _fused_time(bench: Bench, shape: Shape, epsilon: float) -> Row:
    problem = _problem(shape, epsilon, torch.float32, bench.device)
    _need_kernel(problem)
    solvers = {
        name: functools.partial(_solve, problem, name, FUSED_TOLERANCE)
        for name in ("semidual", "semidual_torch")
    }
    times = in_turn(solvers, bench, 40)
    row: Row = {f"{name}_ms": spread(times[name]) for name in solvers}
    row["ratio_torch"] = _ratio(times["semidual_torch"], times["semidual"])
    if epsilon >= 0.1:  # below, POT has got nowhere after that many iterations
        with contextlib.suppress(NotApplicableError):
            _need_pot()
            pot = functools.partial(_solve, problem, "pot", FUSED_TOLERANCE, FUSED_POT_ITERATIONS)
            slow = in_turn({"pot": pot, "ours": solvers["semidual"]}, bench, 2)
            row["pot_ms"] = spread(slow["pot"])
            row["pot_marginal_error"] = float(pot().marginal_error.max())
            row["ratio_pot"] = _ratio(slow["pot"], slow["ours"])
    # The masses once in, the potentials once out.
    moved = 2 * problem.supply.numel() * problem.supply.element_size()
    row["bytes_per_second"] = 1e3 * moved / statistics.median(times["semidual"])
    row["copy_bandwidth"] = copy_bandwidth(bench)
    row["bandwidth_share"] = row["bytes_per_second"] / row["copy_bandwidth"]
    return row


def copy_bandwidth(bench: Bench) -> float:
    """Bytes a second, read and written, of a copy far larger than any cache."""
    source = torch.ones(2**16 if bench.small else 2**28, device=bench.device)
    target = torch.empty_like(source)
    times = in_turn({"copy": lambda: target.copy_(source)}, bench, 20)["copy"]
    return 2e3 * source.numel() * source.element_size() / statistics.median(times)


def _loss_share(bench: Bench, solver: Literal["semidual", "semidual_torch"]) -> Row:
    """The matching loss in a step of HRNet-W48 at 384 x 288, batch 32.

    ``share``: what a step with it takes longer than one whose loss is the maps' mean.
    """
    from posematch.losses import Matching

    size, batch = ((64, 64), 1) if bench.small else ((384, 288), 32)
    if solver == "semidual":
        _need_kernel(
            _problem((1, 1, (size[0] // 4, size[1] // 4)), 0.1, torch.float32, bench.device)
        )
    losses: dict[str, LossFunction] = {
        "step": Matching(solver=solver),
        "gaussian_step": make_losses(size[0] // 4)["gaussian_mse"](),
        "bare_step": lambda heatmaps, joints_hm, visible: heatmaps.float().mean(),
    }
    how = Step("matching relu", batch=batch)
    steps = {name: _training_step(bench, how, size, loss) for name, loss in losses.items()}
    maps = steps["step"][1]
    alone = functools.partial(value_and_gradient, losses["step"], maps)
    times = in_turn({name: run for name, (run, _) in steps.items()} | {"loss": alone}, bench, 20)

    def share(name: str) -> float:
        return 1 - _ratio(times["bare_step"], times[name])

    return {
        **{f"{name}_ms": spread(times[name]) for name in times},
        "share": share("step"),
        "gaussian_share": share("gaussian_step"),
        "extra_floats_a_pixel": _extra_floats(alone, maps),
    }


def _extra_floats(loss: Callable[[], object], maps: Maps) -> float | None:
    """Device memory that forward and backward add to the inputs, in floats a heatmap pixel."""
    if not maps.heatmaps.is_cuda:
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loss()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 4 / maps.heatmaps.numel()


# ---------------------------------------------------------------------------------- training


def training(bench: Bench) -> list[Case]:
    """Whole trainings, a seed of every loss before the next seed."""
    return [
        Case(f"{loss}, seed {seed}", functools.partial(_train, bench, loss, seed))
        for seed in bench.seeds
        for loss in LOSSES
    ]


def _overrides(bench: Bench, loss: str, seed: int) -> list[str]:
    overrides = [
        f"loss={loss}",
        f"seed={seed}",
        f"run_root={bench.runs}",
        "resume=auto",
        f"trainer.accelerator={'gpu' if bench.device.type == 'cuda' else 'cpu'}",
        "data.cache=true",
    ]
    if bench.small:
        overrides += [
            f"data.root={bench.runs}",
            "data.spec.train_photos=12",
            "data.spec.valid_photos=6",
            "data.input_size=[64,64]",
            "data.batch_size=4",
            "data.workers=0",
            "trainer.max_epochs=2",
        ]
    else:
        overrides += ["data=mpii", f"data.root={bench.mpii_root}", "experiment=cpu"]
    if bench.cache_folder is not None:
        overrides.append(f"data.cache_folder={bench.cache_folder}")
    return [*overrides, *bench.overrides]


def _compose(overrides: Sequence[str]) -> DictConfig:
    try:
        import hydra
    except ImportError as error:
        raise NotApplicableError(f"{error}; see --wheels") from None
    from posematch.app.composition import register_resolvers

    register_resolvers()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("train", overrides=list(overrides))


def prepare(bench: Bench) -> None:
    """Write the crop cache that the trainings read."""
    cfg = _compose(_overrides(bench, LOSSES[0], bench.seeds[0]))
    from posematch.training.build import build_datamodule

    datamodule = build_datamodule(cfg)
    datamodule.prepare_data()
    datamodule.setup("fit")
    print(f"crop cache: {datamodule.cache_folder}")


def _train(bench: Bench, loss: str, seed: int) -> Row:
    overrides = _overrides(bench, loss, seed)
    cfg = _compose(overrides)
    from posematch.training.run import InterruptedTrainingError, train

    with stopped_after(bench.seconds_left) as clock:
        try:
            result = train(cfg)
        except (InterruptedTrainingError, KeyboardInterrupt, SystemExit):
            if clock.is_set():
                raise OutOfTimeError from None
            raise
    return {
        "overrides": overrides,
        "figures": result.figures,
        "losses": result.losses,
        "protocol": result.protocol,
        "epochs": _table(result.folder.metrics),
        "timing": _table(result.folder.timing),
        "run_folder": result.folder.path.name,
    }


@contextlib.contextmanager
def stopped_after(seconds: float) -> Iterator[threading.Event]:
    """Press Ctrl-C after so many seconds: a training ends on it with a checkpoint.

    The event says whether that happened. Outside a training it is a KeyboardInterrupt.
    """
    fired = threading.Event()

    def fire() -> None:
        fired.set()
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(max(0.0, seconds), fire)
    # A shell may have started this process with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    try:
        yield fired
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)


def _table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


PIECES: dict[str, Callable[[Bench], list[Case]]] = {
    "correctness": correctness,
    "pot": pot,
    "losses": losses,
    "step": step,
    "fused": fused,
    "training": training,
}


# ---------------------------------------------------------------------------------- running


@dataclass
class Record:
    """One piece's file: where it was measured, and a row per case."""

    path: Path
    environment: dict[str, Any]
    rows: dict[str, Row] = field(default_factory=dict)
    finished: bool = False

    @classmethod
    def open(cls, path: Path, environment: dict[str, Any], afresh: bool) -> Record:
        """Read what earlier calls measured, unless it was on another machine or of other code."""
        if afresh or not path.exists():
            return cls(path, environment)
        content = json.loads(path.read_text(encoding="utf-8"))
        for key in ("device", "torch", "source", "small"):
            old, new = content["environment"].get(key), environment[key]
            if old != new:
                raise SystemExit(
                    f"{path} was measured with {key} {old}, this is {new}: add --redo, or name"
                    " another --out."
                )
        return cls(path, content["environment"], content["rows"], content["finished"])

    def write(self) -> None:
        content = {
            "finished": self.finished,
            "environment": self.environment,
            "rows": self.rows,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.path)


def run_piece(name: str, cases: Sequence[Case], record: Record, bench: Bench) -> None:
    """Measure the cases that the record lacks, until the budget ends."""
    for case in cases:
        if case.name in record.rows:
            continue
        if bench.seconds_left <= 0:
            break
        start = time.monotonic()
        try:
            row = {"status": "measured", **case.measure()}
            if row.get("passed") is False:
                row["status"] = "failed"
        except OutOfTimeError:
            break
        except NotApplicableError as reason:
            row = {"status": "skipped", "reason": str(reason)}
        except Exception as error:  # whatever it is, the other cases can still be measured
            traceback.print_exc()
            row = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()  # no case pays for the memory of an earlier one
        row["seconds"] = round(time.monotonic() - start, 3)
        row["date"] = datetime.now(UTC).isoformat(timespec="seconds")
        record.rows[case.name] = row
        record.write()
        print(f"{name}: {case.name}: {_shown(row)}", flush=True)
    record.finished = all(case.name in record.rows for case in cases)
    record.write()


def _shown(row: Row) -> str:
    """A row in one line."""
    if "reason" in row or "error" in row:
        return f"{row['status']}: {row.get('reason') or row.get('error')}"
    parts = [row["status"]]
    for key, value in {**row, **_figures(row)}.items():
        if isinstance(value, dict) and "median" in value:
            parts.append(f"{key} {value['median']:.4g}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            parts.append(f"{key} {value:.4g}")
    return "  ".join(parts)


def _figures(row: Row) -> dict[str, float]:
    """A training's metrics, those of single joints and groups left out."""
    last = row.get("figures", {}).get("last", {})
    return {name: value for name, value in last.items() if "/" not in name}


def environment(device: torch.device, small: bool) -> dict[str, Any]:
    """Where and with what something was measured, without a name of the machine."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "device": name,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "versions": {one: _version(one) for one in ("timm", "lightning", "numpy", "pot", "triton")},
        "source": _source_hash(),
        "small": small,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _source_hash() -> str:
    """Names the code that ran, also where no git repository came along."""
    digest = hashlib.sha256()
    package = REPOSITORY / "src" / "posematch"
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


# ---------------------------------------------------------------------------------- report


def report(out: Path, into: Path) -> None:
    """Rewrite this benchmark's section of ``into`` from the files in ``out``."""
    lines = [BEGIN, "## GPU: `python benchmarks/gpu.py`", ""]
    for piece in PIECES:
        file = out / f"{piece}.json"
        if file.exists():
            lines += _piece_report(piece, json.loads(file.read_text(encoding="utf-8")))
    if len(lines) == 3:
        raise SystemExit(f"{out} holds no measurement; run the command without --report first.")
    section = "\n".join([*lines, END])
    text = into.read_text(encoding="utf-8") if into.exists() else ""
    if BEGIN in text and END in text:
        before, rest = text.split(BEGIN, 1)
        text = before + section + rest.split(END, 1)[1]
    else:
        text = f"{text.rstrip()}\n\n{section}\n".lstrip()
    into.write_text(text, encoding="utf-8")


def _piece_report(piece: str, content: dict[str, Any]) -> list[str]:
    where, rows = content["environment"], content["rows"]
    counts = {
        status: sum(row["status"] == status for row in rows.values())
        for status in ("measured", "failed", "skipped")
    }
    dates = sorted(row["date"][:10] for row in rows.values())
    versions = ", ".join(f"{name} {one}" for name, one in where["versions"].items() if one)
    cuda = f", CUDA {where['cuda']}" if where["cuda"] else ""
    lines = [
        f"### {piece}" + (" (tiny sizes)" if where["small"] else ""),
        "",
        f"{where['device']}, torch {where['torch']}{cuda}, Python {where['python']}, {versions};"
        f" source {where['source']};"
        f" {' to '.join(dict.fromkeys((dates[0], dates[-1]))) if dates else 'nothing yet'};"
        f" {counts['measured']} measured, {counts['failed']} failed, {counts['skipped']} skipped"
        + ("." if content["finished"] else "; not finished."),
        "",
    ]
    tables: list[dict[str, dict[str, str]]] = []
    columns: dict[str, None] = {}
    for name, row in rows.items():
        cells = _flat(row)
        # What has no figure in common with the rows before goes into a table of its own.
        if not tables or not (columns.keys() & cells.keys()) - {"status"}:
            tables.append({})
            columns = {}
        tables[-1][name] = cells
        columns |= dict.fromkeys(cells)
    for table in tables:
        shown = list(dict.fromkeys(key for cells in table.values() for key in cells))
        lines.append("| " + " | ".join(["case", *shown]) + " |")
        lines.append("|---|" + "---|" * len(shown))
        for name, cells in table.items():
            lines.append("| " + " | ".join([name, *(cells.get(key, "") for key in shown)]) + " |")
        lines.append("")
    return lines


def _flat(row: Row) -> dict[str, str]:
    """What the table shows of a row."""
    cells: dict[str, str] = {}
    for key, value in {**row, **_figures(row)}.items():
        if key in ("seconds", "date", "limit", "passed", "problems"):
            continue
        if isinstance(value, dict) and "median" in value:
            cells[key] = f"{value['median']:.4g} ({value['low']:.4g} to {value['high']:.4g})"
        elif isinstance(value, int | float) and not isinstance(value, bool):
            cells[key] = f"{value:.4g}"
        elif key in ("status", "reason", "error"):
            cells[key] = str(value).replace("|", "/").replace("\n", " ")
    return cells


# ---------------------------------------------------------------------------------- command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the pieces that are left; the exit code is 1 where a case failed."""
    start = time.monotonic()
    options = _parse(arguments)
    if options.report is not None:
        report(options.out, options.report)
        return 0
    if options.wheels is not None:
        install_wheels(options.wheels)
    bench = Bench(
        device=_device(options.device),
        small=options.small,
        deadline=start + options.budget_s,
        mpii_root=options.mpii_root,
        cache_folder=options.cache_folder,
        runs=options.runs,
        seeds=tuple(int(one) for one in options.seeds.split(",")),
        overrides=tuple(shlex.split(options.overrides)),
    )
    if options.prepare:
        prepare(bench)
        return 0
    where = environment(bench.device, bench.small)
    records = {
        name: Record.open(options.out / f"{name}.json", where, options.redo)
        for name in options.pieces
    }
    for name, record in records.items():
        try:
            cases = PIECES[name](bench)
        except Exception as error:  # a piece that cannot even be listed must not stop the next
            message = f"{type(error).__name__}: {error}"
            cases = [Case("setting up", functools.partial(_fail, message))]
        run_piece(name, cases, record, bench)
    left = [name for name, record in records.items() if not record.finished]
    failed = [
        f"{name}: {case}"
        for name, record in records.items()
        for case, row in record.rows.items()
        if row["status"] == "failed"
    ]
    print(f"{len(failed)} failed{': ' if failed else ''}{'; '.join(failed)}")
    if left:
        print(f"not finished: {', '.join(left)}; the same command goes on")
    return 1 if failed else 0


def _fail(message: str) -> Row:
    raise RuntimeError(message)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch sees no GPU here; --device cpu measures the CPU.")
    return torch.device(name)


def install_wheels(folder: Path) -> None:
    """Install wheels without an index into a folder of this process, first on its path."""
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise SystemExit(f"--wheels {folder} holds no wheel.")
    target = tempfile.mkdtemp(prefix="gpu-benchmark-")
    atexit.register(shutil.rmtree, target, ignore_errors=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
         "--find-links", str(folder), "--target", target, *map(str, wheels)],
        check=True,
    )  # fmt: skip
    sys.path.insert(0, target)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add = parser.add_argument
    default = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", choices=("cuda", "cpu"), default=default)
    add("--small", action="store_true", help="tiny sizes, for tests")
    add("--pieces", default=",".join(PIECES), help=f"some of {','.join(PIECES)}")
    add("--out", type=Path, default=RESULTS.parent / "results" / "gpu", help="folder of the files")
    add("--budget-s", type=float, default=520.0, help="start nothing after so many seconds")
    add("--redo", action="store_true", help="measure the chosen pieces anew")
    add("--report", type=Path, nargs="?", const=RESULTS, help="write tables, measure nothing")
    add("--prepare", action="store_true", help="write the crop cache of the trainings, no more")
    add("--mpii-root", type=Path, default=Path("data/mpii"), help="folder with annot/")
    add("--cache-folder", type=Path, help="crop cache; default: below --mpii-root")
    add("--runs", type=Path, default=REPOSITORY / "runs" / "gpu", help="run folders of trainings")
    add("--seeds", default="0,1,2", help="of the trainings")
    add("--overrides", default="", help="further overrides of the trainings, in one string")
    add("--wheels", type=Path, help="folder of wheels to install for this process")
    options = parser.parse_args(arguments)
    options.pieces = options.pieces.split(",")
    unknown = set(options.pieces) - set(PIECES)
    if unknown:
        parser.error(f"--pieces {','.join(sorted(unknown))}: choose from {','.join(PIECES)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
