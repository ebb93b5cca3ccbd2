"""Entropic transport of a heatmap's mass onto a dot.

The *problem* (supply, places and masses of the demand, cost, epsilon, relaxation), the *solvers*
and the *solution* with its own evidence are separate; `RegularisedDistance` makes of them a
function of a batch that has a gradient.
"""

from posematch.transport.costs import L2, Cost, CostName
from posematch.transport.distance import RegularisedDistance
from posematch.transport.evidence import Evidence, UnconvergedWarning, mass_near
from posematch.transport.problem import (
    DEMANDS,
    TransportProblem,
    TransportSolution,
    nearest_demand,
    point_demand,
    solution_from_demand_potentials,
    subpixel_demand,
)
from posematch.transport.referee import referee_difference
from posematch.transport.selection import Selection
from posematch.transport.self_transport import demand_self_value, self_transport
from posematch.transport.solvers import SOLVERS, Solver

__all__ = [
    "DEMANDS",
    "L2",
    "SOLVERS",
    "Cost",
    "CostName",
    "Evidence",
    "RegularisedDistance",
    "Selection",
    "Solver",
    "TransportProblem",
    "TransportSolution",
    "UnconvergedWarning",
    "demand_self_value",
    "mass_near",
    "nearest_demand",
    "point_demand",
    "referee_difference",
    "self_transport",
    "solution_from_demand_potentials",
    "subpixel_demand",
]
