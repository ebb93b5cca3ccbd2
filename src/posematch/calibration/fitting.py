"""Curves from scores to probabilities, fitted by the log loss or by isotonic regression.

Both are monotone in the score: calibration changes what a score says, not which of two of a joint
(of people of one size) is the surer.

Sources: Platt, Probabilistic outputs for support vector machines, 1999 (a sigmoid with slope and
offset); Guo et al., On calibration of modern neural networks, ICML 2017 (temperature); Zadrozny and
Elkan, Transforming classifier scores into accurate multiclass probability estimates, KDD 2002
(isotonic regression). The term of the person's size and the joints' shrunken offsets are ours.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit

from posematch.calibration.labelled import LabelledScores
from posematch.calibration_record import (
    LEAST_SLOPE,
    MOST_KNOTS,
    Curve,
    IsotonicCurve,
    Method,
    TemperatureCurve,
    score_logit,
)
from posematch.errors import PosematchError

Floats = NDArray[np.float64]

# Offsets of joints are taken to scatter by half a logit about their mean (0.5 becomes 0.62): of a
# thousand labels a joint's own say prevails, of ten the mean.
OFFSET_DEVIATION = 0.5
# Sizes beyond these shares of the people are rare, and may be faulty boxes.
_SIZES = (0.01, 0.99)
# Bounds about the means, so that what they become about zero is within the record's.
_MOST_FITTED_OFFSET = 20.0
_MOST_FITTED_SLOPE, _MOST_FITTED_SIZE_SLOPE = 10.0, 5.0


def fit_curve(data: LabelledScores, num_joints: int, method: Method) -> Curve:
    """The curve of a method.

    Parameters
    ----------
    data
        Labelled joints.
    num_joints
        K of the skeleton; not all need be among the data.
    method
        ``temperature`` or ``isotonic``.

    Raises
    ------
    PosematchError
        There is no joint.
    """
    if not len(data):
        raise PosematchError("there is no labelled joint that a calibration could be fitted on.")
    methods: dict[Method, Callable[[LabelledScores, int], Curve]] = {
        "temperature": fit_temperature, "isotonic": fit_isotonic
    }  # fmt: skip
    return methods[method](data, num_joints)


def fit_temperature(data: LabelledScores, num_joints: int) -> TemperatureCurve:
    """`TemperatureCurve` of the least log loss, its offsets shrunk to their mean.

    The loss is convex in its K + 2 numbers. A slope that the data do not tell (all scores, or all
    sizes, alike) stays 1 and 0.
    """
    raw = score_logit(data.scores)
    limits = np.quantile(data.log_sizes, _SIZES)
    sizes = np.clip(data.log_sizes, *limits)
    # About their means the three parts of the sum are nearly independent, and few steps suffice.
    raw_mean, size_mean = raw.mean(), sizes.mean()
    z, size = raw - raw_mean, sizes - size_mean
    shrinkage = 1 / (2 * OFFSET_DEVIATION**2)
    count = len(data)

    def loss(parameters: Floats) -> tuple[float, Floats]:
        slope, size_slope, offsets = parameters[0], parameters[1], parameters[2:]
        eta = slope * z + size_slope * size + offsets[data.joints]
        apart = offsets - offsets.mean()
        value = np.sum(np.logaddexp(0, eta) - data.targets * eta) + shrinkage * np.sum(apart**2)
        residual = expit(eta) - data.targets
        of_offsets = np.bincount(data.joints, residual, num_joints) + 2 * shrinkage * apart
        gradient = np.concatenate([[residual @ z, residual @ size], of_offsets])
        return float(value) / count, gradient / count

    start = np.zeros(num_joints + 2)
    start[0] = 1.0
    bounds = [
        (LEAST_SLOPE, _MOST_FITTED_SLOPE),
        (-_MOST_FITTED_SIZE_SLOPE, _MOST_FITTED_SIZE_SLOPE),
        *[(-_MOST_FITTED_OFFSET, _MOST_FITTED_OFFSET)] * num_joints,
    ]
    options = {"maxiter": 1000, "ftol": 1e-13, "gtol": 1e-9}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    slope, size_slope, offsets = found.x[0], found.x[1], found.x[2:]
    offsets = offsets - slope * raw_mean - size_slope * size_mean
    return TemperatureCurve(
        slope=float(slope),
        offsets=offsets.tolist(),
        size_slope=float(size_slope),
        log_sizes=limits.tolist(),
    )


def fit_isotonic(data: LabelledScores, num_joints: int) -> IsotonicCurve:
    """`IsotonicCurve` of the least squared error, all joints together.

    Each level of the regression is a knot at its mean score, so that between knots the curve rises
    and ties nothing. Half a right and half a wrong joint are added to each level (Jeffreys), as
    three right joints do not make a probability of 1.
    """
    scores, group = np.unique(data.scores, return_inverse=True)
    weights = np.bincount(group).astype(np.float64)
    right = np.bincount(group, data.targets)
    parts = _levels(right / weights, weights)
    weight = np.add.reduceat(weights, parts)
    if len(parts) > MOST_KNOTS:  # neighbours together, as equally many joints as can be
        place = (np.cumsum(weight) - weight / 2) * MOST_KNOTS / weight.sum()
        parts = parts[np.unique(np.floor(place), return_index=True)[1]]
    while True:
        weight, of_part = np.add.reduceat(weights, parts), np.add.reduceat(right, parts)
        share = (of_part + 0.5) / (weight + 1)
        levels = parts[_levels(share, weight)]
        if len(levels) == len(parts):
            break
        parts = levels
    at = np.add.reduceat(weights * scores, parts) / weight
    return IsotonicCurve(knots=np.stack([at, share], axis=1).tolist())


def _levels(shares: Floats, weights: Floats) -> NDArray[np.intp]:
    """First places of the levels of the rising regression."""
    return np.asarray(isotonic_regression(shares, weights=weights).blocks[:-1], np.intp)
