"""From what a user names, runs or prediction files, to predictions that can be compared."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from posematch.data.coco import read_annotations
from posematch.data.mpii_truth import read_pckh_truth
from posematch.data.predictions import read_coco_results, read_mpii_predictions
from posematch.data.reading import read_json, require
from posematch.errors import PosematchError
from posematch.runs.finished import Run, find_runs
from posematch.runs.tables import read_table
from posematch.runs.truth import read_truth
from posematch.skeletons import MPII
from posematch.statistics.average_precision import evaluate_photos, poses, truth_of
from posematch.statistics.figures import Predicted, predicted
from posematch.untrusted import own_file

_NEEDED = ("person_id", "image_id", "joint", "x", "y", "true_x", "true_y", "visible")


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


def truths_below(root: Path, data: Mapping[str, Any], truth: Path | None = None) -> Truths:
    """Of a data set's folder and its part of the configuration, or of a file named itself."""
    match data["name"]:
        case _ if truth is not None and truth.suffix == ".json":
            return Truths(coco=truth, coco_images=str(data.get("valid_images", "")))
        case _ if truth is not None:
            return Truths(mpii=truth)
        case "mpii":
            return Truths(mpii=root / "annot" / "gt_valid.mat")
        case "coco":
            annotations = root / str(data["valid_annotations"])
            return Truths(coco=annotations, coco_images=str(data["valid_images"]))
        case _:
            return Truths()


@dataclass(frozen=True, eq=False)
class Side:
    """One side of a comparison.

    Attributes
    ----------
    predictions
        One for each seed.
    runs
        The runs they are of; none for files.
    """

    predictions: list[Predicted]
    runs: list[Run] = field(default_factory=list)

    @property
    def name(self) -> str:
        if self.runs:
            losses = ", ".join(sorted({run.loss for run in self.runs}))
            seeds = ", ".join(str(run.seed) for run in self.runs)
            return f"{losses} (seed{'s' if len(self.runs) > 1 else ''} {seeds})"
        return ", ".join(one.name for one in self.predictions)


def read_side(paths: Sequence[Path], truths: Truths) -> Side:
    """Run folders, folders of runs, or one prediction file.

    Parameters
    ----------
    paths
        Folders as for `find_runs`; or one ``.parquet`` of a run, ``.mat`` or ``.h5`` (MPII) or
        ``.json`` (COCO's results).
    truths
        For files.

    Raises
    ------
    PosematchError
        A path is neither, or something is wrong with a file.
    """
    files = [path for path in paths if path.is_file()]
    if not files:
        runs = find_runs(paths)
        return Side([predicted(run) for run in runs], runs)
    if len(paths) > 1:
        raise PosematchError(
            f"{files[0]} is named together with {len(paths) - 1} more; give several run folders, or"
            " one prediction file."
        )
    match files[0].suffix:
        case ".parquet":
            return Side([_read_table(files[0], truths)])
        case ".mat" | ".h5":
            return Side([_read_mpii(files[0], truths.mpii)])
        case ".json":
            return Side([_read_results(files[0], truths)])
        case suffix:
            raise PosematchError(
                f"{files[0]} ends in '{suffix}'; predictions are run folders, .parquet, .mat, .h5"
                " or .json."
            )


def _read_table(file: Path, truths: Truths) -> Predicted:
    table = read_table(file, _NEEDED)
    own = file.absolute().parent.parent / "truth.json"
    truth = truths.coco if "area" in table else None
    if os.path.lexists(own):
        truth = own_file(own.parent, own)
    return Predicted(f"{own.parent.name}/{file.name}", table, truth=truth)


