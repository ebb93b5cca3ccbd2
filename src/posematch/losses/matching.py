"""The paper's loss: entropic transport of the heatmap's mass onto the dot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, get_args

import torch

from posematch.errors import PosematchError
from posematch.losses.base import HeatmapLoss, Mask
from posematch.losses.gradients import relu_reviving, softmax_evenly
from posematch.losses.mass import DEAD_SUM, SUPPLIES, MassSupply, check_temperature
from posematch.losses.widths import JointWidths
from posematch.transport import (
    DEMANDS,
    SOLVERS,
    Cost,
    CostName,
    Evidence,
    RegularisedDistance,
    Selection,
    TransportProblem,
    UnconvergedWarning,
    mass_near,
    referee_difference,
)

NEAR_DOT_PX = 2.0
LEAST_SIGMA_PX, MOST_SIGMA_PX = 0.75, 16.0  # of `posematch.decoding.Mode`
Demand = Literal["subpixel", "nearest", "point"]
Widths = Literal["none", "metric"]


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
        ``relu`` (the paper's), ``softplus``, ``softmax`` or ``sparsemax``; see `to_mass`.
    temperature
        Maps are divided by it before softmax, softplus or sparsemax; ProbPose (CVPR 2025) has
        sparsemax and 0.5.
    even_share
        Share of the softmax's gradient that is spread over the pixels evenly, not by their mass;
        see `posematch.losses.gradients.softmax_evenly`. 0: the exact gradient.
    revive
        Pixels at or below 0 get ReLU's gradient where it asks for mass; see
        `posematch.losses.gradients.relu_reviving`.
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
    widths
        ``none``: ``scale_px`` is everybody's. ``metric``: a length of each joint and person, in
        which the metric of the data measures (`posematch.data.widths`: OKS's 2 sigma_k sqrt(area),
        PCKh@0.5's half head), and ``scale_px`` is of those without one; with ``point`` or
        ``nearest`` alone. ``l2``, ``squared_l2`` and ``l1`` are then of the way in units of it.
    width_factor
        Times that length; with PCKh 0.2 makes it a tenth of the head.
    width_range_px
        Least and most of the result, heatmap pixels; None: as it is.

    Examples
    --------
    >>> heatmaps = torch.zeros(1, 1, 5, 8)
    >>> heatmaps[0, 0, 2, 1] = 1.0  # all mass at (1, 2)
    >>> dots, visible = torch.tensor([[[5.0, 2.0]]]), torch.ones(1, 1)
    >>> Matching()(heatmaps, dots, visible)  # 4 px away
    tensor(4.)
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
        even_share: float = 0.0,
        revive: bool = False,
        widths: Widths = "none",
        width_factor: float = 1.0,
        width_range_px: Sequence[float] | None = None,
    ) -> None:
        if mask != "inside":
            raise PosematchError(f"loss.mask={mask}: the matching loss knows only mask=inside.")
        super().__init__(mask)
        for key, value, known in (
            ("supply", supply, SUPPLIES),
            ("demand", demand, DEMANDS),
            ("solver", solver, SOLVERS),
            ("widths", widths, get_args(Widths)),
        ):
            if value not in known:
                raise PosematchError(f"loss.{key}={value} must be one of {', '.join(known)}.")
        check_temperature(temperature)
        if debiased and demand == "point":
            raise PosematchError(
                "loss.debiased=true needs a demand on pixels: loss.demand=subpixel or nearest."
            )
        if not 0 <= even_share <= 1:
            raise PosematchError(f"loss.even_share={even_share} must be between 0 and 1.")
        if even_share and supply != "softmax":
            raise PosematchError("loss.even_share is about a softmax: set loss.supply=softmax.")
        if revive and supply != "relu":
            raise PosematchError("loss.revive=true is about loss.supply=relu.")
        if widths == "metric" and (demand == "subpixel" or debiased):
            raise PosematchError(
                "loss.widths=metric needs loss.demand=point or nearest, and loss.debiased=false."
            )
        self.takes_widths = widths == "metric"
        self.widths = JointWidths(scale_px, width_factor, width_range_px)
        self.supply = supply
        self.temperature = temperature
        self.even_share = even_share
        self.revive = revive
        if supply == "relu":
            # From a zero bias half of a map's pixels start without mass or gradient, and most
            # joints soon have none at all.
            self.initial_bias = 1.0
        self.demand: Demand = demand
        self.distance = RegularisedDistance(
            cost=Cost(cost, scale_px, power),
            epsilon=epsilon,
            relaxation=relaxation,
            debiased=debiased,
            solver=SOLVERS[solver],
            tolerance=tolerance,
            max_iterations=max_iterations,
            # ReLU's and sparsemax's own gradient is 0 elsewhere.
            mass_only=supply in ("relu", "sparsemax") and not revive,
        )
        self._unconverged = UnconvergedWarning(tolerance)

    def decoder_config(self) -> Mapping[str, Any]:
        """Of a similarity the place where most of it is to be expected."""
        if not (self.takes_widths and self.distance.cost.name == "oks"):
            return self.default_decoder
        sigma_px = min(max(self.distance.cost.scale_px, LEAST_SIGMA_PX), MOST_SIGMA_PX)
        return {"_target_": "posematch.decoding.Mode", "sigma_px": sigma_px}

    def joint_losses(
        self, heatmaps: torch.Tensor, joints_hm: torch.Tensor, counted: torch.Tensor
    ) -> torch.Tensor:
        return self.joint_losses_of(heatmaps, joints_hm, counted, None)

    def joint_losses_of(
        self,
        heatmaps: torch.Tensor,
        joints_hm: torch.Tensor,
        counted: torch.Tensor,
        widths_hm: torch.Tensor | None,
    ) -> torch.Tensor:
        maps = heatmaps.flatten(0, 1)
        # Where a dot that does not count lies does not matter: let it be on the grid.
        dots_hm = torch.where(counted[..., None], joints_hm, 0.0).flatten(0, 1)
        places_hm, demand = self.demand_of(dots_hm, heatmaps)

        solved = self.distance.select(maps, counted.flatten(), demands=demand.shape[1])
        widths = None
        if self.takes_widths:
            widths = solved.pick(self.widths(widths_hm, counted, maps.dtype).flatten())
        supply = self._supply(solved.pick(maps))  # equation 1
        distance, evidence = self.distance(  # equation 2, with equation 3 as its gradient
            supply, solved.pick(places_hm), solved.without_uncounted(solved.pick(demand)), widths
        )
        self._record(solved, solved.pick(maps), supply, solved.pick(dots_hm), evidence)
        if widths is not None and self.health:
            self.health |= solved.means({"width_px": widths})
        return solved.put_back(distance).view_as(counted)

    def _supply(self, maps: torch.Tensor) -> torch.Tensor:
        """(J, H, W) masses, with the gradient that was asked for."""
        if self.even_share:
            return softmax_evenly(maps, self.even_share, self.temperature)
        mass = self.mass(maps)
        if self.revive:
            alive = maps.relu().sum((1, 2), keepdim=True) >= DEAD_SUM
            mass = torch.where(alive, relu_reviving(maps), mass)
        return mass

    @property
    def values(self) -> dict[str, float]:
        """What `change` changes, by the names of the parameters."""
        return {
            "epsilon": self.distance.epsilon,
            "relaxation": self.distance.relaxation,
            "scale_px": self.distance.cost.scale_px,
            "temperature": self.temperature,
        }

    def change(self, **values: float) -> None:
        """Go on with other `values`; those that are not named stay."""
        new = self.values | values
        self.temperature = new["temperature"]
        self.widths.unknown_px = new["scale_px"]
        self.distance = replace(
            self.distance,
            epsilon=new["epsilon"],
            relaxation=new["relaxation"],
            cost=replace(self.distance.cost, scale_px=new["scale_px"]),
        )

    def demand_of(
        self, dots_hm: torch.Tensor, heatmaps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The demand d of (J, 2) dots on (..., H, W) maps: its places (J, M, 2), masses (J, M)."""
        return DEMANDS[self.demand](dots_hm, (heatmaps.shape[-2], heatmaps.shape[-1]))

    def problem(self, mass: torch.Tensor, dots_hm: torch.Tensor) -> TransportProblem:
        """(J, H, W) masses and (J, 2) dots as what is solved."""
        return self.distance.problem(mass, *self.demand_of(dots_hm, mass))

    @torch.no_grad()
    def second_opinion(
        self, heatmaps: torch.Tensor, joints_hm: torch.Tensor, visible: torch.Tensor
    ) -> dict[str, float]:
        """POT and the loss's solver on the batch's first joints, in the loss's own precision.

        ``referee_difference``: see `posematch.transport.referee_difference`.
        """
        heatmaps, joints_hm = heatmaps.float(), joints_hm.float()
        counted = self.weights(joints_hm, visible, (heatmaps.shape[-2], heatmaps.shape[-1])) > 0
        problem = self.problem(self.mass(heatmaps[counted]), joints_hm[counted])
        difference = referee_difference(problem, self.distance)
        return {} if difference is None else {"referee_difference": difference}

    @torch.no_grad()
    def _record(
        self,
        solved: Selection,
        maps: torch.Tensor,
        supply: torch.Tensor,
        dots_hm: torch.Tensor,
        evidence: Evidence,
    ) -> None:
        """Keep what training logs about the joints that count."""
        if len(maps) == 0:
            self.health = {}
            return
        positive_sum = maps.relu().sum((1, 2))
        means = {
            "iterations": evidence.iterations,
            # Masses are not negative; floats are summed much faster than bools.
            "zero_pixel_share": 1 - supply.sign().mean((1, 2)),
            "positive_sum": positive_sum,
            "mass_within_2px": mass_near(supply, dots_hm, NEAR_DOT_PX),
        }
        if self.supply == "relu":  # no other mass dies of a map without positive pixels
            means["dead_share"] = positive_sum < DEAD_SUM
        worst = self._unconverged.note(evidence)
        self.health = {"marginal_error": worst} | solved.means(means)

    def check_health(self) -> None:
        """Warn once about an unconverged solve."""
        self._unconverged.tell()
