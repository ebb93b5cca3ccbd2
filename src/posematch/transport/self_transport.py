r"""Transport of a mass onto itself, E(s, s), which debiasing subtracts.

    S(s, d) = E(s, d) - E(s, s) / 2 - E(d, d) / 2

is 0 if and only if s = d (Feydy et al., "Interpolating between optimal transport and MMD using
Sinkhorn divergences", AISTATS 2019). E(s, s) has one potential, a fixed point of

    a_n = -epsilon log sum_k s_k exp((a_k - C[n, k]) / epsilon),

reached quickly by averaging a with its image. E(s, s) = 2 <a, s>, dE(s, s)/ds = 2 a.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from posematch.transport.costs import Cost

# Kernel entries below exp(-37) = 1e-16 change no sum of float64: P[n, k] is at most
# sqrt(s_n s_k) exp(-C / epsilon).
_NEGLIGIBLE = 37.0


def self_transport(
    supply: torch.Tensor, cost: Cost, epsilon: float, tolerance: float, max_iterations: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """E(s, s), (J,), and its potential, (J, H, W), float64; 0 where s = 0.

    Parameters
    ----------
    supply
        (J, H, W) masses, each sums to 1.
    cost, epsilon
        As in `posematch.transport.TransportProblem`.
    tolerance
        L1 marginal error at which the fixed point counts as reached.
    max_iterations
        Cap for the batch.
    """
    mass = supply.double()
    apply = _kernel(mass.shape[-2], mass.shape[-1], cost, epsilon, mass.device)
    a = torch.zeros_like(mass)
    for _ in range(max_iterations):
        image = -epsilon * apply(mass * (a / epsilon).exp()).log()
        image = torch.where(mass > 0, image, 0.0)
        error = (mass * torch.expm1((a - image) / epsilon).abs()).sum((1, 2))
        a = (a + image) / 2
        if bool((error <= tolerance).all()):
            break
    return 2 * (a * mass).sum((1, 2)), a


def demand_self_value(
    places_hm: torch.Tensor,
    demand: torch.Tensor,
    cost: Cost,
    epsilon: float,
    tolerance: float,
    max_iterations: int,
) -> torch.Tensor:
    """E(d, d) of (J, M) masses at (J, M, 2) places, (J,), in the log domain."""
    ways = places_hm.double()[:, :, None] - places_hm.double()[:, None]
    costs = cost(ways[..., 0], ways[..., 1])
    b = torch.zeros_like(demand)
    for _ in range(max_iterations):
        exponent = (b[:, None] - costs) / epsilon + demand.log()[:, None]
        image = torch.where(demand > 0, -epsilon * exponent.logsumexp(2), 0.0)
        error = (demand * torch.expm1((b - image) / epsilon).abs()).sum(1)
        b = (b + image) / 2
        if len(b) == 0 or bool((error <= tolerance).all()):
            break
    return 2 * (b * demand).sum(1)


def _kernel(
    height: int, width: int, cost: Cost, epsilon: float, device: torch.device
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The product with exp(-C / epsilon), all pixels to all, on (J, H, W)."""
    window = _window(height, width, cost, epsilon).to(device)
    rows, columns = (one // 2 for one in window.shape)
    if window.numel() < height * width:

        def convolve(mass: torch.Tensor) -> torch.Tensor:
            padded = torch.nn.functional.conv2d(
                mass[:, None], window[None, None], padding=(rows, columns)
            )
            return padded[:, 0]

        return convolve
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y, x = y.flatten().double(), x.flatten().double()
    dense = torch.exp(-cost(x[:, None] - x, y[:, None] - y) / epsilon).to(device)
    return lambda mass: (mass.flatten(1) @ dense).reshape(mass.shape)


@functools.lru_cache(maxsize=8)
def _window(height: int, width: int, cost: Cost, epsilon: float) -> torch.Tensor:
    """exp(-C / epsilon) by the way, cut where it is negligible."""
    dy = torch.arange(1 - height, height, dtype=torch.float64)
    dx = torch.arange(1 - width, width, dtype=torch.float64)
    grid_y, grid_x = torch.meshgrid(dy, dx, indexing="ij")
    exponents = cost(grid_x, grid_y) / epsilon
    near = exponents < _NEGLIGIBLE
    rows = int((near.any(1).sum() - 1) // 2)
    columns = int((near.any(0).sum() - 1) // 2)
    middle_y, middle_x = height - 1, width - 1
    return torch.exp(
        -exponents[
            middle_y - rows : middle_y + rows + 1, middle_x - columns : middle_x + columns + 1
        ]
    )
