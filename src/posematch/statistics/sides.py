"""From what a user names, runs or prediction files, to predictions that can be compared."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from posematch.data.annotations import read_annotations
from posematch.data.mpii_truth import read_pckh_truth
from posematch.data.predictions import read_coco_results, read_mpii_predictions
from posematch.data.reading import read_json, require
from posematch.errors import PosematchError
from posematch.metrics.coco_truth import coco_people
from posematch.runs.finished import Run, find_runs
from posematch.runs.folder import config_differences
from posematch.runs.predictions import PredictionTable
from posematch.runs.truth import read_truth
from posematch.skeletons import COCO, MPII
from posematch.statistics.average_precision import evaluate_photos
from posematch.statistics.truths import Truths
from posematch.untrusted import own_file


@dataclass(frozen=True, eq=False)
class Side:
    """One side of a comparison.

    Attributes
    ----------
    predictions
        One for each seed; where runs held out several folds, of the people of all of them.
    runs
        The runs they are of; none for files.
    decoder
        By which of the runs' further decoders; None for their own.
    """

    predictions: list[PredictionTable]
    runs: list[Run] = field(default_factory=list)
    decoder: str | None = None

    @property
    def name(self) -> str:
        if self.runs:
            losses = ", ".join(sorted({run.loss for run in self.runs}))
            seeds = sorted({run.seed for run in self.runs})
            told = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
            folds = len({fold_of(run) for run in self.runs})
            if folds > 1:
                told += f", {folds} folds"
            if self.decoder is not None:
                told += f", {self.decoder}"
            return f"{losses} ({told})"
        return ", ".join(one.name for one in self.predictions)


def read_side(paths: Sequence[Path], truths: Truths, decoder: str | None = None) -> Side:
    """Run folders, folders of runs, or one prediction file.

    Parameters
    ----------
    paths
        Folders as for `find_runs`; or one ``.parquet`` of a run, ``.mat`` or ``.h5`` (MPII) or
        ``.json`` (COCO's results).
    truths
        For files.
    decoder
        Of the runs' further decoders the one to take; None for their own.

    Raises
    ------
    PosematchError
        A path is neither, or something is wrong with a file; a file with a ``decoder``, or runs
        without predictions by it.
    """
    files = [path for path in paths if path.is_file()]
    if not files:
        runs = find_runs(paths)
        return Side(of_folds(runs, decoder), runs, decoder)
    if decoder is not None:
        raise PosematchError(
            f"{files[0]} is a prediction file, which has no further decoders; name its run folder,"
            f" or leave out the decoder {decoder}."
        )
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


def fold_of(run: Run) -> int:
    """Which part of the training people a run held out; 0 where it held none."""
    data = run.config["data"]
    return int(data.get("fold", 0)) if data.get("holdout") else 0


def check_folds(runs: Sequence[Run], name: str) -> None:
    """Refuse runs of several folds that are not trainings of one recipe.

    Parameters
    ----------
    runs
        Any number for each fold, those of a fold comparable with each other.
    name
        What they are, for the sentence.

    Raises
    ------
    PosematchError
        Something but the fold and the seed differs.
    """
    first = {fold_of(run): run for run in runs}
    for one, other in itertools.pairwise(first.values()):
        for key, old, new in config_differences(one.config, other.config):
            if key not in ("data.fold", "seed", "data.seed"):
                raise PosematchError(f"{name}: {key} is {old} in one fold and {new} in another.")


def of_folds(runs: Sequence[Run], decoder: str | None) -> list[PredictionTable]:
    """Predictions of each run; of several folds of a seed, of their people together.

    Raises
    ------
    PosematchError
        Seeds have different folds, or one twice; people of folds are scored by OKS; a run has no
        predictions by the decoder.
    """
    folds = sorted({fold_of(run) for run in runs})
    if len(folds) < 2:
        return [run.predictions(decoder=decoder) for run in runs]
    by_seed: dict[int, list[Run]] = {}
    for run in sorted(runs, key=fold_of):
        by_seed.setdefault(run.seed, []).append(run)
    for seed, own in by_seed.items():
        if [fold_of(run) for run in own] != folds:
            raise PosematchError(
                f"seed {seed} has the folds {', '.join(str(fold_of(run)) for run in own)}, other"
                f" seeds {', '.join(map(str, folds))}; name one run for each seed and fold."
            )
    return [_together(own, decoder) for own in by_seed.values()]


def _together(runs: Sequence[Run], decoder: str | None) -> PredictionTable:
    """One table of people whom several runs held out, numbered anew."""
    tables = [run.predictions(decoder=decoder) for run in runs]
    if not all(one.by_heads for one in tables):
        raise PosematchError(
            "folds of people who are scored by OKS cannot be put together: AP is of one file of"
            " annotations; compare fold by fold."
        )
    parts = [one.frame() for one in tables]
    ends = np.cumsum([0, *(len(one) for one in tables)])
    for part, one, start in zip(parts, tables, ends, strict=False):
        rows = np.arange(start, start + len(one))
        part["person_id"] = np.repeat(rows, one.skeleton.num_joints)
    name = f"{runs[0].loss}, folds {', '.join(str(fold_of(run)) for run in runs)}"
    whole = PredictionTable.from_frame(pd.concat(parts, ignore_index=True))
    return replace(whole, name=name, seed=runs[0].seed)


def _read_table(file: Path, truths: Truths) -> PredictionTable:
    own = file.absolute().parent.parent / "truth.json"
    truth = own_file(own.parent, own) if os.path.lexists(own) else truths.coco
    return PredictionTable.read(file, name=f"{own.parent.name}/{file.name}", truth_file=truth)


def _read_mpii(file: Path, mat_file: Path | None) -> PredictionTable:
    if mat_file is None:
        raise PosematchError(
            f"{file}: name the folder of MPII with data=mpii data.root=FOLDER, or its gt_valid.mat"
            " with truth=FILE."
        )
    truth = read_pckh_truth(mat_file)
    N = len(truth.visible)
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
    return PredictionTable(
        skeleton=MPII,
        person_ids=np.arange(N),
        image_ids=np.array(photos, np.int64),
        joints_img=joints_img,
        true_img=truth.joints_img,
        labelled=truth.visible > 0,
        head_size_img=truth.head_size_img,
        images=np.array([f"images/{row['image']}" for row in rows]),
        name=file.name,
    )


def _read_results(file: Path, truths: Truths) -> PredictionTable:
    if truths.coco is None:
        raise PosematchError(
            f"{file}: name the annotations it was made for with truth=FILE, or with data=coco"
            " data.root=FOLDER."
        )
    told = read_annotations(truths.coco, None)
    joints = len(told.joints) or COCO.num_joints
    results = read_coco_results(file, joints, told.categories)
    table = matched(file.name, results, truths.coco)
    images = told.content["images"]
    names = {image["id"]: f"{truths.coco_images}/{image.get('file_name')}" for image in images}
    return replace(table, images=np.array([names[one] for one in table.image_ids.tolist()]))


def has_people(one: PredictionTable) -> bool:
    """Whether the table's rows are annotated people; a detector's boxes belong to nobody."""
    return bool(one.labelled.any())


def with_people(one: PredictionTable) -> PredictionTable:
    """Predictions with a row for every annotated person.

    Everybody with labelled joints gets the pose of the photo that fits best (of highest OKS, among
    those that COCOeval looks at), or none. Figures of COCO stay those of all poses.

    Raises
    ------
    PosematchError
        There is no truth.
    """
    truth_file = one.stored_truth.oks.annotation_file
    table = matched(one.name, one.coco_results(), truth_file, one.seed)
    if one.images is None:
        return table
    names = dict(zip(one.image_ids.tolist(), one.images.tolist(), strict=True))
    images = np.array([names.get(photo, "") for photo in table.image_ids.tolist()])
    return replace(table, images=images)


def matched(
    name: str, results: Sequence[Mapping[str, Any]], truth_file: Path, seed: int | None = None
) -> PredictionTable:
    """Poses of a file, as a table of the annotated people; see `with_people`.

    Parameters
    ----------
    name, seed
        Of the table.
    results
        All poses, as COCO's server takes them.
    truth_file
        A run's ``truth.json`` or a COCO annotation file.

    Raises
    ------
    PosematchError
        A pose is in a photo that the truth does not have.
    """
    oks = read_truth(truth_file).oks
    best = evaluate_photos(name, results, oks).best
    people = coco_people(oks.annotation_file, oks.skeleton)
    rows = np.flatnonzero(people.counted & np.isin(people.image_ids, oks.image_ids))
    rows = rows[np.argsort(people.image_ids[rows], kind="stable")]
    truth, best = people.keypoints[rows], best[rows]
    found_img = np.full(truth.shape, np.nan)
    found_img[best >= 0] = np.array(
        [results[row]["keypoints"] for row in best[best >= 0].tolist()], np.float64
    ).reshape(-1, *truth.shape[1:])
    return PredictionTable(
        skeleton=oks.skeleton,
        person_ids=people.ids[rows],
        image_ids=people.image_ids[rows],
        joints_img=found_img[..., :2],
        true_img=truth[..., :2],
        labelled=truth[..., 2] > 0,
        area=people.areas[rows],
        scores=np.nan_to_num(found_img[..., 2]),
        occluded=truth[..., 2] == 1,
        box_scores=np.ones(len(rows)),
        name=name,
        seed=seed,
        truth_file=truth_file,
        results=results,
    )
