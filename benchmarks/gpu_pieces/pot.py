"""POT's batched solver against the semi-dual, on the device and on the CPU."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch

from gpu_pieces.shared import (
    Bench,
    Case,
    NotApplicableError,
    Row,
    check_solver,
    in_turn,
    pairwise_ratio,
    small_size,
    solve,
    spread,
    transport_problem,
)


def cases(bench: Bench) -> list[Case]:
    """POT's batched Sinkhorn: right, and how fast."""
    return [
        Case(f"{what}, epsilon {epsilon}", functools.partial(measure, bench, epsilon))
        for epsilon in (1.0, 0.3, 0.1)
        for what, measure in (("agreement", _pot_agreement), ("time", _pot_time))
    ]


def need_pot() -> None:
    try:
        import ot.batch  # noqa: F401
    except ImportError as error:
        raise NotApplicableError(f"POT is not installed ({error})") from None


def _pot_agreement(bench: Bench, epsilon: float) -> Row:
    need_pot()
    return check_solver(bench, "pot", epsilon, "tf32")


def _pot_time(bench: Bench, epsilon: float) -> Row:
    need_pot()
    places = {bench.device.type: bench.device, "cpu": torch.device("cpu")}
    row: Row = {}
    for place, device in places.items():
        problem = transport_problem(small_size(bench), epsilon, torch.float32, device)
        solvers = {
            name: functools.partial(solve, problem, name, 1e-4) for name in ("pot", "semidual")
        }
        on_device = in_turn(solvers, replace(bench, device=device), 3)
        row["problems"] = len(problem.supply)
        row |= {f"{name}_{place}_ms": spread(times) for name, times in on_device.items()}
        row[f"ratio_{place}"] = pairwise_ratio(on_device["pot"], on_device["semidual"])
    return row
