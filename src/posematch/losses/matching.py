"""The paper's loss: entropic transport of the heatmap's mass onto the dot."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from posematch.errors import PosematchError
from posematch.losses.base import HeatmapLoss, Mask
from posematch.losses.mass import DEAD_SUM, SUPPLIES, Supply, to_mass
from posematch.transport import (
    SMALLEST_KERNEL_EPSILON_PX,
    SOLVERS,
    Solver,
    TransportProblem,
    dot_demand,
    pixel_distances,
    solution_from_demand_potentials,
)

NEAR_DOT_PX = 2.0


class Matching(HeatmapLoss):
    """Regularised earth mover's distance from heatmap to dot (supplement, equations 1-3).

    Supply: the heatmap's mass. Demand: bilinear masses on the four pixels around the dot. Cost:
    L2 distance in heatmap pixels. The loss of a joint is E(s, d) of `posematch.transport.problem`,
    its gradient in the supply the dual potential a (equation 3), without a graph through the
    iterations.

    Parameters
    ----------
    epsilon
        Regularisation in heatmap pixels. Above 0.3 the best heatmap visibly shrinks towards one
        pixel (0.09 px off at 0.5); the paper's main text, which might name its value, was not at
        hand.
    supply
        ``relu`` (the paper's), ``softplus`` or ``softmax``; see `to_mass`.
    solver
        ``semidual`` or ``pot``; the same answer at different speed.
    tolerance
        L1 marginal error at which a joint counts as solved.
    max_iterations
        Cap per joint.
    mask
        ``inside`` only: a dot off the grid has no pixels to demand on.
    """

    default_decoder: ClassVar[Mapping[str, Any]] = {
        "_target_": "posematch.decoding.Barycentre",
        "radius_px": 2,
    }

    def __init__(
        self,
        epsilon: float = 0.1,
        supply: Supply = "relu",
        solver: str = "semidual",
        tolerance: float = 1e-4,
        max_iterations: int = 1000,
        mask: Mask = "inside",
    ) -> None:
        if mask != "inside":
            raise PosematchError(f"loss.mask={mask}: the matching loss knows only mask=inside.")
        super().__init__(mask)
        if supply not in SUPPLIES:
            raise PosematchError(f"loss.supply={supply} must be one of {', '.join(SUPPLIES)}.")
        if solver not in SOLVERS:
            raise PosematchError(f"loss.solver={solver} must be one of {', '.join(SOLVERS)}.")
        if epsilon <= 0:
            raise PosematchError(f"loss.epsilon={epsilon} must be positive (heatmap pixels).")
        if solver == "semidual" and epsilon < SMALLEST_KERNEL_EPSILON_PX:
            raise PosematchError(
                f"loss.epsilon={epsilon} px is below {SMALLEST_KERNEL_EPSILON_PX} px, where the"
                " semi-dual's kernel underflows in float32; use loss.solver=pot."
            )
        self.epsilon = epsilon
        self.supply = supply
        if supply == "relu":
            # From a zero bias half of a map's pixels start without mass or gradient, and most
            # joints soon have none at all.
            self.initial_bias = 1.0
        self.solver: Solver = SOLVERS[solver]
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self._warned = False

    def joint_losses(
        self, heatmaps: torch.Tensor, joints_hm: torch.Tensor, counted: torch.Tensor
    ) -> torch.Tensor:
        # Joints that do not count are not solved at all.
        maps, dots_hm = heatmaps[counted], joints_hm[counted]
        height, width = heatmaps.shape[-2:]
        mass = to_mass(maps, self.supply).flatten(1)
        with torch.no_grad():
            pixels_hm, demand = dot_demand(dots_hm, (height, width))
            cost = pixel_distances(pixels_hm, (height, width))
        values, marginal_error, iterations = _Transport.apply(mass, demand, cost, self)
        self._record(maps, mass, dots_hm, marginal_error, iterations)
        losses = heatmaps.new_zeros(counted.shape)
        return losses.masked_scatter(counted, values)

    @torch.no_grad()
    def _record(
        self,
        maps: torch.Tensor,
        mass: torch.Tensor,
        dots_hm: torch.Tensor,
        marginal_error: torch.Tensor,
        iterations: torch.Tensor,
    ) -> None:
        """Keep what training logs about the last call; warn once about an unconverged solve."""
        if len(maps) == 0:
            self.health = {}
            return
        height, width = maps.shape[-2:]
        distance = pixel_distances(dots_hm[:, None], (height, width))[:, 0]
        positive_sum = maps.relu().sum((1, 2))
        worst = marginal_error.max()
        self.health = {
            "marginal_error": worst,
            "iterations": iterations.double().mean(),
            "dead_share": (positive_sum < DEAD_SUM).double().mean(),
            "zero_pixel_share": (mass == 0).double().mean(),
            "positive_sum": positive_sum.mean(),
            "mass_within_2px": (mass * (distance <= NEAR_DOT_PX)).sum(1).mean(),
        }
        # Ten times: the solver's own measure of the error differs from ours by rounding.
        if not self._warned and not bool(worst <= 10 * self.tolerance):
            self._warned = True
            warnings.warn(
                f"matching loss: a transport problem stopped after {int(iterations.max())}"
                f" iterations with marginal error {float(worst):.1e} (tolerance"
                f" {self.tolerance:.1e}); raise loss.max_iterations or loss.epsilon.",
                stacklevel=2,
            )


class _Transport(torch.autograd.Function):
    """E(s, d) with equation 3's gradient: a, centred, in s; none in the dot."""

    @staticmethod
    def forward(
        ctx: Any, mass: torch.Tensor, demand: torch.Tensor, cost: torch.Tensor, loss: Matching
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        problem = TransportProblem(mass, demand, cost, loss.epsilon)
        potential, iterations = loss.solver(problem, loss.tolerance, loss.max_iterations)
        solution = solution_from_demand_potentials(problem, potential, iterations)
        ctx.save_for_backward(solution.supply_potential)
        ctx.mark_non_differentiable(solution.marginal_error, iterations)
        return solution.value, solution.marginal_error, iterations

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_value: torch.Tensor, *unused: Any) -> tuple[Any, ...]:
        (supply_potential,) = ctx.saved_tensors
        return grad_value[:, None] * supply_potential, None, None, None
