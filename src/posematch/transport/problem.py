r"""What is transported, and what a solution must show.

Symbols (paper, supplement section C): supply s over N pixels, demand d over M places, cost C[n, m].
The regularised distance is

    E(s, d) = min_P <C, P> + epsilon KL(P || s (x) d)      over plans P with both marginals,

whose optimal plan is P[n, m] = s_n d_m exp((a_n + b_m - C[n, m]) / epsilon). Given the demand
potentials b, the supply potentials are the soft c-transform

    a_n = -epsilon log sum_m d_m exp((b_m - C[n, m]) / epsilon)

for *every* pixel n, also where s_n = 0; then E = <a, s> + <b, d> and dE/ds = a (equation 3), fixed
by <a, s> = 0 as a is determined up to a constant. Equation 2 is the limit epsilon -> 0.

With a relaxation tau < inf the supply's marginal may differ from s at the price tau KL(P 1 || s):

    a_n = -(epsilon tau / (epsilon + tau)) log sum_m d_m exp((b_m - C[n, m]) / epsilon)
    E = (tau + epsilon) <1 - exp(-a / tau), s> + <b, d>,   dE/ds = (tau + epsilon)(1 - exp(-a/tau))

and no constant is free.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch

from posematch.transport.costs import L2, Cost

# Joints times pixels that are worked on at a time, so that several such arrays stay in the cache.
CHUNK_PIXELS = 2**18


@dataclass(frozen=True, eq=False)
class TransportProblem:
    """J independent problems of one size.

    Attributes
    ----------
    supply
        (J, H, W) masses, each sums to 1; exact zeros welcome. float32 or float64.
    places_hm
        (J, M, 2), x and y in heatmap pixels: one place anywhere, or four, the corners of a pixel
        square in the order of `subpixel_demand`.
    demand
        (J, M) masses, float64, each row sums to 1; places with 0 take no part. A row of four zeros
        is no problem: ``semidual`` leaves it out and answers 0 in everything.
    cost
        Of the way from a pixel to a place.
    epsilon
        Regularisation, in units of the cost.
    relaxation
        tau, in units of the cost; inf: both marginals are kept.
    widths_px
        (J,) lengths in heatmap pixels that stand in for the cost's own `Cost.scale_px`; None: that
        for all. One place each alone: the solvers of four share one table of costs.
    """

    supply: torch.Tensor
    places_hm: torch.Tensor
    demand: torch.Tensor
    cost: Cost = L2
    epsilon: float = 0.1
    relaxation: float = math.inf
    widths_px: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.widths_px is not None and self.demand.shape[1] > 1:
            raise ValueError("widths_px goes with one place for each problem")

    def __len__(self) -> int:
        return len(self.supply)

    @property
    def balanced(self) -> bool:
        return math.isinf(self.relaxation)

    @property
    def softness(self) -> float:
        """epsilon / (epsilon + tau): 0 when balanced."""
        return 0.0 if self.balanced else self.epsilon / (self.epsilon + self.relaxation)

    def part(self, rows: torch.Tensor | slice) -> TransportProblem:
        """Some of the problems."""
        return TransportProblem(
            self.supply[rows],
            self.places_hm[rows],
            self.demand[rows],
            self.cost,
            self.epsilon,
            self.relaxation,
            None if self.widths_px is None else self.widths_px[rows],
        )

    def cost_matrix(self, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """(J, M, H*W)."""
        height, width = self.supply.shape[-2:]
        places = self.places_hm.to(dtype)
        columns = torch.arange(width, dtype=dtype, device=places.device)
        rows = torch.arange(height, dtype=dtype, device=places.device)
        dx = columns - places[..., 0, None]
        dy = rows - places[..., 1, None]
        widths = self.widths_px
        each = None if widths is None else widths.to(dtype)[:, None, None, None]
        return self.cost(dx[..., None, :], dy[..., :, None], each).flatten(-2)


@dataclass(frozen=True, eq=False)
class TransportSolution:
    """Potentials, values, and the evidence that they are a solution, each per problem.

    Attributes
    ----------
    problem
        What was solved.
    supply_potential
        a, (J, H, W) in the supply's dtype, with <a, s> = 0 where balanced. Where s = 0 it means
        nothing if the solver was asked for mass only.
    demand_potential
        b, (J, M) float64, shifted accordingly; 0 where d_m = 0. Double, as b / epsilon is what the
        marginals depend on.
    value
        E(s, d), (J,), in the supply's dtype.
    marginal_error
        L1 distance between the plan's demand marginal and d, (J,); its supply marginal is exact,
        as a is the transform of b.
    iterations
        (J,) int64, over the pixels; a start from fewer cells is not counted. Of a problem that was
        done again in the log domain those of the second time.
    converged
        (J,) bool, by the solver's tolerance.
    """

    problem: TransportProblem
    supply_potential: torch.Tensor
    demand_potential: torch.Tensor
    value: torch.Tensor
    marginal_error: torch.Tensor
    iterations: torch.Tensor
    converged: torch.Tensor

    @property
    def supply_gradient(self) -> torch.Tensor:
        """dE/ds, (J, H, W)."""
        tau, epsilon = self.problem.relaxation, self.problem.epsilon
        if self.problem.balanced:
            return self.supply_potential
        return -(tau + epsilon) * torch.expm1(-self.supply_potential / tau)

    def plan(self, rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """P of some problems, (J, M, H*W) float64."""
        part = self.problem.part(rows)
        _, shares = log_sums(part, self.demand_potential[rows])
        supply = part.supply.flatten(1).double()
        if not part.balanced:
            supply = supply * torch.exp(
                -self.supply_potential[rows].flatten(1).double() / part.relaxation
            )
        # A problem that is left out has no shares.
        return torch.where(part.demand[:, :, None] > 0, shares * supply[:, None], 0.0)


def chunks(problem: TransportProblem, pixels: int = CHUNK_PIXELS) -> list[slice]:
    """Consecutive problems of together about so many pixels."""
    height, width = problem.supply.shape[-2:]
    step = max(1, pixels // (height * width))
    return [slice(first, first + step) for first in range(0, len(problem), step)]


def log_sums(
    problem: TransportProblem, demand_potential: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """log sum_m d_m exp((b_m - C) / epsilon), (J, N), and each m's share in it, (J, M, N)."""
    scaled = demand_potential.double() / problem.epsilon + problem.demand.log()
    exponent = scaled[:, :, None] - problem.cost_matrix() / problem.epsilon
    log_sum = exponent.logsumexp(1)
    return log_sum, torch.exp(exponent - log_sum[:, None])


