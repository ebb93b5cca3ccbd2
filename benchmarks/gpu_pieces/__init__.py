"""The pieces of benchmarks/gpu.py: each lists its cases, one file a piece."""

from __future__ import annotations

from collections.abc import Callable

from gpu_pieces import (
    correctness,
    device_cache,
    fused,
    graphs,
    loss_map,
    losses,
    pot,
    step,
    train,
    training,
)
from gpu_pieces.shared import Bench, Case

PIECES: dict[str, Callable[[Bench], list[Case]]] = {
    "graphs": graphs.cases,
    "device_cache": device_cache.cases,
    "train": train.cases,
    "correctness": correctness.cases,
    "pot": pot.cases,
    "losses": losses.cases,
    "step": step.cases,
    "fused": fused.cases,
    "training": training.cases,
    "map": loss_map.cases,
}
