r"""How a batch of semi-duals is solved; `posematch.transport.newton` has the steps.

`solve_on_host` (a CPU) may look at what it computes: problems are taken a cache's worth at a time,
in the order of how many pixels carry mass; the other pixels are left out; problems that rounding
keeps from the tolerance are done again in the log domain. `solve_on_device` never waits for the
device: all problems at once, all pixels, a fixed number of steps.

The start comes from the same problem on a few cells instead of all pixels; relaxed problems, and
small maps, start at 0 with two of Sinkhorn's steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch

from posematch.arithmetic import full_float32
from posematch.transport.newton import (
    SINKHORN_STEPS,
    Ascent,
    Found,
    newton_compacting,
    newton_masked,
    next_step,
)
from posematch.transport.problem import (
    CHUNK_PIXELS,
    TransportProblem,
    TransportSolution,
    make_solution,
)
from posematch.transport.shares import (
    KERNEL_SPAN,
    LOG_DOMAIN,
    Arithmetic,
    LogShares,
    ProductShares,
    Shares,
    fastest_arithmetic,
)
from posematch.transport.windows import (
    largest_exponent,
    pooled,
    pooled_supply,
    pooled_windows,
    windows,
)

# The start from `posematch.transport.windows.pooled_supply`: a better solution of that would save
# hardly an iteration on the pixels. It takes so many more than an eighth of the kernel's largest
# exponent, and at most the second number, whatever is left then.
POOLED_TOLERANCE, POOLED_ITERATIONS, POOLED_MOST = 3e-2, 4, 12
# Iterations without a look at convergence: so many more than half the kernel's largest exponent,
# and the most. Balanced problems of tests/transport need half of that at 0.03 px and two thirds at
# 0.01 px, relaxed ones nearly all.
_MASKED_ITERATIONS, _MASKED_MOST = 8, 120
# Share of pixels with mass from which on leaving out the others costs more than it saves.
_FULL = 0.4
# Of every so many pixels one is enough to see whether there is anything to leave out.
_GLANCE = 7

Rows = torch.Tensor | slice


class Newton(Protocol):
    """`posematch.transport.newton.newton_compacting` or `newton_masked`."""

    def __call__(
        self,
        shares: Shares,
        demand: torch.Tensor,
        start: torch.Tensor,
        softness: float,
        tolerance: float,
        max_iterations: int,
        sinkhorn_steps: int,
    ) -> Found: ...


class Place(NamedTuple):
    """What may be done where the problems are.

    Attributes
    ----------
    may_be_any
        Whether any flag of a tensor is set; True where finding out would mean to wait.
    newton
        How steps are taken.
    """

    may_be_any: Callable[[torch.Tensor], bool]
    newton: Newton


HOST = Place(lambda flags: bool(flags.any()), newton_compacting)
DEVICE = Place(lambda flags: True, newton_masked)


class Potentials(NamedTuple):
    """What a pass finds: a (J, n) at its pixels, b (J, 4), marginal errors, iterations."""

    a: torch.Tensor
    b: torch.Tensor
    error: torch.Tensor
    iterations: torch.Tensor


def solve_semidual(
    problem: TransportProblem, tolerance: float, max_iterations: int, mass_only: bool = False
) -> TransportSolution:
    """Damped Newton steps; see the module and `posematch.transport.Solver`.

    Problems without any demand are left out: all that is answered about them is 0. On a CPU, with
    ``mass_only``, pixels without mass may have no potential.
    """
    if len(problem) == 0 or problem.demand.shape[1] == 1:
        return solve_single(problem, tolerance)
    limits: Any = {"tolerance": tolerance, "max_iterations": max_iterations}
    device = problem.supply.device.type
    if device == "cpu":
        solve = partial(solve_on_host, mass_only=mass_only, **limits)
        with full_float32(device):
            return _leaving_out(HOST, problem, solve)
    # No matrix products there, and torch.compile cannot trace a change of settings.
    with torch.autocast(device, enabled=False):
        return _leaving_out(DEVICE, problem, partial(solve_on_device, **limits))


def _leaving_out(
    place: Place, problem: TransportProblem, solve: Callable[[TransportProblem], TransportSolution]
) -> TransportSolution:
    """The solution, with 0 for the problems that have no demand."""
    left_out = (problem.demand == 0).all(1)
    if not place.may_be_any(left_out):
        return solve(problem)
    # Any demand will do for what is thrown away.
    demand = torch.where(left_out[:, None], 0.25, problem.demand)
    solved = solve(replace(problem, demand=demand))

    def kept(answer: torch.Tensor) -> torch.Tensor:
        rows = left_out.reshape(-1, *[1] * (answer.ndim - 1))
        return torch.where(rows, torch.zeros_like(answer), answer)

    return TransportSolution(
        problem=problem,
        supply_potential=kept(solved.supply_potential),
        demand_potential=kept(solved.demand_potential),
        value=kept(solved.value),
        marginal_error=kept(solved.marginal_error),
        iterations=kept(solved.iterations),
        converged=solved.converged | left_out,
    )


def solve_on_device(
    problem: TransportProblem, tolerance: float, max_iterations: int
) -> TransportSolution:
    """All problems in one pass of a fixed number of steps, without waiting for the device."""
    arithmetic = fastest_arithmetic(problem)
    enough = min(_MASKED_ITERATIONS + math.ceil(largest_exponent(problem) / 2), _MASKED_MOST)
    start = _start_on_cells(problem, arithmetic, DEVICE) if pooled(problem) else None
    limits = tolerance, min(max_iterations, enough)
    a, b, error, iterations = _pass(problem, start, None, arithmetic, *limits, DEVICE)
    a = a.to(problem.supply.dtype).reshape(problem.supply.shape)
    return make_solution(problem, a, b, error, iterations, tolerance)


def solve_on_host(
    problem: TransportProblem, tolerance: float, max_iterations: int, mass_only: bool
) -> TransportSolution:
    """Pass by pass, of problems alike in how many of their pixels carry mass.

    ``mass_only``: pixels that are left out get no potential.
    """
    arithmetic = fastest_arithmetic(problem)
    b = torch.empty_like(problem.demand)
    error = torch.empty_like(b[:, 0])
    iterations = torch.empty_like(error, dtype=torch.int64)
    order = _by_mass(problem)
    supply = problem.supply.flatten(1)
    # New memory costs a pass of its own, zeroed memory one more.
    everywhere = torch.empty_like(supply) if order is None else torch.zeros_like(supply)
    start = _start_on_cells(problem, arithmetic, HOST) if pooled(problem) else None
    for rows, part, pixels in _passes(problem, order):
        begin = None if start is None else start[rows]
        limits = tolerance, max_iterations
        found = _pass(part, begin, pixels, arithmetic, *limits, HOST)
        if not arithmetic.log:
            _again_in_logs(found, part, begin, pixels, *limits)
        b[rows], error[rows], iterations[rows] = found[1:]
        a = found.a.to(everywhere.dtype)
        if pixels is None:
            everywhere[rows] = a
        elif mass_only:
            assert isinstance(rows, torch.Tensor)
            everywhere.view(-1)[pixels + (rows * everywhere.shape[1])[:, None]] = a
        else:
            transform = _transform(part, found.b).to(everywhere.dtype)
            everywhere[rows] = transform.scatter(1, pixels, a)
    a = everywhere.reshape(problem.supply.shape)
    return make_solution(problem, a, b, error, iterations, tolerance)


class _ByMass(NamedTuple):
    """Numbers of pixels with mass, ascending, and whose they are."""

    with_mass: torch.Tensor
    rows: torch.Tensor


def _by_mass(problem: TransportProblem) -> _ByMass | None:
    """None where nearly all pixels carry mass, so that there is nothing to leave out."""
    supply = problem.supply.flatten(1)
    # A glance first; of floats, as sums of bools are slow.
    glance = supply[:, ::_GLANCE].sign().mean(1)
    if not bool((glance < _FULL).any()):
        return None
    return _ByMass(*supply.sign().sum(1).sort())


def _passes(
    problem: TransportProblem, order: _ByMass | None
) -> Iterator[tuple[Rows, TransportProblem, torch.Tensor | None]]:
    """Rows of the batch, a cache's worth at a time; their problems; their pixels (J, n) with mass.

    None for all pixels, where to leave out the others would not pay.
    """
    pixels_each = problem.supply[0].numel()
    # Of small maps the work on 4 x 4 matrices counts as much as the pixels'.
    step = max(1, CHUNK_PIXELS * (2 if pixels_each <= 1024 else 1) // pixels_each)
    for first in range(0, len(problem), step):
        rows: Rows = slice(first, first + step)
        if order is None:
            yield rows, problem.part(rows), None
            continue
        needed = int(order.with_mass[rows][-1])
        rows = order.rows[rows]
        part = problem.part(rows)
        if needed < _FULL * pixels_each:
            yield rows, part, part.supply.flatten(1).topk(max(needed, 1), 1, sorted=False)[1]
        else:
            yield rows, part, None


def _again_in_logs(
    found: Potentials,
    part: TransportProblem,
    start: torch.Tensor | None,
    pixels: torch.Tensor | None,
    tolerance: float,
    max_iterations: int,
) -> None:
    """Solve the few that products cannot do in the log domain, and put them into ``found``."""
    bad = ~(found.error <= tolerance)
    if not bool(bad.any()):
        return
    again = _pass(
        part.part(bad),
        None if start is None else start[bad],
        None if pixels is None else pixels[bad],
        LOG_DOMAIN,
        tolerance,
        max_iterations,
        HOST,
    )
    for old, new in zip(found, again, strict=True):
        old[bad] = new.to(old.dtype)


def solve_single(problem: TransportProblem, tolerance: float) -> TransportSolution:
    """One demand: everything goes there, and the solution is a formula (for any epsilon)."""
    cost = (
        problem.cost_matrix()[:, 0]
        if problem.demand.shape[1]
        else problem.supply.flatten(1).double()
    )
    zero = cost.new_zeros(len(cost))
    if problem.balanced:
        a, b = cost, zero
    else:
        total = problem.epsilon + problem.relaxation
        shifted = problem.supply.flatten(1).double().log() - cost / total
        b = -total * shifted.logsumexp(1)
        a = (cost - b[:, None]) * problem.relaxation / total
    return make_solution(
        problem,
        a.reshape(problem.supply.shape),
        b[:, None].expand(len(cost), problem.demand.shape[1]),
        zero,
        torch.zeros(len(cost), dtype=torch.int64, device=cost.device),
        tolerance,
    )


def _pass(
    part: TransportProblem,
    start: torch.Tensor | None,
    pixels: torch.Tensor | None,
    arithmetic: Arithmetic,
    tolerance: float,
    max_iterations: int,
    place: Place,
) -> Potentials:
    """Solve some problems on some ``pixels`` (J, n), None: on all.

    ``start`` is b / epsilon, None: 0 and Sinkhorn's steps.
    """
    kernel, least = windows(part, pixels, arithmetic.dtype, arithmetic.log)
    supply = part.supply.flatten(1).to(arithmetic.dtype)
    if pixels is not None:
        supply = supply.gather(1, pixels)
    total = part.epsilon + part.relaxation
    shift = least.new_zeros(len(part), dtype=torch.float64)
    if not part.balanced:
        # As if there were one demand: the masses then start with the sum 1.
        closed = supply.double().log() - least.double() / total
        shift = -total * closed.logsumexp(1)
        supply = (closed + shift[:, None] / total).exp().to(arithmetic.dtype)
    shares, demand = _shares(part, kernel, supply, arithmetic, place)
    steps = 0
    if start is None:
        start, steps = torch.zeros_like(demand), SINKHORN_STEPS
    found = place.newton(shares, demand, start, part.softness, tolerance, max_iterations, steps)
    a = found.log_sum.mul_(-part.epsilon).add_(least)
    if not part.balanced:
        a = (a - shift[:, None].to(a.dtype)) * (part.relaxation / total)
    b = part.epsilon * found.scaled + shift[:, None]
    return Potentials(a, b, found.error, found.iterations)


def _start_on_cells(
    problem: TransportProblem, arithmetic: Arithmetic, place: Place
) -> torch.Tensor:
    """b / epsilon, (J, 4), of `pooled_supply`, roughly; balanced problems only."""
    kernel = pooled_windows(problem, arithmetic.dtype, arithmetic.log)
    supply = pooled_supply(problem, arithmetic.dtype)
    shares, demand = _shares(problem, kernel, supply, arithmetic, place)
    log_demand = demand.log()
    ascent = Ascent.at(torch.zeros_like(demand))
    for iteration in range(_pooled_iterations(problem)):
        moments = shares.evaluate(ascent.scaled + log_demand)[0]
        marginal = moments.sum(2)
        open_ = (demand - marginal).abs().sum(1) > POOLED_TOLERANCE
        if not place.may_be_any(open_):
            break
        new = next_step(ascent, moments, marginal, demand, 0.0, iteration < SINKHORN_STEPS)
        # Solved ones stay, so that no problem's start depends on the others.
        ascent = new._replace(scaled=torch.where(open_[:, None], new.scaled, ascent.scaled))
    return ascent.scaled.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _pooled_iterations(problem: TransportProblem) -> int:
    return min(POOLED_ITERATIONS + math.ceil(largest_exponent(problem) / 8), POOLED_MOST)


def _shares(
    part: TransportProblem,
    kernel: torch.Tensor,
    supply: torch.Tensor,
    arithmetic: Arithmetic,
    place: Place,
) -> tuple[Shares, torch.Tensor]:
    """What an iteration evaluates, and the masses (J, 4) that it is to reach."""
    demand = part.demand
    if not arithmetic.log and place.may_be_any(demand == 0):
        # Places without demand would overflow: their kernel is not small where the sum is.
        kernel *= (demand > 0)[:, :, None]
    shares = (LogShares if arithmetic.log else ProductShares)(kernel, supply, part.softness)
    if part.balanced:
        # A supply in float32 sums to 1 but for rounding, below which no marginal could get.
        demand = demand * shares.mass[:, None]
    return shares, demand


def _transform(part: TransportProblem, demand_potential: torch.Tensor) -> torch.Tensor:
    """a at every pixel, (J, H*W)."""
    dtype = part.supply.dtype
    log = largest_exponent(part) > KERNEL_SPAN[dtype]
    dtype = torch.float64 if log else dtype
    kernel, least = windows(part, None, dtype, log)
    scaled = demand_potential / part.epsilon + part.demand.log()
    middle = scaled.amax(1, keepdim=True)
    weights = (scaled - middle).to(dtype)
    if log:
        log_sum = (kernel + weights[:, :, None]).logsumexp(1)
    else:
        log_sum = (kernel * weights.exp()[:, :, None]).sum(1).log()
    a = least - part.epsilon * log_sum - part.epsilon * middle.to(dtype)
    return a if part.balanced else a * (part.relaxation / (part.epsilon + part.relaxation))
