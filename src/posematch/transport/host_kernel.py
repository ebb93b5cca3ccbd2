# mypy: ignore-errors
# numba reads these functions' source; what they take and give has types of its own.
"""`posematch.transport.semidual` for one joint after the other, compiled for the CPU by numba.

Imported by `posematch.transport.fused` alone, and only where it is used: importing numba takes half
a second, compiling this a few, once for a machine and a version (numba keeps the result on disk).

Names and formulas are those of `newton.py`. A joint's pixels with mass, their window of the table
and what an iteration makes of them take 28 bytes a pixel, which stay in a core's cache from the
first iteration to the potentials; nothing of that is allocated per joint. Balanced problems only.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numba import njit

from posematch.transport.newton import FAR, KERNEL_ITERATIONS, LONGEST_STEP, SINKHORN_STEPS
from posematch.transport.problem import TransportSolution
from posematch.transport.windows import offset_table

# Pixels summed up in float32 before their sum goes on in float64.
TILE = 256
# Pixels that are worth a thread of their own: some 0.3 ms.
_PIXELS_A_THREAD = 2**16
# Divisions by 0 give inf, as in torch. Sums may be taken in any order, so that vectors can take
# them; NaN and inf stay what they are, as a joint that runs into them is done again elsewhere.
_OPTIONS = {"nogil": True, "error_model": "numpy", "boundscheck": False}
_ANY_ORDER = {"fastmath": {"reassoc", "contract", "arcp", "nsz"}, **_OPTIONS}


def _compiled(**options):
    """numba's decorator; the compiled code is kept on disk wherever there is a place for it."""

    def decorate(function):
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # neither beside this file nor in the user's cache
            return njit(**options)(function)

    return decorate


