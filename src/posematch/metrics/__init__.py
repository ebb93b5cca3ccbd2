"""Figures of merit: decoded joints in, named figures out.

Metrics that collect batches (`pckh`, `oks`, `compactness`, `risks`) stand on torchmetrics, which
takes seconds to import; what reads tables needs none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from posematch.data.people import OKSTruth, PCKhTruth, People
from posematch.errors import PosematchError
from posematch.metrics.columns import CHOICES, FIGURES
from posematch.skeletons import COCO

if TYPE_CHECKING:
    from posematch.metrics.oks import COCOKeypointAP
    from posematch.metrics.pckh import PCKh


def metric_for(people: People, chosen: str = "auto") -> PCKh | COCOKeypointAP:
    """The metric that fits the truth the people come with.

    Parameters
    ----------
    people
        Of the validation split.
    chosen
        Its main figure, that the best checkpoint and searches look at; ``auto``: the first of
        `posematch.metrics.columns.CHOICES`.

    Raises
    ------
    PosematchError
        There is no such figure of these people.
    ValueError
        They come with no truth.
    """
    match people.truth:
        case PCKhTruth():
            from posematch.metrics.pckh import PCKh

            return PCKh(people, _main(people, chosen, CHOICES["mpii"]))
        case OKSTruth(boxes="gt"):
            from posematch.metrics.oks import COCOKeypointAP

            kind = "coco" if people.skeleton.joints == COCO.joints else "own"
            return COCOKeypointAP(people, _main(people, chosen, CHOICES[kind]))
        case OKSTruth():
            from posematch.metrics.oks import COCOKeypointAP

            found = [one for one in CHOICES["coco"] if one in FIGURES]
            return COCOKeypointAP(people, _main(people, chosen, found))
        case _:
            raise ValueError(f"{people.name}/{people.split} has no truth to be scored against")


def _main(people: People, chosen: str, choices: Sequence[str]) -> str:
    if chosen != "auto" and chosen not in choices:
        raise PosematchError(
            f"metric={chosen} is none of the figures of {people.name} that should be high:"
            f" {', '.join(choices)}; auto is the first."
        )
    return choices[0] if chosen == "auto" else chosen
