"""Transport problems for tests: every kind of supply met in practice, and random ones."""

from __future__ import annotations

import torch

from posematch.transport import L2, TransportProblem, subpixel_demand

HEIGHT, WIDTH = 24, 20
SIZE = (HEIGHT, WIDTH)
DOTS = {
    "inside": (4.3, 6.8),
    "on_pixel": (4.0, 6.0),
    "near_pixel": (4.0001, 6.9999),
    "on_edge": (4.5, 6.0),
    "corner": (-0.3, HEIGHT - 0.7),
    "far": (17.2, 21.6),
}
KINDS = ("uniform", "noise", "one_hot", "two_peaks", "border", "zeros", "tiny_sum", "sharp")


def supply_of(kind: str) -> torch.Tensor:
    """(H, W) float64 masses that sum to 1."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(SIZE, generator=generator, dtype=torch.float64)
    mass = torch.zeros(SIZE, dtype=torch.float64)
    if kind == "uniform":
        mass[:] = 1
    elif kind == "noise":
        mass = noise.relu()
    elif kind == "one_hot":
        mass[7, 3] = 1
    elif kind == "two_peaks":
        mass[1, 1], mass[HEIGHT - 2, WIDTH - 3] = 2, 1
    elif kind == "border":
        mass[0], mass[:, -1] = 1, 0.5
    elif kind == "zeros":
        mass[5, 5], mass[HEIGHT - 3, 2], mass[3, WIDTH - 2] = 1, 1e-20, 0.3
    elif kind == "tiny_sum":
        mass = noise.relu() * 1e-30
    elif kind == "sharp":
        mass = (20 * noise).flatten().softmax(0).reshape(SIZE)
    return mass / mass.sum()


def special_problems(epsilon, dtype=torch.float64, cost=L2, **more) -> TransportProblem:
    """Every kind of supply with every kind of dot."""
    supply = torch.stack([supply_of(kind) for kind in KINDS for _ in DOTS])
    dots_hm = torch.tensor(list(DOTS.values()) * len(KINDS), dtype=torch.float64)
    return TransportProblem(
        supply.to(dtype), *subpixel_demand(dots_hm, SIZE), cost=cost, epsilon=epsilon, **more
    )


def random_problems(count, epsilon, seed=0, dtype=torch.float64, **more) -> TransportProblem:
    """Noise of all densities with a bump of any height and width, dots anywhere."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    noise = torch.randn(count, *SIZE, generator=generator, dtype=torch.float64)
    places = rand(count, 2) * torch.tensor([WIDTH, HEIGHT])
    x = torch.arange(WIDTH) - places[:, :1]
    y = torch.arange(HEIGHT) - places[:, 1:]
    squared = x.square()[:, None] + y.square()[:, :, None]
    bump = torch.exp(-squared / (2 * (0.5 + 3 * rand(count, 1, 1)).square()))
    mass = (noise + 1 - 3 * rand(count, 1, 1)).relu() + 20 * rand(count, 1, 1) * bump
    mass = mass / mass.sum((1, 2), keepdim=True)
    dots_hm = rand(count, 2) * torch.tensor([WIDTH, HEIGHT]) - 0.5
    return TransportProblem(
        mass.to(dtype), *subpixel_demand(dots_hm, SIZE), epsilon=epsilon, **more
    )


def in_double(problem: TransportProblem) -> TransportProblem:
    """The same float32 masses, which sum to 1 but for rounding, as float64 that does exactly."""
    supply = problem.supply.double()
    return TransportProblem(
        supply / supply.sum((1, 2), keepdim=True),
        problem.places_hm,
        problem.demand,
        problem.cost,
        problem.epsilon,
        problem.relaxation,
    )
