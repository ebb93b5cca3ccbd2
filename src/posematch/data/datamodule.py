"""Lightning data modules: thin, over one base; a data set is a reader that yields `People`."""

from __future__ import annotations

import multiprocessing
import signal
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader

from posematch.data import coco, mpii
from posematch.data.annotations import OBTAINED, forget_annotations, skeleton_of
from posematch.data.augmentation import Appearance, GeometricAugmentation
from posematch.data.cache import CacheSpec, CropCache, build_cache, find_cache
from posematch.data.common_joints import common_joints, people_of
from posematch.data.crops import CropDataset, EpochSampler
from posematch.data.device_crops import (
    MOST_OF_THE_MEMORY,
    DeviceCrops,
    PlacedPeople,
    bytes_of,
    collate_placed,
    free_bytes,
    is_placed,
    split_of,
)
from posematch.data.device_look import LookPlan
from posematch.data.people import OKSTruth, People
from posematch.data.pictures import MOST_PHOTO_BYTES, orientation_of, picture_size, turn_of
from posematch.data.regions import RegionFormat
from posematch.data.report import ReadingReport
from posematch.data.synthetic import SyntheticSpec, ensure_synthetic
from posematch.errors import PosematchError
from posematch.geometry import Convention, Size
from posematch.processes import end_with_parent
from posematch.skeletons import COCO, MPII, SKELETONS, Skeleton, joint_pairs
from posematch.untrusted import read_bytes

LSPET_IDS = 10**9  # beyond the rows of MPII's json, which number its people and photos
MOST_PHOTOS_LOOKED_AT = 500  # at the start; all of them where each is read


