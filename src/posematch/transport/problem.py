r"""What is transported, and what a solution must show.

Symbols (paper, supplement section C): supply s over N pixels, demand d over M pixels, cost
C[n, m] = ||p_n - q_m||_2 in heatmap pixels. The regularised distance is

    E(s, d) = min_P <C, P> + epsilon KL(P || s (x) d),

whose optimal plan is P[n, m] = s_n d_m exp((a_n + b_m - C[n, m]) / epsilon). Given the demand
potentials b, the supply potentials are the soft c-transform

    a_n = -epsilon log sum_m d_m exp((b_m - C[n, m]) / epsilon)

for *every* pixel n, also where s_n = 0; then E = <a, s> + <b, d> and dE/ds = a (equation 3), fixed
by <a, s> = 0 as a is determined up to a constant. Equation 2 is the limit epsilon -> 0.

Arrays are laid out (J, M, N), J problems: reductions over the many pixels run along memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class TransportProblem:
    """J independent problems of one size.

    Attributes
    ----------
    supply
        (J, N) masses, each row sums to 1; exact zeros welcome.
    demand
        (J, M) masses, each row sums to 1; zeros are pixels that take no part.
    cost
        (J, M, N) in heatmap pixels.
    epsilon_px
        Regularisation, in units of the cost.
    """

    supply: torch.Tensor
    demand: torch.Tensor
    cost: torch.Tensor
    epsilon_px: float


@dataclass(frozen=True, eq=False)
class TransportSolution:
    """Potentials, values, and the evidence that they are a solution, each per problem.

    Attributes
    ----------
    supply_potential
        a, (J, N), with <a, s> = 0.
    demand_potential
        b, (J, M), shifted accordingly; 0 where d_m = 0.
    value
        E(s, d), (J,).
    transport_cost
        <C, P>, (J,).
    marginal_error
        L1 distance between the plan's demand marginal and d, (J,); its supply marginal is exact,
        as a is the transform of b.
    iterations
        (J,) int.
    """

    supply_potential: torch.Tensor
    demand_potential: torch.Tensor
    value: torch.Tensor
    transport_cost: torch.Tensor
    marginal_error: torch.Tensor
    iterations: torch.Tensor


def solution_from_demand_potentials(
    problem: TransportProblem, demand_potential: torch.Tensor, iterations: torch.Tensor
) -> TransportSolution:
    """Everything that follows from b, by the formulas of this module's head."""
    s, d, epsilon = problem.supply, problem.demand, problem.epsilon_px
    b = torch.where(d > 0, demand_potential, torch.zeros_like(d))
    exponent = (b[:, :, None] - problem.cost) / epsilon + d.log()[:, :, None]
    log_sum = exponent.logsumexp(1)
    a = -epsilon * log_sum
    shift = (a * s).sum(1, keepdim=True)
    a, b = a - shift, torch.where(d > 0, b + shift, b)
    plan = torch.exp(exponent - log_sum[:, None]) * s[:, None]
    return TransportSolution(
        supply_potential=a,
        demand_potential=b,
        value=(a * s).sum(1) + (b * d).sum(1),
        transport_cost=(plan * problem.cost).sum((1, 2)),
        marginal_error=(plan.sum(2) - d).abs().sum(1),
        iterations=iterations,
    )


def dot_demand(
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
    pixels_hm, mass
        (J, 4, 2) integer places and (J, 4) masses. Pixels off the grid get mass 0 and the rest is
        renormalised.
    """
    height, width = heatmap_size
    corner = dots_hm.floor()
    fraction = dots_hm - corner
    offsets = dots_hm.new_tensor([[0, 0], [1, 0], [0, 1], [1, 1]])
    pixels = corner[:, None] + offsets
    along = torch.where(offsets > 0, fraction[:, None], 1 - fraction[:, None])
    on_grid = ((pixels >= 0) & (pixels < pixels.new_tensor([width, height]))).all(-1)
    mass = along.prod(-1) * on_grid
    return pixels, mass / mass.sum(1, keepdim=True)


def pixel_distances(pixels_hm: torch.Tensor, heatmap_size: tuple[int, int]) -> torch.Tensor:
    """(J, M, 2) places to their (J, M, H*W) L2 distances from every pixel, in pixels."""
    height, width = heatmap_size
    columns = torch.arange(width, dtype=pixels_hm.dtype, device=pixels_hm.device)
    rows = torch.arange(height, dtype=pixels_hm.dtype, device=pixels_hm.device)
    dx = columns - pixels_hm[..., 0, None]
    dy = rows - pixels_hm[..., 1, None]
    distances = (dx.square()[..., None, :] + dy.square()[..., :, None]).sqrt()
    return distances.flatten(-2)
