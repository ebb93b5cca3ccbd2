"""The paper's loss: entropic transport of the heatmap's mass onto the dot."""

from __future__ import annotations

import functools
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
    fused,
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
        ``semidual``, ``semidual_torch`` (the same, on CUDA without its Triton kernel), ``pot`` (the
        same answer, slower) or ``exact`` (no regularisation, slow).
    tolerance
        L1 marginal error at which a joint counts as solved.
    max_iterations
        Cap per joint. On a GPU there is a lower one: 50 in the kernel, and in the torch version,
        which cannot look whether it is done, 8 and more, growing with 1 / epsilon.
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
        solver: Literal["semidual", "semidual_torch", "pot", "exact"] = "semidual",
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
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None

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
        maps, dots_hm = heatmaps.flatten(0, 1), joints_hm.flatten(0, 1)
        rows = counted.flatten()
        # Joints that do not count are not solved at all. The kernel leaves them out by itself, and
        # the host need not wait for the device to learn how many they are.
        everyone = self._problem_of_all(maps, dots_hm, rows)
        if everyone is not None and fused.applies(everyone):
            mass = self.mass(maps)
            problem = replace(everyone, supply=mass.detach())
            everywhere: torch.Tensor
            everywhere, marginal_error, iterations = _Transport.apply(mass, problem, self)
            self._record(maps, mass, dots_hm, rows, marginal_error, iterations)
            return everywhere.view_as(counted)
        # By index, as that has a faster backward than a mask.
        index = rows.nonzero()[:, 0]
        maps, dots_hm = maps.index_select(0, index), dots_hm[index]
        mass = self.mass(maps)
        problem = self.problem(mass.detach(), dots_hm)
        values, marginal_error, iterations = _Transport.apply(mass, problem, self)
        self._record(maps, mass, dots_hm, None, marginal_error, iterations)
        losses = heatmaps.new_zeros(counted.shape)
        return losses.masked_scatter(counted, values)

    def _problem_of_all(
        self, maps: torch.Tensor, dots_hm: torch.Tensor, rows: torch.Tensor
    ) -> TransportProblem | None:
        """All joints as problems whose demand is 0 where they do not count; not for every loss."""
        kernel = self.solver is SOLVERS["semidual"] and self.demand == "subpixel"
        if not kernel or self.debiased or maps.dtype != torch.float32 or not fused.runs_on(maps):
            return None
        problem = self.problem(maps.detach(), torch.where(rows[:, None], dots_hm, 0.0))
        return replace(problem, demand=problem.demand * rows[:, None])

    @torch.no_grad()
    def _record(
        self,
        maps: torch.Tensor,
        mass: torch.Tensor,
        dots_hm: torch.Tensor,
        counted: torch.Tensor | None,
        marginal_error: torch.Tensor,
        iterations: torch.Tensor,
    ) -> None:
        """Keep what training logs about the last call.

        Of the joints that are ``counted``, None: all.
        """
        if len(maps) == 0:
            self.health = {}
            return

        positive_sum = maps.relu().sum((1, 2))
        worst = marginal_error.max()
        each = {
            "iterations": iterations,
            "dead_share": positive_sum < DEAD_SUM,
            # Masses are not negative; floats are summed much faster than bools.
            "zero_pixel_share": 1 - mass.sign().mean((1, 2)),
            "positive_sum": positive_sum,
            "mass_within_2px": _mass_near(mass, dots_hm),
        }
        # One reduction for all, as each launch on a device takes its time.
        values = torch.stack([one.double() for one in each.values()])
        if counted is None:
            means = values.mean(1)
        else:
            means = (values * counted).sum(1) / counted.sum().clamp_min(1)
        self.health = {"marginal_error": worst} | dict(zip(each, means.unbind(), strict=True))
        self._last = worst, iterations.max()
        if maps.device.type == "cpu":
            self.after_wait()

    def after_wait(self) -> None:
        """Warn once about an unconverged solve."""
        if self._warned or self._last is None:
            return
        worst, iterations = self._last
        if float(worst) <= self.tolerance:
            return
        self._warned = True
        warnings.warn(
            f"matching loss: a transport problem stopped after {int(iterations)} iterations with"
            f" marginal error {float(worst):.1e} (tolerance {self.tolerance:.1e}); raise"
            " loss.max_iterations, loss.tolerance or loss.epsilon.",
            stacklevel=2,
        )


def _mass_near(mass: torch.Tensor, dots_hm: torch.Tensor) -> torch.Tensor:
    """(J,) mass within `NEAR_DOT_PX` of the dots, of (J, H, W) masses, from the pixels around."""
    reach, size = _reach(mass.device, mass.shape[-2], mass.shape[-1])
    pixels = dots_hm.round().long()[:, :, None] + reach  # (J, 2, n), x and y
    distance = (pixels - dots_hm[:, :, None]).square()
    near = distance[:, 0, None] + distance[:, 1, :, None] <= NEAR_DOT_PX**2
    on_grid = (pixels >= 0) & (pixels < size)
    x, y = torch.minimum(pixels.clamp_min(0), size - 1).unbind(1)
    around = mass.flatten(1).gather(1, (y[:, :, None] * mass.shape[-1] + x[:, None]).flatten(1))
    counts = near & on_grid[:, 0, None] & on_grid[:, 1, :, None]
    return (around * counts.flatten(1)).sum(1)


@functools.lru_cache(maxsize=8)  # as copying them to a device waits for it
def _reach(device: torch.device, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Steps from the dot's pixel (n,), and the map's width and height (2, 1)."""
    most = math.ceil(NEAR_DOT_PX)
    size = torch.tensor([[width], [height]], device=device)
    return torch.arange(-most, most + 1, device=device), size


class _Transport(torch.autograd.Function):
    """E(s, d) with dE/ds as its gradient; none in the dot."""

    @staticmethod
    def forward(
        ctx: Any, mass: torch.Tensor, problem: TransportProblem, loss: Matching
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        limits = loss.tolerance, loss.max_iterations
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