class PoseDataModule(pl.LightningDataModule, ABC):
    """Crops for training and validation of one data set.

    Parameters
    ----------
    root
        Folder of the data set.
    input_size
        [H, W] of the crops in pixels.
    batch_size
        People per step and process.
    workers
        Loader processes; 0 loads in the training process.
    seed
        Run seed: part of every sample's generator key.
    convention
        ``hrnet`` or ``udp``, see `posematch.geometry`.
    train_people
        Use only the first so many training people (quick trials); None for all.
    valid_batch_size
        People per validation step; None for ``batch_size``.
    holdout
        Share of the training people to validate on instead of the validation split, in photos of
        their own and always the same ones: for choosing a learning rate and the like without
        looking at the people that are reported. They are not trained on.
    fold
        Which of the ``holdout``'s parts, from 0: with ``holdout=0.2`` folds 0 to 4 hold each photo
        out once.
    geometry, appearance
        Training augmentation; None for none.
    cache
        Read crops from `posematch.data.cache`, made on first use, instead of from the photos.
    cache_folder
        Where it is; None for ``posematch_cache`` below ``root``.
    cache_resolution, cache_format
        Cached pixels per crop pixel of training, and how they are kept, see
        `posematch.data.cache.CacheSpec`.
    reduced_decode
        Without a cache, decode photos for training no larger than a crop needs, see
        `posematch.data.crops.reduction_for`; validation reads them whole.
    device_cache
        Keep the crop cache's pictures, decoded, in the memory of the device that trains, and make
        crops there in batches, see `posematch.data.device_crops`. ``auto``: on a GPU, where there
        is a cache and it fits; what does not fit is read by the loader.
    """

    skeleton: Skeleton
    obtained = ""  # where the files come from, told where they are missing
    has_flip_pairs = True  # a key by which the user says what a mirrored photo swaps

    def __init__(
        self,
        root: str | Path,
        input_size: Size,
        batch_size: int,
        workers: int,
        seed: int,
        convention: Convention = "hrnet",
        train_people: int | None = None,
        valid_batch_size: int | None = None,
        holdout: float = 0.0,
        fold: int = 0,
        geometry: GeometricAugmentation | None = None,
        appearance: Appearance | None = None,
        cache: bool = False,
        cache_folder: str | Path | None = None,
        cache_resolution: float = 1.0,
        cache_format: RegionFormat = "jpeg",
        reduced_decode: bool = False,
        device_cache: bool | Literal["auto"] = False,
    ) -> None:
        super().__init__()
        self.root = Path(root).expanduser()
        if not (
            isinstance(input_size, list | tuple)
            and len(input_size) == 2
            and all(type(one) is int and 64 <= one <= 4096 and one % 32 == 0 for one in input_size)
        ):
            raise PosematchError(
                f"data.input_size={input_size} must be [H,W], multiples of 32 from 64 to 4096, as"
                " backbones halve the input five times."
            )
        height, width = input_size
        least = {"batch_size": 1, "valid_batch_size": 1, "train_people": 1, "workers": 0}
        given = {**locals()}
        for name, lowest in least.items():
            if given[name] is not None and given[name] < lowest:
                raise PosematchError(f"data.{name}={given[name]} must be at least {lowest}.")
        if not 0 <= holdout < 1:
            raise PosematchError(f"data.holdout={holdout} must be at least 0 and below 1.")
        folds = int(1 / holdout + 1e-6) if holdout else 1
        if not 0 <= fold < folds:
            raise PosematchError(
                f"data.fold={fold} must be from 0 to {folds - 1} with data.holdout={holdout}."
            )
        if convention not in ("hrnet", "udp"):
            raise PosematchError(f"data.convention={convention} must be hrnet or udp.")
        if device_cache not in (True, False, "auto"):
            raise PosematchError(f"data.device_cache={device_cache} must be auto, true or false.")
        if device_cache is True and not cache:
            raise PosematchError(
                "data.device_cache=true keeps the crop cache in the device's memory; set"
                " data.cache=true, too."
            )
        self.input_size: Size = (height, width)
        self.batch_size = batch_size
        self.valid_batch_size = valid_batch_size or batch_size
        self.workers = workers
        self.seed = seed
        self.convention: Convention = convention
        self.train_people = train_people
        self.holdout = holdout
        self.fold = fold
        self.geometry = geometry
        self.appearance = appearance
        self.cache = cache
        self.cache_folder = (
            Path(cache_folder).expanduser() if cache_folder else self.root / "posematch_cache"
        )
        self.cache_resolution = cache_resolution
        self.cache_format: RegionFormat = cache_format
        self.reduced_decode = reduced_decode
        self.device_cache: bool | Literal["auto"] = device_cache
        self.train: People | None = None
        self.valid: People | None = None
        # A loader's worker that answers nothing for so long ends the run; 0: it is waited for.
        self.silence_seconds: float = 0
        self._train_regions: CropCache | None = None
        self._valid_regions: CropCache | None = None
        self._on_device: dict[str, DeviceCrops] = {}

    @abstractmethod
    def read(self, split: str) -> People:
        """Read ``"train"`` or ``"valid"``; photos are not opened."""

    def setup(self, stage: str | None = None) -> None:
        """Read the annotations the stage needs and see that their photos are there."""
        if self.valid is None:
            people = self._held_out() if self.holdout else self.read("valid")
            self._valid_regions = self._regions(people, None)
            self.valid = people
        if stage in ("fit", None) and self.train is None:
            people = self.read("train")
            if self.holdout:
                people = self._split(people)[0]
            if self.train_people is not None:
                people = replace(people, people=people.people[: self.train_people])
            self._train_regions = self._regions(people, self.geometry)
            self.train = people
        forget_annotations()

    def _held_out(self) -> People:
        kept, held = self._split(self.read("train"))
        if not (kept.people and held.people):
            raise PosematchError(
                f"data.holdout={self.holdout} leaves {len(kept.people)} people to train on and"
                f" {len(held.people)} to validate on; choose another share."
            )
        return self._scored(held)

    def _split(self, people: People) -> tuple[People, People]:
        """Those of the training people to train on, and those to hold out."""
        return split_photos(people, self.holdout, self.fold)

    def _scored(self, held_out: People) -> People:
        """Training people with the truth they are scored against, also where the split has none."""
        if held_out.truth is not None:
            return held_out
        if held_out.skeleton is not MPII:
            raise PosematchError(
                f"data.holdout={self.holdout}: the training people of {held_out.name} have no truth"
                " to be scored against; let the data module's read() give them one."
            )
        return mpii.scored_by_annotation(held_out)

    def _regions(self, people: People, geometry: GeometricAugmentation | None) -> CropCache | None:
        """The split's crop cache, or None for photos, which are there then."""
        if not self.cache:
            self._check_photos(people)
            return None
        spec = CacheSpec(
            self.input_size, self.convention, geometry, self.cache_resolution, self.cache_format
        )
        cache = find_cache(self.cache_folder, people, spec)
        if cache is None:
            hint = f" or carry their crop cache of these settings into {self.cache_folder}"
            self._check_photos(people, hint)
            cache = build_cache(self.cache_folder, people, spec)
        return cache

    def _check_photos(self, people: People, hint: str = "") -> None:
        paths = {person.image for person in people.people}
        missing = sorted(path for path in paths if not path.is_file())
        if missing:
            raise PosematchError(
                f"{len(missing)} of {len(paths)} {people.split} photos of {people.name} are"
                f" missing, the first is {missing[0]}; put the photos there, or set data.root to"
                f" their folder{hint}{self.obtained and '. '}{self.obtained}."
            )
        if not people.people:
            read = f": {people.report.sentence()}" if people.report else ""
            raise PosematchError(
                f"The {people.split} split of {people.name} has no person with labelled"
                f" joints{read}."
            )
        look_at_photos(people)

    @property
    def readings(self) -> dict[str, ReadingReport]:
        """What was made of the files of each split, by its name."""
        splits = {"train": self.train, "valid": self.valid}
        return {
            name: people.report
            for name, people in splits.items()
            if people is not None and people.report is not None
        }

    def told_readings(self) -> list[str]:
        """`readings` as sentences, and the mirror pairs where the names had to tell them."""
        told = []
        for split, report in self.readings.items():
            people = self.train if split == "train" else self.valid
            assert people is not None
            used = len(people.people)
            part = f"; {used} people are used" if used != report.people else ""
            told.append(f"{split}: {report.sentence()}{part}.")
        if self.readings and self.skeleton not in SKELETONS.values():
            pairs = ", ".join(f"{a} and {b}" for a, b in joint_pairs(self.skeleton))
            what = f"swaps {pairs}" if pairs else "swaps no joints"
            key = "; data.flip_pairs=[[A,B],...] says otherwise" if self.has_flip_pairs else ""
            told.append(f"A mirrored photo {what}{key}.")
        return told

    def crops(self, split: str) -> CropDataset:
        """Samples of ``"train"`` (augmented) or ``"valid"``, made on the CPU."""
        if split == "valid":
            assert self.valid is not None, "setup comes first"
            return CropDataset(
                self.valid,
                self.input_size,
                self.convention,
                self.seed,
                regions=self._valid_regions,
            )
        assert self.train is not None, "setup('fit') comes first"
        return CropDataset(
            self.train,
            self.input_size,
            self.convention,
            self.seed,
            self.geometry,
            self.appearance,
            self._train_regions,
            self.reduced_decode,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader("train", self._train_sampler(), self.batch_size)

    def train_batches(self) -> int:
        """Batches of an epoch, for each process."""
        return self._train_sampler().batches

    def _train_sampler(self) -> EpochSampler:
        assert self.train is not None, "setup('fit') comes first"
        trainer = self.trainer
        rank, world_size = self._process()
        return EpochSampler(
            len(self.train.people),
            self.batch_size,
            shuffle=True,
            drop_incomplete=True,
            seed=self.seed,
            # Read from the loops themselves, so that a resumed epoch goes on where it stopped.
            epoch=lambda: trainer.current_epoch if trainer else 0,
            batches_done=lambda: _batches_done(trainer) if trainer else 0,
            rank=rank,
            world_size=world_size,
        )

    def val_dataloader(self) -> DataLoader[Any]:
        assert self.valid is not None, "setup comes first"
        rank, world_size = self._process()
        sampler = EpochSampler(
            len(self.valid.people),
            self.valid_batch_size,
            shuffle=False,
            drop_incomplete=False,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
        )
        return self._loader("valid", sampler, self.valid_batch_size)

    def _process(self) -> tuple[int, int]:
        """Rank and number of processes."""
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def _loader(self, split: str, sampler: EpochSampler, batch_size: int) -> DataLoader[Any]:
        crops = self.crops(split)
        on_device = self._take_to_device(split, crops)
        return DataLoader(
            PlacedPeople(crops) if on_device else crops,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.workers,
            timeout=self.silence_seconds if self.workers > 0 else 0,
            persistent_workers=self.workers > 0,
            pin_memory=_on_gpu(self.trainer),
            worker_init_fn=_begin_worker,
            collate_fn=partial(collate_placed, split=split) if on_device else None,
            # fork shares the annotations with the workers; where it does not exist, the default.
            multiprocessing_context="fork"
            if self.workers > 0 and "fork" in multiprocessing.get_all_start_methods()
            else None,
        )

    def _take_to_device(self, split: str, crops: CropDataset) -> bool:
        """Put a split's regions into the device's memory, if that is asked for and they fit."""
        if split in self._on_device:
            return True
        wanted = self.device_cache
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if wanted == "auto":
            wanted = device.type == "cuda" and isinstance(crops.regions, CropCache)
        if not wanted:
            return False
        assert isinstance(crops.regions, CropCache), "data.cache goes with data.device_cache=true"
        needed, free = bytes_of(crops.regions), free_bytes(device)
        taken = sum(one.bytes for one in self._on_device.values())
        # One share for both splits, of what was free before the first of them.
        if taken + needed > MOST_OF_THE_MEMORY * (free + taken):
            if self.device_cache is True:
                rank_zero_warn(
                    f"data.device_cache: the {split} crops take {needed / 2**30:.1f} GiB, more than"
                    f" {MOST_OF_THE_MEMORY:.0%} of the {free / 2**30:.1f} GiB of {device}, and are"
                    " read by the loader; lower data.cache_resolution."
                )
            return False
        plan = LookPlan(crops.appearance, self.input_size) if crops.appearance else None
        self._on_device[split] = DeviceCrops(crops.regions, self.input_size, device, plan)
        rank_zero_info(f"{split}: crops are made on {device} ({needed / 2**30:.1f} GiB there).")
        return True

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Bring a batch to the device, or make its crops there."""
        if is_placed(batch):
            return self._on_device[split_of(batch)].batch(batch)
        return super().transfer_batch_to_device(batch, device, dataloader_idx)


def look_at_photos(people: People, most: int = MOST_PHOTOS_LOOKED_AT) -> None:
    """See that photos have the sizes that the annotations tell, and note how EXIF turns them.

    Every photo is looked at again when it is read; this is to tell it before a training begins.

    Parameters
    ----------
    people
        Of a split; their report is added to.
    most
        Photos to look at, spread over all of them.

    Raises
    ------
    PosematchError
        Sizes differ; the sentence says of how many photos.
    """
    told = {one.image: one.photo_size for one in people.people if one.photo_size is not None}
    photos = sorted(told)
    chosen = photos[:: max(1, -(-len(photos) // most))]
    wrong: list[str] = []
    for photo in chosen:
        content = read_bytes(photo, MOST_PHOTO_BYTES, "a photo (below data.root)")
        size = picture_size(content)
        if size is None:
            continue  # told when it is read; not all photos are used by everybody
        try:
            turn = turn_of(content, size, told[photo], photo)
        except PosematchError as error:
            wrong.append(str(error))
            continue
        if people.report is None:
            continue
        if turn != 1:
            people.report.note("repaired", "photos turned as EXIF says", photo)
        elif orientation_of(content) != 1:
            people.report.note(
                "suspicious", "photos that EXIF turns, annotated as they are stored", photo
            )
    if wrong:
        others = f" ({len(wrong)} of {len(chosen)} photos looked at are so)"
        raise PosematchError(wrong[0].rstrip(".") + (others if len(wrong) > 1 else "") + ".")


def split_photos(people: People, share: float, fold: int = 0) -> tuple[People, People]:
    """People to train on, and about that share of them to hold out; no photo in both.

    Always the same people, whatever the run's seed, so that choices made on them compare. Folds
    follow each other: no photo is held out in two of them.
    """
    image_ids = people.rows.image_ids
    photos = np.unique(image_ids)
    order = {
        photo: place
        for place, photo in enumerate(np.random.default_rng(0).permutation(photos).tolist())
    }
    by_photo = sorted(image_ids.tolist(), key=lambda image_id: order[image_id])
    # A photo with people on both sides of a bound belongs to the fold that its first one is in.
    first, last = (round(one * share * len(by_photo)) for one in (fold, fold + 1))
    held = set(by_photo[:last]) - set(by_photo[:first])
    in_held = np.isin(image_ids, list(held))
    parts = (people.rows[in_held == chosen] for chosen in (False, True))
    kept, out = (replace(people, people=part) for part in parts)
    if isinstance(people.truth, OKSTruth):
        out = replace(out, truth=replace(people.truth, image_ids=tuple(sorted(held))))
    return kept, out


class MPIIDataModule(PoseDataModule):
    """MPII in the HRNet json layout; see `posematch.data.mpii`."""

    skeleton = MPII
    obtained = mpii.OBTAINED

    def read(self, split: str) -> People:
        return mpii.read_mpii(self.root, split, self.input_size)


class COCODataModule(PoseDataModule):
    """COCO keypoints; see `posematch.data.coco`.

    Parameters
    ----------
    train_annotations, valid_annotations, train_images, valid_images
        Files and folders relative to ``root``.
    detections
        A detector's json for the validation people (a path relative to ``root``), or None for
        annotated boxes.
    detection_threshold
        Least score of a detection that is used.
    own_skeleton
        Take joints and limbs from the validation file's person category instead of COCO's 17,
        see `posematch.data.annotations.skeleton_of`; the training file must name the same joints.
    flip_pairs
        Of the own skeleton: names of joints that change places in a mirrored photo, in pairs; None:
        told by the names, see `posematch.skeletons.mirror_pairs`.
    oks_sigmas
        Of the own skeleton's joints, for OKS; None for 0.05 each (COCO's for its 17 joints).

    Raises
    ------
    PosematchError
        Sigmas without an own skeleton, or an own skeleton that the file does not describe.
    """

    obtained = OBTAINED

    def __init__(
        self,
        root: str | Path,
        *,
        train_annotations: str = "annotations/person_keypoints_train2017.json",
        valid_annotations: str = "annotations/person_keypoints_val2017.json",
        train_images: str = "train2017",
        valid_images: str = "val2017",
        detections: str | None = None,
        detection_threshold: float = 0.0,
        own_skeleton: bool = False,
        oks_sigmas: Sequence[float] | None = None,
        flip_pairs: Sequence[Sequence[str]] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(root, **common)
        if oks_sigmas is not None and not own_skeleton:
            raise PosematchError(
                "data.oks_sigmas goes with data.own_skeleton=true; COCO's are set."
            )
        if flip_pairs is not None and not own_skeleton:
            raise PosematchError(
                "data.flip_pairs goes with data.own_skeleton=true; COCO's are set."
            )
        self.skeleton = COCO
        if own_skeleton:
            self.skeleton = skeleton_of(self.root / valid_annotations, oks_sigmas, flip_pairs)
            self.obtained = ""
        self.annotations = {"train": train_annotations, "valid": valid_annotations}
        self.images = {"train": train_images, "valid": valid_images}
        self.detections = detections
        self.detection_threshold = detection_threshold

    def read(self, split: str) -> People:
        detections = self.root / self.detections if self.detections else None
        return coco.read_coco(
            self.root / self.annotations[split],
            self.root / self.images[split],
            split,
            self.input_size,
            detections if split == "valid" else None,
            self.detection_threshold,
            self.skeleton,
        )


class MPIIAndLSPETDataModule(PoseDataModule):
    """People of MPII and of LSP-Extended, on the joints that have the same name in both.

    Trained on the training people of both, MPII's first; validated on MPII's, by PCKh over these
    joints alone (LSP-Extended's `neck` is none of them: MPII has `upper_neck` and `thorax`).

    Parameters
    ----------
    root
        MPII's folder.
    lspet_root
        LSP-Extended's, with ``train.json`` and ``photos/``. Its ids follow `LSPET_IDS`.

    Raises
    ------
    PosematchError
        LSP-Extended's file names no joints.
    """

    obtained = mpii.OBTAINED
    has_flip_pairs = False

    def __init__(self, root: str | Path, *, lspet_root: str | Path, **common: Any) -> None:
        super().__init__(root, **common)
        self.lspet_root = Path(lspet_root).expanduser()
        self._lspet = skeleton_of(self.lspet_root / "train.json")
        self.common = common_joints(self._lspet, MPII)
        self.skeleton = self.common.skeleton

    def read(self, split: str) -> People:
        people = people_of(mpii.read_mpii(self.root, split, self.input_size), self.common)
        assert people.report is not None, "its reader reports"
        people.report.joints, people.report.pairs = (
            self.skeleton.num_joints,
            joint_pairs(self.skeleton),
        )
        if split == "valid":
            return replace(people, name="mpii_lspet")
        lspet = coco.read_coco(
            self.lspet_root / "train.json",
            self.lspet_root / "photos",
            split,
            self.input_size,
            skeleton=self._lspet,
        )
        # Turned about: their joints are those of what was "trained" on.
        columns = list(self.common.trained)
        others = [
            replace(
                person,
                person_id=LSPET_IDS + person.person_id,
                image_id=LSPET_IDS + person.image_id,
                joints_img=person.joints_img[columns],
                visible=person.visible[columns],
                occluded=person.occluded[columns],
            )
            for person in lspet.people
            # Who has the neck alone has nothing to be trained on.
            if person.visible[columns].any()
        ]
        assert lspet.report is not None, "its reader reports"
        people.report.add(lspet.report)
        people.report.people = len(people.people) + len(others)
        return replace(people, name="mpii_lspet", people=[*people.people, *others])

    def _split(self, people: People) -> tuple[People, People]:
        # Of MPII's alone, by whom the network is scored; on the others it is always trained.
        of_mpii = people.rows.image_ids < LSPET_IDS
        kept, held = split_photos(
            replace(people, people=people.rows[of_mpii]), self.holdout, self.fold
        )
        others = people.rows[~of_mpii]
        return replace(kept, people=[*kept.people, *others]), held

    def _scored(self, held_out: People) -> People:
        found = set(held_out.rows.person_ids.tolist())
        whole = mpii.read_mpii(self.root, "train", self.input_size)
        chosen = [person for person in whole.people if person.person_id in found]
        scored = mpii.scored_by_annotation(replace(whole, people=chosen))
        return replace(people_of(scored, self.common), name="mpii_lspet")


class SyntheticDataModule(PoseDataModule):
    """Drawn people, written to disk on first use; see `posematch.data.synthetic`.

    Parameters
    ----------
    root
        Folder below which the data set is written and found again.
    spec
        What is drawn.
    skeleton
        ``"mpii"`` (16 joints, PCKh) or ``"coco"`` (17 joints, OKS AP): the same photos, annotated
        both ways and read by the same readers as the real data sets.
    """

    def __init__(
        self, root: str | Path, *, spec: SyntheticSpec, skeleton: str = "mpii", **common: Any
    ) -> None:
        super().__init__(root, **common)
        if skeleton not in SKELETONS:
            raise PosematchError(f"data.skeleton={skeleton} must be one of {', '.join(SKELETONS)}.")
        self.skeleton = SKELETONS[skeleton]
        self.spec = spec

    def prepare_data(self) -> None:
        """Write the photos and annotations if they are not there yet (one process per node)."""
        ensure_synthetic(self.root, self.spec)

    def read(self, split: str) -> People:
        folder = ensure_synthetic(self.root, self.spec)
        if self.skeleton is MPII:
            people = mpii.read_mpii(folder / "mpii", split, self.input_size)
        else:
            short = {"train": "train2017", "valid": "val2017"}[split]
            in_coco = folder / "coco"
            people = coco.read_coco(
                in_coco / "annotations" / f"person_keypoints_{short}.json",
                in_coco / short,
                split,
                self.input_size,
            )
        return replace(people, name="synthetic", split=split)


def _batches_done(trainer: pl.Trainer) -> int:
    """Batches of the current epoch that a resumed training has behind it."""
    loop = trainer.fit_loop
    return loop.epoch_loop.batch_progress.current.completed if loop.restarting else 0


def _on_gpu(trainer: pl.Trainer | None) -> bool:
    return trainer is not None and trainer.strategy.root_device.type == "cuda"


def _begin_worker(worker: int) -> None:
    # What a signal means is the training process's to decide; a terminal's Ctrl-C comes here, too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    end_with_parent(parent.pid)
