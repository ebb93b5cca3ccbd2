# mypy: ignore-errors
# Triton reads these functions' source; their arguments have types of its own.
"""`posematch.transport.semidual` for one joint a program, start to end in one launch.

Imported by `posematch.transport.fused` alone, and only where it is used: Triton exists on Linux
only. Names and formulas are those of `newton.py`; the four demands are separate scalars, as
Triton has no small matrices.

An iteration reads the joint's masses and its window of the table and writes nothing. The table is
the same for all joints (at 64 x 48 pixels 200 KB), so both stay in the multiprocessor's first-level
cache. Registers hold the unknowns and ten sums, few enough for several joints on a multiprocessor,
which matters more than keeping the pixels there, too: between two passes over the pixels each
joint waits for a chain of scalar operations. For the same reason the torch version's start on the
cells (`posematch.transport.windows.pooled_supply`) gains nothing here: on an H100 it took as long.
"""

import torch
import triton
import triton.language as tl

from posematch.transport.newton import FAR, KERNEL_ITERATIONS, LONGEST_STEP, SINKHORN_STEPS
from posematch.transport.problem import TransportSolution
from posematch.transport.windows import offset_table

# Pixels that a program works on at a time, two a thread; and a bound on a thread's registers that
# lets five programs share a multiprocessor's 65,536. Of what was tried on an H100 the fastest at
# 64 x 48 pixels (benchmarks/RESULTS.md).
TILE, WARPS = 256, 4
REGISTERS = {} if torch.version.hip else {"maxnreg": 96}


# torch.compile would look into the launch and find nothing to gain.
@torch.compiler.disable
def launch(problem, tolerance, max_iterations):
    """All problems at once; see `posematch.transport.fused.solve`."""
    height, width = problem.supply.shape[-2:]
    device, count = problem.supply.device, len(problem)
    what = (height, width), problem.cost, problem.epsilon
    table, _ = offset_table(*what, torch.float32, device, False)
    # Relaxed, the pixels' costs enter the masses, where float32's rounding would show.
    least_dtype = torch.float32 if problem.balanced else torch.float64
    _, least = offset_table(*what, least_dtype, device, False)
    supply = problem.supply.contiguous()
    a = torch.empty_like(supply)
    b = torch.empty((count, 4), dtype=torch.float64, device=device)
    value = torch.empty(count, dtype=torch.float32, device=device)
    error = torch.empty(count, dtype=torch.float64, device=device)
    iterations = torch.empty(count, dtype=torch.int64, device=device)
    converged = torch.empty(count, dtype=torch.uint8, device=device)
    with torch.cuda.device_of(supply):
        solve[(count,)](
            supply,
            table,
            least,
            problem.places_hm.double().contiguous(),
            problem.demand.contiguous(),
            a,
            b,
            value,
            error,
            iterations,
            converged,
            min(max_iterations, KERNEL_ITERATIONS),
            height=height,
            width=width,
            tile=TILE,
            epsilon=problem.epsilon,
            relaxation=0.0 if problem.balanced else problem.relaxation,
            tolerance=tolerance,
            sinkhorn_steps=SINKHORN_STEPS,
            far_ratio=FAR,
            longest_step=LONGEST_STEP,
            num_warps=WARPS,
            **REGISTERS,
        )
    return TransportSolution(
        problem=problem,
        supply_potential=a,
        demand_potential=b,
        value=value,
        marginal_error=error,
        iterations=iterations,
        converged=converged.view(torch.bool),
    )


