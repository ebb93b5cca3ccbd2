"""What each data set's folder holds, and where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

_PHOTOS = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Part:
    """One archive.

    Attributes
    ----------
    name
        For ``parts=``.
    address
        Where its site has it; the last part of it is the archive's file name.
    takes
        Takes a member's path with ``/``; gives its place below the root, or None where nothing of
        posematch reads it.
    growth
        Bytes unpacked for each of the archive, roughly: for the room that is asked for before it
        is downloaded.
    """

    name: str
    address: str
    takes: Callable[[str], str | None]
    growth: float = 1.0

    @property
    def archive(self) -> str:
        """Its file name."""
        return self.address.rpartition("/")[2]


@dataclass(frozen=True)
class Item:
    """A file or folder that a reader reads.

    Attributes
    ----------
    place
        Below the root.
    part
        It comes from this one; None: ``by_hand``.
    made_from
        Places of the file that it is made of, of which one is enough; empty: it is in the part.
    lists
        Json files, below the root, that name the photos of this folder.
    by_hand
        Where it comes from if it is in no archive that posematch knows.
    """

    place: str
    part: str | None = None
    made_from: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    by_hand: str = ""


@dataclass(frozen=True)
class DataSet:
    """A data set: its items, and the parts that they come from, small ones first."""

    items: tuple[Item, ...]
    parts: tuple[Part, ...]


def _photos_of(*folders: str, place: str) -> Callable[[str], str | None]:
    """Photos in one of these folders, whatever is above it."""

    def takes(member: str) -> str | None:
        path = PurePosixPath(member)
        is_photo = path.suffix.lower() in _PHOTOS and not path.name.startswith(".")
        return f"{place}/{path.name}" if is_photo and path.parent.name in folders else None

    return takes


def _files(places: Mapping[str, str]) -> Callable[[str], str | None]:
    """Files by their names, whatever is above them."""
    return lambda member: places.get(PurePosixPath(member).name)


def _lspet(member: str) -> str | None:
    found = _files({"joints.mat": "joints.mat"})(member)
    return found or _photos_of("images", "hr-lspet", "", place="photos")(member)


_COCO = "http://images.cocodataset.org"
_COCO_FILES = {split: f"annotations/person_keypoints_{split}.json"
               for split in ("train2017", "val2017")}  # fmt: skip
_MPII = "https://datasets.d2.mpi-inf.mpg.de/andriluka14cvpr"
MPII_RELEASE = "mpii_human_pose_v1_u12_1.mat"
_OF_HRNET = (
    "not of MPII's release but of HRNet's data preparation, which tells who is validated on;"
    " without it, data.holdout=0.15 validates on training people held out"
)

DATA_SETS = {
    "coco": DataSet(
        (
            *(Item(place, "annotations") for place in _COCO_FILES.values()),
            *(Item(split, split, lists=(_COCO_FILES[split],)) for split in _COCO_FILES),
        ),
        (
            Part(
                "annotations",
                f"{_COCO}/annotations/annotations_trainval2017.zip",
                _files({PurePosixPath(place).name: place for place in _COCO_FILES.values()}),
                growth=4.0,
            ),
            *(
                Part(split, f"{_COCO}/zips/{split}.zip", _photos_of(split, place=split))
                for split in ("val2017", "train2017")
            ),
        ),
    ),
    "mpii": DataSet(
        (
            Item(
                "annot/train.json",
                "annotations",
                made_from=(f"annot/{MPII_RELEASE}", MPII_RELEASE),
            ),
            Item("annot/valid.json", by_hand=_OF_HRNET),
            Item("annot/gt_valid.mat", by_hand="as valid.json"),
            Item("images", "images", lists=("annot/train.json", "annot/valid.json")),
        ),
        (
            Part(
                "annotations",
                f"{_MPII}/mpii_human_pose_v1_u12_2.zip",
                _files({MPII_RELEASE: f"annot/{MPII_RELEASE}"}),
                growth=2.0,
            ),
            Part(
                "images",
                f"{_MPII}/mpii_human_pose_v1.tar.gz",
                _photos_of("images", place="images"),
            ),
        ),
    ),
    "lspet": DataSet(
        (
            Item("train.json", "all", made_from=("joints.mat",)),
            Item("valid.json", "all", made_from=("joints.mat",)),
            Item("photos", "all", lists=("train.json", "valid.json")),
        ),
        (Part("all", "http://sam.johnson.io/research/lspet_dataset.zip", _lspet),),
    ),
}
