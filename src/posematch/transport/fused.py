"""The semi-dual on CUDA in one launch: a Triton kernel, one program a joint.

`posematch.transport.semidual` is the reference and takes what the kernel does not: other devices,
float64, one demand, exponents beyond float32 (with ``l2`` epsilon below 0.028 px), and machines
where Triton cannot compile (it needs a C compiler, Python's headers and a folder to write to).
"""

from __future__ import annotations

import os
import warnings

import torch

from posematch.transport.costs import Cost
from posematch.transport.problem import TransportProblem, TransportSolution
from posematch.transport.semidual import solve_semidual
from posematch.transport.shares import KERNEL_SPAN
from posematch.transport.windows import cost_span


def runs_on(tensor: torch.Tensor) -> bool:
    """Whether the kernel runs where the tensor is."""
    # Triton's interpreter runs it on CPU tensors, for tests.
    return tensor.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"


def takes(maps: torch.Tensor, cost: Cost, epsilon: float) -> bool:
    """Whether the kernel takes problems of (J, H, W) maps and four demands; without waiting."""
    height, width = maps.shape[-2:]
    return (
        runs_on(maps)
        and len(maps) > 0
        and maps.dtype == torch.float32
        and cost_span((height, width), cost) / epsilon <= KERNEL_SPAN[torch.float32]
        and _triton.usable
    )


def applies(problem: TransportProblem) -> bool:
    """Whether the kernel takes these problems; by what the host knows, without waiting."""
    four = problem.demand.shape[1] == 4
    return four and takes(problem.supply, problem.cost, problem.epsilon)


class _Triton:
    """Whether it compiles here, which the first launch tells."""

    usable = True
    proven = False

    def give_up(self, why: Exception) -> None:
        self.usable = False
        warnings.warn(
            f"Triton cannot run here ({type(why).__name__}: {why}): transport problems on the GPU"
            " take many times longer.",
            stacklevel=2,
        )


_triton = _Triton()


def solve(
    problem: TransportProblem, tolerance: float, max_iterations: int, mass_only: bool = False
) -> TransportSolution:
    """The kernel where it `applies`, else `posematch.transport.semidual.solve_semidual`.

    In the kernel each joint stops by itself, and joints without any demand are left out: all that
    is answered about them is 0.
    """
    if applies(problem):
        try:
            # Not before: importing Triton takes long.
            from posematch.transport import fused_kernel

            solution: TransportSolution = fused_kernel.launch(problem, tolerance, max_iterations)
        except torch.OutOfMemoryError:
            raise
        except Exception as why:  # no Triton, no compiler, too old a GPU, ...
            if _triton.proven:
                raise
            _triton.give_up(why)
        else:
            _triton.proven = True
            return solution
    return solve_semidual(problem, tolerance, max_iterations, mass_only)