@triton.jit
def solve(
    supply_at,  # (J, H, W) float32
    table_at,  # (4, 2H, 2W) float32: K by the offset from the square
    least_at,  # (2H, 2W) min_m C: float32, or float64 if relaxed
    places_at,  # (J, 4, 2) float64
    demand_at,  # (J, 4) float64
    a_at,  # (J, H, W) float32, as all that follow an output
    b_at,  # (J, 4) float64
    value_at,  # (J,) float32
    error_at,  # (J,) float64
    iterations_at,  # (J,) int64
    converged_at,  # (J,) uint8
    max_iterations,
    height: tl.constexpr,
    width: tl.constexpr,
    tile: tl.constexpr,  # pixels at a time, a power of two
    epsilon: tl.constexpr,
    relaxation: tl.constexpr,  # 0: none
    tolerance: tl.constexpr,
    sinkhorn_steps: tl.constexpr,
    far_ratio: tl.constexpr,
    longest_step: tl.constexpr,
):
    pixels: tl.constexpr = height * width
    joint = tl.program_id(0).to(tl.int64)
    relaxed: tl.constexpr = relaxation > 0
    softness: tl.constexpr = epsilon / (epsilon + relaxation) if relaxed else 0.0
    total_price: tl.constexpr = epsilon + relaxation

    supply_at += joint * pixels
    a_at += joint * pixels
    d0 = tl.load(demand_at + joint * 4)
    d1 = tl.load(demand_at + joint * 4 + 1)
    d2 = tl.load(demand_at + joint * 4 + 2)
    d3 = tl.load(demand_at + joint * 4 + 3)
    if d0 + d1 + d2 + d3 == 0:  # left out
        for start in range(0, pixels, tile):
            pixel = start + tl.arange(0, tile)
            tl.store(a_at + pixel, tl.zeros((tile,), tl.float32), mask=pixel < pixels)
        tl.store(b_at + joint * 4 + tl.arange(0, 4), tl.zeros((4,), tl.float64))
        tl.store(value_at + joint, 0.0)
        tl.store(error_at + joint, 0.0)
        tl.store(iterations_at + joint, joint * 0)
        tl.store(converged_at + joint, 1)
        return

    x = tl.load(places_at + joint * 8).to(tl.int32)
    y = tl.load(places_at + joint * 8 + 1).to(tl.int32)
    # Where the window starts, so that pixel (row, column) is row * 2W + column further.
    corner = (height - 1 - y) * (2 * width) + width - 1 - x
    table_at += corner
    least_at += corner

    sums = tl.zeros((tile,), tl.float64)
    for start in range(0, pixels, tile):
        mass, _, _ = _masses(supply_at, start, pixels, width, tile)
        sums += mass
    whole = tl.sum(sums, 0)
    zero = whole * 0.0
    shift, start_sum = zero, zero
    masses_at = supply_at
    if relaxed:
        # As if there were one demand: the masses then start with the sum 1, here but for the
        # factor start_sum. They lie where a will.
        highest = tl.full((tile,), float("-inf"), tl.float64)
        for start in range(0, pixels, tile):
            logs, _ = _closed(supply_at, least_at, start, pixels, width, total_price, tile)
            highest = tl.maximum(highest, logs)
        top = tl.max(highest, 0)
        sums = tl.zeros((tile,), tl.float64)
        for start in range(0, pixels, tile):
            logs, pixel = _closed(supply_at, least_at, start, pixels, width, total_price, tile)
            masses = tl.exp(logs - top)
            sums += masses
            tl.store(a_at + pixel, masses.to(tl.float32), mask=pixel < pixels)
        tl.debug_barrier()
        start_sum = tl.sum(sums, 0)
        shift = -total_price * (top + tl.log(start_sum))
        masses_at = a_at

    # A supply in float32 sums to 1 but for rounding, below which no marginal could get.
    wanted = 1.0 if relaxed else whole
    w0, w1, w2, w3 = d0 * wanted, d1 * wanted, d2 * wanted, d3 * wanted
    l0, l1, l2, l3 = _log(w0), _log(w1), _log(w2), _log(w3)

    b0, b1, b2, b3 = zero, zero, zero, zero  # b / epsilon
    s0, s1, s2, s3 = zero, zero, zero, zero  # the step that led there
    slope = zero + float("inf")
    error = zero
    iteration = joint * 0
    open_ = iteration <= max_iterations
    while open_:
        f0, f1, f2, f3 = _factors(w0, w1, w2, w3, b0 + l0, b1 + l1, b2 + l2, b3 + l3)
        m00, m01, m02, m03, m11, m12, m13, m22, m23, m33 = _moments(
            masses_at, table_at, f0, f1, f2, f3, pixels, height, width, softness, tile
        )
        if relaxed:
            balance = 1.0 / start_sum
        else:
            # They sum to the supply's mass, but for rounding, which goes here.
            off = m01 + m02 + m03 + m12 + m13 + m23
            balance = whole / (m00 + m11 + m22 + m33 + 2 * off)
        m00, m01, m02, m03 = m00 * balance, m01 * balance, m02 * balance, m03 * balance
        m11, m12, m13 = m11 * balance, m12 * balance, m13 * balance
        m22, m23, m33 = m22 * balance, m23 * balance, m33 * balance
        q0 = m00 + m01 + m02 + m03
        q1 = m01 + m11 + m12 + m13
        q2 = m02 + m12 + m22 + m23
        q3 = m03 + m13 + m23 + m33
        error = tl.abs(w0 - q0) + tl.abs(w1 - q1) + tl.abs(w2 - q2) + tl.abs(w3 - q3)
        # What is no number is open, too.
        open_ = (iteration < max_iterations) & ((error > tolerance) | (error != error))
        if open_:
            g0 = tl.where(w0 > 0, w0 - q0, 0.0)
            g1 = tl.where(w1 > 0, w1 - q1, 0.0)
            g2 = tl.where(w2 > 0, w2 - q2, 0.0)
            g3 = tl.where(w3 > 0, w3 - q3, 0.0)
            overshot = g0 * s0 + g1 * s1 + g2 * s2 + g3 * s3 < -0.5 * slope

            r0, r1, r2, r3 = _ratio(w0, q0), _ratio(w1, q1), _ratio(w2, q2), _ratio(w3, q3)
            largest = tl.maximum(tl.maximum(r0, r1), tl.maximum(r2, r3))
            smallest = tl.minimum(tl.minimum(r0, r1), tl.minimum(r2, r3))
            far = (largest > far_ratio) | (smallest < 1 / far_ratio)
            far = far | (iteration < sinkhorn_steps)
            if far:
                n0, n1, n2, n3 = tl.log(r0), tl.log(r1), tl.log(r2), tl.log(r3)
                if relaxed:
                    # The total mass follows b only weakly: bring it right at once.
                    mean = tl.log((w0 + w1 + w2 + w3) / (q0 + q1 + q2 + q3))
                    mean = mean * (1 / softness - 1)
                    n0 = tl.where(w0 > 0, n0 + mean, 0.0)
                    n1 = tl.where(w1 > 0, n1 + mean, 0.0)
                    n2 = tl.where(w2 > 0, n2 + mean, 0.0)
                    n3 = tl.where(w3 > 0, n3 + mean, 0.0)
                fresh_slope = zero + float("inf")
            else:
                ridge = 1e-13 * tl.maximum(tl.maximum(q0, q1), tl.maximum(q2, q3))
                c: tl.constexpr = 1 - softness
                h00 = q0 - c * m00 + tl.where(w0 > 0, ridge, 1.0)
                h11 = q1 - c * m11 + tl.where(w1 > 0, ridge, 1.0)
                h22 = q2 - c * m22 + tl.where(w2 > 0, ridge, 1.0)
                h33 = q3 - c * m33 + tl.where(w3 > 0, ridge, 1.0)
                h01, h02, h03 = -c * m01, -c * m02, -c * m03
                h12, h13, h23 = -c * m12, -c * m13, -c * m23
                if not relaxed:  # b is determined up to a constant
                    h00, h01, h02, h03 = h00 + w0 * w0, h01 + w0 * w1, h02 + w0 * w2, h03 + w0 * w3
                    h11, h12, h13 = h11 + w1 * w1, h12 + w1 * w2, h13 + w1 * w3
                    h22, h23, h33 = h22 + w2 * w2, h23 + w2 * w3, h33 + w3 * w3
                n0, n1, n2, n3 = _solve_4(
                    h00, h01, h02, h03, h11, h12, h13, h22, h23, h33, g0, g1, g2, g3
                )
                longest = tl.maximum(
                    tl.maximum(tl.abs(n0), tl.abs(n1)), tl.maximum(tl.abs(n2), tl.abs(n3))
                )
                shorten = longest_step / tl.maximum(longest, longest_step)
                n0, n1, n2, n3 = n0 * shorten, n1 * shorten, n2 * shorten, n3 * shorten
                fresh_slope = g0 * n0 + g1 * n1 + g2 * n2 + g3 * n3
            # After a halving the old direction still leads: its slope at the start stays valid.
            s0 = tl.where(overshot, 0.5 * s0, n0)
            s1 = tl.where(overshot, 0.5 * s1, n1)
            s2 = tl.where(overshot, 0.5 * s2, n2)
            s3 = tl.where(overshot, 0.5 * s3, n3)
            slope = tl.where(overshot, slope, fresh_slope)
            sign = tl.where(overshot, -1.0, 1.0)
            b0, b1, b2, b3 = b0 + sign * s0, b1 + sign * s1, b2 + sign * s2, b3 + sign * s3
            if not relaxed:  # keep the weights' logarithms around 0, for the range of floats
                low, high = _range(w0, w1, w2, w3, b0 + l0, b1 + l1, b2 + l2, b3 + l3)
                middle = (low + high) / 2
                b0 = tl.where(w0 > 0, b0 - middle, 0.0)
                b1 = tl.where(w1 > 0, b1 - middle, 0.0)
                b2 = tl.where(w2 > 0, b2 - middle, 0.0)
                b3 = tl.where(w3 > 0, b3 - middle, 0.0)
            iteration += 1

    f0, f1, f2, f3 = _factors(w0, w1, w2, w3, b0 + l0, b1 + l1, b2 + l2, b3 + l3)
    b0, b1 = epsilon * b0 + shift, epsilon * b1 + shift
    b2, b3 = epsilon * b2 + shift, epsilon * b3 + shift
    sums = tl.zeros((tile,), tl.float64)
    tl.debug_barrier()
    for start in range(0, pixels, tile):
        mass, pixel, way = _masses(supply_at, start, pixels, width, tile)
        inside = pixel < pixels
        p0, p1, p2, p3 = _parts(table_at, way, inside, f0, f1, f2, f3, height, width)
        least = tl.load(least_at + way, mask=inside, other=0.0)
        a = least - epsilon * tl.log(p0 + p1 + p2 + p3)
        if relaxed:
            a = ((a - shift) * (relaxation / total_price)).to(tl.float32)
            sums += (tl.exp(-a.to(tl.float64) / relaxation) - 1.0) * mass
        else:
            sums += a * mass
        tl.store(a_at + pixel, a, mask=inside)
    if relaxed:
        constant = zero
        value = -total_price * tl.sum(sums, 0)
    else:
        constant = tl.sum(sums, 0)
        value = constant
        tl.debug_barrier()
        for start in range(0, pixels, tile):
            pixel = start + tl.arange(0, tile)
            a = tl.load(a_at + pixel, mask=pixel < pixels, other=0.0)
            tl.store(a_at + pixel, a - constant.to(tl.float32), mask=pixel < pixels)
    value += tl.where(d0 > 0, b0 * d0, 0.0) + tl.where(d1 > 0, b1 * d1, 0.0)
    value += tl.where(d2 > 0, b2 * d2, 0.0) + tl.where(d3 > 0, b3 * d3, 0.0)
    tl.store(b_at + joint * 4, tl.where(d0 > 0, b0 + constant, 0.0))
    tl.store(b_at + joint * 4 + 1, tl.where(d1 > 0, b1 + constant, 0.0))
    tl.store(b_at + joint * 4 + 2, tl.where(d2 > 0, b2 + constant, 0.0))
    tl.store(b_at + joint * 4 + 3, tl.where(d3 > 0, b3 + constant, 0.0))
    tl.store(value_at + joint, value.to(tl.float32))
    tl.store(error_at + joint, error)
    tl.store(iterations_at + joint, iteration)
    tl.store(converged_at + joint, (error <= tolerance).to(tl.uint8))