def _read_mpii(file: Path, mat_file: Path | None) -> Predicted:
    if mat_file is None:
        raise PosematchError(
            f"{file}: name the folder of MPII with data=mpii data.root=FOLDER, or its gt_valid.mat"
            " with truth=FILE."
        )
    truth = read_pckh_truth(mat_file)
    N, K = truth.visible.shape
    joints_img = read_mpii_predictions(file, N)
    annotation = mat_file.with_name("valid.json")
    rows = read_json(annotation, "the MPII annotation, which tells who shares a photo,")
    require(
        isinstance(rows, list) and all(isinstance(row, dict) and "image" in row for row in rows),
        annotation,
        "a list of people with their photos",
    )
    if len(rows) != N:
        raise PosematchError(f"{annotation} has {len(rows)} people and {mat_file} has {N}.")
    first: dict[str, int] = {}
    photos = [first.setdefault(str(row["image"]), index) for index, row in enumerate(rows)]
    table = pd.DataFrame(
        {
            "person_id": np.repeat(np.arange(N), K),
            "image_id": np.repeat(photos, K),
            "joint": np.tile(MPII.joints, N),
            "image": np.repeat([f"images/{row['image']}" for row in rows], K),
            "x": joints_img[..., 0].ravel(),
            "y": joints_img[..., 1].ravel(),
            "true_x": truth.joints_img[..., 0].ravel(),
            "true_y": truth.joints_img[..., 1].ravel(),
            "visible": truth.visible.ravel(),
            "head_size_img": np.repeat(truth.head_size_img, K),
        }
    )
    return Predicted(file.name, table)


def _read_results(file: Path, truths: Truths) -> Predicted:
    if truths.coco is None:
        raise PosematchError(
            f"{file}: name the annotations it was made for with truth=FILE, or with data=coco"
            " data.root=FOLDER."
        )
    nobody = pd.DataFrame({"joint": []})
    one = with_people(
        Predicted(file.name, nobody, truth=truths.coco, results=read_coco_results(file))
    )
    images = read_annotations(truths.coco)["images"]
    names = {image["id"]: f"{truths.coco_images}/{image.get('file_name')}" for image in images}
    return replace(one, table=one.table.assign(image=one.table["image_id"].map(names)))


def has_people(one: Predicted) -> bool:
    """Whether the table's rows are annotated people; a detector's boxes belong to nobody."""
    return len(one.table) > 0 and bool(one.labelled.any())


def with_people(one: Predicted) -> Predicted:
    """Predictions with a row for every annotated person and joint.

    Everybody with labelled joints gets the pose of the photo that fits best (of highest OKS, among
    those that COCOeval looks at), or none. Figures of COCO stay those of all poses.

    Raises
    ------
    PosematchError
        There is no truth.
    """
    joints = read_truth(truth_of(one)).oks.skeleton.joints
    results = poses(one) if one.results is None else one.results
    one = replace(one, results=results)
    evaluation: Any = evaluate_photos(one)
    rows = []
    for key, truths in sorted(evaluation._gts.items()):
        similarity = np.asarray(evaluation.ious[key])
        found = sorted(evaluation._dts[key], key=lambda pose: -pose["score"])
        for column, person in enumerate(truths):
            if person["num_keypoints"] == 0 or person["iscrowd"]:
                continue
            pose = np.full((len(joints), 3), np.nan)
            if similarity.size:
                best = int(similarity[:, column].argmax())
                pose = np.array(found[best]["keypoints"], dtype=np.float64).reshape(-1, 3)
            rows.append((person, pose))
    K = len(joints)
    truth = np.array([person["keypoints"] for person, _ in rows], np.float64).reshape(-1, K, 3)
    found_img = np.stack([pose for _, pose in rows])
    table = pd.DataFrame(
        {
            "person_id": np.repeat([person["id"] for person, _ in rows], K),
            "image_id": np.repeat([person["image_id"] for person, _ in rows], K),
            "joint": np.tile(joints, len(rows)),
            "x": found_img[..., 0].ravel(),
            "y": found_img[..., 1].ravel(),
            "score": np.nan_to_num(found_img[..., 2]).ravel(),
            "true_x": truth[..., 0].ravel(),
            "true_y": truth[..., 1].ravel(),
            "visible": (truth[..., 2] > 0).astype(np.float32).ravel(),
            "occluded": (truth[..., 2] == 1).ravel(),
            "box_score": 1.0,
            "area": np.repeat([float(person["area"]) for person, _ in rows], K),
        }
    )
    if "image" in one.table:
        photos = one.table.drop_duplicates("image_id").set_index("image_id")["image"]
        table["image"] = table["image_id"].map(photos)
    return replace(one, table=table)
