"""benchmarks/carried_photos.py: crops of the photos that it makes are those of the real ones."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

from carried_photos import make_photos

from posematch.data.augmentation import GeometricAugmentation
from posematch.data.cache import CacheSpec, build_cache
from posematch.data.mpii import read_mpii
from posematch.data.regions import warp_crop
from posematch.geometry import box_to_crop_affine

HRNET_MPII = GeometricAugmentation(0.25, 30.0)


# WebP's own error on these people is 2.5 grey levels (tests/data/test_cache.py); the rest is of
# warping twice, and of photos that the cache shrinks.
@pytest.mark.parametrize(
    ("split", "geometry", "most"), [("train", HRNET_MPII, 5), ("valid", None, 3)]
)
def test_crops_of_real_people(shared_data, tmp_path, split, geometry, most):
    everybody = read_mpii(shared_data / "mpii", split, (256, 256))
    people = dataclasses.replace(everybody, people=everybody.people[:160:20])
    cache = build_cache(tmp_path, people, CacheSpec((256, 256), "hrnet", geometry, 1.0, "webp"))
    make_photos(cache, people.people, tmp_path / "images")
    errors = []
    for person in people.people:
        to_crop = box_to_crop_affine(person.center_img, person.box_size_img, (192, 192))
        real, made = (
            warp_crop(cv2.imread(str(file)), to_crop, (192, 192)).astype(float)
            for file in (person.image, tmp_path / "images" / person.image.name)
        )
        errors.append(np.abs(real - made).mean())
    assert np.mean(errors) < most


def test_a_cache_of_others(shared_data, tmp_path):
    everybody = read_mpii(shared_data / "mpii", "valid", (64, 64))
    people = dataclasses.replace(everybody, people=everybody.people[:2])
    cache = build_cache(tmp_path, people, CacheSpec((64, 64), "hrnet"))
    with pytest.raises(ValueError, match="has 2 people, the annotations 264"):
        make_photos(cache, everybody.people, tmp_path / "images")
