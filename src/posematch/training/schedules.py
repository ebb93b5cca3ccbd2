"""Learning-rate schedules, stepped once per optimizer step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from posematch.errors import PosematchError


def one_cycle(
    optimizer: Optimizer, total_steps: int, steps_per_epoch: int, warmup_share: float
) -> LRScheduler:
    """Rise to the configured learning rate over a share of the training, then anneal to nought."""
    if not 0 <= warmup_share <= 1:
        raise PosematchError(f"schedule.warmup_share={warmup_share} must lie between 0 and 1.")
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=total_steps,
        pct_start=warmup_share,
    )


def cosine(
    optimizer: Optimizer, total_steps: int, steps_per_epoch: int, warmup_steps: int
) -> LRScheduler:
    """Linear warm-up, then half a cosine down to nought."""
    _check_warmup(warmup_steps)
    warmup_steps = min(warmup_steps, total_steps - 1)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        done = (step - warmup_steps) / (total_steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * done))

    return LambdaLR(optimizer, factor)


def multistep(
    optimizer: Optimizer,
    total_steps: int,
    steps_per_epoch: int,
    milestones_epochs: Sequence[int],
    warmup_steps: int = 0,
) -> LRScheduler:
    """Tenfold drops after the given epochs, behind a linear warm-up; 170 and 200 of 210 without one
    are published (docs/protocols.md, Recipes; the original's come one epoch early by the order of
    its calls).
    """
    if list(milestones_epochs) != sorted(milestones_epochs):
        raise PosematchError(f"schedule.milestones_epochs={list(milestones_epochs)} must ascend.")
    _check_warmup(warmup_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        drops = sum(step >= epoch * steps_per_epoch for epoch in milestones_epochs)
        return float(0.1**drops)

    return LambdaLR(optimizer, factor)


def _check_warmup(warmup_steps: int) -> None:
    if warmup_steps < 0:
        raise PosematchError(f"schedule.warmup_steps={warmup_steps} must not be negative.")
