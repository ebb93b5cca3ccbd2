r"""The demands' shares in each pixel, by products with the Gibbs kernel or in the log domain.

All that an iteration of `posematch.transport.newton` needs from the pixels is the matrix

    A[m, l] = sum_n s'_n p[n, m] p[n, l],     p[n, m] = m's share in pixel n's sum,

(s' = s, or s exp(-a / tau) when relaxed). Its row sums are the plan's marginal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch

from posematch.transport.problem import TransportProblem
from posematch.transport.windows import largest_exponent

# Largest span of log(d_m) + b_m / epsilon, and largest exponent of K, at which the products stay
# well inside float32 (1e38 = exp(87)) and float64 (exp(709)); beyond, the log domain.
KERNEL_SPAN = {torch.float32: 50.0, torch.float64: 400.0}
# Joints times pixels that a CPU's pass takes at a time: 1 MB of kernel, the size of a core's cache.
_BLOCK_PIXELS = 2**16


class Arithmetic(NamedTuple):
    """In which numbers the pixels' sums over the demands are taken.

    Attributes
    ----------
    dtype
        Of the Gibbs kernel, or of its logarithm.
    log
        Whether sums are taken of logarithms.
    """

    dtype: torch.dtype
    log: bool


LOG_DOMAIN = Arithmetic(torch.float64, True)


def fastest_arithmetic(problem: TransportProblem) -> Arithmetic:
    """The first that holds the kernel: the supply's own dtype, float64, the log domain."""
    exponent = largest_exponent(problem)
    for dtype in (problem.supply.dtype, torch.float64):
        if exponent <= KERNEL_SPAN[dtype]:
            return Arithmetic(dtype, log=False)
    return LOG_DOMAIN


class Shares(ABC):
    """J problems' Gibbs kernel (or its logarithm) and supplies, (J, 4, N) and (J, N).

    Attributes
    ----------
    mass
        (J,) sums of the supplies, float64.
    """

    patient = False  # whether more than `posematch.transport.newton.KERNEL_ITERATIONS` can help

    def __init__(self, kernel: torch.Tensor, supply: torch.Tensor, softness: float) -> None:
        self.kernel, self.root, self.softness = kernel, supply.sqrt(), softness
        self.mass = supply.sum(1, dtype=torch.float64)

    def select(self, rows: torch.Tensor) -> None:
        """Go on with some of the problems."""
        self.kernel, self.root, self.mass = self.kernel[rows], self.root[rows], self.mass[rows]

    @abstractmethod
    def evaluate(self, scaled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A, (J, 4, 4) float64, and what `log_sum` takes, for log(d) + b / epsilon, (J, 4) float64.

        The next call may overwrite the second.
        """

    @abstractmethod
    def log_sum(self, total: torch.Tensor) -> torch.Tensor:
        """Logarithms of the pixels' sums; may overwrite what `evaluate` gave."""

    def balance(self, moments: torch.Tensor) -> torch.Tensor:
        """Without a relaxation A sums to the supply's mass, but for rounding, which goes here."""
        if self.softness:
            return moments
        return moments * (self.mass / moments.sum((1, 2)))[:, None, None]


class LogShares(Shares):
    """In the log domain, for any epsilon."""

    patient = True

    def evaluate(self, scaled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        exponent = self.kernel + scaled[:, :, None]
        log_sum = exponent.logsumexp(1, keepdim=True)
        half = self.softness / 2
        weighted = (exponent - (1 - half) * log_sum).exp_() * self.root[:, None]
        return self.balance(_gram(weighted).double()), log_sum[:, 0]

    def log_sum(self, total: torch.Tensor) -> torch.Tensor:
        return total


class ProductShares(Shares):
    """By products with the kernel: no exponential per pixel."""

    def __init__(self, kernel: torch.Tensor, supply: torch.Tensor, softness: float) -> None:
        super().__init__(kernel, supply, softness)
        # Rows at a time: on a CPU few enough for what is made of them to stay in its cache.
        on_cpu = kernel.device.type == "cpu" and not torch.compiler.is_compiling()
        self.block = max(1, _BLOCK_PIXELS // kernel.shape[2]) if on_cpu else max(1, len(kernel))
        self.space = torch.empty_like(kernel[: self.block])
        self.total = kernel.new_empty((len(kernel), 1, kernel.shape[2]))

    def evaluate(self, scaled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        factor = scaled.exp()
        weights = factor.to(self.kernel.dtype)[:, None]
        total = self.total[: len(self.kernel)]
        moments = self.kernel.new_empty((len(self.kernel), 4, 4))
        for first in range(0, len(self.kernel), self.block):
            rows = slice(first, first + self.block)
            self._evaluate(self.kernel[rows], weights[rows], rows, total[rows], moments[rows])
        products = moments.double() * (factor[:, :, None] * factor[:, None])
        return self.balance(products), total[:, 0]

    def _evaluate(
        self,
        kernel: torch.Tensor,
        weights: torch.Tensor,
        rows: slice,
        total: torch.Tensor,
        moments: torch.Tensor,
    ) -> None:
        """Sums and A of some rows, but for the factors, into ``total`` and ``moments``."""
        if kernel.is_cuda:  # no matmul: TF32 may be allowed there
            total.copy_((kernel * weights.mT).sum(1, keepdim=True))
        else:
            torch.bmm(weights, kernel, out=total)
        half = self.softness / 2
        weight = total.reciprocal() if half == 0 else total ** (half - 1)
        weight *= self.root[rows][:, None]
        weighted = torch.mul(kernel, weight, out=self.space[: len(kernel)])
        moments.copy_(_gram(weighted))

    def log_sum(self, total: torch.Tensor) -> torch.Tensor:
        return total.log_()


def _gram(rows: torch.Tensor) -> torch.Tensor:
    if rows.is_cuda:
        return torch.stack([(rows * rows[:, m, None]).sum(2) for m in range(4)], 1)
    return torch.bmm(rows, rows.transpose(1, 2))
