"""Crop cache: the same samples as from the photos, never from stale ones, never half of one.

Tolerances in grey levels are measured ones, rounded up: the drawn photos (200 to 320 px, crops of
64 px) have hard edges everywhere and lose more to shrinking than real ones.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pickle
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from signals import ctrl_c_interrupts

from posematch.data import cache
from posematch.data.augmentation import GeometricAugmentation
from posematch.data.cache import CacheSpec, CropCache, build_cache, find_cache
from posematch.data.crops import CropDataset
from posematch.data.datamodule import MPIIDataModule, SyntheticDataModule
from posematch.data.mpii import read_mpii
from posematch.data.people import People, Person
from posematch.data.synthetic import SyntheticSpec, ensure_synthetic
from posematch.errors import PosematchError
from posematch.files import drafting
from posematch.skeletons import MPII

HRNET_MPII = GeometricAugmentation(0.25, 30.0)
HRNET_COCO = GeometricAugmentation(0.35, 45.0, half_body_probability=0.3)
SPEC = SyntheticSpec(train_photos=6, valid_photos=4)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    ensure_synthetic(root, SPEC)
    return root


def module(root, cache_folder=None, **options):
    data = SyntheticDataModule(
        root,
        spec=SPEC,
        **{
            "input_size": (64, 64),
            "batch_size": 4,
            "workers": 0,
            "seed": 0,
            "geometry": HRNET_MPII,
            "cache": cache_folder is not None,
            "cache_folder": cache_folder,
            **options,
        },
    )
    data.setup("fit")
    return data


def samples(loader, epochs=3):
    return [loader.dataset[(epoch, index)] for epoch in range(epochs) for index in range(4)]


def mean_difference(one, other):
    """Mean absolute difference of two lists of samples' crops, in grey levels."""
    return np.mean(
        [
            (a["crop"].int() - b["crop"].int()).abs().float().mean()
            for a, b in zip(one, other, strict=True)
        ]
    )


def everything_but_the_crop(sample):
    return {name: np.asarray(value) for name, value in sample.items() if name != "crop"}


# Killed in the middle of building the cache of the photos in a folder.
KILLED = """
import os, signal, sys
from pathlib import Path
from test_cache import TestBuilding, photo_people
from posematch.data import cache

def kill(photo, told):
    os.kill(os.getpid(), signal.SIGKILL)

people = photo_people(Path(sys.argv[2]), count=2)
cache.read_photo = kill
cache.build_cache(Path(sys.argv[1]), people, TestBuilding.SPEC)
"""


def only(folder: Path) -> Path:
    (entry,) = folder.iterdir()
    return entry


