"""Who was predicted where: the one table that metrics, comparisons, curves and pictures start from.

A validation, a prediction file and a run folder all become a `PredictionTable`. It is written as
parquet, a row per person and joint (`PredictionTable.frame` says which columns), and holds arrays,
a row per person.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from posematch.data.annotations import read_annotations
from posematch.data.people import PCKhTruth, People
from posematch.errors import PosematchError
from posematch.files import replacing
from posematch.metrics.coco_results import CocoPoses
from posematch.metrics.crowding import crowd_index
from posematch.metrics.hits import (
    distances_heads,
    distances_px,
    head_similarity,
    joint_oks,
    within_heads,
)
from posematch.runs.parquet import read_columns
from posematch.runs.truth import StoredTruth, read_truth
from posematch.skeletons import SKELETONS, Skeleton, skeleton_from_names

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Columns without which there is no table ...
NEEDED = ("person_id", "image_id", "joint", "x", "y", "true_x", "true_y", "visible")
# ... those of the maps' compactness, `posematch.metrics.compactness.MapCompactness` ...
COMPACTNESS = ("mass_within_2px", "mass_within_2px_of_truth", "spread_px")
# ... and all that are read; others are not. One value for all joints of a person:
_OF_PERSON = (
    *("image_id", "box_score", "box_center_x", "box_center_y", "box_width", "box_height"),
    *("crowd_index", "head_size_img", "area"),
)
_TEXTS = ("joint", "image")
_KNOWN = tuple(dict.fromkeys((*NEEDED, "score", "occluded", *_OF_PERSON, "image", *COMPACTNESS)))


@dataclass(frozen=True, eq=False)
class PredictionTable:
    """N people with K joints each: predicted, true, and what the distance is measured by.

    What is None is not known: tables of earlier versions lack columns, and files of others have few
    of them. Properties that need one raise a `PosematchError` that names it.

    >>> table = PredictionTable(
    ...     skeleton=skeleton_from_names("two", ["nose", "chin"], []),
    ...     person_ids=np.array([7]),
    ...     image_ids=np.array([1]),
    ...     joints_img=np.array([[[10.0, 10.0], [13.0, 24.0]]]),
    ...     true_img=np.array([[[10.0, 10.0], [10.0, 20.0]]]),
    ...     labelled=np.array([[True, True]]),
    ...     head_size_img=np.array([10.0]),
    ... )
    >>> table.errors, table.unit, table.hits(0.5)
    (array([[0. , 0.5]]), 'head sizes', array([[ True,  True]]))

    Attributes
    ----------
    skeleton
        Names of the K joints in the order of the arrays, mirror pairs, OKS sigmas where known.
    person_ids
        (N,) int64, each once.
    image_ids
        (N,) int64; people of one photo share it.
    joints_img, true_img
        (N, K, 2) float64, 0-based photo pixels, predicted and true. True ones mean nothing where
        not labelled; predicted ones are NaN of a person whom nobody found.
    labelled
        (N, K) which joints have a truth.
    head_size_img
        (N,) pixels: the measure is PCKh's.
    area
        (N,) square pixels: the measure is OKS. Nothing where there is a head size.
    scores
        (N, K), in the precision in which they were decoded.
    occluded
        (N, K) labelled but said to be hidden.
    box_scores
        (N,) the detector's confidence, 1 for an annotated box.
    box_center_img, box_size_img
        (N, 2) of the padded, aspect-grown box.
    crowd_index
        (N,) of the photo, `posematch.metrics.crowding`; NaN where nobody is labelled.
    images
        (N,) the photos' paths below the folder of the data set.
    compactness
        (N, K) by the names of `COMPACTNESS`.
    name
        For messages and tables.
    seed
        Of the training.
    truth_file
        A run's ``truth.json`` or a COCO annotation file: what AP is measured against.
    results
        All poses as COCO's server takes them, where a file gave them; rows are then those of the
        annotated people. None: they are made of the rows.
    """

    skeleton: Skeleton
    person_ids: NDArray[np.int64]
    image_ids: NDArray[np.int64]
    joints_img: Floats
    true_img: Floats
    labelled: Bools
    head_size_img: Floats | None = None
    area: Floats | None = None
    scores: NDArray[np.floating[Any]] | None = None
    occluded: Bools | None = None
    box_scores: Floats | None = None
    box_center_img: Floats | None = None
    box_size_img: Floats | None = None
    crowd_index: Floats | None = None
    images: NDArray[np.str_] | None = None
    compactness: Mapping[str, NDArray[np.floating[Any]]] = field(default_factory=dict)
    name: str = "predictions"
    seed: int | None = None
    truth_file: Path | None = None
    results: Sequence[Mapping[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self.person_ids)

    def __repr__(self) -> str:
        joints = self.skeleton.num_joints
        return f"<PredictionTable {self.name}: {len(self)} people, {joints} joints, {self.unit}>"

    # --- made of people, frames and files, and written ---

    @classmethod
    def for_people(
        cls,
        people: People,
        person_ids: NDArray[np.int64],
        joints_img: Floats,
        scores: NDArray[np.floating[Any]],
        compactness: Mapping[str, NDArray[np.floating[Any]]] | None = None,
        *,
        root: Path | None = None,
    ) -> PredictionTable:
        """Predictions of a split's people.

        Parameters
        ----------
        people
            The split; its truth decides the true joints (PCKh: the .mat's) and the measure.
        person_ids, joints_img, scores
            (N,), (N, K, 2) photo pixels, (N, K).
        compactness
            See the class.
        root
            Folder of the data set, which photos are named relative to; None for no names.
        """
        place = {one: row for row, one in enumerate(people.rows.person_ids.tolist())}
        chosen = people.rows[np.array([place[int(one)] for one in person_ids], dtype=np.intp)]
        head_size_img = area = None
        if isinstance(people.truth, PCKhTruth):
            true_img = people.truth.joints_img[person_ids]
            visible = people.truth.visible[person_ids]
            head_size_img = np.asarray(people.truth.head_size_img[person_ids], np.float64)
        else:
            true_img, visible, area = chosen.joints_img, chosen.visible, chosen.areas
        crowding = crowd_index(people)
        return cls(
            skeleton=people.skeleton,
            person_ids=np.asarray(person_ids, np.int64),
            image_ids=chosen.image_ids,
            joints_img=np.asarray(joints_img, np.float64),
            true_img=np.asarray(true_img, np.float64),
            labelled=visible > 0,
            head_size_img=head_size_img,
            area=area,
            scores=np.asarray(scores),
            occluded=chosen.occluded,
            box_scores=chosen.box_scores,
            box_center_img=chosen.centers_img,
            box_size_img=chosen.box_sizes_img,
            crowd_index=np.array([crowding.get(one, np.nan) for one in chosen.image_ids.tolist()]),
            images=None
            if root is None
            else np.array([photo_name(one.image, root) for one in chosen]),
            compactness=dict(compactness or {}),
            name=f"{people.name}/{people.split}",
        )

    @classmethod
    def read(
        cls,
        file: Path,
        *,
        name: str | None = None,
        seed: int | None = None,
        truth_file: Path | None = None,
    ) -> PredictionTable:
        """Read parquet of this or an earlier version, which nobody vouches for.

        Parameters
        ----------
        file
            The table.
        name, seed, truth_file
            See the class; the name is the file's unless given.

        Raises
        ------
        PosematchError
            The file is missing, no parquet, larger than any table of ours, or no such table; the
            sentence names the column.
        """
        frame = read_columns(file, needed=NEEDED, known=_KNOWN, texts=_TEXTS)
        return cls.from_frame(
            frame, where=str(file), name=name or file.name, seed=seed, truth_file=truth_file
        )

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        *,
        where: str = "the table of predictions",
        skeleton: Skeleton | None = None,
        name: str = "predictions",
        seed: int | None = None,
        truth_file: Path | None = None,
    ) -> PredictionTable:
        """Of rows as `frame` gives them.

        Parameters
        ----------
        frame
            At least the columns `NEEDED`; each person's joints in a row and in one order.
        where
            What it is, for messages.
        skeleton
            Of the joints; None for that of the truth, or MPII's or COCO's, or one told by names.
        name, seed, truth_file
            See the class.

        Raises
        ------
        PosematchError
            A column is missing or has values that it never has.
        """
        _check_columns(frame, where)
        joints = tuple(str(joint) for joint in dict.fromkeys(frame["joint"]))
        K = len(joints)
        _check_rows(frame, K, where)

        def grid(column: str, dtype: Any = np.float64) -> Any:
            return frame[column].to_numpy(dtype).reshape(-1, K)

        def of_person(column: str, dtype: Any = np.float64) -> Any:
            values = grid(column, dtype)
            first = values[:, :1]
            if not ((values == first) | ((values != values) & (first != first))).all():
                raise PosematchError(
                    f"column {column} of {where} differs between the joints of one person."
                )
            return first[:, 0].copy()

        def known(column: str) -> Any:
            return of_person(column) if column in frame else None

        def points(names: Sequence[str], of: Any) -> Any:
            there = all(one in frame for one in names)
            return np.stack([of(one) for one in names], axis=-1) if there else None

        by_heads = "head_size_img" in frame
        return cls(
            skeleton=_skeleton(joints, skeleton, where, None if by_heads else truth_file),
            person_ids=of_person("person_id", np.int64),
            image_ids=of_person("image_id", np.int64),
            joints_img=points(("x", "y"), grid),
            true_img=points(("true_x", "true_y"), grid),
            labelled=grid("visible") > 0,
            head_size_img=known("head_size_img"),
            area=known("area"),
            scores=grid("score", None) if "score" in frame else None,
            occluded=grid("occluded", np.bool_) if "occluded" in frame else None,
            box_scores=known("box_score"),
            box_center_img=points(("box_center_x", "box_center_y"), of_person),
            box_size_img=points(("box_width", "box_height"), of_person),
            crowd_index=known("crowd_index"),
            images=np.array(frame["image"].to_numpy()[::K], str) if "image" in frame else None,
            compactness={one: grid(one, None) for one in COMPACTNESS if one in frame},
            name=name,
            seed=seed,
            truth_file=None if by_heads else truth_file,
        )

    def frame(self) -> pd.DataFrame:
        """A row per person and joint, joints in the skeleton's order.

        Returns
        -------
        DataFrame
            Coordinates are 0-based photo pixels. ``person_id``, ``image_id``, ``joint``; ``x``,
            ``y``, ``score`` as decoded; ``true_x``, ``true_y``, ``visible`` (labelled),
            ``occluded``; ``box_score``, and ``box_center_x``, ``box_center_y``, ``box_width``,
            ``box_height`` of the padded, aspect-grown box; ``crowd_index``; ``head_size_img``
            (PCKh) or ``area`` (OKS); ``image``, the photo's path below the folder of the data set;
            the columns of `COMPACTNESS`. Columns of what is not known are left out.
        """
        K = self.skeleton.num_joints

        def each(values: Any, side: int | None = None) -> Any:
            """A person's value, for every joint."""
            if values is None:
                return None
            return np.repeat(values if side is None else values[:, side], K)

        columns = {
            "person_id": each(self.person_ids),
            "image_id": each(self.image_ids),
            "joint": np.tile(self.skeleton.joints, len(self)),
            "x": self.joints_img[..., 0],
            "y": self.joints_img[..., 1],
            "score": self.scores,
            "true_x": self.true_img[..., 0],
            "true_y": self.true_img[..., 1],
            "visible": self.labelled.astype(np.float32),
            "occluded": self.occluded,
            "box_score": each(self.box_scores),
            "box_center_x": each(self.box_center_img, 0),
            "box_center_y": each(self.box_center_img, 1),
            "box_width": each(self.box_size_img, 0),
            "box_height": each(self.box_size_img, 1),
            "crowd_index": each(self.crowd_index),
            "head_size_img": each(self.head_size_img),
            "area": each(self.area),
            "image": each(self.images),
            **self.compactness,
        }
        return pd.DataFrame(
            {name: values.ravel() for name, values in columns.items() if values is not None}
        )

    def write(self, file: Path) -> None:
        """Write parquet in one piece: never half a file under the final name."""
        with replacing(file) as content:
            self.frame().to_parquet(content, index=False)

    # --- parts of it ---

    def of_people(self, chosen: Bools) -> PredictionTable:
        """Some of the people, (N,) bool."""
        arrays: dict[str, Any] = {
            one.name: values[chosen]
            for one in fields(self)
            if isinstance(values := getattr(self, one.name), np.ndarray)
        }
        compactness = {name: values[chosen] for name, values in self.compactness.items()}
        return replace(self, compactness=compactness, **arrays)

    # --- how near predictions are ---

    @property
    def by_heads(self) -> bool:
        """Whether the measure is PCKh's head sizes; else it is OKS."""
        return self.head_size_img is not None

    @property
    def unit(self) -> str:
        """Of `errors`."""
        return "head sizes" if self.by_heads else "sqrt(area)"

    @cached_property
    def size_img(self) -> Floats:
        """(N,) pixels that errors are divided by: the head size, or the root of the area."""
        if self.head_size_img is not None:
            return self.head_size_img
        return np.asarray(np.sqrt(np.maximum(self.need("area"), 0)))

    @cached_property
    def errors_px(self) -> Floats:
        """(N, K) distance to the truth; NaN where not labelled."""
        return self._where_labelled(distances_px(self.joints_img, self.true_img))

    @cached_property
    def errors(self) -> Floats:
        """(N, K) distance in the data set's own measure, see `unit`.

        NaN where not labelled, infinite where the person has no size.
        """
        if self.head_size_img is not None:
            heads = distances_heads(self.joints_img, self.true_img, self.head_size_img)
            return self._where_labelled(heads)
        has_size = self.size_img > 0
        roots = self.errors_px / np.where(has_size, self.size_img, 1.0)[:, None]
        return self._where_labelled(np.where(has_size[:, None], roots, np.inf))

    def hits(self, threshold: float) -> Bools:
        """(N, K) labelled joints within so many head sizes, by PCKh's rule.

        Raises
        ------
        PosematchError
            The people have no head sizes.
        """
        self.need("head_size_img")
        return within_heads(self.errors, threshold)

    @cached_property
    def joint_oks(self) -> Floats:
        """(N, K) OKS of each joint, by the person's own area, as COCOeval; 0 for one not found.

        Raises
        ------
        PosematchError
            The people have no area, or their joints no sigmas.
        """
        if not self.skeleton.oks_sigmas:
            raise PosematchError(f"The joints of {self.name} have no OKS sigmas.")
        area = self.need("area")
        oks = joint_oks(self.joints_img, self.true_img, area, self.skeleton.oks_sigmas)
        return np.asarray(np.nan_to_num(oks))

    @cached_property
    def oks(self) -> Floats:
        """(N,) mean of `joint_oks` over the labelled joints; 0 without any."""
        counted = self.labelled.sum(axis=1)
        return np.asarray(
            np.where(self.labelled, self.joint_oks, 0).sum(axis=1) / np.maximum(counted, 1)
        )

    @cached_property
    def similarity(self) -> Floats:
        """(N, K) in [0, 1] to the own truth: OKS, or what MPII has instead; NaN where not labelled.

        Raises
        ------
        PosematchError
            As `joint_oks`.
        """
        values = head_similarity(self.errors) if self.by_heads else self.joint_oks
        return self._where_labelled(values)

    def check_measurable(self) -> None:
        """See that every labelled joint has a distance.

        Raises
        ------
        PosematchError
            Nothing is labelled (as in predictions on a detector's boxes), a labelled person has no
            size, or the joints no sigmas.
        """
        if not self.labelled.any():
            raise PosematchError(
                "no joint of the predictions is labelled, so there is nothing to measure: use"
                " predictions on annotated boxes."
            )
        if (self.size_img[self.labelled.any(axis=1)] <= 0).any():
            raise PosematchError("a labelled person has a size of 0, so distances have no measure.")
        if not self.by_heads and not self.skeleton.oks_sigmas:
            raise PosematchError(f"The joints of {self.name} have no OKS sigmas.")

    def need(self, attribute: str, column: str = "") -> Any:
        """An attribute that may be None, where it must not be.

        Parameters
        ----------
        attribute
            Its name.
        column
            What it is called in `frame`, if otherwise.

        Raises
        ------
        PosematchError
            It is None, perhaps because the table was written before that was part of it.
        """
        value = getattr(self, attribute)
        if value is None:
            raise self._lacks(column or attribute)
        return value

    def values(self, column: str) -> Floats:
        """(N, K) a column of joints' scores or maps: ``score``, or one of `COMPACTNESS`.

        Raises
        ------
        PosematchError
            The table has none.
        """
        found = self.scores if column == "score" else self.compactness.get(column)
        if found is None:
            raise self._lacks(column)
        return np.asarray(found, np.float64)

    # --- what it is scored against ---

    @property
    def pckh_truth(self) -> PCKhTruth:
        """The truth of its people, a row each.

        Raises
        ------
        PosematchError
            They have no head sizes, so PCKh is not theirs.
        """
        return PCKhTruth(
            joints_img=self.true_img,
            visible=self.labelled.astype(np.float32),
            head_size_img=self.need("head_size_img"),
            skeleton=self.skeleton,
        )

    @property
    def stored_truth(self) -> StoredTruth:
        """What AP is measured against.

        Raises
        ------
        PosematchError
            There is none.
        """
        if self.truth_file is None:
            raise PosematchError(
                f"{self.name} has no truth.json that AP could be measured against: it was written"
                " by an older posematch, or is no run on COCO; train it again, or name an"
                " annotation file."
            )
        truth = read_truth(self.truth_file)
        # Results of a file are of all photos that it was made for.
        return truth if self.results is not None else truth.of_seen(self.person_ids.tolist())

    @cached_property
    def photo_sizes(self) -> dict[int, tuple[int, int]]:
        """(width, height) that the truth tells of photos, by person id; those that it knows.

        Photos that EXIF turns are told by these, see `posematch.data.pictures.turn_of`.
        """
        if self.truth_file is None:
            return {}
        images = read_annotations(self.truth_file, None).content["images"]
        sizes = {
            one["id"]: (one["width"], one["height"])
            for one in images
            if "width" in one and "height" in one
        }
        people = zip(self.person_ids.tolist(), self.image_ids.tolist(), strict=True)
        return {person: sizes[photo] for person, photo in people if photo in sizes}

    @cached_property
    def photos(self) -> NDArray[np.int64]:
        """(P,) ids of the photos that are scored, also those where nobody was found; ascending."""
        if self.truth_file is not None:
            return np.array(sorted(self.stored_truth.oks.image_ids), dtype=np.int64)
        return np.unique(self.image_ids)

    @cached_property
    def poses(self) -> CocoPoses:
        """The rows as COCO scores them, before anything is suppressed.

        Raises
        ------
        PosematchError
            Scores or sizes of boxes are neither here nor (of an earlier version) in the truth.
        """
        size_px = self.box_size_img
        if size_px is None and self.truth_file is not None:
            size_px = self._stored_boxes(self.stored_truth)
        if size_px is None:
            raise self._lacks("box_width", "which OKS-NMS needs")
        scores = np.asarray(self.need("scores", "score"), np.float64)
        return CocoPoses(
            image_ids=self.image_ids,
            keypoints=np.concatenate([self.joints_img, scores[..., None]], axis=2),
            box_scores=self.need("box_scores", "box_score"),
            box_areas=size_px[:, 0] * size_px[:, 1],
        )

    def coco_results(self) -> list[dict[str, Any]]:
        """All poses as COCO's server takes them: rescored, near-duplicates suppressed.

        Raises
        ------
        PosematchError
            As `poses`.
        """
        if self.results is not None:
            return [dict(one) for one in self.results]
        return self.poses.results(self.skeleton.oks_sigmas)

    def _stored_boxes(self, stored: StoredTruth) -> Floats:
        sizes = stored.box_sizes
        missing = sorted(set(self.person_ids.tolist()) - sizes.keys())
        if missing:
            raise PosematchError(
                f"{self.truth_file} has no box of person {missing[0]}, which {self.name} has"
                " predictions of: OKS-NMS needs it; name the run folder that the predictions are"
                " from."
            )
        return np.array([sizes[one] for one in self.person_ids.tolist()], np.float64)

    def _where_labelled(self, values: Floats) -> Floats:
        return np.asarray(np.where(self.labelled, values, np.nan))

    def _lacks(self, column: str, why: str = "") -> PosematchError:
        because = f", {why}" if why else ""
        return PosematchError(
            f"The predictions of {self.name} have no column '{column}'{because}: write them again"
            " from the checkpoint."
        )


def photo_name(photo: Path, root: Path) -> str:
    """The photo's path below the data set's folder; its name where it lies elsewhere."""
    return photo.relative_to(root).as_posix() if photo.is_relative_to(root) else photo.name


def _skeleton(
    joints: tuple[str, ...], given: Skeleton | None, where: str, truth_file: Path | None
) -> Skeleton:
    """Of these joints, see `PredictionTable.from_frame`."""
    if given is None and truth_file is not None:
        given = read_truth(truth_file).oks.skeleton
        if given.joints != joints:
            raise PosematchError(f"{where} has other joints than {truth_file}.")
    if given is not None:
        if given.joints != joints:
            raise PosematchError(
                f"the joints of {where} ({', '.join(joints[:3])} ...) are not those of the"
                f" skeleton {given.name}."
            )
        return given
    for known in SKELETONS.values():
        if known.joints == joints:
            return known
    try:
        # Sigmas are not told by names.
        return replace(skeleton_from_names("of the table", joints, []), oks_sigmas=())
    except ValueError:
        return Skeleton("of the table", joints, (), (), (), ())


def _check_columns(table: pd.DataFrame, where: str) -> None:
    """Columns are there, and have values that predictions have."""
    if missing := [name for name in NEEDED if name not in table]:
        raise PosematchError(
            f"{where} has no column '{missing[0]}': it must be a prediction table of posematch."
        )
    numbers = [column for column in table if column in _KNOWN and column not in _TEXTS]
    if bad := [column for column in numbers if table[column].dtype.kind not in "fiub"]:
        raise PosematchError(f"column {bad[0]} of {where} is {table[bad[0]].dtype}, not numbers.")
    for column in ("person_id", "image_id"):
        if table[column].dtype.kind not in "iu":
            raise PosematchError(
                f"column {column} of {where} is {table[column].dtype}, not whole numbers."
            )
    for column in ("x", "y", "score"):
        if column in table and not np.isfinite(table[column].to_numpy(np.float64)).all():
            raise PosematchError(
                f"{where} has a joint or score that is NaN or infinite ({column})."
            )
    labelled = table["visible"].to_numpy(np.float64)
    if not np.isin(labelled, (0, 1)).all():
        raise PosematchError(f"column visible of {where} has values besides 0 and 1.")
    labelled = labelled > 0
    for column, least in (
        ("true_x", -np.inf),
        ("true_y", -np.inf),
        ("head_size_img", 0),
        ("area", 0),
    ):
        if column in table:
            values = table[column].to_numpy(np.float64)[labelled]
            if not (np.isfinite(values) & (values >= least)).all():
                raise PosematchError(f"{where} has a labelled joint without its truth ({column}).")


def _check_rows(table: pd.DataFrame, joints: int, where: str) -> None:
    """Rows are people by joints, each person once."""
    names = table["joint"].to_numpy()
    people = len(table) // max(joints, 1)
    ids = table["person_id"].to_numpy()
    first_of_each = ids[:: max(joints, 1)]
    whole = (
        people > 0
        and len(table) == people * joints
        and np.array_equal(np.tile(names[:joints], people), names)
        and np.array_equal(np.repeat(first_of_each, joints), ids)
        and len(np.unique(first_of_each)) == people
    )
    if not whole:
        raise PosematchError(
            f"{where} must have each person's joints in a row, all of them and in one order, and"
            " each person once."
        )
