r"""Our transport solver against POT's and GeomLoss's, each brought to one marginal error.

    python benchmarks/transport.py [--batches 1,16,128] [--sizes 32x32,64x64] [--demands 1,4]
        [--costs l2:0.1,squared_l2:3] [--maps trained|fresh] [--marginal-error 1e-5] [--repeats 3]
        [--longest-s 1.5] [--clock wall|cpu] [--threads 2] [--out benchmarks/results/transport]

All solve the same problem, a map of n pixels onto m places, min <C, P> + epsilon KL(P || s (x) d):

``semidual``            ours, as a training calls it (``semidual_torch``: without numba's code)
``pot_sinkhorn``        POT, ``ot.batch.bregman_log_projection_batch``
``pot_proximal``        POT, ``ot.batch.proximal_bregman_log_plan_batch``, its proximal term
                        ``--inner-reg`` times epsilon. POT's regulariser is minus the entropy, whose
                        plan is the same, as both marginals are given. POT 0.9.7 adds the proximal
                        term with the other sign than its documentation: the plan it goes to is that
                        of ``reg + 2 inner_reg``. So it is asked for epsilon less twice the proximal
                        term, and what it then finds is measured like all others.
``geomloss``            GeomLoss, ``geomloss.ot.solve_batch``, a definition the same as ours;
                        annealed, averaged Sinkhorn steps
``flash_sinkhorn``      squared Euclidean cost on a CUDA device only: named as left out elsewhere

Ours stops by itself. Of the others the least number of iterations is looked for, growing by half,
at which the plan's marginal error, evaluated in float64 from the potentials on the places, is at
most ``--marginal-error`` for all problems; then that many are timed, A B A B ... with ours, from
masses and costs to potentials. Costs are given to the others, ours makes its own. One that would
need a call longer than ``--longest-s`` is timed with as many iterations as it had then, and its
ratio is a lower bound (``reached`` is False). Libraries that are not installed are left out and
named.

Writes ratios.csv and crossover.png into ``--out``: ratios of time above 1 are ours' advantage.
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_pieces.shared import draw_maps
from losses import listed, size_of
from rich.console import Console

from posematch.losses import Matching
from posematch.transport import SOLVERS, Cost, TransportProblem, solution_from_demand_potentials

# Iterations of the others so far at most.
MOST = 5000
# Wall time, or what this process's threads took: for a machine that others work on, too.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
# From iterations to b, (J, M), the potential on the places.
Other = Callable[[int], torch.Tensor]


def problem_of(
    batch: int, size: tuple[int, int], demands: int, cost: Cost, epsilon: float, maps: str
) -> TransportProblem:
    """``batch`` problems of maps that look like a training's."""
    drawn = draw_maps(batch, 1, size, maps)
    loss = Matching(
        epsilon=epsilon, cost=cost.name, demand="subpixel" if demands == 4 else "nearest"
    )
    mass = loss.mass(drawn.heatmaps.float().flatten(0, 1))
    return loss.problem(mass, drawn.joints_hm.flatten(0, 1))


