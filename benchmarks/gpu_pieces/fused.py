"""The Triton kernel of the semi-dual: right, how fast, and what the loss takes of a step."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch

from gpu_pieces.pot import need_pot
from gpu_pieces.shared import (
    Bench,
    Case,
    LossFunction,
    Maps,
    NotApplicableError,
    Row,
    Shape,
    against_cpu,
    arithmetic,
    in_turn,
    make_losses,
    pairwise_ratio,
    solve,
    spread,
    transport_problem,
    value_and_gradient,
)
from gpu_pieces.step import Step, training_step

if TYPE_CHECKING:
    from posematch.transport import TransportProblem

TOLERANCE = 1e-6
# Without an end POT would take minutes where float32 keeps it from the tolerance.
POT_ITERATIONS = 1000


def cases(bench: Bench) -> list[Case]:
    """The Triton kernel: right, how fast, and what the loss then takes of a step."""
    shapes: list[Shape] = [(1, 3, (16, 12))] if bench.small else [
        (32, 17, (64, 48)), (32, 17, (64, 64)), (32, 17, (96, 72)), (8, 17, (128, 96)),
    ]  # fmt: skip
    epsilons = (0.1,) if bench.small else (1.0, 0.3, 0.1, 0.03)
    listed = [
        Case(
            f"{what}, {shape[0]} x {shape[1]} x {shape[2][0]} x {shape[2][1]}, epsilon {epsilon}",
            functools.partial(measure, bench, shape, epsilon),
        )
        for what, measure in (("agreement", _fused_agreement), ("time", _fused_time))
        for shape, epsilon in itertools.product(shapes, epsilons)
    ]
    return listed + [
        Case(f"share of a step, {solver}", functools.partial(_loss_share, bench, solver))
        for solver in ("semidual", "semidual_torch")
    ]


def _need_kernel(problem: TransportProblem) -> None:
    from posematch.transport.fused import applies

    # Triton's interpreter runs it on a CPU, for tests; else a CPU's problems are numba's.
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if not ((problem.supply.is_cuda or interpreted) and applies(problem)):
        raise NotApplicableError("the Triton kernel needs a GPU")


def _fused_agreement(bench: Bench, shape: Shape, epsilon: float) -> Row:
    problem = transport_problem(shape, epsilon, torch.float32, bench.device)
    _need_kernel(problem)
    with arithmetic("tf32", bench.device):
        ours = solve(problem, "semidual", TOLERANCE)
    # Values and potentials as float32 has them; the marginal as asked for.
    return against_cpu(shape, epsilon, ours, 1e-5)


def _fused_time(bench: Bench, shape: Shape, epsilon: float) -> Row:
    problem = transport_problem(shape, epsilon, torch.float32, bench.device)
    _need_kernel(problem)
    solvers = {
        name: functools.partial(solve, problem, name, TOLERANCE)
        for name in ("semidual", "semidual_torch")
    }
    times = in_turn(solvers, bench, 40)
    row: Row = {f"{name}_ms": spread(times[name]) for name in solvers}
    row["ratio_torch"] = pairwise_ratio(times["semidual_torch"], times["semidual"])
    if epsilon >= 0.1:  # below, POT has got nowhere after that many iterations
        with contextlib.suppress(NotApplicableError):
            need_pot()
            pot = functools.partial(solve, problem, "pot", TOLERANCE, POT_ITERATIONS)
            slow = in_turn({"pot": pot, "ours": solvers["semidual"]}, bench, 2)
            row["pot_ms"] = spread(slow["pot"])
            row["pot_marginal_error"] = float(pot().marginal_error.max())
            row["ratio_pot"] = pairwise_ratio(slow["pot"], slow["ours"])
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
            transport_problem(
                (1, 1, (size[0] // 4, size[1] // 4)), 0.1, torch.float32, bench.device
            )
        )
    losses: dict[str, LossFunction] = {
        "step": Matching(solver=solver),
        "gaussian_step": make_losses(size[0] // 4)["gaussian_mse"](),
        "bare_step": lambda heatmaps, joints_hm, visible: heatmaps.float().mean(),
    }
    how = Step("matching relu", batch=batch)
    steps = {name: training_step(bench, how, size, loss) for name, loss in losses.items()}
    maps = steps["step"][1]
    alone = functools.partial(value_and_gradient, losses["step"], maps)
    times = in_turn({name: run for name, (run, _) in steps.items()} | {"loss": alone}, bench, 20)

    def share(name: str) -> float:
        return 1 - pairwise_ratio(times["bare_step"], times[name])

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
