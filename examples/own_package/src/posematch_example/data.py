"""A data set of one's own, with a skeleton of its own: wooden marionettes."""

import json
from pathlib import Path

import cv2
import numpy as np

from posematch.data.coco import read_coco
from posematch.data.datamodule import PoseDataModule
from posematch.data.people import People
from posematch.skeletons import skeleton_from_names

MARIONETTE = skeleton_from_names(
    "marionette",
    ["head", "left_hand", "right_hand", "left_foot", "right_foot"],
    limbs=[(0, 1), (0, 2), (0, 3), (0, 4)],
    oks_sigmas=[0.05, 0.06, 0.06, 0.06, 0.06],
)
# From the head to each joint, x and y in strings of 40 px; the marionettes face the viewer.
REACH = np.array([[0, 0], [0.9, 0.5], [-0.9, 0.5], [0.4, 1.6], [-0.4, 1.6]])
PHOTOS = {"train": 40, "valid": 9}


class MarionetteDataModule(PoseDataModule):
    """Draws its photos on first use, annotates them in COCO's format, and reads that.

    The base class does the rest: crops, augmentation, batches, processes. A data set in another
    format makes `Person` objects itself, as `posematch.data.mpii` does.
    """

    skeleton = MARIONETTE

    def prepare_data(self) -> None:
        """Draw what is not there yet; one process does."""
        for seed, split in enumerate(PHOTOS):
            if not self._annotation(split).exists():
                self._draw(split, np.random.default_rng(seed))

    def read(self, split: str) -> People:
        """The people of ``"train"`` or ``"valid"``."""
        file, photos = self._annotation(split), self.root / "photos"
        return read_coco(file, photos, split, self.input_size, skeleton=MARIONETTE)

    def _annotation(self, split: str) -> Path:
        return self.root / f"{split}.json"

    def _draw(self, split: str, rng: np.random.Generator) -> None:
        (self.root / "photos").mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for number in range(1, PHOTOS[split] + 1):
            size, name = 160, f"{split}-{number:03d}.png"
            photo = rng.integers(90, 160, (size, size, 3)).astype(np.uint8)
            head = rng.uniform([60, 30], [100, 60])
            joints = head + 40 * (REACH + rng.normal(0, 0.15, REACH.shape)) * (REACH != 0)
            points = [(int(x), int(y)) for x, y in joints.round()]
            for a, b in MARIONETTE.limbs:
                cv2.line(photo, points[a], points[b], (60, 110, 200), 5)
            for k, point in enumerate(points):
                cv2.circle(photo, point, 5, (40 * k, 255 - 50 * k, 60 * (k % 3)), -1)
            cv2.imwrite(str(self.root / "photos" / name), photo)
            (x0, y0), (x1, y1) = joints.min(0) - 8, joints.max(0) + 8
            images.append({"id": number, "file_name": name, "height": size, "width": size})
            annotations.append(
                {
                    "id": number,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "keypoints": [float(v) for x, y in joints for v in (x, y, 2)],
                }
            )
        category = {"id": 1, "name": MARIONETTE.name, "keypoints": MARIONETTE.joints}
        content = {"images": images, "annotations": annotations, "categories": [category]}
        partial = self._annotation(split).with_suffix(".partial")
        partial.write_text(json.dumps(content))
        partial.replace(self._annotation(split))