def others(problem: TransportProblem, inner_reg: float) -> tuple[dict[str, Other], dict[str, str]]:
    """The other solvers on one problem, and why those that are left out are."""
    found: dict[str, Other] = {}
    left_out: dict[str, str] = {}
    epsilon, demand = problem.epsilon, problem.demand
    supply, costs = problem.supply.flatten(1), problem.cost_matrix(torch.float32)
    single = demand.float()
    try:
        from ot.batch import bregman_log_projection_batch, proximal_bregman_log_plan_batch
    except ImportError as why:
        left_out["pot_sinkhorn"] = left_out["pot_proximal"] = str(why)
    else:

        def sinkhorn(iterations: int) -> torch.Tensor:
            result = bregman_log_projection_batch(
                -costs / epsilon, single, supply, max_iter=iterations, tol=0.0, grad="detach"
            )
            return epsilon * (result["potentials"][0].double() - demand.log())

        def proximal(iterations: int) -> torch.Tensor:
            result = proximal_bregman_log_plan_batch(
                costs,
                single,
                # It takes logarithms of the plan, NaN where there is no mass at all.
                supply.clamp_min(1e-30),
                # From K = -(C + inner_reg log P) / (reg + inner_reg) and log P = K + u + v follows
                # log P = (-C + u' + v') / (reg + 2 inner_reg).
                reg=epsilon * (1 - 2 * inner_reg),
                inner_reg=inner_reg * epsilon,
                max_iter=iterations,
                tol=0.0,
                grad="detach",
            )
            # From log P = log s_n + log d_m + (a_n + b_m - C) / epsilon at the heaviest pixel.
            pixel = supply.argmax(1)[:, None, None].expand(-1, demand.shape[1], 1)
            logs = result["log_T"].gather(2, pixel)[..., 0].double()
            way = costs.gather(2, pixel)[..., 0].double()
            return epsilon * (logs - demand.log()) + way

        found["pot_sinkhorn"], found["pot_proximal"] = sinkhorn, proximal
    try:
        from geomloss import ot as geomloss
    except ImportError as why:
        left_out["geomloss"] = str(why)
    else:

        def annealed(iterations: int) -> torch.Tensor:
            result = geomloss.solve_batch(
                costs, reg=epsilon, a=single, b=supply, max_iter=iterations
            )
            potential: torch.Tensor = result.potential_a
            return potential.double()

        found["geomloss"] = annealed
    if problem.cost.name == "squared_l2":
        left_out["flash_sinkhorn"] = "its kernels need CUDA"
    return found, left_out


def error_of(problem: TransportProblem, potential: torch.Tensor) -> float:
    """Largest marginal error in float64 of potentials on the places."""
    supply = problem.supply.double()
    exact = TransportProblem(
        supply / supply.sum((1, 2), keepdim=True),
        problem.places_hm,
        problem.demand,
        problem.cost,
        problem.epsilon,
    )
    potential = torch.where(problem.demand > 0, potential, 0.0)
    none = torch.zeros(len(problem), dtype=torch.int64)
    return float(solution_from_demand_potentials(exact, potential, none, 1.0).marginal_error.max())


def seconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    call()
    return clock() - start


def enough(
    problem: TransportProblem, other: Other, options: argparse.Namespace
) -> tuple[int, float, bool]:
    """Iterations that it needs, their marginal error, and whether that is as small as wanted."""
    iterations = 2
    while True:
        start = CLOCKS[options.clock]()
        potential = other(iterations)
        took = CLOCKS[options.clock]() - start
        error = error_of(problem, potential)
        more = math.ceil(1.5 * iterations)
        reached = error <= options.marginal_error
        if reached or 1.5 * took > options.longest_s or more > MOST:
            return iterations, error, reached
        iterations = more


