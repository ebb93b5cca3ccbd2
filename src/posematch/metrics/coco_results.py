"""Poses to results as COCO's server takes them, and the file it takes.

Source: docs/protocols.md, COCO scoring.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posematch.data.annotations import PERSON_CATEGORY
from posematch.errors import PosematchError
from posematch.files import write_text
from posematch.metrics.suppression import NMS_THRESHOLD, oks_nms, rescore, soft_oks_nms

# By name: `hard` is what everybody publishes; `soft` is HRNet's SOFT_NMS, which chooses by damped
# scores and writes the undamped ones; `soft_damped` writes the damped ones; `none` keeps all poses.
Suppression = Literal["hard", "soft", "soft_damped", "none"]


@dataclass(frozen=True, eq=False)
class CocoPoses:
    """Predicted poses before anything was suppressed.

    Attributes
    ----------
    image_ids
        (N,) COCO's.
    keypoints
        (N, K, 3) x, y in 0-based image pixels, score.
    box_scores
        (N,) the detector's confidence, 1 for an annotated box.
    box_areas
        (N,) square pixels, of the padded, aspect-grown box, not of the person.
    """

    image_ids: NDArray[np.int64]
    keypoints: NDArray[np.float64]
    box_scores: NDArray[np.float64]
    box_areas: NDArray[np.float64]

    def results(
        self,
        sigmas: ArrayLike,
        suppression: Suppression = "hard",
        threshold: float = NMS_THRESHOLD,
    ) -> list[dict[str, Any]]:
        """Rescore, suppress duplicates within each photo.

        Parameters
        ----------
        sigmas
            (K,) OKS sigmas of the joints.
        suppression
            See `Suppression`.
        threshold
            Of `posematch.metrics.suppression.oks_nms` or its soft form.

        Returns
        -------
        list of dict
            ``image_id``, ``category_id`` (1), ``keypoints`` (x, y, score of each joint in a row,
            0-based pixels), ``score``; by photo, best first.
        """
        scores = rescore(self.box_scores, self.keypoints[..., 2])
        poses = (self.keypoints, scores, self.box_areas, sigmas, threshold, self.image_ids)
        match suppression:
            case "hard":
                kept = oks_nms(*poses)
            case "soft":
                kept, _ = soft_oks_nms(*poses)
            case "soft_damped":
                kept, damped = soft_oks_nms(*poses)
                scores = scores.copy()
                scores[kept] = damped
            case "none":
                kept = np.lexsort((-scores, self.image_ids))
            case _:
                raise ValueError(
                    f"suppression={suppression} is none of hard, soft, soft_damped, none"
                )
        columns = (
            self.image_ids[kept],
            self.keypoints[kept].reshape(len(kept), 3 * self.keypoints.shape[1]),
            scores[kept],
        )
        return [
            {
                "image_id": image_id,
                "category_id": PERSON_CATEGORY,
                "keypoints": keypoints,
                "score": score,
            }
            for image_id, keypoints, score in zip(*(one.tolist() for one in columns), strict=True)
        ]


def write_results(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """Write the json that COCO's server takes, in one piece.

    Parameters
    ----------
    path
        For an upload COCO asks for ``person_keypoints_<split>_<name>_results.json`` in a zip.
    results
        As `CocoPoses.results` or `posematch.metrics.COCOKeypointAP.results` give them.

    Raises
    ------
    PosematchError
        A number is not finite, or there is no result at all.
    """
    if not results:
        raise PosematchError(f"there is no pose to write to {path}, which COCO would not take.")
    try:
        text = json.dumps(list(results), allow_nan=False)
    except ValueError as error:
        raise PosematchError(f"a result for {path} is NaN or infinite, so none is written.") from (
            error
        )
    write_text(path, text)
