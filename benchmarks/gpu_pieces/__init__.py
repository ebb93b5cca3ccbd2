"""The pieces of benchmarks/gpu.py: each lists its cases, one file a piece."""

from __future__ import annotations

from collections.abc import Callable

from gpu_pieces import correctness, fused, losses, pot, step, training
from gpu_pieces.shared import Bench, Case

PIECES: dict[str, Callable[[Bench], list[Case]]] = {
    "correctness": correctness.cases,
    "pot": pot.cases,
    "losses": losses.cases,
    "step": step.cases,
    "fused": fused.cases,
    "training": training.cases,
}
