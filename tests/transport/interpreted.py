"""Solve problems by the Triton kernel in Triton's interpreter: a program, as TRITON_INTERPRET=1
must be set before Triton is imported.

    TRITON_INTERPRET=1 python tests/transport/interpreted.py CASES ANSWERS

Both are files of torch.save. A problem that the kernel hands to the torch version is an error.
"""

from __future__ import annotations

import sys

import torch

from posematch.losses import Matching
from posematch.transport import Cost, TransportProblem, fused


def main(cases_file: str, answers_file: str) -> None:
    early = "posematch.transport.fused_kernel" in sys.modules or "triton" in sys.modules
    fused.solve_semidual = refuse
    cases = torch.load(cases_file, weights_only=True)
    solved = {}
    for name, case in cases["problems"].items():
        problem = TransportProblem(
            case["supply"],
            case["places_hm"],
            case["demand"],
            Cost(*case["cost"]),
            case["epsilon"],
            case["relaxation"],
        )
        solution = fused.solve(problem, case["tolerance"], case["max_iterations"])
        solved[name] = {
            key: getattr(solution, key)
            for key in (
                "supply_potential",
                "demand_potential",
                "value",
                "marginal_error",
                "iterations",
                "converged",
            )
        }
    gradients = {}
    for name, case in cases["losses"].items():
        heatmaps = case["heatmaps"].clone().requires_grad_()
        loss = Matching(**case["options"])
        value = loss(heatmaps, case["joints_hm"], case["visible"])
        (gradient,) = torch.autograd.grad(value, heatmaps)
        gradients[name] = {
            "value": value.detach(),
            "gradient": gradient,
            "health": dict(loss.health),
        }
    torch.save({"early": early, "problems": solved, "losses": gradients}, answers_file)


def refuse(*arguments, **more):
    raise AssertionError("the kernel did not take this problem")


if __name__ == "__main__":
    main(*sys.argv[1:])
