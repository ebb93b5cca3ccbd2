r"""Newton's method on the concave semi-dual, for four demands; on a CPU the default solver.

    max_b <b, d> - epsilon sum_n s_n log sum_m d_m exp((b_m - C[n, m]) / epsilon)

has four unknowns. All that an iteration needs from the pixels is the matrix

    A[m, l] = sum_n s'_n p[n, m] p[n, l],     p[n, m] = m's share in pixel n's sum,

(s' = s, or s exp(-a / tau) when relaxed): its row sums are the plan's marginal, and
diag(marginal) - (1 - softness) A is minus the Hessian over epsilon.

The start comes from the same problem on a few cells instead of all pixels; relaxed problems, and
small maps, start at 0 with two of Sinkhorn's steps.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from posematch.arithmetic import full_float32
from posematch.transport.problem import (
    CHUNK_PIXELS,
    TransportProblem,
    TransportSolution,
    make_solution,
)
from posematch.transport.windows import (
    largest_exponent,
    pooled,
    pooled_supply,
    pooled_windows,
    windows,
)

# Largest span of log(d_m) + b_m / epsilon, and largest exponent of K, at which the products stay
# well inside float32 (1e38 = exp(87)) and float64 (exp(709)); beyond, the log domain.
KERNEL_SPAN = {torch.float32: 50.0, torch.float64: 400.0}
SINKHORN_STEPS = 2
# The start from `posematch.transport.windows.pooled_supply`: a better solution of that would save
# hardly an iteration on the pixels. It takes so many more than an eighth of the kernel's largest
# exponent, and at most the second number, whatever is left then.
POOLED_TOLERANCE, POOLED_ITERATIONS, POOLED_MOST = 3e-2, 4, 12
# A share of a demand wrong by more than this factor: Sinkhorn's step is better than Newton's.
FAR = math.exp(2)
# Longest Newton step, in units of epsilon: beyond it the quadratic model means nothing.
LONGEST_STEP = 3.0
# What the kernel has not solved by then, rounding keeps it from.
KERNEL_ITERATIONS = 50
# Iterations without a look at convergence, where looking means waiting for the device: so many more
# than half the kernel's largest exponent, and the most. Balanced problems of tests/transport need
# half of that at 0.03 px and two thirds at 0.01 px, relaxed ones nearly all.
_MASKED_ITERATIONS, _MASKED_MOST = 8, 120
# Share of pixels with mass from which on leaving out the others costs more than it saves.
_FULL = 0.4
# Of every so many pixels one is enough to see whether there is anything to leave out.
_GLANCE = 7
# Joints times pixels that a CPU's pass takes at a time: 1 MB of kernel, the size of a core's cache.
_BLOCK_PIXELS = 2**16


class _Kernel:
    """Shares by products with K; ``log_kernel`` selects the log domain instead."""

    def __init__(
        self, kernel: torch.Tensor, supply: torch.Tensor, softness: float, log: bool
    ) -> None:
        self.kernel, self.root, self.softness, self.log = kernel, supply.sqrt(), softness, log
        self.mass = supply.sum(1, dtype=torch.float64)
        # Rows at a time: on a CPU few enough for what is made of them to stay in its cache.
        on_cpu = kernel.device.type == "cpu" and not torch.compiler.is_compiling()
        self.block = max(1, _BLOCK_PIXELS // kernel.shape[2]) if on_cpu else max(1, len(kernel))
        self.space = torch.empty_like(kernel[: self.block])
        self.total = kernel.new_empty((len(kernel), 1, kernel.shape[2]))

    def select(self, rows: torch.Tensor) -> None:
        self.kernel, self.root, self.mass = self.kernel[rows], self.root[rows], self.mass[rows]

    def evaluate(self, scaled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """log(d) + b / epsilon, (J, 4) float64, to A, (J, 4, 4) float64, and the sums, (J, N).

        In the log domain the sums are logarithms; otherwise the next call overwrites them.
        """
        half = self.softness / 2
        if self.log:
            exponent = self.kernel + scaled[:, :, None]
            log_sum = exponent.logsumexp(1, keepdim=True)
            weighted = (exponent - (1 - half) * log_sum).exp_() * self.root[:, None]
            return self.balance(_gram(weighted).double()), log_sum[:, 0]
        factor = scaled.exp()
        weights = factor.to(self.kernel.dtype)[:, None]
        total = self.total[: len(self.kernel)]
        moments = self.kernel.new_empty((len(self.kernel), 4, 4))
        for first in range(0, len(self.kernel), self.block):
            rows = slice(first, first + self.block)
            self._evaluate(self.kernel[rows], weights[rows], rows, total[rows], moments[rows])
        products = moments.double() * (factor[:, :, None] * factor[:, None])
        return self.balance(products), total[:, 0]

    def _evaluate(
        self,
        kernel: torch.Tensor,
        weights: torch.Tensor,
        rows: slice,
        total: torch.Tensor,
        moments: torch.Tensor,
    ) -> None:
        """Sums and A of some rows, but for the factors, into ``total`` and ``moments``."""
        if kernel.is_cuda:  # no matmul: TF32 may be allowed there
            total.copy_((kernel * weights.mT).sum(1, keepdim=True))
        else:
            torch.bmm(weights, kernel, out=total)
        half = self.softness / 2
        weight = total.reciprocal() if half == 0 else total ** (half - 1)
        weight *= self.root[rows][:, None]
        weighted = torch.mul(kernel, weight, out=self.space[: len(kernel)])
        moments.copy_(_gram(weighted))

    def balance(self, moments: torch.Tensor) -> torch.Tensor:
        """Without a relaxation A sums to the supply's mass, but for rounding, which goes here."""
        if self.softness:
            return moments
        return moments * (self.mass / moments.sum((1, 2)))[:, None, None]

    def log_sum(self, total: torch.Tensor) -> torch.Tensor:
        """Of sums that nobody needs any more."""
        return total if self.log else total.log_()


