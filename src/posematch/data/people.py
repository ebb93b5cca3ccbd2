"""A person: what readers yield, crops cut out and metrics score; and many, kept as columns.

Every coordinate is 0-based image pixels, x then y, pixel centres at integers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from posematch.data.report import ReadingReport
from posematch.skeletons import Skeleton


@dataclass(frozen=True, slots=True, eq=False)
class Person:
    """One annotated (or detected) person of one photo.

    Attributes
    ----------
    person_id
        Unique within a data split and stable: the row of MPII's json, the annotation id of COCO,
        the position in a detector's file.
    image_id
        COCO's image id; for MPII the first row that uses the photo. People of one photo share it.
    image
        Path of the photo.
    center_img
        (2,) centre of the person's box.
    box_size_img
        (2,) width and height of the box in pixels, padding included, aspect as the network's input.
    joints_img
        (K, 2); rows of joints that are not labelled mean nothing.
    visible
        (K,) 1 where labelled (occluded or not), else 0.
    occluded
        (K,) True where labelled but said to be hidden (COCO's v = 1); all False where the
        annotation does not tell.
    box_score
        Detector's confidence, 1 for an annotated box.
    area
        COCO's segmentation area in square pixels, for OKS; 0 where there is none.
    head_size_img
        What PCKh divides by, photo pixels; 0 where there is none.
    photo_size
        (width, height) that the annotation tells of the photo; None where it does not.
    """

    person_id: int
    image_id: int
    image: Path
    center_img: NDArray[np.float64]
    box_size_img: NDArray[np.float64]
    joints_img: NDArray[np.float64]
    visible: NDArray[np.float32]
    occluded: NDArray[np.bool_]
    box_score: float = 1.0
    area: float = 0.0
    head_size_img: float = 0.0
    photo_size: tuple[int, int] | None = None


class PhotoPaths:
    """Paths of photos in one piece of memory, no object each: a forked process copies nothing."""

    def __init__(self, paths: Iterable[str]) -> None:
        encoded = [path.encode("utf-8", "surrogatepass") for path in paths]
        self._ends = np.cumsum([len(one) for one in encoded], dtype=np.int64)
        self._text = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __getitem__(self, place: int) -> Path:
        start = int(self._ends[place - 1]) if place else 0
        text = self._text[start : int(self._ends[place])].tobytes()
        return Path(text.decode("utf-8", "surrogatepass"))


class PersonRows(Sequence[Person]):
    """Many people, as arrays with a row each; a `Person` is made where one is asked for.

    A list of 150,000 objects with arrays of their own takes a loader's worker 100 MiB, since
    Python's counting of references writes to every one that is looked at, and a forked process
    copies what it writes to. These few arrays it only reads. The arrays of a `Person` are parts of
    them: not to be written to.

    Attributes
    ----------
    person_ids, image_ids
        (N,) int64.
    centers_img, box_sizes_img
        (N, 2) float64.
    joints_img, visible, occluded
        (N, K, 2) float64, (N, K) float32, (N, K) bool.
    box_scores, areas, head_sizes_img
        (N,) float64.
    """

    def __init__(
        self,
        *,
        person_ids: NDArray[np.int64],
        image_ids: NDArray[np.int64],
        photos: PhotoPaths,
        photo: NDArray[np.intp],
        centers_img: NDArray[np.float64],
        box_sizes_img: NDArray[np.float64],
        joints_img: NDArray[np.float64],
        visible: NDArray[np.float32],
        occluded: NDArray[np.bool_],
        box_scores: NDArray[np.float64],
        areas: NDArray[np.float64],
        head_sizes_img: NDArray[np.float64],
        photo_sizes: NDArray[np.int64],
    ) -> None:
        """``photo``: (N,) place in ``photos``; ``photo_sizes``: (N, 2) width, height, 0 unknown."""
        self.person_ids = person_ids
        self.image_ids = image_ids
        self.centers_img = centers_img
        self.box_sizes_img = box_sizes_img
        self.joints_img = joints_img
        self.visible = visible
        self.occluded = occluded
        self.box_scores = box_scores
        self.areas = areas
        self.head_sizes_img = head_sizes_img
        self._photos = photos
        self._photo = photo
        self._photo_sizes = photo_sizes

    @classmethod
    def of(cls, people: Sequence[Person], num_joints: int) -> PersonRows:
        """Of people, all with so many joints."""
        if isinstance(people, PersonRows):
            return people
        place: dict[str, int] = {}
        photo = [place.setdefault(os.fspath(one.image), len(place)) for one in people]

        def column(values: Iterable[Any], dtype: Any, *shape: int) -> Any:
            return np.array(list(values), dtype=dtype).reshape(len(people), *shape)

        return cls(
            person_ids=column((one.person_id for one in people), np.int64),
            image_ids=column((one.image_id for one in people), np.int64),
            photos=PhotoPaths(place),
            photo=np.array(photo, dtype=np.intp),
            centers_img=column((one.center_img for one in people), np.float64, 2),
            box_sizes_img=column((one.box_size_img for one in people), np.float64, 2),
            joints_img=column((one.joints_img for one in people), np.float64, num_joints, 2),
            visible=column((one.visible for one in people), np.float32, num_joints),
            occluded=column((one.occluded for one in people), np.bool_, num_joints),
            box_scores=column((one.box_score for one in people), np.float64),
            areas=column((one.area for one in people), np.float64),
            head_sizes_img=column((one.head_size_img for one in people), np.float64),
            photo_sizes=column((one.photo_size or (0, 0) for one in people), np.int64, 2),
        )

    def __len__(self) -> int:
        return len(self.person_ids)

    @overload
    def __getitem__(self, index: int) -> Person: ...
    @overload
    def __getitem__(self, index: slice | NDArray[Any]) -> PersonRows: ...
    def __getitem__(self, index: int | slice | NDArray[Any]) -> Person | PersonRows:
        if isinstance(index, slice | np.ndarray):
            return self._part(index)
        width, height = self._photo_sizes[index].tolist()
        return Person(
            person_id=int(self.person_ids[index]),
            image_id=int(self.image_ids[index]),
            image=self._photos[int(self._photo[index])],
            center_img=self.centers_img[index],
            box_size_img=self.box_sizes_img[index],
            joints_img=self.joints_img[index],
            visible=self.visible[index],
            occluded=self.occluded[index],
            box_score=float(self.box_scores[index]),
            area=float(self.areas[index]),
            head_size_img=float(self.head_sizes_img[index]),
            photo_size=(width, height) if width else None,
        )

    def _part(self, rows: slice | NDArray[Any]) -> PersonRows:
        return PersonRows(
            person_ids=self.person_ids[rows],
            image_ids=self.image_ids[rows],
            photos=self._photos,
            photo=self._photo[rows],
            centers_img=self.centers_img[rows],
            box_sizes_img=self.box_sizes_img[rows],
            joints_img=self.joints_img[rows],
            visible=self.visible[rows],
            occluded=self.occluded[rows],
            box_scores=self.box_scores[rows],
            areas=self.areas[rows],
            head_sizes_img=self.head_sizes_img[rows],
            photo_sizes=self._photo_sizes[rows],
        )


@dataclass(frozen=True, eq=False)
class PCKhTruth:
    """What PCKh is measured against: MPII's ``gt_valid.mat``, rows as in ``valid.json``.

    Attributes
    ----------
    joints_img
        (N, K, 2), 0-based.
    visible
        (N, K), 1 where the .mat says the joint is not missing.
    head_size_img
        (N,) 0.6 times the diagonal of the head box, in pixels (docs/protocols.md, PCKh).
    skeleton
        Joint order.
    """

    joints_img: NDArray[np.float64]
    visible: NDArray[np.float32]
    head_size_img: NDArray[np.float64]
    skeleton: Skeleton


@dataclass(frozen=True, eq=False)
class OKSTruth:
    """What COCO's AP is measured against: an annotation file and who is scored.

    Attributes
    ----------
    annotation_file
        ``person_keypoints_*.json``.
    image_ids
        Photos that are scored.
    boxes
        Which boxes the people come from: ``"gt"``, or the name of the detector's file.
    skeleton
        Joint order.
    """

    annotation_file: Path
    image_ids: tuple[int, ...]
    boxes: str
    skeleton: Skeleton


@dataclass(frozen=True, eq=False)
class People:
    """One split of a data set, read: its people and what they are scored against.

    ``people`` may be given as any sequence of `Person`, and is kept as `PersonRows`, ``rows``.
    ``report`` says what the reader made of its files; None where it tells nothing.
    """

    name: str
    split: str
    skeleton: Skeleton
    people: Sequence[Person]
    truth: PCKhTruth | OKSTruth | None = field(default=None)
    report: ReadingReport | None = field(default=None)

    def __post_init__(self) -> None:
        rows = PersonRows.of(self.people, self.skeleton.num_joints)
        object.__setattr__(self, "people", rows)

    @property
    def rows(self) -> PersonRows:
        """``people``, for who wants a column of them."""
        assert isinstance(self.people, PersonRows)
        return self.people
