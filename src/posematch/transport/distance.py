"""The regularised distance of a batch, as a function of the supply that autograd knows.

Which joints are solved, and in what form, is decided here (`RegularisedDistance.select`); how they
are solved by the solver; what it was like to solve them is answered with the values (`Evidence`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from posematch.errors import PosematchError
from posematch.transport import fused
from posematch.transport.costs import L2, Cost
from posematch.transport.evidence import Evidence
from posematch.transport.problem import TransportProblem
from posematch.transport.selection import Selection
from posematch.transport.self_transport import demand_self_value, self_transport
from posematch.transport.solvers import SOLVERS, Solver


@dataclass(frozen=True)
class RegularisedDistance:
    """E(s, d), or its debiased form, with dE/ds as its gradient in the supply; none in the demand.

    Parameters
    ----------
    cost, epsilon, relaxation
        As in `posematch.transport.TransportProblem`.
    debiased
        Subtract E(s, s) / 2 and E(d, d) / 2; not with a relaxation.
    solver
        One of `posematch.transport.SOLVERS`.
    tolerance
        L1 marginal error at which a joint counts as solved.
    max_iterations
        Cap per joint.
    mass_only
        The gradient is needed where there is mass only.

    Raises
    ------
    PosematchError
        A value or a combination of them that there is no distance for.

    Examples
    --------
    >>> from posematch.transport import subpixel_demand
    >>> supply = torch.zeros(1, 4, 4).index_put((torch.tensor(0),) * 3, torch.tensor(1.0))
    >>> distance = RegularisedDistance()
    >>> value, evidence = distance(supply, *subpixel_demand(torch.tensor([[3.0, 0.0]]), (4, 4)))
    >>> value
    tensor([3.])
    """

    cost: Cost = L2
    epsilon: float = 0.1
    relaxation: float = math.inf
    debiased: bool = False
    solver: Solver = SOLVERS["semidual"]
    tolerance: float = 5e-7
    max_iterations: int = 1000
    mass_only: bool = False

    def __post_init__(self) -> None:
        for key in ("epsilon", "relaxation", "tolerance", "max_iterations"):
            if not getattr(self, key) > 0:
                raise PosematchError(f"loss.{key}={getattr(self, key)} must be positive.")
        if self.debiased and not math.isinf(self.relaxation):
            raise PosematchError("loss.debiased=true goes with loss.relaxation=inf only.")
        for name in ("pot", "exact"):
            if not math.isinf(self.relaxation) and self.solver is SOLVERS[name]:
                raise PosematchError(
                    f"loss.solver={name} takes loss.relaxation=inf only; use semidual."
                )
        if self.debiased and self.solver is SOLVERS["exact"]:
            raise PosematchError("loss.solver=exact has no bias: leave out loss.debiased.")

    def problem(
        self,
        supply: torch.Tensor,
        places_hm: torch.Tensor,
        demand: torch.Tensor,
        widths_px: torch.Tensor | None = None,
    ) -> TransportProblem:
        """(J, H, W) masses and (J, M, 2), (J, M) of a demand as what is solved.

        ``widths_px``: (J,), see `TransportProblem`; not with ``debiased``.
        """
        return TransportProblem(
            supply, places_hm, demand, self.cost, self.epsilon, self.relaxation, widths_px
        )

    def select(self, maps: torch.Tensor, counted: torch.Tensor, demands: int) -> Selection:
        """Which of (J, H, W) maps are solved, given those that are ``counted``, (J,) bool.

        What runs in one launch leaves out problems without demand by itself, so a host need not
        wait for its device to learn how many joints count, and on a CPU no maps are copied.
        Elsewhere the others are not even given a mass.
        """
        kernel = self.solver is SOLVERS["semidual"] and demands == 4 and not self.debiased
        if kernel and fused.takes(
            maps, self.cost, self.epsilon, relaxed=not math.isinf(self.relaxation)
        ):
            return Selection(counted, None)
        return Selection(counted, counted.nonzero()[:, 0])

    def __call__(
        self,
        supply: torch.Tensor,
        places_hm: torch.Tensor,
        demand: torch.Tensor,
        widths_px: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, Evidence]:
        """(J,) distances of (J, H, W) supplies to a demand, and the evidence; as `problem`."""
        problem = self.problem(supply.detach(), places_hm, demand, widths_px)
        value, *evidence = _Distance.apply(supply, problem, self)
        return value, Evidence(*evidence)


class _Distance(torch.autograd.Function):
    """No graph through the iterations: dE/ds comes with the solution."""

    @staticmethod
    def forward(
        ctx: Any, supply: torch.Tensor, problem: TransportProblem, how: RegularisedDistance
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        limits = how.tolerance, how.max_iterations
        solution = how.solver(problem, *limits, mass_only=how.mass_only)
        value, gradient = solution.value, solution.supply_gradient
        if how.debiased:
            bias, potential = self_transport(supply, how.cost, how.epsilon, *limits)
            demand_bias = demand_self_value(
                problem.places_hm, problem.demand, how.cost, how.epsilon, *limits
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
