"""Time and memory of the matching loss against POT and against the Gaussian MSE.

    python benchmarks/losses.py [--batches 8,16,32,64] [--joints 16,17] [--epsilons 1,0.3,0.1,0.03]
        [--sizes 64x48,64x64,96x72] [--maps trained|fresh] [--repeats 5]
        [--pot-iterations 1000] [--threads 2] [--device cpu|cuda] [--out FOLDER]

Forward and backward from raw heatmaps, in one process, medians. POT is a direct call of its batched
log-domain Sinkhorn on all problems, stopped by its own test at a marginal error of 1e-6 in float64;
then as many iterations in float32, whose time counts if their marginal error, evaluated in float64,
is as small. Its potentials serve as the gradient, in the same autograd function as ours. Calls of
ours and of the Gaussian MSE, which makes its target on the device, surround each of POT's. Where
POT has not got there after ``--pot-iterations`` its time up to then, in float64, is a lower bound
(column ``pot_reached``). Memory is what one call adds to the process's peak (CPU) or to the
device's, in floats a heatmap pixel; the heatmaps' own gradient is one of them. On a GPU also the
bytes of reading the maps and writing their gradient once, over the card's copy bandwidth.

Writes results.csv and speed.png into FOLDER, a row after each measurement; rows that are there are
not measured again. About an hour for the whole grid on two cores, nearly all of it POT's.
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from gpu_pieces.shared import Maps, draw_maps, value_and_gradient
from rich.console import Console
from rich.progress import track
from rich.table import Table

from posematch.losses import GaussianMSE, Matching
from posematch.transport import (
    TransportProblem,
    TransportSolution,
    solution_from_demand_potentials,
)

MARGINAL_ERROR = 1e-6
# A call of POT that takes longer is not repeated.
LONG_S = 1.0


@dataclass(frozen=True)
class Case:
    """One cell of the grid."""

    batch: int
    joints: int
    height: int
    width: int
    epsilon: float
    maps: str

    @property
    def name(self) -> str:
        return f"{self.batch}x{self.joints}x{self.height}x{self.width}"

    def draw(self, device: torch.device) -> Maps:
        drawn = draw_maps(self.batch, self.joints, (self.height, self.width), self.maps)
        return replace(drawn, visible=torch.ones_like(drawn.visible)).to(device, torch.float32)


def pot_directly(
    problem: TransportProblem,
    tolerance: float,
    max_iterations: int,
    mass_only: bool = False,
    dtype: torch.dtype = torch.float32,
) -> TransportSolution:
    """One call of POT on the whole batch, and its potential on the heatmap's side."""
    from ot.batch import bregman_log_projection_batch

    epsilon, demand = problem.epsilon, problem.demand
    result = bregman_log_projection_batch(
        -problem.cost_matrix(dtype) / epsilon,
        demand.to(dtype),
        problem.supply.flatten(1).to(dtype),
        max_iter=max_iterations,
        tol=tolerance / 2,  # POT's norm is L2; of four entries L1 is at most twice that
    )
    log_u, log_v = (one.to(torch.float64) for one in result["potentials"])
    b = torch.where(demand > 0, epsilon * (log_u - demand.log()), 0.0)
    # On the heatmap's side POT's potential carries the mass's logarithm; -inf - -inf where there
    # is none, and neither has a ReLU a gradient there.
    mass = problem.supply.flatten(1)
    a = torch.where(mass > 0, epsilon * (log_v.to(mass.dtype) - mass.log()), 0.0)
    centre = (a * mass).sum(1, keepdim=True)
    return TransportSolution(
        problem=problem,
        supply_potential=(a - centre).reshape(problem.supply.shape),
        demand_potential=b,
        value=centre[:, 0] + (b * demand).sum(1).to(mass.dtype),
        marginal_error=b.new_zeros(len(b)),
        iterations=torch.full((len(b),), result["n_iters"] + 1, device=b.device),
        converged=torch.ones(len(b), dtype=torch.bool, device=b.device),
    )


def true_error(solution: TransportSolution) -> float:
    """Marginal error in float64 of the demand potentials, masses as they are."""
    problem = solution.problem
    supply = problem.supply.double()
    exact = replace(problem, supply=supply / supply.sum((1, 2), keepdim=True))
    evaluated = solution_from_demand_potentials(
        exact, solution.demand_potential, solution.iterations, 1.0
    )
    return float(evaluated.marginal_error.max())