# torch.compile would look into it and find nothing to gain.
@torch.compiler.disable
def launch(problem, tolerance, max_iterations, mass_only):
    """All problems, by as many threads as torch uses; see `posematch.transport.fused.solve`."""
    height, width = problem.supply.shape[-2:]
    count, what = len(problem), (problem.cost, problem.epsilon, torch.float32)
    table, least = offset_table((height, width), *what, problem.supply.device, False)
    supply = problem.supply.flatten(1).contiguous()
    a, b = torch.empty_like(supply), torch.empty((count, 4), dtype=torch.float64)
    value, error = torch.empty(2, count, dtype=torch.float64)
    iterations = torch.empty(count, dtype=torch.int64)
    corner = problem.places_hm[:, 0].long().contiguous()
    given = supply, table.flatten(1), least.flatten(), corner, problem.demand.contiguous()
    arrays = [one.detach().numpy() for one in (*given, a, b, value, error, iterations)]
    limits = tolerance, min(max_iterations, KERNEL_ITERATIONS), mass_only
    # Not as globals: those are compiled in, and a stored result does not know of a change.
    constants = SINKHORN_STEPS, FAR, LONGEST_STEP
    how = (height, width), problem.epsilon, limits, constants
    threads = min(torch.get_num_threads(), count, -(-supply.numel() // _PIXELS_A_THREAD))
    if threads <= 1:
        solve(*arrays, 0, count, *how)
    else:
        bounds = [count * part // threads for part in range(threads + 1)]
        # A forked process has no other threads, and needs a pool of its own.
        pool = _pool(threads, os.getpid())
        list(pool.map(lambda rows: solve(*arrays, *rows, *how), itertools.pairwise(bounds)))
    return TransportSolution(
        problem=problem,
        supply_potential=a.view(problem.supply.shape),
        demand_potential=b,
        value=value.to(supply.dtype),
        marginal_error=error,
        iterations=iterations,
        converged=error <= tolerance,
    )


@functools.lru_cache(maxsize=1)
def _pool(threads, process):
    return ThreadPoolExecutor(threads, thread_name_prefix="transport")


@_compiled(**_OPTIONS)
def solve(
    supply,  # (J, H W) float32
    table,  # (4, 4 H W) float32: K by the offset from the square, 2W a line
    least,  # (4 H W,) float32: min_m C
    corner,  # (J, 2) int64: x and y of the square's first pixel
    demand,  # (J, 4) float64
    a,  # (J, H W) float32, as all that follow an output
    b,  # (J, 4) float64
    value,  # (J,) float64
    error,  # (J,) float64
    iterations,  # (J,) int64
    first,
    last,
    size,
    epsilon,
    limits,
    constants,
):
    """The problems of the rows from ``first`` to ``last``."""
    height, width = size
    tolerance, max_iterations, mass_only = limits
    sinkhorn_steps, far_ratio, longest_step = constants
    pixels = height * width
    kernel = np.empty((4, pixels), np.float32)
    mass, costs = np.empty(pixels, np.float32), np.empty(pixels, np.float32)
    total = np.empty(pixels, np.float32)
    moments = np.empty((4, 4))
    wanted, marginal = np.empty(4), np.empty(4)
    scaled, step, fresh = np.empty(4), np.empty(4), np.empty(4)
    # A pixel takes part where its mass is above that.
    nothing = np.float32(0 if mass_only else -1)
    for row in range(first, last):
        asked = demand[row, 0] + demand[row, 1] + demand[row, 2] + demand[row, 3]
        if asked == 0:  # left out
            a[row, :], b[row, :] = 0, 0
            value[row], error[row], iterations[row] = 0, 0, 0
            continue
        window = (height - 1 - corner[row, 1]) * 2 * width + width - 1 - corner[row, 0]
        used = _gather(supply[row], table, least, window, width, nothing, kernel, mass, costs)
        # A supply in float32 sums to 1 but for rounding, below which no marginal could get.
        whole = _sum(mass, used)
        for m in range(4):
            wanted[m] = demand[row, m] * whole
            scaled[m], step[m] = 0, 0
        slope = math.inf
        iteration = 0
        while True:
            _evaluate(kernel, mass, total, used, wanted, scaled, moments)
            everything = 0.0
            for m in range(4):
                for k in range(4):
                    everything += moments[m, k]
            off = 0.0
            for m in range(4):
                marginal[m] = 0
                for k in range(4):
                    # They sum to the supply's mass, but for rounding, which goes here.
                    moments[m, k] *= whole / everything
                    marginal[m] += moments[m, k]
                off += abs(wanted[m] - marginal[m])
            # What is no number will not become one.
            if not off > tolerance or iteration >= max_iterations:
                break
            here = moments, marginal, wanted, scaled, step, fresh
            ratio = 0.0 if iteration < sinkhorn_steps else far_ratio
            slope = _ascend(*here, slope, ratio, longest_step)
            iteration += 1
        mean = _potentials(total.view(np.int32), mass, costs, used, epsilon)
        _scatter(supply[row], costs, nothing, mean, a[row])
        value[row], error[row], iterations[row] = mean, off, iteration
        for m in range(4):
            b[row, m] = 0
            if wanted[m] > 0:
                # The sums have the supply's whole mass as a factor, which b has not.
                potential = epsilon * (scaled[m] + math.log(whole))
                value[row] += potential * demand[row, m]
                b[row, m] = potential + mean


@_compiled(**_OPTIONS)
def _gather(supply, table, least, window, width, nothing, kernel, mass, costs):
    """K, mass and min C of a joint's pixels that take part, one after the other; how many."""
    k0, k1, k2, k3 = kernel[0], kernel[1], kernel[2], kernel[3]
    t0, t1, t2, t3 = table[0], table[1], table[2], table[3]
    used = 0
    for start in range(0, supply.size, width):
        for column in range(width):
            # Overwritten by the next pixel if it takes no part: a branch would have to be guessed.
            one = supply[start + column]
            at = window + column
            mass[used], costs[used] = one, least[at]
            k0[used], k1[used], k2[used], k3[used] = t0[at], t1[at], t2[at], t3[at]
            used += one > nothing
        window += 2 * width
    return used


@_compiled(**_OPTIONS)
def _scatter(supply, potential, nothing, mean, a):
    """Potentials, centred, back to where `_gather` found their pixels; 0 elsewhere."""
    centre = np.float32(mean)
    used = 0
    for n in range(supply.size):
        there = supply[n] > nothing
        a[n] = potential[used] - centre if there else np.float32(0)
        used = min(used + there, supply.size - 1)


@_compiled(**_ANY_ORDER)
def _sum(values, used):
    total = 0.0
    for n in range(used):
        total += np.float64(values[n])
    return total


@_compiled(**_OPTIONS)
def _evaluate(kernel, mass, total, used, wanted, scaled, moments):
    """A of `posematch.transport.shares`, and each pixel's sum over the demands into ``total``."""
    moments[:, :] = 0
    f0 = np.float32(wanted[0] * math.exp(scaled[0]))
    f1 = np.float32(wanted[1] * math.exp(scaled[1]))
    f2 = np.float32(wanted[2] * math.exp(scaled[2]))
    f3 = np.float32(wanted[3] * math.exp(scaled[3]))
    for start in range(0, used, TILE):
        part = slice(start, min(start + TILE, used))
        k0, k1, k2, k3 = kernel[0, part], kernel[1, part], kernel[2, part], kernel[3, part]
        sums = _tile(k0, k1, k2, k3, mass[part], total[part], f0, f1, f2, f3)
        at = 0
        for k in range(4):
            for n in range(k, 4):
                moments[k, n] += sums[at]
                moments[n, k] = moments[k, n]
                at += 1


@_compiled(**_ANY_ORDER)
def _tile(k0, k1, k2, k3, mass, total, f0, f1, f2, f3):
    """The ten sums, in vectors of float32."""
    m00 = m01 = m02 = m03 = np.float32(0)
    m11 = m12 = m13 = m22 = m23 = m33 = np.float32(0)
    one = np.float32(1)
    for n in range(mass.size):
        p0, p1, p2, p3 = f0 * k0[n], f1 * k1[n], f2 * k2[n], f3 * k3[n]
        whole = (p0 + p1) + (p2 + p3)
        total[n] = whole
        inverse = one / whole
        p0, p1, p2, p3 = p0 * inverse, p1 * inverse, p2 * inverse, p3 * inverse
        v0, v1, v2, v3 = mass[n] * p0, mass[n] * p1, mass[n] * p2, mass[n] * p3
        m00 += v0 * p0
        m01 += v0 * p1
        m02 += v0 * p2
        m03 += v0 * p3
        m11 += v1 * p1
        m12 += v1 * p2
        m13 += v1 * p3
        m22 += v2 * p2
        m23 += v2 * p3
        m33 += v3 * p3
    return m00, m01, m02, m03, m11, m12, m13, m22, m23, m33


@_compiled(**_OPTIONS)
def _ascend(moments, marginal, wanted, scaled, step, fresh, slope, far_ratio, longest_step):
    """`posematch.transport.newton.next_step` in place; the slope along the new step."""
    turn = 0.0
    far = far_ratio == 0  # Sinkhorn's steps only
    for m in range(4):
        ratio = wanted[m] / marginal[m] if wanted[m] > 0 else 1.0
        far = far or ratio > far_ratio or ratio < 1 / far_ratio
        if wanted[m] > 0:
            turn += (wanted[m] - marginal[m]) * step[m]
    if turn < -0.5 * slope:
        # The maximum was passed: half of the step is taken back, and leads on.
        for m in range(4):
            step[m] *= 0.5
            scaled[m] -= step[m]
    else:
        if far:
            slope = math.inf
            for m in range(4):
                ratio = wanted[m] / marginal[m] if wanted[m] > 0 else 1.0
                step[m] = math.log(min(max(ratio, 1e-300), 1e300))
        else:
            _newton(moments, marginal, wanted, fresh)
            longest = longest_step
            for m in range(4):
                if not abs(fresh[m]) < math.inf:
                    fresh[m] = 0
                longest = max(longest, abs(fresh[m]))
            slope = 0.0
            for m in range(4):
                step[m] = fresh[m] * (longest_step / longest)
                if wanted[m] > 0:
                    slope += (wanted[m] - marginal[m]) * step[m]
        for m in range(4):
            scaled[m] += step[m]
    # Keep the weights' logarithms around 0, for the range of floats.
    low, high = math.inf, -math.inf
    for m in range(4):
        if wanted[m] > 0:
            weight = scaled[m] + math.log(wanted[m])
            low, high = min(low, weight), max(high, weight)
    for m in range(4):
        scaled[m] = scaled[m] - (low + high) / 2 if wanted[m] > 0 else 0.0
    return slope


@_compiled(**_OPTIONS)
def _newton(hessian, marginal, wanted, step):
    """Newton's step by L D L^T; ``hessian`` comes as A and is used up."""
    ridge = 1e-13 * max(max(marginal[0], marginal[1]), max(marginal[2], marginal[3]))
    for m in range(4):
        for k in range(4):  # wanted: b is determined up to a constant
            hessian[m, k] = wanted[m] * wanted[k] - hessian[m, k]
        hessian[m, m] += marginal[m] + (ridge if wanted[m] > 0 else 1.0)
        step[m] = wanted[m] - marginal[m] if wanted[m] > 0 else 0.0
    for m in range(4):
        for k in range(m + 1, 4):
            share = hessian[m, k] / hessian[m, m]
            for n in range(k, 4):
                hessian[k, n] -= share * hessian[m, n]
            step[k] -= share * step[m]
    for m in range(3, -1, -1):
        for k in range(m + 1, 4):
            step[m] -= hessian[m, k] * step[k]
        step[m] /= hessian[m, m]


@_compiled(**_ANY_ORDER)
def _potentials(bits, mass, costs, used, epsilon):
    """a = min C - epsilon log of the pixels' sums, into ``costs``; answers <a, s>.

    ``bits`` are those of the sums. The logarithm is Cephes's for float32 (S. Moshier, logf: 1 ulp),
    in a form that works on vectors.
    """
    small = np.float32(epsilon)
    root = np.int32(0x3F3504F3)  # sqrt(1/2)
    mean = 0.0
    for n in range(used):
        # The sum is a mantissa z + 1 between sqrt(1/2) and sqrt(2), times 2^exponent.
        shifted = np.int32(bits[n] - root)
        exponent = np.float32(shifted >> np.int32(23))
        mantissa = np.int32((shifted & np.int32(0x007FFFFF)) + root)
        z = mantissa.view(np.float32) - np.float32(1)
        p = np.float32(7.0376836292e-2)
        p = (p * z - np.float32(1.1514610310e-1)) * z + np.float32(1.1676998740e-1)
        p = (p * z - np.float32(1.2420140846e-1)) * z + np.float32(1.4249322787e-1)
        p = (p * z - np.float32(1.6668057665e-1)) * z + np.float32(2.0000714765e-1)
        p = (p * z - np.float32(2.4999993993e-1)) * z + np.float32(3.3333331174e-1)
        square = z * z
        log = z * square * p - exponent * np.float32(2.12194440e-4) - np.float32(0.5) * square
        log = z + log + exponent * np.float32(0.693359375)
        costs[n] -= small * log
        mean += np.float64(costs[n]) * np.float64(mass[n])
    return mean