def photo_people(folder, count=1, size=(400, 600), value=None, **changes):
    """``count`` people in the middle of photos of their own, of noise or of one grey ``value``."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    people = []
    for index in range(count):
        path = folder / f"{index}.png"
        noise = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        cv2.imwrite(str(path), noise if value is None else np.full_like(noise, value))
        person = Person(
            person_id=index,
            image_id=index,
            image=path,
            center_img=np.array([size[1] / 2, size[0] / 2]),
            box_size_img=np.array([100.0, 100.0]),
            joints_img=np.array([size[1] / 2, size[0] / 2]) + rng.uniform(-45, 45, (16, 2)),
            visible=np.ones(16, dtype=np.float32),
            occluded=np.zeros(16, dtype=bool),
        )
        people.append(dataclasses.replace(person, **changes))
    return People("test", "train", MPII, people)


class TestSameSamples:
    @pytest.mark.parametrize(
        ("options", "tolerance"),
        [
            ({}, 4.5),
            ({"convention": "udp"}, 4.5),
            ({"skeleton": "coco", "geometry": HRNET_COCO, "input_size": (64, 96)}, 1.5),
            ({"cache_resolution": 0.5}, 8.0),
            # From here on no photo is shrunk: what is left is JPEG.
            ({"cache_resolution": 100.0}, 1.2),
            # Nothing is lost, and crops differ as those of two bilinear warps of one picture.
            ({"cache_resolution": 100.0, "cache_format": "raw"}, 0.01),
            ({"input_size": (256, 256)}, 1.2),
            # A third of the bytes, and twice the error of the JPEGs (measured 2.5).
            ({"input_size": (256, 256), "cache_format": "webp"}, 3.0),
        ],
    )
    def test_of_training(self, drawn, tmp_path, options, tolerance):
        cached = samples(module(drawn, tmp_path, **options).train_dataloader())
        direct = samples(module(drawn, **options).train_dataloader())
        for one, other in zip(cached, direct, strict=True):
            np.testing.assert_equal(everything_but_the_crop(one), everything_but_the_crop(other))
        assert mean_difference(cached, direct) < tolerance

    @pytest.mark.parametrize("convention", ["hrnet", "udp"])
    def test_of_validation_are_the_same_pixels(self, drawn, tmp_path, convention):
        cached = samples(module(drawn, tmp_path, convention=convention).val_dataloader(), 1)
        direct = samples(module(drawn, convention=convention).val_dataloader(), 1)
        for one, other in zip(cached, direct, strict=True):
            np.testing.assert_equal(
                {name: np.asarray(value) for name, value in one.items()},
                {name: np.asarray(value) for name, value in other.items()},
            )

    @pytest.mark.parametrize(("side", "tolerance"), [(128, 4.5), (256, 2.0)])
    def test_of_real_photos(self, shared_data, tmp_path, side, tolerance):
        """Over 300 people 3.4 grey levels at 128 px and 1.5 at 256 px; these are 16 of them."""
        everybody = read_mpii(shared_data / "mpii", "train", (side, side))
        people = dataclasses.replace(everybody, people=everybody.people[:320:20])
        spec = CacheSpec((side, side), "hrnet", HRNET_MPII)
        regions = build_cache(tmp_path, people, spec)

        def training(regions):
            dataset = CropDataset(people, (side, side), "hrnet", 0, HRNET_MPII, regions=regions)
            return [dataset[(epoch, index)] for epoch in range(2) for index in range(16)]

        assert mean_difference(training(regions), training(None)) < tolerance

    def test_whatever_the_number_of_workers(self, drawn, tmp_path):
        def batches(workers):
            return list(module(drawn, tmp_path, workers=workers).train_dataloader())

        for one, other in zip(batches(0), batches(2), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)

    def test_in_a_process_that_gets_the_data_set_pickled(self, drawn, tmp_path):
        dataset = module(drawn, tmp_path).train_dataloader().dataset
        size = sum(file.stat().st_size for file in only_train(tmp_path).iterdir())
        pickled = pickle.dumps(dataset.regions)
        assert len(pickled) < size / 100  # the folder's name, not its content
        again = pickle.loads(pickled)
        np.testing.assert_array_equal(again[1].pixels_bgr, dataset.regions[1].pixels_bgr)

    @pytest.mark.parametrize("convention", ["hrnet", "udp"])
    @pytest.mark.parametrize("geometry", [HRNET_MPII, HRNET_COCO])
    @pytest.mark.parametrize("resolution", [0.3, 1.0])
    def test_every_crop_lies_in_its_region(self, tmp_path, convention, geometry, resolution):
        """White photos: a crop that asks for more than the region has gets black from outside."""
        people = photo_people(tmp_path / "photos", size=(900, 900), value=255)
        spec = CacheSpec((96, 96), convention, geometry, resolution)
        regions = build_cache(tmp_path / "cache", people, spec)
        height, width = regions[0].pixels_bgr.shape[:2]
        assert max(height, width) < 400  # a region, not the photo
        dataset = CropDataset(people, (96, 96), convention, 0, geometry, regions=regions)
        assert min(int(dataset[(epoch, 0)]["crop"].min()) for epoch in range(300)) >= 254

    def test_box_beside_its_photo_gives_black(self, tmp_path):
        people = photo_people(tmp_path / "photos", center_img=np.array([-900.0, 5000.0]))
        spec = CacheSpec((64, 64), "hrnet", HRNET_MPII)
        regions = build_cache(tmp_path / "cache", people, spec)
        dataset = CropDataset(people, (64, 64), "hrnet", 0, HRNET_MPII, regions=regions)
        assert all(int(dataset[(epoch, 0)]["crop"].max()) == 0 for epoch in range(5))


def only_train(folder: Path) -> Path:
    (entry,) = [one for one in folder.iterdir() if one.name.startswith("train-")]
    return entry


class TestStaleness:
    @pytest.fixture
    def people(self, tmp_path):
        return photo_people(tmp_path / "photos", count=2)

    SPEC = CacheSpec((64, 64), "hrnet", HRNET_MPII)

    def test_found_again(self, people, tmp_path):
        assert find_cache(tmp_path, people, self.SPEC) is None
        build_cache(tmp_path, people, self.SPEC)
        assert find_cache(tmp_path, people, self.SPEC) is not None

    @pytest.mark.parametrize(
        "change",
        [
            {"input_size": (64, 96)},
            {"convention": "udp"},
            {"geometry": None},
            {"geometry": GeometricAugmentation(0.3, 30.0)},
            {"resolution": 1.5},
        ],
    )
    def test_every_setting_counts(self, people, tmp_path, change):
        build_cache(tmp_path, people, self.SPEC)
        assert find_cache(tmp_path, people, dataclasses.replace(self.SPEC, **change)) is None

    def test_every_box_counts_but_not_a_label(self, people, tmp_path):
        def with_last(**change):
            last = dataclasses.replace(people.people[-1], **change)
            return dataclasses.replace(people, people=[*people.people[:-1], last])

        build_cache(tmp_path, people, self.SPEC)
        assert (
            find_cache(tmp_path, with_last(center_img=np.array([300.0, 201.0])), self.SPEC) is None
        )
        assert find_cache(tmp_path, with_last(person_id=9), self.SPEC) is None
        fewer = dataclasses.replace(people, people=people.people[:1])
        assert find_cache(tmp_path, fewer, self.SPEC) is None
        # Joints are read from the annotations each time: a corrected one is there at once ...
        moved = with_last(joints_img=people.people[-1].joints_img + 1)
        assert find_cache(tmp_path, moved, self.SPEC) is not None
        # ... but for half bodies, whose boxes follow from them.
        half = dataclasses.replace(self.SPEC, geometry=HRNET_COCO)
        build_cache(tmp_path, people, half)
        assert find_cache(tmp_path, moved, half) is None

    def test_changed_photo(self, people, tmp_path):
        before = build_cache(tmp_path, people, self.SPEC)
        photo = people.people[0].image
        picture = cv2.imread(str(photo))
        cv2.imwrite(str(photo), 255 - picture)
        assert find_cache(tmp_path, people, self.SPEC) is None
        after = build_cache(tmp_path, people, self.SPEC)
        total = before[0].pixels_bgr.astype(int) + after[0].pixels_bgr
        total = total[..., :3]  # the fourth means nothing
        assert abs(total.mean() - 255) < 1  # the negative; who has the old one open keeps it
        np.testing.assert_array_equal(before[1].pixels_bgr, after[1].pixels_bgr)
        assert find_cache(tmp_path, people, self.SPEC) is not None

    def test_copied_photo_with_another_time(self, people, tmp_path):
        build_cache(tmp_path, people, self.SPEC)
        os.utime(people.people[0].image, (0, 0))
        assert find_cache(tmp_path, people, self.SPEC) is not None

    def test_cut_off_file(self, people, tmp_path):
        cache = build_cache(tmp_path, people, self.SPEC)
        regions = cache.folder / "regions.bin"
        regions.write_bytes(regions.read_bytes()[:-1])
        assert find_cache(tmp_path, people, self.SPEC) is None
        assert len(build_cache(tmp_path, people, self.SPEC)) == 2

    def test_damage_is_one_sentence(self, people, tmp_path):
        folder = build_cache(tmp_path, people, self.SPEC).folder
        content = bytearray((folder / "regions.bin").read_bytes())
        content[-100] ^= 1
        (folder / "regions.bin").write_bytes(content)
        cache = CropCache(folder)
        assert cache[0].photo_width_px == 600
        with pytest.raises(PosematchError, match="damaged at person number 1; remove"):
            cache[1]


class TestBuilding:
    SPEC = CacheSpec((64, 64), "hrnet", HRNET_MPII)

    def test_is_deterministic(self, tmp_path):
        people = photo_people(tmp_path / "photos", count=5)
        one, other = (build_cache(tmp_path / name, people, self.SPEC) for name in "ab")
        for file in ("regions.bin", "index.npy", "manifest.json"):
            assert (one.folder / file).read_bytes() == (other.folder / file).read_bytes()

    def test_stopped_by_ctrl_c(self, tmp_path, monkeypatch):
        people = photo_people(tmp_path / "photos", count=60)
        cache_folder = tmp_path / "cache"
        read, photos_read = cache.read_photo, itertools.count(1)

        def read_and_interrupt(photo, told):
            if next(photos_read) == 20:
                os.kill(os.getpid(), signal.SIGINT)
            return read(photo, told)

        with monkeypatch.context() as patch, ctrl_c_interrupts():
            patch.setattr(cache, "read_photo", read_and_interrupt)
            with pytest.raises(KeyboardInterrupt):
                build_cache(cache_folder, people, self.SPEC)
        assert list(cache_folder.iterdir()) == []
        assert find_cache(cache_folder, people, self.SPEC) is None
        assert len(build_cache(cache_folder, people, self.SPEC)) == 60

    def test_killed_builds_draft_is_swept_by_the_next_build_of_anything(self, tmp_path):
        people = photo_people(tmp_path / "photos", count=2)
        command = [sys.executable, "-c", KILLED, str(tmp_path / "cache"), str(tmp_path / "photos")]
        killed = subprocess.run(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
        assert killed.returncode == -signal.SIGKILL
        left = {one.name.rpartition(".")[2] for one in (tmp_path / "cache").iterdir()}
        assert left == {"draft", "partial", "lock"}
        spec = dataclasses.replace(self.SPEC, input_size=(64, 96))
        other = build_cache(tmp_path / "cache", people, spec).folder
        assert list((tmp_path / "cache").iterdir()) == [other]

    def test_draft_of_a_living_writer_is_left_alone(self, tmp_path):
        people = photo_people(tmp_path / "photos", count=2)
        with drafting(tmp_path / "cache" / "train-other") as draft:
            (draft / "half").write_text("of it")
            build_cache(tmp_path / "cache", people, self.SPEC)
            assert (draft / "half").read_text() == "of it"
        assert len(list((tmp_path / "cache").iterdir())) == 1

    def test_broken_photo_is_one_sentence_and_leaves_nothing(self, tmp_path):
        people = photo_people(tmp_path / "photos", count=3)
        people.people[1].image.write_bytes(b"not a photo")
        with pytest.raises(PosematchError, match=r"1\.png is not a readable image"):
            build_cache(tmp_path / "cache", people, self.SPEC)
        assert list((tmp_path / "cache").iterdir()) == []

    def test_two_at_once(self, tmp_path):
        people = photo_people(tmp_path / "photos", count=20)
        with ThreadPoolExecutor(2) as pool:
            built = list(
                pool.map(lambda _: build_cache(tmp_path / "cache", people, self.SPEC), range(2))
            )
        assert built[0].folder == built[1].folder == only(tmp_path / "cache")

    def test_folder_that_cannot_be_written_is_one_sentence(self, tmp_path):
        people = photo_people(tmp_path / "photos")
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(PosematchError, match=r"set data\.cache_folder to"):
            build_cache(tmp_path / "file", people, self.SPEC)

    @pytest.mark.parametrize("resolution", [0.0, -1.0, float("nan"), float("inf")])
    def test_impossible_resolution_is_one_sentence(self, resolution):
        with pytest.raises(PosematchError, match=r"data\.cache_resolution="):
            CacheSpec((64, 64), "hrnet", HRNET_MPII, resolution)


class TestWithoutPhotos:
    def test_carried_cache_serves(self, drawn, tmp_path):
        """Annotations and cache in another place, no photo anywhere."""
        mpii = next(drawn.glob("synthetic-*")) / "mpii"
        options = {"input_size": (64, 64), "batch_size": 4, "workers": 0, "seed": 0,
                   "geometry": HRNET_MPII, "cache": True}  # fmt: skip
        here = MPIIDataModule(mpii, cache_folder=tmp_path / "cache", **options)
        here.setup("fit")
        shutil.copytree(mpii / "annot", tmp_path / "there" / "annot")
        shutil.copytree(tmp_path / "cache", tmp_path / "there" / "posematch_cache")
        there = MPIIDataModule(tmp_path / "there", **options)
        there.setup("fit")
        for loader in ("train_dataloader", "val_dataloader"):
            for one, other in zip(
                samples(getattr(here, loader)(), 1),
                samples(getattr(there, loader)(), 1),
                strict=True,
            ):
                torch.testing.assert_close(one, other, rtol=0, atol=0)

    def test_without_either_is_one_sentence(self, drawn, tmp_path):
        mpii = next(drawn.glob("synthetic-*")) / "mpii"
        shutil.copytree(mpii / "annot", tmp_path / "annot")
        data = MPIIDataModule(tmp_path, (64, 64), 4, 0, 0, cache=True)
        with pytest.raises(PosematchError, match=r"photos of mpii are missing.*crop cache"):
            data.setup("fit")
