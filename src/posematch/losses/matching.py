"""The paper's loss: entropic transport of the heatmap's mass onto the dot."""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch

from posematch.errors import PosematchError
from posematch.losses.base import HeatmapLoss, Mask
from posematch.losses.mass import DEAD_SUM, SUPPLIES, MassSupply
from posematch.transport import (
    DEMANDS,
    SOLVERS,
    Cost,
    CostName,
    Solver,
    TransportProblem,
    demand_self_value,
    self_transport,
)

NEAR_DOT_PX = 2.0
# What validation has POT solve again, and when it gives up; milliseconds where epsilon is 0.1.
REFEREE_JOINTS, REFEREE_TOLERANCE, REFEREE_ITERATIONS = 32, 1e-6, 1000
Demand = Literal["subpixel", "nearest", "point"]


class Matching(HeatmapLoss):
    """Regularised earth mover's distance from heatmap to dot (supplement, equations 1-3).

    The loss of a joint is E(s, d) of `posematch.transport.problem`; its gradient in the supply is
    the dual potential a (equation 3), without a graph through the iterations. docs/transport.md
    tells what the choices do.

    Parameters
    ----------
    epsilon
        Regularisation, in units of the cost (``l2``: heatmap pixels). With ``l2``, above 0.3 the
        best heatmap visibly shrinks towards one pixel (0.09 px off at 0.5); the paper's main text,
        which might name its value, was not at hand.
    supply
        ``relu`` (the paper's), ``softplus`` or ``softmax``; see `to_mass`.
    temperature
        Maps are divided by it before softmax or softplus.
    demand
        ``subpixel``: bilinear masses on the four pixels around the dot. ``nearest``: all on the
        nearest pixel. ``point``: all on the dot's own place. The last two have one demand, for
        which transport is a formula.
    cost, scale_px, power
        See `posematch.transport.Cost`; ``l2`` is the paper's.
    relaxation
        tau, in units of the cost: mass may be left where it is at the price tau KL. inf: none.
    debiased
        Subtract E(s, s) / 2 and E(d, d) / 2: the Sinkhorn divergence, 0 if and only if s = d. Costs
        a multiple of the rest; not with a relaxation.
    solver
        ``semidual``, ``semidual_triton`` (the same, on CUDA in one launch), ``pot`` (the same
        answer, slower) or ``exact`` (no regularisation, slow).
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
        supply: MassSupply = "relu",
        temperature: float = 1.0,
        demand: Demand = "subpixel",
        cost: CostName = "l2",
        scale_px: float = 1.0,
        power: float = 1.5,
        relaxation: float = math.inf,
        debiased: bool = False,
        solver: Literal["semidual", "semidual_triton", "pot", "exact"] = "semidual",
        tolerance: float = 5e-7,
        max_iterations: int = 1000,
        mask: Mask = "inside",
    ) -> None:
        if mask != "inside":
            raise PosematchError(f"loss.mask={mask}: the matching loss knows only mask=inside.")
        super().__init__(mask)
        for key, value, known in (
            ("supply", supply, SUPPLIES),
            ("demand", demand, DEMANDS),
            ("solver", solver, SOLVERS),
        ):
            if value not in known:
                raise PosematchError(f"loss.{key}={value} must be one of {', '.join(known)}.")
        positive = {
            "epsilon": epsilon,
            "temperature": temperature,
            "relaxation": relaxation,
            "tolerance": tolerance,
            "max_iterations": max_iterations,
        }
        for key, number in positive.items():
            if not number > 0:
                raise PosematchError(f"loss.{key}={number} must be positive.")
        if debiased and not math.isinf(relaxation):
            raise PosematchError("loss.debiased=true goes with loss.relaxation=inf only.")
        if debiased and demand == "point":
            raise PosematchError(
                "loss.debiased=true needs a demand on pixels: loss.demand=subpixel or nearest."
            )
        if not math.isinf(relaxation) and solver in ("pot", "exact"):
            raise PosematchError(
                f"loss.solver={solver} takes loss.relaxation=inf only; use semidual."
            )
        if debiased and solver == "exact":
            raise PosematchError("loss.solver=exact has no bias: leave out loss.debiased.")
        self.epsilon = epsilon
        self.supply = supply
        self.temperature = temperature
        if supply == "relu":
            # From a zero bias half of a map's pixels start without mass or gradient, and most
            # joints soon have none at all.
            self.initial_bias = 1.0
        self.demand: Demand = demand
        self.cost = Cost(cost, scale_px, power)
        self.relaxation = relaxation
        self.debiased = debiased
        self.solver: Solver = SOLVERS[solver]
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self._warned = False

    def problem(self, mass: torch.Tensor, dots_hm: torch.Tensor) -> TransportProblem:
        """(J, H, W) masses and (J, 2) dots as what is solved."""
        places, demand = DEMANDS[self.demand](dots_hm, (mass.shape[-2], mass.shape[-1]))
        return TransportProblem(mass, places, demand, self.cost, self.epsilon, self.relaxation)

    @torch.no_grad()
    def second_opinion(
        self, heatmaps: torch.Tensor, joints_hm: torch.Tensor, visible: torch.Tensor
    ) -> dict[str, float]:
        """POT and the loss's solver on the batch's first joints, in the loss's own precision.

        ``referee_difference``: their largest difference of E(s, d), in units of the cost, among the
        joints that POT solves in `REFEREE_ITERATIONS`. Nothing where POT does not apply (a
        relaxation, one demand, ``solver=exact``), is not installed, or solves none.
        """
        heatmaps, joints_hm = heatmaps.float(), joints_hm.float()
        size = (heatmaps.shape[-2], heatmaps.shape[-1])
        counted = self.weights(joints_hm, visible, size) > 0
        problem = self.problem(
            self.mass(heatmaps[counted][:REFEREE_JOINTS]), joints_hm[counted][:REFEREE_JOINTS]
        )
        applies = problem.balanced and self.solver is not SOLVERS["exact"]
        if not (applies and self.demand == "subpixel" and importlib.util.find_spec("ot")):
            return {}
        supply = problem.supply.double()
        exact = replace(problem, supply=supply / supply.sum((1, 2), keepdim=True))
        with torch.autocast(heatmaps.device.type, enabled=False):
            solver = SOLVERS["semidual"] if self.solver is SOLVERS["pot"] else self.solver
            ours = solver(problem, self.tolerance, self.max_iterations)
            referee = SOLVERS["pot"](exact, REFEREE_TOLERANCE, REFEREE_ITERATIONS)
        difference = (ours.value - referee.value).abs()[referee.converged]
        return {"referee_difference": float(difference.max())} if len(difference) else {}

    def joint_losses(
        self, heatmaps: torch.Tensor, joints_hm: torch.Tensor, counted: torch.Tensor
    ) -> torch.Tensor:
        # Joints that do not count are not solved at all. By index, as that has the faster backward.
        rows = counted.flatten().nonzero()[:, 0]
        maps = heatmaps.flatten(0, 1).index_select(0, rows)
        dots_hm = joints_hm.flatten(0, 1)[rows]
        mass = self.mass(maps)
        values, marginal_error, iterations = _Transport.apply(mass, dots_hm, self)
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
        positive_sum = maps.relu().sum((1, 2))
        worst = marginal_error.max()
        self.health = {
            "marginal_error": worst,
            "iterations": iterations.double().mean(),
            "dead_share": (positive_sum < DEAD_SUM).double().mean(),
            # Masses are not negative; floats are summed much faster than bools.
            "zero_pixel_share": 1 - mass.sign().mean(),
            "positive_sum": positive_sum.mean(),
            "mass_within_2px": _mass_near(mass, dots_hm).mean(),
        }
        # Of other devices nobody waits for the answer; their training logs it.
        if maps.device.type == "cpu" and not self._warned and not bool(worst <= self.tolerance):
            self._warned = True
            warnings.warn(
                f"matching loss: a transport problem stopped after {int(iterations.max())}"
                f" iterations with marginal error {float(worst):.1e} (tolerance"
                f" {self.tolerance:.1e}); raise loss.max_iterations, loss.tolerance or"
                " loss.epsilon.",
                stacklevel=2,
            )


def _mass_near(mass: torch.Tensor, dots_hm: torch.Tensor) -> torch.Tensor:
    """(J,) mass within `NEAR_DOT_PX` of the dots, of (J, H, W) masses, from the pixels around."""
    height, width = mass.shape[-2:]
    reach = torch.arange(-math.ceil(NEAR_DOT_PX), math.ceil(NEAR_DOT_PX) + 1, device=mass.device)
    x, y = (dots_hm[:, axis, None].round().long() + reach for axis in (0, 1))
    dx, dy = x - dots_hm[:, 0, None], y - dots_hm[:, 1, None]
    near = dx.square()[:, None] + dy.square()[:, :, None] <= NEAR_DOT_PX**2
    on_grid = ((x >= 0) & (x < width))[:, None] & ((y >= 0) & (y < height))[:, :, None]
    pixel = y.clamp(0, height - 1)[:, :, None] * width + x.clamp(0, width - 1)[:, None]
    around = mass.flatten(1).gather(1, pixel.flatten(1))
    return (around * (near & on_grid).flatten(1)).sum(1)


class _Transport(torch.autograd.Function):
    """E(s, d) with dE/ds as its gradient; none in the dot."""

    @staticmethod
    def forward(
        ctx: Any, mass: torch.Tensor, dots_hm: torch.Tensor, loss: Matching
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        limits = loss.tolerance, loss.max_iterations
        problem = loss.problem(mass, dots_hm)
        # ReLU's own gradient is zero where it leaves no mass.
        solution = loss.solver(problem, *limits, mass_only=loss.supply == "relu")
        value, gradient = solution.value, solution.supply_gradient
        if loss.debiased:
            bias, potential = self_transport(mass, loss.cost, loss.epsilon, *limits)
            demand_bias = demand_self_value(
                problem.places_hm, problem.demand, loss.cost, loss.epsilon, *limits
            )
            value = (value.double() - 0.5 * (bias + demand_bias)).to(value.dtype)
            gradient = gradient - potential.to(gradient.dtype)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(solution.marginal_error, solution.iterations)
        return value, solution.marginal_error, solution.iterations

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_value: torch.Tensor, *unused: Any) -> tuple[Any, ...]:
        (gradient,) = ctx.saved_tensors
        return grad_value[:, None, None] * gradient, None, None
