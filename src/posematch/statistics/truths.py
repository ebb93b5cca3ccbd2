"""Where the truth of prediction files lies, found before what compares them is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posematch.data import matlab, mpii
from posematch.runs.named import finished_folders
from posematch.runs.truth import changed


@dataclass(frozen=True)
class Truths:
    """Where the truth of prediction files lies; runs bring theirs.

    Attributes
    ----------
    mpii
        ``gt_valid.mat``, with ``valid.json``, which tells who shares a photo, next to it.
    coco
        COCO annotation file.
    coco_images
        Folder of its photos, below the data set's.
    """

    mpii: Path | None = None
    coco: Path | None = None
    coco_images: str = "val2017"

    def check(self, paths: Sequence[Path]) -> None:
        """Refuse runs that are not there, and a prediction file whose truth is not.

        Raises
        ------
        PosematchError
            As `posematch.statistics.sides.read_side` would tell it.
        """
        predictions = next((path for path in paths if path.is_file()), None)
        if predictions is None:
            finished_folders(paths)
        elif predictions.suffix in (".mat", ".h5") and self.mpii is not None:
            matlab.check_there(self.mpii)
        elif predictions.suffix == ".json" and self.coco is not None:
            changed(self.coco)


def truths_below(root: Path, data: Mapping[str, Any], truth: Path | None = None) -> Truths:
    """Of a data set's folder and its part of the configuration, or of a file named itself."""
    match data["name"]:
        case _ if truth is not None and truth.suffix == ".json":
            return Truths(coco=truth, coco_images=str(data.get("valid_images", "")))
        case _ if truth is not None:
            return Truths(mpii=truth)
        case "mpii":
            return Truths(mpii=mpii.truth_file(root))
        case _ if "valid_annotations" in data:
            annotations = root / str(data["valid_annotations"])
            return Truths(coco=annotations, coco_images=str(data["valid_images"]))
        case _:
            return Truths()
