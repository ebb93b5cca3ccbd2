r"""Newton's method on the concave semi-dual, for four demands: its steps and two loops of them.

    max_b <b, d> - epsilon sum_n s_n log sum_m d_m exp((b_m - C[n, m]) / epsilon)

has four unknowns. With A of `posematch.transport.shares`, the gradient is d minus A's row sums (the
plan's marginal), and diag(marginal) - (1 - softness) A is minus the Hessian over epsilon.

`newton_compacting` looks at the errors after every step and lets solved problems leave: on a CPU.
`newton_masked` takes a fixed number of steps without a look: on devices that it would wait for.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from posematch.transport.shares import Shares

SINKHORN_STEPS = 2
# A share of a demand wrong by more than this factor: Sinkhorn's step is better than Newton's.
FAR = math.exp(2)
# Longest Newton step, in units of epsilon: beyond it the quadratic model means nothing.
LONGEST_STEP = 3.0
# Products with the kernel that have not solved a problem by then are limited by their rounding.
KERNEL_ITERATIONS = 50


class Ascent(NamedTuple):
    """Where J ascents stand.

    Attributes
    ----------
    scaled
        (J, 4) b / epsilon, float64.
    step
        (J, 4) the step that led there.
    slope
        (J,) of the semi-dual along that step, at its beginning; inf: not to be judged by it.
    """

    scaled: torch.Tensor
    step: torch.Tensor
    slope: torch.Tensor

    @classmethod
    def at(cls, scaled: torch.Tensor) -> Ascent:
        return cls(scaled, torch.zeros_like(scaled), torch.full_like(scaled[:, 0], math.inf))

    def select(self, rows: torch.Tensor) -> Ascent:
        return Ascent(self.scaled[rows], self.step[rows], self.slope[rows])


class Found(NamedTuple):
    """What J ascents have found.

    Attributes
    ----------
    scaled
        (J, 4) b / epsilon, float64.
    log_sum
        (J, N) logarithms of the pixels' sums over the demands.
    error
        (J,) L1 marginal errors.
    iterations
        (J,) int64.
    """

    scaled: torch.Tensor
    log_sum: torch.Tensor
    error: torch.Tensor
    iterations: torch.Tensor


def newton_compacting(
    shares: Shares,
    demand: torch.Tensor,
    start: torch.Tensor,
    softness: float,
    tolerance: float,
    max_iterations: int,
    sinkhorn_steps: int,
) -> Found:
    """Ascend until solved; problems that are leave the batch.

    Parameters
    ----------
    shares
        Of the problems' pixels; used up.
    demand
        (J, 4) masses that the marginals are to reach, float64.
    start
        (J, 4) b / epsilon.
    softness
        See `posematch.transport.TransportProblem`.
    tolerance
        L1 marginal error at which a problem is solved.
    max_iterations
        At most so many steps.
    sinkhorn_steps
        How many of the first ones are Sinkhorn's.
    """
    count = len(demand)
    found = torch.zeros_like(demand)
    log_sums = torch.empty_like(shares.root)
    errors = demand.new_full((count,), math.inf)
    iterations = torch.zeros(count, dtype=torch.int64)
    rows = torch.arange(count)
    log_demand = demand.log()
    ascent = Ascent.at(start)
    open_ = torch.ones(count, dtype=torch.bool)
    last = max_iterations if shares.patient else min(max_iterations, KERNEL_ITERATIONS)
    for iteration in range(last + 1):
        moments, total = shares.evaluate(ascent.scaled + log_demand)
        marginal = moments.sum(2)
        error = (demand - marginal).abs().sum(1)
        # What is no number will not become one; the caller tries again in the log domain.
        ends = open_ & (~(error > tolerance) | (iteration == last))
        if bool(ends.any()):
            at = rows[ends]
            found[at], errors[at], iterations[at] = ascent.scaled[ends], error[ends], iteration
            log_sums[at] = shares.log_sum(total[ends])
            open_ = open_ & ~ends
            left = int(open_.sum())
            if not left:
                break
            # Gathering the kernel costs as much as half an iteration.
            if left < 0.7 * len(open_):
                shares.select(open_)
                rows, demand, log_demand = rows[open_], demand[open_], log_demand[open_]
                ascent = ascent.select(open_)
                moments, marginal, open_ = moments[open_], marginal[open_], open_[open_]
        ascent = next_step(ascent, moments, marginal, demand, softness, iteration < sinkhorn_steps)
    return Found(found, log_sums, errors, iterations)


def newton_masked(
    shares: Shares,
    demand: torch.Tensor,
    start: torch.Tensor,
    softness: float,
    tolerance: float,
    max_iterations: int,
    sinkhorn_steps: int,
) -> Found:
    """As `newton_compacting`, but all take ``max_iterations`` steps; solved ones stand still."""
    log_demand = demand.log()
    ascent = Ascent.at(start)
    iterations = torch.zeros(len(demand), dtype=torch.int64, device=demand.device)
    for iteration in range(max_iterations):
        moments = shares.evaluate(ascent.scaled + log_demand)[0]
        marginal = moments.sum(2)
        open_ = ~((demand - marginal).abs().sum(1) <= tolerance)
        iterations = iterations + open_
        new = next_step(ascent, moments, marginal, demand, softness, iteration < sinkhorn_steps)
        ascent = new._replace(scaled=torch.where(open_[:, None], new.scaled, ascent.scaled))
    moments, total = shares.evaluate(ascent.scaled + log_demand)
    error = (demand - moments.sum(2)).abs().sum(1)
    return Found(ascent.scaled, shares.log_sum(total), error, iterations)


def next_step(
    ascent: Ascent,
    moments: torch.Tensor,
    marginal: torch.Tensor,
    demand: torch.Tensor,
    softness: float,
    sinkhorn_only: bool,
) -> Ascent:
    """One step, given A (J, 4, 4), its row sums and the demands (J, 4) where the ascents stand.

    The semi-dual is concave, so along a step its slope falls; turned round by more than half, the
    maximum was passed and half of the step is taken back. Sinkhorn's steps cannot overshoot: their
    slope counts as infinite.
    """
    scaled, step, slope = ascent
    sinkhorn, far = _sinkhorn(marginal, demand, softness)
    if sinkhorn_only:
        return Ascent.at(_centred(scaled + sinkhorn, demand, softness))._replace(step=sinkhorn)
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
    return Ascent(
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