def measure(case: Case, repeats: int, pot_iterations: int, device: torch.device) -> dict[str, Any]:
    """Milliseconds of ours, POT and the Gaussian MSE, ratios and evidence."""
    maps = case.draw(device)
    ours, pot = Matching(epsilon=case.epsilon), Matching(epsilon=case.epsilon)
    mass = ours.mass(maps.heatmaps.detach().flatten(0, 1))
    problem = ours.problem(mass, maps.joints_hm.flatten(0, 1))
    our_solution = ours.distance.solver(
        problem, ours.distance.tolerance, ours.distance.max_iterations
    )
    found: list[TransportSolution] = []

    def solve_with_pot(dtype: torch.dtype, tolerance: float, iterations: int) -> Times:
        def solver(*rest: Any, **options: Any) -> TransportSolution:
            found.append(pot_directly(rest[0], tolerance, iterations, dtype=dtype))
            return found[-1]

        pot.distance = replace(pot.distance, solver=solver)
        return in_turn(
            {
                "matching": functools.partial(value_and_gradient, ours, maps),
                "gaussian_mse": functools.partial(
                    value_and_gradient, GaussianMSE(case.height / 32), maps
                ),
                "pot": functools.partial(value_and_gradient, pot, maps),
            },
            repeats,
            device,
        )

    times, dtype = solve_with_pot(torch.float64, MARGINAL_ERROR, pot_iterations), torch.float64
    needed, error = int(found[-1].iterations[0]), true_error(found[-1])
    reached = error <= MARGINAL_ERROR
    if reached:
        in_single = solve_with_pot(torch.float32, 0.0, needed)
        if true_error(found[-1]) <= MARGINAL_ERROR:
            times, dtype, error = in_single, torch.float32, true_error(found[-1])
    pixels = maps.heatmaps.numel()
    return {
        "problems": case.batch * case.joints,
        **{f"{name}_ms": statistics.median(one) for name, one in times.items()},
        "pot_over_matching": statistics.median(times["pot"]) / statistics.median(times["matching"]),
        "matching_over_gaussian_mse": _ratio(times["matching"], times["gaussian_mse"]),
        "iterations": float(our_solution.iterations.double().mean()),
        "pot_iterations": needed,
        "pot_reached": reached,
        "pot_dtype": str(dtype).removeprefix("torch."),
        "marginal_error": true_error(our_solution),
        "pot_marginal_error": error,
        "extra_floats_a_pixel": extra_bytes(case, device) / 4 / pixels,
        "share_of_copy_bandwidth": _bandwidth_share(maps, times["matching"], device),
    }


Times = dict[str, list[float]]


def in_turn(calls: dict[str, Callable[[], object]], repeats: int, device: torch.device) -> Times:
    """Milliseconds, A B C A B C ... A B; a last one that takes long is called once, unwarmed."""
    times: Times = {name: [] for name in calls}
    last = next(reversed(calls))
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            long = name == last and times[last] and max(times[last]) > 1e3 * LONG_S
            if long or (repeat == repeats and name == last):
                continue
            _synchronise(device)
            start = time.perf_counter()
            call()
            _synchronise(device)
            times[name].append(1e3 * (time.perf_counter() - start))
    # The first call of each allocates and warms up.
    return {name: one[1:] if len(one) > 1 else one for name, one in times.items()}


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def extra_bytes(case: Case, device: torch.device) -> float:
    """What forward and backward add to the peak; on a CPU in a process of its own."""
    if device.type == "cuda":
        maps = case.draw(device)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        value_and_gradient(Matching(epsilon=case.epsilon), maps)
        return torch.cuda.max_memory_allocated() - before
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_resident_growth, (case, torch.get_num_threads()))


def _resident_growth(case: Case, threads: int) -> float:
    torch.set_num_threads(threads)
    loss = Matching(epsilon=case.epsilon)
    # Loads and initialises what the first call of a process does.
    value_and_gradient(loss, replace(case, batch=1).draw(torch.device("cpu")))
    maps = case.draw(torch.device("cpu"))
    # Fill what lies free below the peak so far, or the call would hide in it.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    filler = []
    while resource.getrusage(resource.RUSAGE_SELF).ru_maxrss <= before:
        filler.append(torch.ones(2**18))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    value_and_gradient(loss, maps)
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def _bandwidth_share(
    maps: Maps, milliseconds: Sequence[float], device: torch.device
) -> float | None:
    if device.type != "cuda":
        return None
    block = torch.empty(2**28, device=device)
    copies = in_turn({"copy": block.clone, "again": block.clone}, 10, device)["copy"]
    copied = 2 * block.numel() * 4 / statistics.median(copies)
    needed = 2 * maps.heatmaps.numel() * 4
    return needed / statistics.median(milliseconds) / copied


