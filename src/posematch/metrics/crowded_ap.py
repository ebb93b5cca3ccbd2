"""COCO's keypoint AP by how crowded the photo is, see `posematch.metrics.crowding`."""

from __future__ import annotations

import numpy as np

from posematch.metrics.coco_truth import annotated_people, coco_figures
from posematch.metrics.crowding import LEVELS, crowd_level, person_crowding, photo_crowd_index
from posematch.metrics.oks import COCOKeypointAP


class CrowdedKeypointAP(COCOKeypointAP):
    """COCO's keypoint AP at CrowdPose's three levels of crowding; fed as `COCOKeypointAP`."""

    def compute(self) -> dict[str, float]:
        """``AP`` of all, ``AP(easy)``, ``AP(medium)``, ``AP(hard)``; a level without photos is out.

        Raises
        ------
        ValueError, PosematchError
            As `COCOKeypointAP.compute`.
        """
        truth, results = self.truth, self._suppressed()
        boxes, joints_img, labelled, image_ids = annotated_people(truth)
        crowding = person_crowding(boxes, joints_img, labelled, image_ids)
        index = photo_crowd_index(crowding, image_ids)
        figures = {
            self.primary: coco_figures(
                truth.annotation_file, results, truth.image_ids, truth.skeleton
            )[self.primary]
        }
        levels = crowd_level([index.get(image_id, np.nan) for image_id in truth.image_ids])
        for level in LEVELS:
            photos = {
                image_id
                for image_id, one in zip(truth.image_ids, levels, strict=True)
                if one == level and image_id in index
            }
            of_level = [result for result in results if result["image_id"] in photos]
            if photos:
                by_name = coco_figures(truth.annotation_file, of_level, photos, truth.skeleton)
                figures[f"{self.primary}({level})"] = by_name[self.primary]
        return figures
