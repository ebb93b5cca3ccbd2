"""Figures of merit: decoded joints in, named figures out."""

from __future__ import annotations

from posematch.data.people import OKSTruth, PCKhTruth, People
from posematch.metrics.compactness import Compactness
from posematch.metrics.crowding import CrowdedKeypointAP
from posematch.metrics.joint_errors import AUC, EPE, PCK
from posematch.metrics.oks import COCOKeypointAP
from posematch.metrics.pckh import PCKh


def metric_for(people: People) -> PCKh | COCOKeypointAP:
    """The metric that fits the truth the people come with.

    Raises
    ------
    ValueError
        They come with none.
    """
    match people.truth:
        case PCKhTruth():
            return PCKh(people)
        case OKSTruth():
            return COCOKeypointAP(people)
        case _:
            raise ValueError(f"{people.name}/{people.split} has no truth to be scored against")


__all__ = [
    "AUC",
    "EPE",
    "PCK",
    "COCOKeypointAP",
    "Compactness",
    "CrowdedKeypointAP",
    "PCKh",
    "metric_for",
]
