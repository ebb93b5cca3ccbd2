"""What solving a batch was like: errors, a warning about them, and mass near the dots."""

from __future__ import annotations

import functools
import math
import warnings
from typing import NamedTuple

import torch


class Evidence(NamedTuple):
    """How well a batch was solved; see `posematch.transport.TransportSolution`.

    Attributes
    ----------
    marginal_error
        (J,) float64.
    iterations
        (J,) int64.
    """

    marginal_error: torch.Tensor
    iterations: torch.Tensor


class UnconvergedWarning:
    """Tells once that a solve stopped unconverged; of a device's, once that costs no wait.

    Parameters
    ----------
    tolerance
        Marginal error from which on to tell.
    """

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._told = False
        self._last: Evidence | None = None

    def note(self, evidence: Evidence) -> torch.Tensor:
        """Keep a solve's worst; answers its marginal error, a scalar on the device."""
        worst = Evidence(*(one.max() for one in evidence))
        if self._last is None or self._told:
            self._last = worst
        else:  # nobody has asked about it yet
            self._last = Evidence(*map(torch.maximum, worst, self._last))
        return worst.marginal_error

    def tell(self) -> None:
        """Warn, if the noted solve gives reason to and none has been warned about."""
        if self._told or self._last is None:
            return
        error, iterations = (float(one) for one in self._last)
        self._last = None
        if error <= self._tolerance:
            return
        self._told = True
        warnings.warn(
            f"matching loss: a transport problem stopped after {int(iterations)} iterations with"
            f" marginal error {error:.1e} (tolerance {self._tolerance:.1e}); raise"
            " loss.max_iterations, loss.tolerance or loss.epsilon.",
            stacklevel=2,
        )


def mass_near(mass: torch.Tensor, dots_hm: torch.Tensor, radius_px: float) -> torch.Tensor:
    """(J,) mass within a radius of the dots.

    Parameters
    ----------
    mass
        (J, H, W).
    dots_hm
        (J, 2), finite.
    radius_px
        In heatmap pixels.
    """
    # From the few pixels around each dot.
    reach, size = _reach(mass.device, mass.shape[-2], mass.shape[-1], radius_px)
    pixels = dots_hm.round().long()[:, :, None] + reach  # (J, 2, n), x and y
    distance = (pixels - dots_hm[:, :, None]).square()
    near = distance[:, 0, None] + distance[:, 1, :, None] <= radius_px**2
    on_grid = (pixels >= 0) & (pixels < size)
    x, y = torch.minimum(pixels.clamp_min(0), size - 1).unbind(1)
    around = mass.flatten(1).gather(1, (y[:, :, None] * mass.shape[-1] + x[:, None]).flatten(1))
    counts = near & on_grid[:, 0, None] & on_grid[:, 1, :, None]
    return (around * counts.flatten(1)).sum(1)


@functools.lru_cache(maxsize=8)  # as copying them to a device waits for it
def _reach(
    device: torch.device, height: int, width: int, radius_px: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Steps from the dot's pixel (n,), and the map's width and height (2, 1)."""
    most = math.ceil(radius_px)
    size = torch.tensor([[width], [height]], device=device)
    return torch.arange(-most, most + 1, device=device), size
