"""Arithmetic that depends on where it runs: precision of products, checks, normalisation.

A CPU answers at once. Other devices work while the host goes on, and to ask them for a number is to
wait for all that they were given; so what needs one is asked last, or not at all.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Literal

import torch


def is_recorded() -> bool:
    """Whether torch writes down what is computed, for `posematch.exporting`.

    No number can be asked for then: there is none yet, or the file would hold this one's answer.
    What depends on one is computed for all, and chosen by `torch.where`.
    """
    jit: Any = torch.jit
    return torch.compiler.is_exporting() or bool(jit.is_tracing())


class NotFiniteError(FloatingPointError):
    """Values of some samples of a batch are NaN or infinite.

    Attributes
    ----------
    samples
        Their rows in this process's batch; none where they are another process's.
    """

    def __init__(self, message: str, samples: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.samples = tuple(samples)


ANSWER_AT_ONCE = ("cpu",)  # devices that nobody waits for
_put_off: list[FiniteCheck] | None = None


@contextlib.contextmanager
def put_off_checks(wanted: bool = True) -> Iterator[list[FiniteCheck]]:
    """Inside, no `FiniteCheck` waits for a device; the list gets those that are still to be asked.

    For a training step, which asks once, of everything (`posematch.training.divergence`).

    Parameters
    ----------
    wanted
        False: they are asked as ever, and the list stays empty.
    """
    global _put_off  # checks lie deep in losses, which know of no training
    before, checks = _put_off, list[FiniteCheck]()
    _put_off = checks if wanted else before
    try:
        yield checks
    finally:
        _put_off = before


def are_put_off() -> bool:
    """Whether `put_off_checks` is around."""
    return _put_off is not None


class FiniteCheck:
    """Raises `NotFiniteError` if there is NaN or inf in (B, ...) values; used around work on them.

    On a CPU it raises before the work. On other devices the work is given out first, and the answer
    waited for at its end, or later (`put_off_checks`). Where the work itself fails, non-finite
    values are named as the cause.

    One sum tells, as it is finite only if all of its terms are.

    Attributes
    ----------
    total
        That sum, a scalar on the device.

    Examples
    --------
    >>> heatmaps = torch.tensor([[0.0, 1.0], [float("nan"), 2.0]])
    >>> with FiniteCheck(heatmaps, "NaN or inf in its heatmaps"):
    ...     total = heatmaps.sum()
    Traceback (most recent call last):
    posematch.arithmetic.NotFiniteError: sample 1 of the batch has NaN or inf in its heatmaps
    """

    def __init__(self, values: torch.Tensor, problem: str) -> None:
        self._values, self._problem = values.detach(), problem
        self.total = self._values.sum()
        self._answers_at_once = values.device.type in ANSWER_AT_ONCE

    def __enter__(self) -> FiniteCheck:
        if self._answers_at_once:
            self.confirm()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Literal[False]:
        if kind is not None and issubclass(kind, Exception):
            self.ask()
        elif kind is None and not self._answers_at_once:
            self.confirm()
        return False

    def confirm(self) -> None:
        """Raise, after waiting for the device if need be, unless that is put off."""
        if _put_off is not None and not self._answers_at_once:
            _put_off.append(self)
        else:
            self.ask()

    def ask(self) -> None:
        """Raise now."""
        if math.isfinite(float(self.total)):
            return
        rows = (~self._values.isfinite().flatten(1).all(1)).nonzero()[:, 0].tolist()
        if rows:
            raise NotFiniteError(f"sample {rows[0]} of the batch has {self._problem}", rows)


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


def normalise(
    flat: torch.Tensor, positive: Literal["relu", "softplus"], dead_sum: float
) -> torch.Tensor:
    """ReLU or softplus over its sum along the last axis; softmax in rows that sum to too little.

    Parameters
    ----------
    flat
        (..., N).
    positive
        Which of the two.
    dead_sum
        Rows whose positive part sums to less than this become their softmax, in value and gradient.

    Returns
    -------
    (..., N) of the same dtype; each row sums to 1.

    Examples
    --------
    >>> normalise(torch.tensor([[1.0, 3.0], [-1.0, -1.0]]), "relu", 1e-12)
    tensor([[0.2500, 0.7500],
            [0.5000, 0.5000]])
    """
    if not (flat.requires_grad and torch.is_grad_enabled()):  # nor can torch.jit write that down
        return _normalised(flat, positive, dead_sum)[0]
    mass: torch.Tensor = _Normalise.apply(flat, positive, dead_sum)
    return mass


def _normalised(
    flat: torch.Tensor, positive: str, dead_sum: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`normalise`'s result, and of each row the positive part's sum and whether that is too little.

    The latter two are (..., 1).
    """
    mass = flat.relu() if positive == "relu" else torch.nn.functional.softplus(flat)
    total = mass.sum(-1, keepdim=True)
    dead = total < dead_sum
    mass /= total.masked_fill(dead, 1)
    if flat.device.type != "cpu" or is_recorded():  # nobody waits for the device
        mass = torch.where(dead, flat.softmax(-1), mass)
    elif bool(dead.any()):
        rows = dead[..., 0]
        mass[rows] = flat[rows].softmax(-1)
    return mass, total, dead


class _Normalise(torch.autograd.Function):
    """By hand, as autograd would keep four maps where one is enough.

    With p the positive part, m the result and g its gradient, dL/dh = p'(h) (g - <g, m>) / sum p,
    and m (g - <g, m>) for softmax.
    """

    @staticmethod
    def forward(ctx: Any, flat: torch.Tensor, positive: str, dead_sum: float) -> torch.Tensor:
        mass, total, dead = _normalised(flat, positive, dead_sum)
        ctx.positive = positive
        ctx.save_for_backward(mass, total, dead, flat if positive == "softplus" else None)
        return mass

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        mass, total, dead, flat = ctx.saved_tensors
        if mass.device.type == "cpu":  # saves a map
            with full_float32("cpu"):
                mean = torch.linalg.vecdot(gradient, mass)[..., None]
        else:
            mean = (gradient * mass).sum(-1, keepdim=True)
        centred = (gradient - mean).div_(total.masked_fill(dead, 1))
        slope = mass > 0 if ctx.positive == "relu" else flat.sigmoid()
        if dead.device.type != "cpu":
            return centred.mul_(torch.where(dead, mass, slope.to(mass.dtype))), None, None
        if not bool(dead.any()):
            return centred.mul_(slope), None, None
        rows = dead[..., 0]
        of_softmax = centred[rows] * mass[rows]
        centred.mul_(slope)[rows] = of_softmax
        return centred, None, None
