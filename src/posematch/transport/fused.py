"""The semi-dual in one launch, a joint at a time: a Triton kernel on CUDA, numba's code on a CPU.

`posematch.transport.semidual` is the reference and takes what these do not: other devices, float64,
one demand, exponents beyond float32 (with ``l2`` epsilon below 0.028 px), on a CPU relaxed
problems, and machines where they cannot compile: Triton needs a C compiler, Python's headers and a
folder to write to; numba needs nothing that it does not bring.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace

import torch

from posematch.transport.costs import Cost
from posematch.transport.problem import TransportProblem, TransportSolution
from posematch.transport.semidual import solve_semidual
from posematch.transport.shares import KERNEL_SPAN
from posematch.transport.windows import cost_span


@dataclass
class _Compiler:
    """Whether it compiles here, which the first launch tells.

    Attributes
    ----------
    name
        As a warning says it.
    where
        Its problems, in the same words.
    usable, proven
        Whether it has not failed, and whether it has worked.
    """

    name: str
    where: str
    usable: bool = True
    proven: bool = False

    def give_up(self, why: Exception) -> None:
        self.usable = False
        warnings.warn(
            f"{self.name} cannot run here ({type(why).__name__}: {why}): transport problems on the"
            f" {self.where} take many times longer.",
            stacklevel=2,
        )


_triton = _Compiler("Triton", "GPU")
_numba = _Compiler("numba", "CPU")


def _compiler(tensor: torch.Tensor) -> _Compiler | None:
    """Whose code runs where the tensor is."""
    # Triton's interpreter runs it on CPU tensors, for tests.
    if tensor.is_cuda or os.environ.get("TRITON_INTERPRET") == "1":
        return _triton
    return _numba if tensor.device.type == "cpu" else None


def takes(maps: torch.Tensor, cost: Cost, epsilon: float, relaxed: bool) -> bool:
    """Whether (J, H, W) maps and four demands are solved in one launch; without waiting."""
    height, width = maps.shape[-2:]
    compiler = _compiler(maps)
    return (
        compiler is not None
        and compiler.usable
        and not (relaxed and compiler is _numba)
        and len(maps) > 0
        and maps.dtype == torch.float32
        and cost_span((height, width), cost) / epsilon <= KERNEL_SPAN[torch.float32]
    )


def applies(problem: TransportProblem) -> bool:
    """Whether these problems are solved in one launch; by what the host knows, without waiting."""
    four = problem.demand.shape[1] == 4
    return four and takes(problem.supply, problem.cost, problem.epsilon, not problem.balanced)


def solve(
    problem: TransportProblem, tolerance: float, max_iterations: int, mass_only: bool = False
) -> TransportSolution:
    """In one launch where that `applies`, else `posematch.transport.semidual.solve_semidual`.

    Each joint stops by itself, and joints without any demand are left out: all that is answered
    about them is 0. On a CPU, joints that rounding keeps from the tolerance are done again by the
    latter.
    """
    compiler = _compiler(problem.supply) if applies(problem) else None
    if compiler is not None:
        try:
            solution = _launch(compiler, problem, tolerance, max_iterations, mass_only)
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as why:  # not installed, no compiler, too old a GPU, ...
            if compiler.proven:
                raise
            compiler.give_up(why)
        else:
            compiler.proven = True
            return solution
    return solve_semidual(problem, tolerance, max_iterations, mass_only)


def _launch(
    compiler: _Compiler,
    problem: TransportProblem,
    tolerance: float,
    max_iterations: int,
    mass_only: bool,
) -> TransportSolution:
    solution: TransportSolution
    # Not before: importing Triton or numba takes long.
    if compiler is _triton:
        from posematch.transport import fused_kernel

        solution = fused_kernel.launch(problem, tolerance, max_iterations)
        return solution
    from posematch.transport import host_kernel

    solution = host_kernel.launch(problem, tolerance, max_iterations, mass_only)
    open_ = ~solution.converged
    if bool(open_.any()):
        again = solve_semidual(problem.part(open_), tolerance, max_iterations, mass_only)
        return _with_rows(solution, open_, again)
    return solution


def _with_rows(
    solution: TransportSolution, rows: torch.Tensor, part: TransportSolution
) -> TransportSolution:
    """The solution with some of its rows, (J,) bool, from another one."""

    def put(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        old[rows] = new.to(old.dtype)
        return old

    return replace(
        solution,
        supply_potential=put(solution.supply_potential, part.supply_potential),
        demand_potential=put(solution.demand_potential, part.demand_potential),
        value=put(solution.value, part.value),
        marginal_error=put(solution.marginal_error, part.marginal_error),
        iterations=put(solution.iterations, part.iterations),
        converged=put(solution.converged, part.converged),
    )
