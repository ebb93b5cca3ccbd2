"""Figures of merit: decoded joints in, named figures out.

Metrics that collect batches (`pckh`, `oks`, `compactness`, `risks`) stand on torchmetrics, which
takes seconds to import; what reads tables needs none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from posematch.data.people import OKSTruth, PCKhTruth, People

if TYPE_CHECKING:
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
            from posematch.metrics.pckh import PCKh

            return PCKh(people)
        case OKSTruth():
            from posematch.metrics.oks import COCOKeypointAP

            return COCOKeypointAP(people)
        case _:
            raise ValueError(f"{people.name}/{people.split} has no truth to be scored against")