def plot(rows: list[dict[str, str]], path: Path) -> None:
    """Time against the number of pixels, one panel for each epsilon."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib import ticker

    epsilons = sorted({float(row["epsilon"]) for row in rows}, reverse=True)
    figure, axes = plt.subplots(
        1, len(epsilons), figsize=(3.2 * len(epsilons), 3.2), sharey=True, squeeze=False
    )
    for axis, epsilon in zip(axes[0], epsilons, strict=True):
        part = [row for row in rows if float(row["epsilon"]) == epsilon]
        pixels = [int(row["problems"]) * int(row["height"]) * int(row["width"]) for row in part]
        for name, marker in (("pot", "s"), ("matching", "o"), ("gaussian_mse", "^")):
            axis.scatter(pixels, [float(row[f"{name}_ms"]) for row in part], s=14, marker=marker,
                         label=name)  # fmt: skip
        axis.set(xscale="log", yscale="log", xlabel="heatmap pixels", title=f"epsilon {epsilon} px")
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes[0, 0].set_ylabel("forward and backward, ms")
    axes[0, 0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def listed(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """A comma-separated argument."""
    return lambda text: [kind(one) for one in text.split(",")]


def size_of(text: str) -> tuple[int, int]:
    """(H, W) of ``HxW``."""
    height, width = text.split("x")
    return int(height), int(width)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    parser.add_argument("--batches", type=listed(int), default=[8, 16, 32, 64])
    parser.add_argument("--joints", type=listed(int), default=[16, 17])
    parser.add_argument("--sizes", type=listed(size_of), default=[(64, 48), (64, 64), (96, 72)])
    parser.add_argument("--epsilons", type=listed(float), default=[1.0, 0.3, 0.1, 0.03])
    parser.add_argument("--maps", choices=["trained", "fresh"], default="trained")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pot-iterations", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/losses"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "results.csv"
    rows = list(csv.DictReader(results.open())) if results.exists() else []
    done = {(row["case"], float(row["epsilon"]), row["maps"]) for row in rows}
    cases = [
        Case(batch, joints, height, width, epsilon, options.maps)
        for epsilon, (height, width), batch, joints in itertools.product(
            options.epsilons, options.sizes, options.batches, options.joints
        )
    ]
    for case in track(cases, "Measuring", console=Console(stderr=True)):
        if (case.name, case.epsilon, case.maps) in done:
            continue
        row = {
            "case": case.name,
            "height": case.height,
            "width": case.width,
            "epsilon": case.epsilon,
            "maps": case.maps,
        } | measure(case, options.repeats, options.pot_iterations, device)
        with results.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if not rows:
                writer.writeheader()
            writer.writerow(row)
        rows.append({key: str(value) for key, value in row.items()})
    shown = ("case", "epsilon", "maps", "matching_ms", "pot_ms", "gaussian_mse_ms",
             "pot_over_matching", "pot_reached", "matching_over_gaussian_mse", "pot_iterations",
             "pot_dtype",
             "marginal_error", "pot_marginal_error", "extra_floats_a_pixel")  # fmt: skip
    table = Table(*shown)
    for row in rows:
        table.add_row(*(_short(row[key]) for key in shown))
    console = Console(width=200)
    console.print(table)
    ratios = [float(row["pot_over_matching"]) for row in rows]
    console.print(
        f"{len(rows)} cells: POT over matching, median {statistics.median(ratios):.1f}, from"
        f" {min(ratios):.1f} to {max(ratios):.1f};"
        f" {sum(row['pot_reached'] == 'False' for row in rows)} are lower bounds."
        f" torch {torch.__version__}, {device}, {options.threads} threads."
    )
    plot(rows, options.out / "speed.png")


def _short(text: str) -> str:
    try:
        return f"{float(text):.3g}"
    except ValueError:
        return text


if __name__ == "__main__":
    main()
