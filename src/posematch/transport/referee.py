"""POT's second opinion on a solver."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import torch

from posematch.transport.distance import RegularisedDistance
from posematch.transport.problem import TransportProblem
from posematch.transport.solvers import SOLVERS

# What validation has POT solve again, and when it gives up; milliseconds where epsilon is 0.1.
REFEREE_JOINTS, REFEREE_TOLERANCE, REFEREE_ITERATIONS = 32, 1e-6, 1000


def referee_difference(problem: TransportProblem, how: RegularisedDistance) -> float | None:
    """Largest difference between E(s, d) by ``how`` and by POT, in units of the cost.

    Of the first `REFEREE_JOINTS` problems, those that POT solves in `REFEREE_ITERATIONS`. None
    where POT does not apply (a relaxation, one demand, the exact distance), is not installed, or
    solves none.
    """
    four = problem.demand.shape[1] == 4
    if not (
        problem.balanced
        and four
        and how.solver is not SOLVERS["exact"]
        and importlib.util.find_spec("ot")
    ):
        return None
    problem = problem.part(slice(REFEREE_JOINTS))
    supply = problem.supply.double()
    exact = replace(problem, supply=supply / supply.sum((1, 2), keepdim=True))
    solve = SOLVERS["semidual"] if how.solver is SOLVERS["pot"] else how.solver
    with torch.autocast(supply.device.type, enabled=False):
        ours = solve(problem, how.tolerance, how.max_iterations)
        referee = SOLVERS["pot"](exact, REFEREE_TOLERANCE, REFEREE_ITERATIONS)
    difference = (ours.value - referee.value).abs()[referee.converged]
    return float(difference.max()) if len(difference) else None
