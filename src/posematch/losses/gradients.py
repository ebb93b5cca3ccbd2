"""Masses whose gradient reaches pixels that the exact one leaves alone.

The values are those of `to_mass`. What flows back is another direction of descent: its inner
product with the exact gradient is never negative, so a loss's minima stay what they are
(docs/theory.md).
"""

from __future__ import annotations

from typing import Any

import torch

from posematch.losses.mass import DEAD_SUM


def softmax_evenly(maps: torch.Tensor, even_share: float, temperature: float = 1.0) -> torch.Tensor:
    """Softmax of (..., H, W) maps; part of its gradient is not weighted by the mass.

    With g the gradient in the mass s of N pixels, the map's is

        (1 - share) s_n (g_n - sum_m s_m g_m) + share (g_n - mean g) / N,  over the temperature.

    The first is exact: a pixel without mass is not pulled, however much the loss would gain. The
    second is the natural gradient, the one of mirror descent on the simplex.

    Examples
    --------
    >>> maps = torch.tensor([[-200.0, 0.0]], requires_grad=True)  # no mass at the first pixel
    >>> softmax_evenly(maps, 0.5)[0, 0].backward()
    >>> maps.grad
    tensor([[ 0.1250, -0.1250]])
    """
    mass: torch.Tensor = _Evenly.apply(maps / temperature, even_share)
    return mass


class _Evenly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: torch.Tensor, even_share: float) -> torch.Tensor:
        mass = maps.flatten(-2).softmax(-1).view_as(maps)
        ctx.save_for_backward(mass)
        ctx.even_share = even_share
        return mass

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (mass,) = ctx.saved_tensors
        size = mass.shape[-2] * mass.shape[-1]
        exact = mass * (gradient - (mass * gradient).sum((-2, -1), keepdim=True))
        even = (gradient - gradient.mean((-2, -1), keepdim=True)) / size
        return torch.lerp(exact, even, ctx.even_share), None


def relu_reviving(maps: torch.Tensor) -> torch.Tensor:
    """``relu(h) / sum relu(h)`` of (..., H, W) maps that have a positive sum.

    A pixel at or below 0 gets the gradient that a positive one would, where that asks for more of
    it, so that it can come to life again; `to_mass` gives it none.

    Examples
    --------
    >>> maps = torch.tensor([[-1.0, 2.0]], requires_grad=True)
    >>> (relu_reviving(maps) * torch.tensor([[-1.0, 0.0]])).sum().backward()
    >>> maps.grad
    tensor([[-0.5000,  0.0000]])
    """
    mass: torch.Tensor = _Reviving.apply(maps)
    return mass


class _Reviving(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: torch.Tensor) -> torch.Tensor:
        positive = maps.relu()
        total = positive.sum((-2, -1), keepdim=True).clamp_min(DEAD_SUM)
        mass = positive / total
        ctx.save_for_backward(mass, total)
        return mass

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        mass, total = ctx.saved_tensors
        pull = (gradient - (mass * gradient).sum((-2, -1), keepdim=True)) / total
        return torch.where(mass > 0, pull, pull.clamp_max(0.0))
