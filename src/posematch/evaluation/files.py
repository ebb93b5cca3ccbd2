"""Score prediction files and run folders: neither photos nor a network are needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from posematch.data.mpii_truth import read_pckh_truth
from posematch.data.predictions import read_coco_results, read_mpii_predictions
from posematch.errors import PosematchError
from posematch.evaluation.scores import Evaluation, Part
from posematch.metrics.coco_results import Poses
from posematch.metrics.conventions import (
    coco_conventions,
    coco_conventions_of_results,
    pckh_conventions,
    pckh_conventions_of_table,
)
from posematch.runs.finished import read_run
from posematch.runs.tables import read_table
from posematch.runs.truth import StoredTruth, read_truth
from posematch.untrusted import own_file

COCO_VALID_ANNOTATIONS = "annotations/person_keypoints_val2017.json"
TRUTH = "truth.json"  # of a run folder, and of what scripts/evaluate.py writes


def evaluate_predictions(
    predictions: Path,
    data_name: str,
    root: Path,
    valid_annotations: str | None = COCO_VALID_ANNOTATIONS,
    detections: str | None = None,
) -> Evaluation:
    """Score a prediction file.

    Parameters
    ----------
    predictions
        posematch's ``.parquet``; MPII: ``.mat`` or ``.h5``, see `read_mpii_predictions`; COCO: see
        `read_coco_results`.
    data_name
        ``mpii`` or ``coco``; of a ``.parquet`` its columns tell.
    root
        Folder of the data set. Of MPII only ``annot/gt_valid.mat`` is read, of COCO the
        annotations; neither for a ``.parquet`` that has its truth with it.
    valid_annotations
        COCO's truth, a path relative to ``root``.
    detections
        COCO: the detector's file that the poses were made from, for the table; None: unknown.

    Raises
    ------
    PosematchError
        Something is wrong with a file, or nobody publishes predictions for that data set.
    """
    annotations = root / (valid_annotations or COCO_VALID_ANNOTATIONS)
    if predictions.suffix == ".parquet":
        table = read_table(predictions)
        part = part_of_table(table, _truth_beside(predictions) or annotations, predictions.name)
        return Evaluation(predictions.name, (part,))
    match data_name:
        case "mpii":
            truth = read_pckh_truth(root / "annot" / "gt_valid.mat")
            joints_img = read_mpii_predictions(predictions, len(truth.joints_img))
            part = Part(pckh_conventions(joints_img, truth))
        case "coco":
            results = read_coco_results(predictions)
            oks = replace(read_truth(annotations).oks, boxes=Path(detections or "").name)
            conventions = coco_conventions_of_results(results, oks)
            note = f"{len(results)} poses, as scored in {predictions.name}."
            if not detections:
                note += " Which boxes they come from the file does not say (data.detections=...)."
            part = Part(replace(conventions, notes=(*conventions.notes, note)))
        case _:
            raise PosematchError(
                f"Predictions for {data_name!r} cannot be scored: use data=mpii or data=coco, or a"
                " .parquet of posematch."
            )
    return Evaluation(f"{predictions.name} on {data_name}", (part,))


def evaluate_run(folder: Path) -> Evaluation:
    """Score the last predictions of a run folder, by the folder alone.

    Raises
    ------
    PosematchError
        It is no finished run, or its predictions are damaged or without their truth.
    """
    run = read_run(folder)
    if not run.epochs:
        raise PosematchError(f"{folder} has no predictions (predictions/epoch=*.parquet).")
    file = run.folder.predictions(run.epochs[-1])
    part = part_of_table(run.last_predictions, run.truth, str(file))
    notes = (
        f"{run.folder.path.name}: loss {run.loss}, epoch {run.epochs[-1]} (from 0), seed"
        f" {run.seed}; the run's own caption: {run.result['protocol']}.",
    )
    return Evaluation(f"{run.loss} on {run.data}", (part,), notes)


def part_of_table(table: pd.DataFrame, truth_file: Path | None, where: str) -> Part:
    """Figures of a prediction table: PCKh where it has head sizes, else OKS AP.

    Parameters
    ----------
    table
        See `read_table`.
    truth_file
        A run's ``truth.json`` or a COCO annotation file; not read for PCKh.
    where
        The table's file, for messages.

    Raises
    ------
    PosematchError
        AP is asked for and the truth or the sizes of boxes are nowhere.
    """
    if "head_size_img" in table:
        return Part(pckh_conventions_of_table(table), table=table)
    if truth_file is None or not truth_file.is_file():
        raise PosematchError(
            f"{where} is scored by OKS AP, which needs COCO's annotations: {TRUTH} next to it, or"
            " data=coco with data.root and data.valid_annotations."
        )
    stored = read_truth(truth_file)
    joints = tuple(dict.fromkeys(table["joint"]))
    if joints != stored.oks.skeleton.joints:
        raise PosematchError(f"{where} has other joints than {truth_file}.")
    poses = Poses.of_table(_with_boxes(table, stored))
    conventions = coco_conventions(poses, stored.oks)
    results = poses.results(stored.oks.skeleton.oks_sigmas)
    return Part(conventions, table=table, results=results)


def _with_boxes(table: pd.DataFrame, stored: StoredTruth) -> pd.DataFrame:
    """Tables of earlier versions do not have the boxes; the run's truth does."""
    if "box_width" in table or not stored.box_sizes:
        return table
    sizes = [stored.box_sizes.get(int(one), (np.nan, np.nan)) for one in table["person_id"]]
    return table.assign(box_width=[w for w, _ in sizes], box_height=[h for _, h in sizes])


def _truth_beside(predictions: Path) -> Path | None:
    """``truth.json`` next to a table, or of the run folder that it lies in."""
    folder = predictions.absolute().parent
    prefix = predictions.name.removesuffix("predictions.parquet")
    runs = [up for up in folder.parents[:2] if (up / "config.yaml").is_file()]
    files = [folder / f"{prefix}{TRUTH}", folder / TRUTH, *(run / TRUTH for run in runs)]
    found = next((file for file in files if file.is_file()), None)
    return None if found is None else own_file(found.parent, found)
