"""Solvers by name: a problem in, a solution with its evidence out.

``semidual``
    Newton's method, see `posematch.transport.semidual`; on CUDA as one Triton kernel, see
    `posematch.transport.fused`.
``semidual_torch``
    The same without the kernel: its reference.
``pot``
    POT's batched log-domain Sinkhorn on torch tensors, wherever they are. The referee.
``exact``
    The unregularised distance: POT's network simplex, one problem after the other.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Protocol, cast

import torch

from posematch.errors import PosematchError
from posematch.transport import fused
from posematch.transport.problem import (
    TransportProblem,
    TransportSolution,
    make_solution,
    solution_from_demand_potentials,
)
from posematch.transport.semidual import solve_semidual, solve_single


class Solver(Protocol):
    """What `posematch.losses.Matching` calls.

    Parameters
    ----------
    problem
        J problems.
    tolerance
        L1 marginal error at which a problem counts as solved.
    max_iterations
        Cap per problem.
    mass_only
        The supply potential is needed where there is mass only.
    """

    def __call__(
        self,
        problem: TransportProblem,
        tolerance: float,
        max_iterations: int,
        mass_only: bool = False,
    ) -> TransportSolution: ...


# POT tests convergence on the whole batch, so one hard problem makes all pay: the unsolved ones
# are tried again by themselves with this many times the iterations.
_POT_FIRST_ITERATIONS = 11
_POT_GROWTH = 4
# Share of the tolerance for the difference of POT's error in float32 and the plan's in float64.
_POT_ROUNDING = 0.2


def _pot() -> ModuleType:
    """POT with PyTorch's backend alone.

    It imports every array library that it finds and puts something on their devices: JAX takes
    three quarters of a GPU then, and TensorFlow seconds.
    """
    for other in ("JAX", "CUPY", "TENSORFLOW"):
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{other}", "1")
    import ot
    import ot.batch

    return cast(ModuleType, ot)


def solve_pot(
    problem: TransportProblem, tolerance: float, max_iterations: int, mass_only: bool = False
) -> TransportSolution:
    """POT's ``bregman_log_projection_batch``; see `Solver`. Balanced problems only.

    The demand is POT's source and the heatmap its target, so that the long reductions run along
    memory (half the time). POT's log domain takes exact zeros on both sides; its potentials carry
    epsilon and log-masses, so only the demand's side is taken over, b = epsilon (u - log d).
    """
    bregman_log_projection_batch = _pot().batch.bregman_log_projection_batch
    if not problem.balanced:
        raise PosematchError("loss.solver=pot takes loss.relaxation=inf only; use semidual.")
    if len(problem) == 0 or problem.demand.shape[1] == 1:
        return solve_single(problem, tolerance)
    dtype = problem.supply.dtype
    supplies, demands, costs = _with_mass_only(problem)
    epsilon = problem.epsilon
    potential = torch.zeros_like(problem.demand)
    iterations = torch.zeros(len(potential), dtype=torch.int64, device=potential.device)
    unsolved = torch.arange(len(potential), device=potential.device)
    cap = _POT_FIRST_ITERATIONS
    aim = (1 - _POT_ROUNDING) * tolerance
    while len(unsolved) and cap // _POT_GROWTH < max_iterations:
        demand = demands[unsolved]
        result = bregman_log_projection_batch(
            -costs[unsolved] / epsilon,
            demand.to(dtype),
            supplies[unsolved],
            max_iter=min(cap, max_iterations),
            # POT measures the L2 norm; over M entries L1 is at most sqrt(M) times that.
            tol=aim / demand.shape[1] ** 0.5,
            grad="detach",
        )
        log_u = result["potentials"][0].double()
        potential[unsolved] = torch.where(demand > 0, epsilon * (log_u - demand.log()), 0.0)
        iterations[unsolved] += result["n_iters"] + 1
        error = (result["T"].sum(2) - demand).abs().sum(1)
        # "not <=" keeps a NaN among the unsolved.
        unsolved = unsolved[~(error <= aim)]
        cap *= _POT_GROWTH
    return solution_from_demand_potentials(problem, potential, iterations, tolerance)


def _with_mass_only(
    problem: TransportProblem,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Supplies, demands, costs; without pixels of no mass where that shortens the rows."""
    supply = problem.supply.flatten(1)
    cost = problem.cost_matrix().to(supply.dtype)
    needed = int((supply > 0).sum(1).max())
    if needed > 0.8 * supply.shape[1]:
        return supply, problem.demand, cost
    # The largest masses of each row: all that are positive, padded by zeros.
    mass, index = supply.topk(max(needed, 1), dim=1, sorted=False)
    index = index[:, None].expand(-1, cost.shape[1], -1)
    return mass, problem.demand, cost.gather(2, index)


def solve_exact(
    problem: TransportProblem, tolerance: float, max_iterations: int, mass_only: bool = False
) -> TransportSolution:
    """The limit epsilon -> 0, W(s, d); the problem's epsilon is not used. Balanced only.

    The gradient is the unregularised supply potential a_n = min_m (C[n, m] - b_m): one of possibly
    many, as W has kinks.
    """
    ot = _pot()
    if not problem.balanced:
        raise PosematchError("loss.solver=exact takes loss.relaxation=inf only; use semidual.")
    if len(problem) == 0 or problem.demand.shape[1] == 1:
        return solve_single(problem, tolerance)
    potential = torch.zeros_like(problem.demand)
    a = torch.empty_like(problem.supply.flatten(1), dtype=torch.float64)
    error = potential.new_zeros(len(a))
    for row in range(len(a)):  # the network simplex takes one problem at a time
        part = problem.part(slice(row, row + 1))
        cost = part.cost_matrix()[0]
        mass = part.supply.flatten().double().cpu()
        pixels, places = mass.nonzero()[:, 0], (part.demand[0] > 0).nonzero()[:, 0].cpu()
        supply, demand = mass[pixels] / mass.sum(), part.demand[0].cpu()[places]
        plan, log = ot.emd(
            supply.numpy(),
            demand.numpy(),
            cost.cpu()[places][:, pixels].T.contiguous().numpy(),
            numItermax=max(max_iterations, 1_000_000),
            log=True,
        )
        b = torch.from_numpy(log["v"]).to(potential)
        potential[row, places.to(potential.device)] = b
        a[row] = (cost[places] - b[:, None]).amin(0)
        error[row] = float(abs(plan.sum(0) - demand.numpy()).sum())
    iterations = torch.zeros(len(a), dtype=torch.int64, device=a.device)
    a = a.reshape(problem.supply.shape)
    return make_solution(problem, a, potential, error, iterations, tolerance)


SOLVERS: dict[str, Solver] = {
    "semidual": fused.solve,
    "semidual_torch": solve_semidual,
    "pot": solve_pot,
    "exact": solve_exact,
}
