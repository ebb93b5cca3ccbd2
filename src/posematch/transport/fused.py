"""The semi-dual on CUDA in one launch: a Triton kernel, one program a joint.

`posematch.transport.semidual` is the reference and takes what the kernel does not: other devices,
float64, one demand, and kernels beyond float32's range (with ``l2`` epsilon below 0.028 px).
"""

from __future__ import annotations

import os

import torch

from posematch.errors import PosematchError
from posematch.transport.problem import TransportProblem, TransportSolution
from posematch.transport.semidual import (
    FAR,
    KERNEL_ITERATIONS,
    KERNEL_SPAN,
    LONGEST_STEP,
    POOLED_ITERATIONS,
    POOLED_TOLERANCE,
    SINKHORN_STEPS,
    solve_semidual,
)
from posematch.transport.windows import (
    NEAR,
    NEAR_BEFORE,
    POOL,
    largest_exponent,
    offset_table,
    pooled,
    pooled_table,
)

# Pixels that a program works on at a time, four a thread; and a bound on a thread's registers that
# lets four programs share a multiprocessor's 65,536.
TILE, WARPS = 512, 4
REGISTERS = {} if torch.version.hip else {"maxnreg": 128}


def applies(problem: TransportProblem) -> bool:
    """Whether the kernel takes these problems; by what the host knows, without waiting."""
    # Triton's interpreter runs the kernel on CPU tensors, for tests.
    there = problem.supply.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
    return (
        there
        and len(problem) > 0
        and problem.demand.shape[1] == 4
        and problem.supply.dtype == torch.float32
        and largest_exponent(problem) <= KERNEL_SPAN[torch.float32]
    )


def solve_fused(
    problem: TransportProblem, tolerance: float, max_iterations: int, mass_only: bool = False
) -> TransportSolution:
    """As `posematch.transport.semidual.solve_semidual`, each joint stopping by itself.

    ``mass_only`` saves nothing here: a pixel without mass costs no memory access of its own.

    Raises
    ------
    PosematchError
        The problems are on a GPU and Triton is not installed.
    """
    if not applies(problem):
        return solve_semidual(problem, tolerance, max_iterations, mass_only)
    try:
        from posematch.transport import fused_kernel
    except ImportError as missing:
        raise PosematchError(
            f"loss.solver=semidual_triton needs Triton ({missing}): use loss.solver=semidual."
        ) from None
    height, width = problem.supply.shape[-2:]
    device, count = problem.supply.device, len(problem)
    # Relaxed, the pixels' costs enter the masses, where float32's rounding would show.
    least_dtype = torch.float32 if problem.balanced else torch.float64
    what = (height, width), problem.cost, problem.epsilon
    table = offset_table(*what, torch.float32, device, False)[0]
    least = offset_table(*what, least_dtype, device, False)[1]
    # The kernel asks for it only where there are cells.
    cells_table = pooled_table(*what, torch.float32, device) if pooled(problem) else table
    supply = problem.supply.contiguous()
    a = torch.empty_like(supply)
    b = torch.empty((count, 4), dtype=torch.float64, device=device)
    value = torch.empty(count, dtype=torch.float32, device=device)
    error = torch.empty(count, dtype=torch.float64, device=device)
    iterations = torch.empty(count, dtype=torch.int64, device=device)
    with torch.cuda.device_of(supply):  # type: ignore[no-untyped-call]
        fused_kernel.solve[(count,)](
            supply,
            table,
            least,
            cells_table,
            problem.places_hm.double().contiguous(),
            problem.demand.contiguous(),
            a,
            b,
            value,
            error,
            iterations,
            min(max_iterations, KERNEL_ITERATIONS),
            height=height,
            width=width,
            tile=TILE,
            pool=POOL if pooled(problem) else 0,
            near=NEAR,
            near_before=NEAR_BEFORE,
            epsilon=problem.epsilon,
            relaxation=0.0 if problem.balanced else problem.relaxation,
            tolerance=tolerance,
            pooled_tolerance=POOLED_TOLERANCE,
            pooled_iterations=POOLED_ITERATIONS,
            sinkhorn_steps=SINKHORN_STEPS,
            far_ratio=FAR,
            longest_step=LONGEST_STEP,
            num_warps=WARPS,
            **REGISTERS,
        )
    return TransportSolution(
        problem=problem,
        supply_potential=a,
        demand_potential=b,
        value=value,
        marginal_error=error,
        iterations=iterations,
        converged=error <= tolerance,
    )