def solution_from_demand_potentials(
    problem: TransportProblem,
    demand_potential: torch.Tensor,
    iterations: torch.Tensor,
    tolerance: float,
) -> TransportSolution:
    """Everything that follows from b, by the formulas of this module's head, in float64."""
    if len(problem) == 0:
        return make_solution(
            problem,
            problem.supply.double(),
            problem.demand,
            problem.demand.new_zeros(0),
            iterations,
            tolerance,
        )
    a_parts, errors = [], []
    for rows in chunks(problem):
        part = problem.part(rows)
        supply = part.supply.flatten(1).double()
        log_sum, shares = log_sums(part, demand_potential[rows])
        tau = part.relaxation
        a = -part.epsilon * log_sum
        if not part.balanced:
            a = a * tau / (part.epsilon + tau)
            supply = supply * torch.exp(-a / tau)
        a_parts.append(a)
        errors.append(((shares * supply[:, None]).sum(2) - part.demand).abs().sum(1))
    a = torch.cat(a_parts).reshape(problem.supply.shape)
    return make_solution(problem, a, demand_potential, torch.cat(errors), iterations, tolerance)


def make_solution(
    problem: TransportProblem,
    supply_potential: torch.Tensor,
    demand_potential: torch.Tensor,
    marginal_error: torch.Tensor,
    iterations: torch.Tensor,
    tolerance: float,
) -> TransportSolution:
    """Value and centring, for potentials of which one is the other's transform.

    ``supply_potential`` is overwritten.
    """
    supply, demand, tau = problem.supply.flatten(1), problem.demand, problem.relaxation
    a = supply_potential.flatten(1)
    b = torch.where(demand > 0, demand_potential, torch.zeros_like(demand))
    if problem.balanced:
        mean = (a * supply).sum(1, dtype=torch.float64)
        value = mean + (b * demand).sum(1)
        a -= mean[:, None].to(a.dtype)
        b = torch.where(demand > 0, b + mean[:, None], b)
    else:
        paid = torch.expm1(-a / tau).mul_(supply).sum(1, dtype=torch.float64)
        value = (b * demand).sum(1) - (tau + problem.epsilon) * paid
    dtype = problem.supply.dtype
    return TransportSolution(
        problem=problem,
        supply_potential=a.to(dtype).reshape(problem.supply.shape),
        demand_potential=b,
        value=value.to(dtype),
        marginal_error=marginal_error,
        iterations=iterations,
        # "not >" would take a NaN for converged.
        converged=marginal_error <= tolerance,
    )


def subpixel_demand(
    dots_hm: torch.Tensor, heatmap_size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The dot at sub-pixel resolution: bilinear masses on the four pixels around it.

    Parameters
    ----------
    dots_hm
        (J, 2) on the grid (nearest to one of its pixels).
    heatmap_size
        (H, W).

    Returns
    -------
    places_hm, demand
        (J, 4, 2) integer places and (J, 4) masses, float64. Pixels off the grid get mass 0 and the
        rest is renormalised.
    """
    height, width = heatmap_size
    dots_hm = dots_hm.double()
    corner = dots_hm.floor()
    fraction = dots_hm - corner
    offsets = _corners(dots_hm.device)
    places = corner[:, None] + offsets
    along = torch.where(offsets > 0, fraction[:, None], 1 - fraction[:, None])
    x, y = places.unbind(-1)
    on_grid = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    mass = along.prod(-1) * on_grid
    return places, mass / mass.sum(1, keepdim=True)


@functools.lru_cache(maxsize=8)  # as copying them to a device waits for it
def _corners(device: torch.device) -> torch.Tensor:
    return torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]], dtype=torch.float64, device=device)


def nearest_demand(
    dots_hm: torch.Tensor, heatmap_size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """All on the pixel nearest to the dot; as `subpixel_demand`, (J, 1, 2) and (J, 1)."""
    height, width = heatmap_size
    limit = dots_hm.new_tensor([width - 1, height - 1]).double()
    places = torch.minimum((dots_hm.double() + 0.5).floor(), limit).clamp_min(0)[:, None]
    return places, torch.ones_like(places[..., 0])


def point_demand(
    dots_hm: torch.Tensor, heatmap_size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """All on the dot's own place between the pixels; as `nearest_demand`."""
    places = dots_hm.double()[:, None]
    return places, torch.ones_like(places[..., 0])


DEMANDS = {"subpixel": subpixel_demand, "nearest": nearest_demand, "point": point_demand}