@triton.jit
def _masses(masses_at, start, pixels: tl.constexpr, width: tl.constexpr, tile: tl.constexpr):
    """The tile's masses, 0 beyond the map; its pixels; their places in a window of the table."""
    pixel = start + tl.arange(0, tile)
    mass = tl.load(masses_at + pixel, mask=pixel < pixels, other=0.0)
    row = pixel // width
    return mass, pixel, row * (2 * width) + pixel - row * width


@triton.jit
def _closed(
    supply_at,
    least_at,
    start,
    pixels: tl.constexpr,
    width: tl.constexpr,
    total_price: tl.constexpr,
    tile: tl.constexpr,
):
    """log s - C / (epsilon + tau) in float64, and the tile's pixels."""
    mass, pixel, way = _masses(supply_at, start, pixels, width, tile)
    least = tl.load(least_at + way, mask=pixel < pixels, other=0.0)
    has_mass = mass > 0
    logs = tl.log(tl.where(has_mass, mass, 1.0).to(tl.float64)) - least / total_price
    return tl.where(has_mass, logs, float("-inf")), pixel


@triton.jit
def _parts(table_at, way, inside, f0, f1, f2, f3, height: tl.constexpr, width: tl.constexpr):
    """d_m exp((b_m + min C - C) / epsilon) of a tile's pixels, for the four m."""
    plane: tl.constexpr = 4 * height * width
    return (
        f0 * tl.load(table_at + way, mask=inside, other=1.0),
        f1 * tl.load(table_at + plane + way, mask=inside, other=1.0),
        f2 * tl.load(table_at + 2 * plane + way, mask=inside, other=1.0),
        f3 * tl.load(table_at + 3 * plane + way, mask=inside, other=1.0),
    )


