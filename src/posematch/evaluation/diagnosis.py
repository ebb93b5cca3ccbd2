"""What kinds of errors there are, how far joints are off, and how far their scores can be trusted.

The same tables for `posematch.evaluation.scores.Evaluation` and for the page of a comparison.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from posematch.data.people import OKSTruth
from posematch.errors import PosematchError
from posematch.evaluation.distances import distance_figures
from posematch.evaluation.error_types import error_shares
from posematch.evaluation.reliability import score_calibration, score_risk_coverage
from posematch.metrics.crowding import ap_by_crowding
from posematch.runs.predictions import PredictionTable

KINDS, DISTANCES, CROWDING, RELIABILITY = (
    "kinds of errors",
    "distances in sizes of the person",
    "AP by crowding",
    "reliability of scores",
)
# What the tables mean, by name and in their order.
MEANINGS: dict[str, str] = {
    KINDS: "Shares of the labelled joints (Ronchi and Perona 2017), in 'all' of MPII without pelvis"
    " and thorax. Good: nearest to its own place, with an OKS of at least 0.85 (MPII: 0.24 heads)."
    " Jitter: the same, down to 0.5 (half a head). Inversion: nearer to the other side's joint."
    " Swap: nearer to another person's. Miss: near nothing",
    DISTANCES: "EPE: mean distance of labelled joints, here in sizes of the person. PCK: percent"
    " within a fraction of the size. AUC: PCK averaged from 0 to 0.5. Head: MPII's head size;"
    " torso: left hip to right shoulder; box: longer side as annotated",
    CROWDING: "Photos by how much of other people there is in a person's box (CrowdPose's index):"
    " easy up to 0.1, hard from 0.8. AP and AR are fractions, of these photos alone",
    RELIABILITY: "A joint is right within half a head, or from an OKS of 0.5 on. Calibration error:"
    " how far scores are from the share that is right. Share of errors: of all joints. Risk over"
    " coverage: share of errors among the joints with the highest scores, averaged over how many"
    " are kept; scores that order joints well bring it below the share of errors",
}


def diagnosis_of_table(table: PredictionTable) -> dict[str, pd.DataFrame]:
    """`diagnosis` of a table that knows where its truth is, such as a run's."""
    if table.truth_file is None or table.by_heads:
        return diagnosis(table)
    try:
        results = table.coco_results()
    except PosematchError:  # an earlier version wrote neither scores nor boxes
        results = None
    return diagnosis(table, table.stored_truth.oks, results)


def diagnosis(
    table: PredictionTable,
    truth: OKSTruth | None = None,
    results: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, pd.DataFrame]:
    """Tables by the names of `MEANINGS`; those that the predictions do not tell are left out.

    Parameters
    ----------
    table
        With its truth.
    truth, results
        COCO's, and the poses as they are scored: ``AP by crowding`` and the size ``box``.

    Returns
    -------
    dict of DataFrame
        The first column of each names its rows: ``joint`` (``all`` first), ``size``,
        ``crowding``; reliability is one row of three figures.
    """
    if not table.labelled.any():
        return {}

    def kinds() -> pd.DataFrame:
        parts = pd.concat([error_shares(table), error_shares(table, "joint")])
        return parts.rename_axis("joint").reset_index()

    def distances() -> pd.DataFrame:
        return distance_figures(table, truth).reset_index()

    def crowding() -> pd.DataFrame:
        if truth is None or not results:
            return pd.DataFrame()
        return ap_by_crowding(results, truth).reset_index()

    def reliability() -> pd.DataFrame:
        risk, told = score_risk_coverage(table), score_calibration(table)
        row = {
            "calibration error": told.error,
            "share of errors": float(risk.curve["risk"].iloc[-1]),
            "risk over coverage": risk.area,
        }
        return pd.DataFrame([row])

    made: dict[str, Callable[[], pd.DataFrame]] = {
        KINDS: kinds, DISTANCES: distances, CROWDING: crowding, RELIABILITY: reliability
    }  # fmt: skip
    found = {}
    for name, make in made.items():
        # Tables of earlier versions lack columns, data of one's own OKS sigmas.
        with contextlib.suppress(PosematchError):
            frame = make()
            if len(frame):
                found[name] = frame
    return found