def measure(
    problem: TransportProblem, options: argparse.Namespace, left_out: dict[str, str]
) -> list[dict[str, Any]]:
    """A row for each of the others."""

    def ours(name: str) -> Callable[[], Any]:
        return functools.partial(
            SOLVERS[name], problem, options.marginal_error, 1000, mass_only=True
        )

    solution = ours("semidual")()
    evidence = error_of(problem, solution.demand_potential)
    calls, missing = others(problem, options.inner_reg)
    left_out |= missing
    rows = []
    for name, other in {"semidual_torch": None, **calls}.items():
        if other is None:
            rival, iterations, error, reached = ours(name), None, None, True
        else:
            iterations, error, reached = enough(problem, other, options)
            rival = functools.partial(other, iterations)
        clock = CLOCKS[options.clock]
        pairs = [
            (seconds(ours("semidual"), clock), seconds(rival, clock))
            for _ in range(options.repeats)
        ]
        rows.append(
            {
                "solver": name,
                "ours_ms": 1e3 * statistics.median(one for one, _ in pairs),
                "other_ms": 1e3 * statistics.median(two for _, two in pairs),
                "ratio": statistics.median(two / one for one, two in pairs),
                "reached": reached,
                "iterations": iterations,
                "marginal_error": error,
                "ours_iterations": float(solution.iterations.double().mean()),
                "ours_marginal_error": evidence,
            }
        )
    return rows


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Ratio against the batch's size, a panel for each number of places and cost.

    Triangles: lower bounds.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels = sorted({(row["m"], row["cost"]) for row in rows})
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.4 * len(panels), 3.4), sharey=True, squeeze=False
    )
    for axis, (demands, cost) in zip(axes[0], panels, strict=True):
        part = [row for row in rows if (row["m"], row["cost"]) == (demands, cost)]
        for colour, name in enumerate(sorted({row["solver"] for row in part})):
            for style, pixels in zip(
                itertools.cycle(("-", "--", ":")), sorted({row["n"] for row in part})
            ):
                line = [row for row in part if (row["solver"], row["n"]) == (name, pixels)]
                axis.plot(
                    [row["batch"] for row in line],
                    [row["ratio"] for row in line],
                    style,
                    marker="o",
                    markersize=3,
                    color=f"C{colour}",
                    label=f"{name}, n = {pixels}",
                )
                bounds = [row for row in line if not row["reached"]]
                axis.plot(
                    [row["batch"] for row in bounds],
                    [row["ratio"] for row in bounds],
                    "^",
                    markersize=6,
                    markerfacecolor="none",
                    color=f"C{colour}",
                )
        axis.axhline(1, color="0.6", linewidth=0.8)
        axis.set(
            xscale="log", yscale="log", xlabel="problems in a batch", title=f"m = {demands}, {cost}"
        )
    axes[0, 0].set_ylabel("its time over ours")
    axes[0, 0].legend(frameon=False, fontsize=6, loc="upper left")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """All rows so far."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {key: f"{one:.4g}" if isinstance(one, float) else one for key, one in row.items()}
            for row in rows
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=listed(int), default=[1, 16, 128])
    parser.add_argument("--sizes", type=listed(size_of), default=[(32, 32), (64, 64)])
    parser.add_argument("--demands", type=listed(int), default=[1, 4], help="1 and 4 are known")
    parser.add_argument("--costs", type=listed(str), default=["l2:0.1", "squared_l2:3"])
    parser.add_argument("--maps", choices=["trained", "fresh"], default="trained")
    parser.add_argument("--marginal-error", type=float, default=1e-5)
    parser.add_argument("--inner-reg", type=float, default=0.1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--longest-s", type=float, default=1.5)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/transport"))
    options = parser.parse_args()
    if not 0 < options.inner_reg < 0.5:
        parser.error("--inner-reg must lie between 0 and 0.5: twice of it is taken from epsilon")
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console(width=120)
    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    grid = itertools.product(options.costs, options.demands, options.sizes, options.batches)
    for cost, demands, size, batch in grid:
        name, epsilon = cost.split(":")
        problem = problem_of(batch, size, demands, Cost(name), float(epsilon), options.maps)
        case = {"cost": name, "epsilon": float(epsilon), "m": demands, "n": size[0] * size[1]}
        for row in measure(problem, options, left_out):
            rows.append(case | {"batch": batch} | row)
            console.print(
                f"{name} epsilon {epsilon}, m {demands}, n {case['n']}, batch {batch}:"
                f" {row['solver']} takes {row['ratio']:.2f} times ours"
                + ("" if row["reached"] else " at least")
            )
        write(rows, options.out / "ratios.csv")
    plot(rows, options.out / "crossover.png")
    for name, why in left_out.items():
        console.print(f"{name} is left out: {why}")
    console.print(f"torch {torch.__version__}, {options.threads} threads.")


if __name__ == "__main__":
    main()