@triton.jit
def _moments(
    masses_at,
    table_at,
    f0,
    f1,
    f2,
    f3,
    pixels: tl.constexpr,
    height: tl.constexpr,
    width: tl.constexpr,
    softness: tl.constexpr,
    tile: tl.constexpr,
):
    """A's upper triangle, float64.

    Joined, the ten sums are one exchange among the threads instead of ten.
    """
    m00 = tl.zeros((tile,), tl.float32)
    m01, m02, m03, m11, m12, m13, m22, m23, m33 = m00, m00, m00, m00, m00, m00, m00, m00, m00
    for start in range(0, pixels, tile):
        weight, pixel, way = _masses(masses_at, start, pixels, width, tile)
        p0, p1, p2, p3 = _parts(table_at, way, pixel < pixels, f0, f1, f2, f3, height, width)
        total = p0 + p1 + p2 + p3
        if softness > 0:
            weight = weight * tl.exp(softness * tl.log(total))
        inverse = 1.0 / total
        p0, p1, p2, p3 = p0 * inverse, p1 * inverse, p2 * inverse, p3 * inverse
        v0, v1, v2, v3 = weight * p0, weight * p1, weight * p2, weight * p3
        m00, m01, m02, m03 = m00 + v0 * p0, m01 + v0 * p1, m02 + v0 * p2, m03 + v0 * p3
        m11, m12, m13 = m11 + v1 * p1, m12 + v1 * p2, m13 + v1 * p3
        m22, m23, m33 = m22 + v2 * p2, m23 + v2 * p3, m33 + v3 * p3
    first = tl.join(
        tl.join(tl.join(m00, m01), tl.join(m02, m03)), tl.join(tl.join(m11, m12), tl.join(m13, m22))
    )
    sums = tl.sum(first, 0)
    low, high = tl.split(sums)
    u, v = tl.split(low)
    w, z = tl.split(high)
    t00, t01 = tl.split(u)
    t02, t03 = tl.split(v)
    t11, t12 = tl.split(w)
    t13, t22 = tl.split(z)
    t23, t33 = tl.split(tl.sum(tl.join(m23, m33), 0))
    return (
        t00.to(tl.float64),
        t01.to(tl.float64),
        t02.to(tl.float64),
        t03.to(tl.float64),
        t11.to(tl.float64),
        t12.to(tl.float64),
        t13.to(tl.float64),
        t22.to(tl.float64),
        t23.to(tl.float64),
        t33.to(tl.float64),
    )


