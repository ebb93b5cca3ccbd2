"""Solvers: a problem in, demand potentials and iterations out.

``pot``
    POT's batched log-domain Sinkhorn on torch tensors, wherever they are. The referee.
``semidual``
    Newton's method on the concave semi-dual in the few demand potentials,
    max_b <b, d> - epsilon sum_n s_n log sum_m d_m exp((b_m - C[n, m]) / epsilon).

Pixels without mass take no part in either.
"""

from __future__ import annotations

from typing import Protocol

import torch

from posematch.transport.problem import TransportProblem


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

    Returns
    -------
    demand_potential, iterations
        (J, M), any value where d_m = 0, and (J,) int64.
    """

    def __call__(
        self, problem: TransportProblem, tolerance: float, max_iterations: int
    ) -> tuple[torch.Tensor, torch.Tensor]: ...


# POT tests convergence on the whole batch, so one hard problem makes all pay: the unsolved ones
# are tried again by themselves with this many times the iterations.
_POT_FIRST_ITERATIONS = 11
_POT_GROWTH = 4


def solve_pot(
    problem: TransportProblem, tolerance: float, max_iterations: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """POT's ``bregman_log_projection_batch``; see `Solver`.

    The demand is POT's source and the heatmap its target, so that the long reductions run along
    memory (half the time). POT's log domain takes exact zeros on both sides; its potentials carry
    epsilon and log-masses, so only the demand's side is taken over, b = epsilon (u - log d).
    """
    from ot.batch import bregman_log_projection_batch

    problem = _with_mass_only(problem)
    epsilon = problem.epsilon_px
    potential = torch.zeros_like(problem.demand)
    iterations = torch.zeros(len(potential), dtype=torch.int64, device=potential.device)
    unsolved = torch.arange(len(potential), device=potential.device)
    cap = _POT_FIRST_ITERATIONS
    while len(unsolved) and cap // _POT_GROWTH < max_iterations:
        demand, supply = problem.demand[unsolved], problem.supply[unsolved]
        result = bregman_log_projection_batch(
            -problem.cost[unsolved] / epsilon,
            demand,
            supply,
            max_iter=min(cap, max_iterations),
            # POT measures the L2 norm; over M entries L1 is at most sqrt(M) times that.
            tol=tolerance / demand.shape[1] ** 0.5,
            grad="detach",
        )
        log_u = result["potentials"][0]
        potential[unsolved] = torch.where(demand > 0, epsilon * (log_u - demand.log()), 0.0)
        iterations[unsolved] += result["n_iters"] + 1
        error = (result["T"].sum(2) - demand).abs().sum(1)
        # "not <=" keeps a NaN among the unsolved.
        unsolved = unsolved[~(error <= tolerance)]
        cap *= _POT_GROWTH
    return potential, iterations


# Longest Newton step, in units of epsilon: beyond it the quadratic model means nothing.
_LONGEST_STEP_EPSILONS = 3.0
_SINKHORN_STEPS = 2
# exp(-(C - min C) / epsilon) must not underflow: sqrt(2) px, the widest gap, over 87 epsilons.
SMALLEST_KERNEL_EPSILON_PX = 0.02


def solve_semidual(
    problem: TransportProblem, tolerance: float, max_iterations: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Damped Newton on the semi-dual in its kernel form; see `Solver`.

    With K[m, n] = d_m exp(-(C[n, m] - min_m C[n, m]) / epsilon) one iteration is a few products
    over the pixels and a system of M unknowns a problem. Two Sinkhorn steps come first; a Newton
    step that overshoots the maximum along its line is halved. Needs an epsilon of at least
    `SMALLEST_KERNEL_EPSILON_PX`.
    """
    problem = _with_mass_only(problem)
    epsilon, demand = problem.epsilon_px, problem.demand
    kernel = torch.exp((problem.cost.amin(1, keepdim=True) - problem.cost) / epsilon)
    kernel = kernel * demand[:, :, None]
    supply = problem.supply
    scaled = torch.zeros_like(demand)  # b / epsilon
    iterations = torch.zeros(len(demand), dtype=torch.int64, device=demand.device)
    unsolved = torch.arange(len(demand), device=demand.device)
    step = torch.zeros_like(demand)
    slope = torch.zeros(len(demand), dtype=demand.dtype, device=demand.device)
    for iteration in range(max_iterations):
        current = scaled[unsolved]
        weighted = kernel * current.exp()[:, :, None]
        ratio = supply / weighted.sum(1)
        marginal = (weighted * ratio[:, None]).sum(2)
        gradient = demand - marginal
        unfinished = gradient.abs().sum(1) > tolerance
        iterations[unsolved] = iteration
        if not bool(unfinished.any()):
            break
        if iteration < _SINKHORN_STEPS:
            step = (demand / marginal).log().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
            slope = (gradient * step).sum(1)
            new = current + step
        else:
            newton = _newton_step(weighted, marginal, gradient, demand, supply)
            # Concave along the step: a slope that turned this far means the maximum was passed.
            overshot = (gradient * step).sum(1) < -0.5 * slope
            step = torch.where(overshot[:, None], -0.5 * step, newton)
            new = current + step
            # After a halving the old direction still leads: its slope at the start stays valid.
            slope = torch.where(overshot, slope, (gradient * newton).sum(1))
            step = torch.where(overshot[:, None], -step, step)
        scaled[unsolved] = new
        # Compact when it pays: gathering the kernel costs as much as half an iteration.
        if unfinished.sum() < 0.7 * len(unfinished):
            unsolved, kernel, supply = unsolved[unfinished], kernel[unfinished], supply[unfinished]
            demand, step, slope = demand[unfinished], step[unfinished], slope[unfinished]
    return epsilon * scaled, iterations