def _gram(rows: torch.Tensor) -> torch.Tensor:
    if rows.is_cuda:
        return torch.stack([(rows * rows[:, m, None]).sum(2) for m in range(4)], 1)
    return torch.bmm(rows, rows.transpose(1, 2))


def solve_semidual(
    problem: TransportProblem, tolerance: float, max_iterations: int, mass_only: bool = False
) -> TransportSolution:
    """Damped Newton steps; see the module and `posematch.transport.Solver`.

    On a CPU solved problems leave the batch, and pixels without mass where they are most; with
    ``mass_only`` they then have no potential. On other devices the number of iterations is fixed,
    and nothing waits for the device.
    """
    if len(problem) == 0 or problem.demand.shape[1] == 1:
        return solve_single(problem, tolerance)
    device = problem.supply.device.type
    left_out = (problem.demand == 0).all(1)
    if device != "cpu" or bool(left_out.any()):
        # Any demand will do for what is thrown away.
        demand = torch.where(left_out[:, None], 0.25, problem.demand)
        solved = _on_device(replace(problem, demand=demand), tolerance, max_iterations, mass_only)
        return _without(solved, problem, left_out)
    return _on_device(problem, tolerance, max_iterations, mass_only)


def _on_device(
    problem: TransportProblem, tolerance: float, max_iterations: int, mass_only: bool
) -> TransportSolution:
    device = problem.supply.device.type
    if device == "cpu":
        with full_float32(device):
            return _solve(problem, tolerance, max_iterations, mass_only, on_cpu=True)
    # No matrix products here, and torch.compile cannot trace a change of settings.
    with torch.autocast(device, enabled=False):
        return _solve(problem, tolerance, max_iterations, mass_only, on_cpu=False)


def _without(
    solved: TransportSolution, problem: TransportProblem, left_out: torch.Tensor
) -> TransportSolution:
    """The solution with 0 for the problems that are left out."""

    def kept(answer: torch.Tensor) -> torch.Tensor:
        rows = left_out.reshape(-1, *[1] * (answer.ndim - 1))
        return torch.where(rows, torch.zeros_like(answer), answer)

    error = kept(solved.marginal_error)
    return TransportSolution(
        problem=problem,
        supply_potential=kept(solved.supply_potential),
        demand_potential=kept(solved.demand_potential),
        value=kept(solved.value),
        marginal_error=error,
        iterations=kept(solved.iterations),
        converged=solved.converged | left_out,
    )