@triton.jit
def _log(w):
    """0 for a place that takes no part."""
    return tl.log(tl.where(w > 0, w, 1.0))


@triton.jit
def _factors(w0, w1, w2, w3, x0, x1, x2, x3):
    """d exp(b / epsilon) in float32, of places that take no part 0."""
    return (
        tl.where(w0 > 0, tl.exp(x0), 0.0).to(tl.float32),
        tl.where(w1 > 0, tl.exp(x1), 0.0).to(tl.float32),
        tl.where(w2 > 0, tl.exp(x2), 0.0).to(tl.float32),
        tl.where(w3 > 0, tl.exp(x3), 0.0).to(tl.float32),
    )


@triton.jit
def _ratio(w, q):
    """Demand over marginal, in the range of what has a logarithm; 1 where nothing is wanted."""
    ratio = tl.where(w > 0, w / tl.where(w > 0, q, 1.0), 1.0)
    ratio = tl.where(ratio == ratio, ratio, 1.0)
    return tl.minimum(tl.maximum(ratio, 1e-300), 1e300)


@triton.jit
def _range(w0, w1, w2, w3, x0, x1, x2, x3):
    """Least and greatest x among the places that take part."""
    inf: tl.constexpr = float("inf")
    low = tl.minimum(
        tl.minimum(tl.where(w0 > 0, x0, inf), tl.where(w1 > 0, x1, inf)),
        tl.minimum(tl.where(w2 > 0, x2, inf), tl.where(w3 > 0, x3, inf)),
    )
    high = tl.maximum(
        tl.maximum(tl.where(w0 > 0, x0, -inf), tl.where(w1 > 0, x1, -inf)),
        tl.maximum(tl.where(w2 > 0, x2, -inf), tl.where(w3 > 0, x3, -inf)),
    )
    return low, high