def _newton_step(
    weighted: torch.Tensor,
    marginal: torch.Tensor,
    gradient: torch.Tensor,
    demand: torch.Tensor,
    supply: torch.Tensor,
) -> torch.Tensor:
    """Newton step for b / epsilon, (J, M), shortened to `_LONGEST_STEP_EPSILONS`."""
    # Shares first: their sum over the pixels may be as small as exp(-1.4 / epsilon).
    shares = weighted / weighted.sum(1, keepdim=True)
    products = (shares * supply[:, None]) @ shares.transpose(1, 2)
    hessian = torch.diag_embed(marginal) - products
    # b is determined up to a constant, and not at all where d_m = 0: fix both.
    hessian = hessian + demand[:, :, None] * demand[:, None, :]
    scale = hessian.diagonal(dim1=1, dim2=2).amax(1)
    ridge = torch.where(demand > 0, 1e-6 * scale[:, None], torch.ones_like(demand))
    hessian = hessian + torch.diag_embed(ridge)
    newton: torch.Tensor = torch.linalg.solve(hessian, gradient)
    longest = newton.abs().amax(1, keepdim=True).clamp_min(_LONGEST_STEP_EPSILONS)
    return newton * (_LONGEST_STEP_EPSILONS / longest)


SOLVERS: dict[str, Solver] = {"pot": solve_pot, "semidual": solve_semidual}


def _with_mass_only(problem: TransportProblem) -> TransportProblem:
    """Leave out pixels without mass where that shortens the rows; the same optimal b."""
    supply = problem.supply
    needed = int((supply > 0).sum(1).max()) if len(supply) else 0
    if needed > 0.8 * supply.shape[1]:
        return problem
    # The largest masses of each row: all that are positive, padded by zeros.
    mass, index = supply.topk(max(needed, 1), dim=1, sorted=False)
    index = index[:, None].expand(-1, problem.cost.shape[1], -1)
    cost = problem.cost.gather(2, index)
    return TransportProblem(mass, problem.demand, cost, problem.epsilon_px)
