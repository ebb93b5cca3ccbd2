"""What makes a network's score a probability: plain data, checked, and how it is applied.

A `CalibrationRecord` stands in `posematch.model_record.ModelRecord`; `posematch.calibration` fits
it. It may come from a stranger, so numbers and lengths have bounds, and no curve falls.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from scipy.special import expit, logit

from posematch.geometry import Size

Floats = NDArray[np.float64]
Meaning = Literal["within 0.5 head sizes", "expected OKS"]
Method = Literal["temperature", "isotonic"]

# Scores beyond these count as these: 0 and 1 have no logit, and a peak of 0.0003 and one of 0.0001
# tell nothing apart.
LEAST_SCORE, MOST_SCORE = 0.001, 0.999
MOST_KNOTS = 100
# Bounds of a fit. On data a slope is 0.3 to 3; at these a score says nothing, or yes and no alone.
LEAST_SLOPE, MOST_SLOPE = 0.01, 100.0
MOST_OFFSET = 200.0
MOST_SIZE_SLOPE = 10.0
_MOST_LOG_SIZE = 20.0

_Share = Annotated[float, Field(ge=0, le=1)]
_Count = Annotated[int, Field(ge=1, le=2**40)]
_Offset = Annotated[float, Field(ge=-MOST_OFFSET, le=MOST_OFFSET)]
_LogSize = Annotated[float, Field(ge=-_MOST_LOG_SIZE, le=_MOST_LOG_SIZE)]
_Knot = Annotated[list[float], Field(min_length=2, max_length=2)]


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class TemperatureCurve(_Plain):
    """sigmoid(slope logit(score) + offset of the joint + size slope log(size)).

    Attributes
    ----------
    method
        Its name.
    slope
        Positive: a higher score is never a lower probability.
    offsets
        (K,) of the joints.
    size_slope
        Of `log_size`.
    log_sizes
        [least, most] seen in the fit; a person beyond counts as one at the end.
    """

    method: Literal["temperature"] = "temperature"
    slope: Annotated[float, Field(ge=LEAST_SLOPE, le=MOST_SLOPE)]
    offsets: Annotated[list[_Offset], Field(min_length=1, max_length=1000)]
    size_slope: Annotated[float, Field(ge=-MOST_SIZE_SLOPE, le=MOST_SIZE_SLOPE)]
    log_sizes: Annotated[list[_LogSize], Field(min_length=2, max_length=2)]

    @model_validator(mode="after")
    def _ascends(self) -> TemperatureCurve:
        if self.log_sizes[0] > self.log_sizes[1]:
            raise ValueError("log_sizes must be [least, most]")
        return self

    def apply(self, scores: ArrayLike, log_sizes: ArrayLike) -> Floats:
        """(N, K) scores and (N,) sizes as probabilities, see the class."""
        least, most = self.log_sizes
        size = np.clip(np.asarray(log_sizes, np.float64), least, most)[..., None]
        offsets = np.asarray(self.offsets)
        return np.asarray(
            expit(self.slope * score_logit(scores) + offsets + self.size_slope * size)
        )


class IsotonicCurve(_Plain):
    """A rising line through knots, level beyond them; the same for all joints and sizes.

    Attributes
    ----------
    method
        Its name.
    knots
        [score, probability], both strictly rising.
    """

    method: Literal["isotonic"] = "isotonic"
    knots: Annotated[list[_Knot], Field(min_length=1, max_length=MOST_KNOTS)]

    @field_validator("knots")
    @classmethod
    def _rise(cls, knots: list[list[float]]) -> list[list[float]]:
        scores, shares = zip(*knots, strict=True)
        if min(scores) < 0 or max(scores) > 1 or min(shares) <= 0 or max(shares) >= 1:
            raise ValueError("a knot lies outside 0 to 1")
        if any(b <= a for line in (scores, shares) for a, b in pairwise(line)):
            raise ValueError("the knots do not rise")
        return knots

    def apply(self, scores: ArrayLike, log_sizes: ArrayLike) -> Floats:
        """(N, K) scores as probabilities; sizes are passed over."""
        of_knots, shares = np.asarray(self.knots).T
        return np.asarray(np.interp(np.asarray(scores, np.float64), of_knots, shares))


Curve = TemperatureCurve | IsotonicCurve


class CalibrationRecord(_Plain):
    """How scores become probabilities, and what that was learned from.

    Attributes
    ----------
    meaning
        Of a calibrated score: probability that the joint lies within half a head of its place, or
        the OKS of the joint that is to be expected.
    curve
        The map.
    data
        Name of the data set.
    people, photos, joints
        How many it was fitted on: people with a labelled joint, their photos, labelled joints.
    epoch
        Of the weights, from 0.
    error_before, error_after
        Expected calibration errors of these people; after: each by a fit that has not seen them.

    Examples
    --------
    >>> record = CalibrationRecord(
    ...     meaning="expected OKS",
    ...     curve=TemperatureCurve(
    ...         slope=1.0, offsets=[0.0, 1.0], size_slope=0.0, log_sizes=[-1.0, 1.0]
    ...     ),
    ...     data="mine", people=80, photos=70, joints=150, epoch=9,
    ...     error_before=0.2, error_after=0.03,
    ... )
    >>> record.apply([[0.5, 0.5]], [[120.0, 160.0]], (256, 192)).round(2)
    array([[0.5 , 0.73]])
    >>> print(record.sentence())
    A score of 0.7 now says: the expected OKS of this joint is 0.7 (fitted on 80 people of mine).
    """

    meaning: Meaning
    curve: Annotated[Curve, Field(discriminator="method")]
    data: Annotated[str, Field(min_length=1, max_length=100)]
    people: _Count
    photos: _Count
    joints: _Count
    epoch: Annotated[int, Field(ge=0, le=2**40)]
    error_before: _Share
    error_after: _Share

    def fits(self, num_joints: int) -> bool:
        """Whether it is of a skeleton of so many joints."""
        curve = self.curve
        return isinstance(curve, IsotonicCurve) or len(curve.offsets) == num_joints

    def apply(self, scores: ArrayLike, box_size_img: ArrayLike, input_size: Size) -> Floats:
        """Scores as what `meaning` says.

        Parameters
        ----------
        scores
            (N, K) by the model's decoder.
        box_size_img
            (N, 2) width and height of what the crops show, in photo pixels: the padded box, of the
            crop's aspect.
        input_size
            (H, W) of the crops.

        Returns
        -------
        ndarray
            (N, K) float64 in (0, 1). Of people of one size a joint's scores keep their order.
        """
        return self.curve.apply(scores, log_size(box_size_img, input_size))

    def sentence(self) -> str:
        """What a score means by it, in plain words."""
        claim = (
            "the expected OKS of this joint is 0.7"
            if self.meaning == "expected OKS"
            else "with probability 0.7 this joint lies within 0.5 head sizes of its place"
        )
        return f"A score of 0.7 now says: {claim} (fitted on {self.people} people of {self.data})."


def score_logit(scores: ArrayLike) -> Floats:
    """log(s / (1 - s)) of scores, those near 0 and 1 cut to `LEAST_SCORE` and `MOST_SCORE`."""
    cut = np.clip(np.asarray(scores, np.float64), LEAST_SCORE, MOST_SCORE)
    return np.asarray(logit(cut))


def log_size(box_size_img: ArrayLike, input_size: Size) -> Floats:
    """Logarithm of the photo pixels that make one crop pixel: 0 for a box as large as the crop.

    Parameters
    ----------
    box_size_img
        (N, 2) width and height, as of `CalibrationRecord.apply`.
    input_size
        (H, W).

    Returns
    -------
    ndarray
        (N,).
    """
    height, width = input_size
    box = np.maximum(np.asarray(box_size_img, np.float64), np.exp(-_MOST_LOG_SIZE))
    size = np.log(box / (width, height)).mean(axis=-1)
    return np.asarray(np.clip(size, -_MOST_LOG_SIZE, _MOST_LOG_SIZE))
