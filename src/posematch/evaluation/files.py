"""Score prediction files and run folders: neither photos nor a network are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from posematch.data import mpii
from posematch.data.annotations import read_annotations, skeleton_of
from posematch.data.mpii_truth import read_pckh_truth
from posematch.data.people import OKSTruth
from posematch.data.predictions import read_coco_results, read_mpii_predictions
from posematch.errors import PosematchError
from posematch.evaluation.scores import Evaluation, Part
from posematch.metrics.conventions import (
    coco_conventions,
    coco_conventions_of_results,
    pckh_conventions,
)
from posematch.runs.finished import read_run
from posematch.runs.predictions import PredictionTable
from posematch.runs.truth import COCO_VALID_ANNOTATIONS
from posematch.skeletons import COCO
from posematch.untrusted import own_file

TRUTH = "truth.json"  # of a run folder, and of what scripts/evaluate.py writes


def evaluate_predictions(
    predictions: Path,
    data_name: str,
    root: Path,
    valid_annotations: str | None = COCO_VALID_ANNOTATIONS,
    detections: str | None = None,
    oks_sigmas: Sequence[float] | None = None,
) -> Evaluation:
    """Score a prediction file.

    Parameters
    ----------
    predictions
        posematch's ``.parquet``; MPII: ``.mat`` or ``.h5``, see `read_mpii_predictions`; COCO: see
        `read_coco_results`.
    data_name
        ``mpii``, ``coco``, or that of data in COCO's format; of a ``.parquet`` its columns tell.
    root
        Folder of the data set. Of MPII only ``annot/gt_valid.mat`` is read, of COCO the
        annotations; neither for a ``.parquet`` that has its truth with it.
    valid_annotations
        COCO's truth, a path relative to ``root``.
    detections
        COCO: the detector's file that the poses were made from, for the table; None: unknown.
    oks_sigmas
        Of joints of one's own, as `posematch.data.annotations.skeleton_of` takes them.

    Raises
    ------
    PosematchError
        Something is wrong with a file, or nobody publishes predictions for that data set.
    """
    annotations = root / (valid_annotations or COCO_VALID_ANNOTATIONS)
    if predictions.suffix == ".parquet":
        truth_file = _truth_beside(predictions) or annotations
        # An annotation file is not needed for PCKh, whose truth is in the table.
        table = PredictionTable.read(
            predictions, truth_file=truth_file if truth_file.is_file() else None
        )
        return Evaluation(predictions.name, (part_of_table(table),))
    # Data of one's own have a name of their own; their results are as COCO's.
    match "coco" if predictions.suffix == ".json" and data_name != "mpii" else data_name:
        case "mpii":
            truth = read_pckh_truth(mpii.truth_file(root))
            joints_img = read_mpii_predictions(predictions, len(truth.joints_img))
            part = Part(pckh_conventions(joints_img, truth))
        case "coco":
            told = read_annotations(annotations, None)
            skeleton = skeleton_of(annotations, oks_sigmas) if told.joints else COCO
            results = read_coco_results(predictions, skeleton.num_joints, told.categories)
            photos = tuple(one["id"] for one in told.content["images"])
            oks = OKSTruth(annotations, photos, Path(detections or "").name, skeleton)
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
    part = part_of_table(run.last_predictions)
    notes = (
        f"{run.folder.path.name}: loss {run.loss}, epoch {run.epochs[-1]} (from 0), seed"
        f" {run.seed}; the run's own caption: {run.result['protocol']}.",
    )
    return Evaluation(f"{run.loss} on {run.data}", (part,), notes)


def part_of_table(table: PredictionTable) -> Part:
    """Figures of a prediction table: PCKh where it has head sizes, else OKS AP.

    Raises
    ------
    PosematchError
        AP is asked for and the truth or the sizes of boxes are nowhere.
    """
    if table.by_heads:
        return Part(pckh_conventions(table.joints_img, table.pckh_truth), table=table)
    if table.truth_file is None:
        raise PosematchError(
            f"{table.name} is scored by OKS AP, which needs COCO's annotations: {TRUTH} next to it,"
            " or data=coco with data.root and data.valid_annotations."
        )
    conventions = coco_conventions(table.poses, table.stored_truth.oks)
    return Part(conventions, table=table, results=table.coco_results())


def _truth_beside(predictions: Path) -> Path | None:
    """``truth.json`` next to a table, or of the run folder that it lies in."""
    folder = predictions.absolute().parent
    prefix = predictions.name.removesuffix("predictions.parquet")
    runs = [up for up in folder.parents[:2] if (up / "config.yaml").is_file()]
    files = [folder / f"{prefix}{TRUTH}", folder / TRUTH, *(run / TRUTH for run in runs)]
    found = next((file for file in files if file.is_file()), None)
    return None if found is None else own_file(found.parent, found)
