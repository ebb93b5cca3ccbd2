"""Entropic transport of a heatmap's mass onto the few pixels around a dot.

The *problem* (`problem`), the *solvers* and the *solution* with its own evidence are separate; a
solver finds the demand potentials, everything else follows from them in `problem.solution`.
"""

from posematch.transport.problem import (
    TransportProblem,
    TransportSolution,
    dot_demand,
    pixel_distances,
    solution_from_demand_potentials,
)
from posematch.transport.solvers import SMALLEST_KERNEL_EPSILON_PX, SOLVERS, Solver

__all__ = [
    "SMALLEST_KERNEL_EPSILON_PX",
    "SOLVERS",
    "Solver",
    "TransportProblem",
    "TransportSolution",
    "dot_demand",
    "pixel_distances",
    "solution_from_demand_potentials",
]
