"""Makes docs/images/transport.png, the plots of docs/transport.md.

python docs/transport_plots.py
"""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib as mpl
import torch

from posematch.losses import Matching
from posematch.transport import (
    Cost,
    CostName,
    TransportProblem,
    demand_self_value,
    self_transport,
    subpixel_demand,
)
from posematch.transport.solvers import SOLVERS

IMAGE = Path(__file__).parent / "images" / "transport.png"
SIZE = (28, 28)
DOT = torch.tensor([[20.3, 21.4]], dtype=torch.float64)
NEAR_DOT = DOT % 1 + 2  # where only the pixels around the dot are drawn
STEPS = 800
EPSILONS = (3.0, 1.0, 0.5, 0.3, 0.1, 0.03)
COSTS: tuple[tuple[CostName, float], ...] = (
    ("l2", 1.0), ("squared_l2", 1.0), ("oks", 3.0), ("log1p", 2.0), ("truncated", 6.0),
)  # fmt: skip


def barycentre_error_px(mass: torch.Tensor) -> float:
    height, width = mass.shape[-2:]
    x = (mass.sum(-2) * torch.arange(width)).sum()
    y = (mass.sum(-1) * torch.arange(height)).sum()
    return float((torch.stack([x, y]) - NEAR_DOT[0]).norm())


def best_supply(epsilon: float, debiased: bool) -> torch.Tensor:
    """The mass on 6 x 6 pixels, the dot in the middle, that makes the loss smallest, (1, 6, 6).

    Exponentiated gradient on the simplex: s <- s exp(-rate dE/ds), which cannot leave it.
    """
    supply = torch.full((1, 6, 6), 1 / 36, dtype=torch.float64)
    places, demand = subpixel_demand(NEAR_DOT, (6, 6))
    for step in range(STEPS):
        problem = TransportProblem(supply, places, demand, epsilon=epsilon)
        gradient = SOLVERS["semidual"](problem, 1e-11, 1000).supply_gradient
        if debiased:
            gradient = gradient - self_transport(supply, Cost(), epsilon, 1e-10, 2000)[1]
        # The loss curves as 1 / epsilon.
        rate = 4 * min(1, 2 * epsilon) / (1 + step / 100)
        grown = supply * torch.exp(-rate * gradient)
        supply = grown / grown.sum()
    return supply


def main() -> None:
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6))

    print("epsilon | barycentre error of the best heatmap, px: plain, debiased")
    errors: dict[bool, list[float]] = {False: [], True: []}
    for epsilon in EPSILONS:
        for debiased in errors:
            errors[debiased].append(barycentre_error_px(best_supply(epsilon, debiased)[0]))
        print(f"{epsilon} | {errors[False][-1]:.4f}, {errors[True][-1]:.4f}")
    for debiased, label in ((False, "plain"), (True, "debiased")):
        axes[0].plot(EPSILONS, errors[debiased], "o-", label=label)
    axes[0].set(xscale="log", xlabel="epsilon, px", ylabel="px",
                title="barycentre error of the best heatmap")  # fmt: skip
    axes[0].legend(frameon=False)

    row = int(DOT[0, 1])
    uniform = torch.full((1, *SIZE), 1 / math.prod(SIZE), dtype=torch.float64)
    for name, scale_px in COSTS:
        loss = Matching(cost=name, scale_px=scale_px)
        solution = loss.distance.solver(loss.problem(uniform, DOT), 1e-11, 1000)
        gradient = solution.supply_gradient[0, row]
        gradient = gradient - gradient.min()
        axes[1].plot(gradient / gradient.max(), label=f"{name}")
    axes[1].axvline(float(DOT[0, 0]), color="0.7", lw=0.8)
    axes[1].set(xlabel="x, px", title="gradient along the dot's row, each scaled to 1")
    axes[1].legend(frameon=False, fontsize=8)

    # Four fifths of the mass at the dot, one fifth 20 px away.
    places, demand = subpixel_demand(DOT, SIZE)
    two = torch.zeros(1, *SIZE, dtype=torch.float64)
    x, y = places[0].long().unbind(-1)
    two[0, y, x] = 0.8 * demand[0]
    two[0, 5, 9] = 0.2
    taus = torch.logspace(-1, 3, 30).tolist()
    values = []
    for tau in taus:
        problem = TransportProblem(two, places, demand, epsilon=0.1, relaxation=tau)
        values.append(float(SOLVERS["semidual"](problem, 1e-11, 1000).value))
    balanced = TransportProblem(two, places, demand, epsilon=0.1)
    axes[2].plot(taus, values)
    axes[2].axhline(
        float(SOLVERS["semidual"](balanced, 1e-11, 1000).value), color="0.7", lw=0.8, ls="--"
    )
    axes[2].set(xscale="log", xlabel="relaxation tau, px", ylabel="E, px",
                title="a fifth of the mass lies 20 px away")  # fmt: skip
    figure.tight_layout()
    figure.savefig(IMAGE, dpi=110)
    own = demand_self_value(places, demand, Cost(), 0.1, 1e-12, 10_000)
    print(f"E(d, d) at epsilon 0.1: {float(own):.4f} px")


if __name__ == "__main__":
    main()