@triton.jit
def _solve_4(h00, h01, h02, h03, h11, h12, h13, h22, h23, h33, g0, g1, g2, g3):
    """H n = g for a positive definite H, by L D L^T; 0 for what is no number."""
    i0 = 1.0 / h00
    l10, l20, l30 = h01 * i0, h02 * i0, h03 * i0
    i1 = 1.0 / (h11 - l10 * h01)
    u12, u13 = h12 - l10 * h02, h13 - l10 * h03
    l21, l31 = u12 * i1, u13 * i1
    i2 = 1.0 / (h22 - l20 * h02 - l21 * u12)
    u23 = h23 - l20 * h03 - l21 * u13
    l32 = u23 * i2
    i3 = 1.0 / (h33 - l30 * h03 - l31 * u13 - l32 * u23)
    y1 = g1 - l10 * g0
    y2 = g2 - l20 * g0 - l21 * y1
    y3 = g3 - l30 * g0 - l31 * y1 - l32 * y2
    n3 = y3 * i3
    n2 = y2 * i2 - l32 * n3
    n1 = y1 * i1 - l21 * n2 - l31 * n3
    n0 = g0 * i0 - l10 * n1 - l20 * n2 - l30 * n3
    return _finite(n0), _finite(n1), _finite(n2), _finite(n3)


@triton.jit
def _finite(n):
    return tl.where(tl.abs(n) < float("inf"), n, 0.0)
