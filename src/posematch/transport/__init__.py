"""Entropic transport of a heatmap's mass onto a dot.

The *problem* (supply, places and masses of the demand, cost, epsilon, relaxation), the *solvers*
and the *solution* with its own evidence are separate.
"""

from posematch.transport.costs import L2, Cost, CostName
from posematch.transport.problem import (
    DEMANDS,
    TransportProblem,
    TransportSolution,
    nearest_demand,
    point_demand,
    solution_from_demand_potentials,
    subpixel_demand,
)
from posematch.transport.self_transport import demand_self_value, self_transport
from posematch.transport.solvers import SOLVERS, Solver

__all__ = [
    "DEMANDS",
    "L2",
    "SOLVERS",
    "Cost",
    "CostName",
    "Solver",
    "TransportProblem",
    "TransportSolution",
    "demand_self_value",
    "nearest_demand",
    "point_demand",
    "self_transport",
    "solution_from_demand_potentials",
    "subpixel_demand",
]
