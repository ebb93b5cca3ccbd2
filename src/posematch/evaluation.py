"""Score published prediction files: neither photos nor a network are needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from posematch.data.mpii_truth import read_pckh_truth
from posematch.data.people import People
from posematch.data.predictions import read_coco_results, read_mpii_predictions
from posematch.errors import PosematchError
from posematch.metrics.oks import coco_figures
from posematch.metrics.pckh import PCKh

COCO_VALID_ANNOTATIONS = "annotations/person_keypoints_val2017.json"


@dataclass(frozen=True)
class Evaluation:
    """Figures and how they were made.

    Attributes
    ----------
    figures
        As `PCKh` or `coco_figures` name them.
    protocol
        One line for a table's caption.
    """

    figures: dict[str, float]
    protocol: str


def evaluate_predictions(
    predictions: Path,
    data_name: str,
    root: Path,
    valid_annotations: str = COCO_VALID_ANNOTATIONS,
) -> Evaluation:
    """Score a prediction file.

    Parameters
    ----------
    predictions
        MPII: ``.mat`` or ``.h5``, see `read_mpii_predictions`; COCO: see `read_coco_results`.
    data_name
        ``mpii`` or ``coco``.
    root
        Folder of the data set; of MPII only ``annot/gt_valid.mat`` is read.
    valid_annotations
        COCO's truth, a path relative to ``root``.

    Raises
    ------
    PosematchError
        Something is wrong with a file, or nobody publishes predictions for that data set.
    """
    match data_name:
        case "mpii":
            return _evaluate_mpii(predictions, root / "annot" / "gt_valid.mat")
        case "coco":
            return _evaluate_coco(predictions, root / valid_annotations)
        case _:
            raise PosematchError(
                f"Predictions for {data_name!r} cannot be scored: use data=mpii or data=coco."
            )


def _evaluate_mpii(predictions: Path, mat_file: Path) -> Evaluation:
    truth = read_pckh_truth(mat_file)
    num_people = len(truth.joints_img)
    joints_img = torch.from_numpy(read_mpii_predictions(predictions, num_people))
    metric = PCKh(People("mpii", "valid", truth.skeleton, [], truth))
    metric.update(torch.arange(num_people), joints_img, torch.ones(joints_img.shape[:2]))
    return Evaluation(metric.compute(), metric.protocol)


def _evaluate_coco(predictions: Path, annotation_file: Path) -> Evaluation:
    results = read_coco_results(predictions)
    figures = coco_figures(annotation_file, results)
    protocol = f"COCOeval, {len(results)} poses, as scored in the file, of {annotation_file.name}"
    return Evaluation(figures, protocol)