def _solve(
    problem: TransportProblem,
    tolerance: float,
    max_iterations: int,
    mass_only: bool,
    on_cpu: bool,
) -> TransportSolution:
    dtype = problem.supply.dtype
    exponent = largest_exponent(problem)
    if not on_cpu:
        enough = min(_MASKED_ITERATIONS + math.ceil(exponent / 2), _MASKED_MOST)
        max_iterations = min(max_iterations, enough)
    if exponent > KERNEL_SPAN[dtype]:
        dtype = torch.float64
    log = exponent > KERNEL_SPAN[dtype]
    b = torch.empty_like(problem.demand)
    error = torch.empty_like(b[:, 0])
    iterations = torch.empty_like(error, dtype=torch.int64)
    supply = problem.supply.flatten(1)
    step, order = len(problem), None
    if on_cpu:
        # Of small maps the work on 4 x 4 matrices counts as much as the pixels'.
        pixels_each = supply.shape[1]
        step = max(1, CHUNK_PIXELS * (2 if pixels_each <= 1024 else 1) // pixels_each)
        # A glance first; of floats, as sums of bools are slow.
        glance = supply[:, ::_GLANCE].sign().mean(1)
        if bool((glance < _FULL).any()):
            count, order = supply.sign().sum(1).sort()
    # New memory costs a pass of its own, zeroed memory one more.
    everywhere = torch.empty_like(supply) if order is None else torch.zeros_like(supply)
    start = None
    if pooled(problem):
        start = _pooled_solution(problem, dtype, log, on_cpu)
    for first in range(0, len(problem), step):
        rows = slice(first, first + step) if order is None else order[first : first + step]
        part = problem.part(rows)
        pixels = None
        if order is not None:
            needed = int(count[first : first + step][-1])
            if needed < _FULL * supply.shape[1]:
                pixels = part.supply.flatten(1).topk(max(needed, 1), dim=1, sorted=False)[1]
        begin = None if start is None else start[rows]
        solved = _solve_chunk(part, begin, pixels, dtype, log, tolerance, max_iterations, on_cpu)
        if on_cpu and not log and bool((bad := ~(solved[2] <= tolerance)).any()):
            # The few that float32, or the kernel, cannot do.
            again = _solve_chunk(
                part.part(bad),
                None if begin is None else begin[bad],
                None if pixels is None else pixels[bad],
                torch.float64,
                True,
                tolerance,
                max_iterations,
                on_cpu,
            )
            for old, new in zip(solved, again, strict=True):
                old[bad] = new.to(old.dtype)
        a, b[rows], error[rows], iterations[rows] = solved
        if pixels is None:
            everywhere[rows] = a.to(everywhere.dtype)
        elif mass_only:
            assert isinstance(rows, torch.Tensor)
            at = pixels + (rows * everywhere.shape[1])[:, None]
            everywhere.view(-1)[at] = a.to(everywhere.dtype)
        else:
            transform = _transform(part, solved[1]).to(everywhere.dtype)
            everywhere[rows] = transform.scatter(1, pixels, a.to(everywhere.dtype))
    return make_solution(
        problem, everywhere.reshape(problem.supply.shape), b, error, iterations, tolerance
    )


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


def _solve_chunk(
    part: TransportProblem,
    start: torch.Tensor | None,
    pixels: torch.Tensor | None,
    dtype: torch.dtype,
    log: bool,
    tolerance: float,
    max_iterations: int,
    on_cpu: bool,
) -> tuple[torch.Tensor, ...]:
    """a (J, n) at ``pixels`` (all: None), b (J, 4), marginal error, iterations.

    ``start`` is b / epsilon, None: 0 and Sinkhorn's steps.
    """
    kernel, least = windows(part, pixels, dtype, log)
    supply = part.supply.flatten(1).to(dtype)
    if pixels is not None:
        supply = supply.gather(1, pixels)
    total = part.epsilon + part.relaxation
    shift = least.new_zeros(len(part), dtype=torch.float64)
    if not part.balanced:
        # As if there were one demand: the masses then start with the sum 1.
        closed = supply.double().log() - least.double() / total
        shift = -total * closed.logsumexp(1)
        supply = (closed + shift[:, None] / total).exp().to(dtype)
    shares, demand = _shares(part, kernel, supply, log, on_cpu)
    steps = 0
    if start is None:
        start, steps = torch.zeros_like(demand), SINKHORN_STEPS
    run = _newton_compacting if on_cpu else _newton_masked
    scaled, log_sum, error, iterations = run(
        shares, demand, start, part.softness, tolerance, max_iterations, steps
    )
    a = log_sum.mul_(-part.epsilon).add_(least)
    if not part.balanced:
        a = (a - shift[:, None].to(a.dtype)) * (part.relaxation / total)
    return a, part.epsilon * scaled + shift[:, None], error, iterations


def _pooled_solution(
    problem: TransportProblem, dtype: torch.dtype, log: bool, on_cpu: bool
) -> torch.Tensor:
    """b / epsilon, (J, 4), of `pooled_supply`, roughly; balanced problems only."""
    kernel = pooled_windows(problem, dtype, log)
    shares, demand = _shares(problem, kernel, pooled_supply(problem, dtype), log, on_cpu)
    log_demand = demand.log()
    scaled = torch.zeros_like(demand)
    step, slope = _no_step(demand)
    for iteration in range(_pooled_iterations(problem)):
        moments = shares.evaluate(scaled + log_demand)[0]
        marginal = moments.sum(2)
        open_ = (demand - marginal).abs().sum(1) > POOLED_TOLERANCE
        if on_cpu and not bool(open_.any()):
            break
        new, step, slope = _next(
            scaled, step, slope, moments, marginal, demand, 0.0, iteration < SINKHORN_STEPS
        )
        # Solved ones stay, so that no problem's start depends on the others.
        scaled = torch.where(open_[:, None], new, scaled)
    return scaled.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _pooled_iterations(problem: TransportProblem) -> int:
    return min(POOLED_ITERATIONS + math.ceil(largest_exponent(problem) / 8), POOLED_MOST)


def _shares(
    part: TransportProblem, kernel: torch.Tensor, supply: torch.Tensor, log: bool, on_cpu: bool
) -> tuple[_Kernel, torch.Tensor]:
    """What an iteration evaluates, and the masses (J, 4) that it is to reach."""
    demand = part.demand
    if not log and (not on_cpu or bool((demand == 0).any())):
        # Places without demand would overflow: their kernel is not small where the sum is.
        kernel *= (demand > 0)[:, :, None]
    shares = _Kernel(kernel, supply, part.softness, log)
    if part.balanced:
        # A supply in float32 sums to 1 but for rounding, below which no marginal could get.
        demand = demand * shares.mass[:, None]
    return shares, demand


def _newton_compacting(
    shares: _Kernel,
    demand: torch.Tensor,
    start: torch.Tensor,
    softness: float,
    tolerance: float,
    max_iterations: int,
    sinkhorn_steps: int,
) -> tuple[torch.Tensor, ...]:
    """b / epsilon (J, 4), log sums (J, N), marginal errors and iterations; solved ones leave."""
    count = len(demand)
    found = torch.zeros_like(demand)
    log_sums = torch.empty_like(shares.root)
    errors = demand.new_full((count,), math.inf)
    iterations = torch.zeros(count, dtype=torch.int64)
    rows = torch.arange(count)
    log_demand = demand.log()
    scaled = start
    step, slope = _no_step(demand)
    open_ = torch.ones(count, dtype=torch.bool)
    last = max_iterations if shares.log else min(max_iterations, KERNEL_ITERATIONS)
    for iteration in range(last + 1):
        moments, total = shares.evaluate(scaled + log_demand)
        marginal = moments.sum(2)
        error = (demand - marginal).abs().sum(1)
        # What is no number will not become one; the caller tries again in the log domain.
        ends = open_ & (~(error > tolerance) | (iteration == last))
        if bool(ends.any()):
            at = rows[ends]
            found[at], errors[at], iterations[at] = scaled[ends], error[ends], iteration
            log_sums[at] = shares.log_sum(total[ends])
            open_ = open_ & ~ends
            left = int(open_.sum())
            if not left:
                break
            # Gathering the kernel costs as much as half an iteration.
            if left < 0.7 * len(open_):
                shares.select(open_)
                rows, demand, log_demand = rows[open_], demand[open_], log_demand[open_]
                scaled, step, slope = scaled[open_], step[open_], slope[open_]
                moments, marginal, open_ = moments[open_], marginal[open_], open_[open_]
        scaled, step, slope = _next(
            scaled, step, slope, moments, marginal, demand, softness, iteration < sinkhorn_steps
        )
    return found, log_sums, errors, iterations


def _newton_masked(
    shares: _Kernel,
    demand: torch.Tensor,
    start: torch.Tensor,
    softness: float,
    tolerance: float,
    max_iterations: int,
    sinkhorn_steps: int,
) -> tuple[torch.Tensor, ...]:
    """As `_newton_compacting`, a fixed number of iterations without waiting for the device."""
    log_demand = demand.log()
    scaled = start
    step, slope = _no_step(demand)
    iterations = torch.zeros(len(demand), dtype=torch.int64, device=demand.device)
    for iteration in range(max_iterations):
        moments = shares.evaluate(scaled + log_demand)[0]
        marginal = moments.sum(2)
        open_ = ~((demand - marginal).abs().sum(1) <= tolerance)
        iterations = iterations + open_
        new, step, slope = _next(
            scaled, step, slope, moments, marginal, demand, softness, iteration < sinkhorn_steps
        )
        scaled = torch.where(open_[:, None], new, scaled)
    moments, total = shares.evaluate(scaled + log_demand)
    error = (demand - moments.sum(2)).abs().sum(1)
    return scaled, shares.log_sum(total), error, iterations


def _no_step(demand: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What led to a start: a step, and the slope at its beginning."""
    return torch.zeros_like(demand), torch.full_like(demand[:, 0], math.inf)


def _next(
    scaled: torch.Tensor,
    step: torch.Tensor,
    slope: torch.Tensor,
    moments: torch.Tensor,
    marginal: torch.Tensor,
    demand: torch.Tensor,
    softness: float,
    sinkhorn_only: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The next b / epsilon; ``step`` led to this one, with ``slope`` at its start.

    The semi-dual is concave, so along a step its slope falls; turned round by more than half, the
    maximum was passed and half of the step is taken back. Sinkhorn's steps cannot overshoot: their
    slope counts as infinite.
    """
    sinkhorn, far = _sinkhorn(marginal, demand, softness)
    if sinkhorn_only:
        return _centred(scaled + sinkhorn, demand, softness), sinkhorn, _no_step(demand)[1]
    takes_part = demand > 0
    gradient = torch.where(takes_part, demand - marginal, 0.0)
    overshot = (gradient * step).sum(1) < -0.5 * slope
    ridge = torch.where(takes_part, 1e-13 * marginal.amax(1, keepdim=True), 1.0)
    hessian = torch.diag_embed(marginal + ridge) - (1 - softness) * moments
    if not softness:  # b is determined up to a constant
        hessian = hessian + demand[:, :, None] * demand[:, None]
    newton = torch.linalg.solve_ex(hessian, gradient)[0]
    newton = newton.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    newton = newton * (LONGEST_STEP / newton.abs().amax(1, keepdim=True).clamp_min(LONGEST_STEP))
    fresh = torch.where(far[:, None], sinkhorn, newton)
    fresh_slope = torch.where(far, math.inf, (gradient * newton).sum(1))
    # After a halving the old direction still leads: its slope at the start stays valid.
    taken = torch.where(overshot[:, None], -0.5 * step, fresh)
    return (
        _centred(scaled + taken, demand, softness),
        torch.where(overshot[:, None], 0.5 * step, fresh),
        torch.where(overshot, slope, fresh_slope),
    )


def _sinkhorn(
    marginal: torch.Tensor, demand: torch.Tensor, softness: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sinkhorn's step, (J, 4), and where it is a better one than Newton's, (J,)."""
    takes_part = demand > 0
    ratio = torch.where(takes_part, demand / marginal, 1.0).nan_to_num(nan=1.0)
    step = ratio.clamp(1e-300, 1e300).log()
    if softness:
        # The total mass follows b only weakly: bring it right at once.
        mean = (demand.sum(1) / marginal.sum(1)).log()
        step = step + mean[:, None] * (1 / softness - 1) * takes_part
    return step, ((ratio > FAR) | (ratio < 1 / FAR)).any(1)


def _centred(scaled: torch.Tensor, demand: torch.Tensor, softness: float) -> torch.Tensor:
    """b / epsilon with the weights' logarithms around 0, for the range of floats."""
    if softness:  # no constant is free
        return scaled
    takes_part = demand > 0
    logs = scaled + demand.log()
    low = torch.where(takes_part, logs, math.inf).amin(1, keepdim=True)
    return scaled - torch.where(takes_part, (low + logs.amax(1, keepdim=True)) / 2, 0.0)


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
