"""Products in full float32, whatever a training allows around them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def full_float32(device_type: str) -> Iterator[None]:
    """Neither autocast nor TF32 (or a CPU's bf16 in its place) touches products of float32.

    A place among 64 pixels is known to a quarter pixel with bf16's 8 bits, and a transport's
    marginals to 1e-3 with TF32's 11.

    Parameters
    ----------
    device_type
        Of the tensors: ``cpu``, ``cuda`` ...
    """
    backend: Any = torch.backends
    settings = backend.cuda.matmul if device_type == "cuda" else backend.mkldnn.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "ieee"
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        settings.fp32_precision = before
