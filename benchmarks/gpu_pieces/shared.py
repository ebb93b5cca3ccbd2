"""What several pieces share: the command's wishes, inputs, comparisons and timings.

posematch is imported inside the functions that need it, here and in the pieces: what one piece
lacks on a bare machine must not stop the others.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from posematch.losses import HeatmapLoss
    from posematch.losses.mass import MassSupply
    from posematch.networks.heatmap_network import HeatmapNetwork
    from posematch.transport import TransportProblem, TransportSolution

REPOSITORY = Path(__file__).resolve().parents[2]
ARITHMETIC = ("float32", "tf32", "bf16")

Row = dict[str, Any]
Shape = tuple[int, int, tuple[int, int]]  # people, joints, and the heatmap's size
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


def small_size(bench: Bench) -> Shape:
    return (2, 5, (16, 12)) if bench.small else (8, 17, (64, 48))


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


def transport_problem(
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


def make_network(name: str) -> HeatmapNetwork:
    from posematch.networks.heatmap_network import HeatmapNetwork

    torch.manual_seed(0)
    # Maps large enough that an error in them shows.
    return HeatmapNetwork(name, num_joints=17, pretrained=False, head_init_std=0.05)


def draw_crops(batch: int, size: tuple[int, int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, 3, *size), generator=generator, dtype=torch.uint8)


# -------------------------------------------------------------------------------- comparisons


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


def solve(
    problem: TransportProblem, solver: str, tolerance: float, iterations: int = 10_000
) -> TransportSolution:
    from posematch.transport import SOLVERS

    return SOLVERS[solver](problem, tolerance, iterations)


def check_solver(bench: Bench, name: str, epsilon: float, how: str) -> Row:
    shape = small_size(bench)
    with arithmetic(how, bench.device):
        ours = solve(transport_problem(shape, epsilon, torch.float32, bench.device), name, 1e-4)
    return against_cpu(shape, epsilon, ours, 1e-3)


def against_cpu(shape: Shape, epsilon: float, ours: TransportSolution, limit: float) -> Row:
    """A solution of `transport_problem` against the CPU's in float64."""
    cpu = torch.device("cpu")
    exact = solve(transport_problem(shape, epsilon, torch.float64, cpu), "semidual", 1e-11)
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


# ------------------------------------------------------------------------------------ timings


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


def pairwise_ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
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
