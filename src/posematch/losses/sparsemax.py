"""Sparsemax: the nearest probability to a map, most of whose pixels are exactly 0."""

from __future__ import annotations

import math
from typing import Any

import torch

from posematch.arithmetic import is_recorded


def sparsemax(flat: torch.Tensor) -> torch.Tensor:
    """Project rows onto the probabilities: relu(h - tau), with tau such that it sums to 1.

    The nearest one (Martins & Astudillo, ICML 2016). The gradient is exact: of g in the result, g
    less its mean over the support there, 0 elsewhere. It is 0 everywhere where the support is one
    pixel, whose value is then 1 and more above all others.

    Parameters
    ----------
    flat
        (..., N), finite.

    Returns
    -------
    (..., N) of the same dtype; each row sums to 1.

    Examples
    --------
    >>> sparsemax(torch.tensor([[0.1, 0.9, 0.5], [0.0, 0.0, 3.0]]))
    tensor([[0.0000, 0.7000, 0.3000],
            [0.0000, 0.0000, 1.0000]])
    """
    if not (flat.requires_grad and torch.is_grad_enabled()):  # nor can torch.jit write that down
        return _projected(flat)
    mass: torch.Tensor = _Sparsemax.apply(flat)
    return mass


def _projected(flat: torch.Tensor) -> torch.Tensor:
    """By Newton's method on f(tau) = sum relu(h - tau) - 1, which is convex and made of lines.

    From the left, where f >= 0, it never passes the root, and stops at it once no pixel leaves the
    support. From one step to the next f_1 / f + n_1 / n <= 1, with n the pixels above tau (by
    convexity: f >= f_1 + n_1 f / n), so f n falls to a quarter at least: from below N^2 to 2^-24,
    a float32's rounding of f, in log2(N) + 12 steps. Maps take three to nine. A sort takes as many
    passes, each dearer.
    """
    accurate = flat.to(torch.promote_types(flat.dtype, torch.float32))
    pixels = flat.shape[-1]
    # From the highest pixel: tau lies within 1 below it, so whole coordinates would cost digits.
    below = accurate - accurate.amax(-1, keepdim=True)
    tau = (below.mean(-1, keepdim=True) - 1 / pixels).clamp_min(-1)
    answers_at_once = flat.device.type == "cpu" and not is_recorded()
    before = None
    for _ in range(math.ceil(math.log2(pixels)) + 12):
        mass = (below - tau).relu_()
        # A sum of signs: in torch floats are summed faster than bools are counted.
        total, support = mass.sum(-1, keepdim=True), mass.sign().sum(-1, keepdim=True)
        if answers_at_once and before is not None and torch.equal(support, before):
            return mass.to(flat.dtype)
        tau = tau + (total - 1) / support.clamp_min(1)
        before = support
    return (below - tau).relu_().to(flat.dtype)


class _Sparsemax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flat: torch.Tensor) -> torch.Tensor:
        mass = _projected(flat)
        ctx.save_for_backward(mass)
        return mass

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (mass,) = ctx.saved_tensors
        support = mass.sign()
        mean = (gradient * support).sum(-1, keepdim=True) / support.sum(-1, keepdim=True)
        derivative: torch.Tensor = (gradient - mean).mul_(support)
        return derivative
