"""Crops: randomness by key, order by epoch, augmentation as published."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from scipy import stats

from posematch.data.augmentation import Appearance, GeometricAugmentation, sample_placement
from posematch.data.crops import CropDataset, EpochSampler, read_photo
from posematch.data.people import People, Person
from posematch.errors import PosematchError
from posematch.skeletons import COCO, MPII

AUGMENTATION = GeometricAugmentation(0.25, 30.0, half_body_probability=0.3)


@pytest.fixture
def people(tmp_path):
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), photo)
    one = [
        Person(
            person_id=7 + index,
            image_id=0,
            image=path,
            center_img=np.array([40.0, 30.0]),
            box_size_img=np.array([50.0, 50.0]),
            joints_img=rng.uniform(20, 50, (16, 2)),
            visible=np.ones(16, dtype=np.float32),
            occluded=np.zeros(16, dtype=bool),
        )
        for index in range(10)
    ]
    return People("test", "train", MPII, one)


def dataset(people, **options):
    return CropDataset(
        people, (64, 64), "hrnet", **{"seed": 0, "geometry": AUGMENTATION, **options}
    )


def equal(one, other):
    return all(np.array_equal(np.asarray(one[key]), np.asarray(other[key])) for key in one)


class TestRandomness:
    def test_same_key_same_crop_in_any_order(self, people):
        first = [dataset(people)[(3, i)] for i in range(10)]
        again = dataset(people)
        for index in reversed(range(10)):
            assert equal(again[(3, index)], first[index])

    def test_epoch_seed_and_person_each_change_the_crop(self, people):
        base = dataset(people)[(3, 0)]
        assert not equal(dataset(people)[(4, 0)], base)
        assert not equal(dataset(people, seed=1)[(3, 0)], base)
        other = dataclasses.replace(people.people[0], person_id=99)
        renamed = dataclasses.replace(people, people=[other])
        assert not np.array_equal(dataset(renamed)[(3, 0)]["crop"], base["crop"])

    def test_workers_change_nothing(self, people):
        def batches(workers):
            data = dataset(people)
            sampler = EpochSampler(
                10, 4, shuffle=True, drop_incomplete=True, seed=0, epoch=lambda: 2
            )
            return list(torch.utils.data.DataLoader(data, 4, sampler=sampler, num_workers=workers))

        for one, other in zip(batches(0), batches(2), strict=True):
            assert equal(one, other)

    def test_appearance_is_seeded_per_sample(self, people):
        import albumentations

        def noisy():
            return Appearance([albumentations.GaussNoise(std_range=(0.2, 0.3), p=1.0)])

        first = dataset(people, appearance=noisy())
        sequence = [first[(0, i)] for i in range(3)]
        alone = dataset(people, appearance=noisy())[(0, 2)]
        assert equal(sequence[2], alone)
        assert not np.array_equal(sequence[2]["crop"], dataset(people)[(0, 2)]["crop"])
        np.testing.assert_array_equal(
            sequence[2]["joints_crop"], dataset(people)[(0, 2)]["joints_crop"]
        )

    def test_appearance_refuses_what_moves_pixels(self):
        import albumentations

        with pytest.raises(PosematchError, match="HorizontalFlip"):
            Appearance([albumentations.HorizontalFlip()])


class TestSampler:
    @pytest.mark.parametrize("world", [1, 2, 3])
    def test_everybody_once_whatever_the_number_of_processes(self, world):
        taken = [
            list(EpochSampler(23, 4, shuffle=False, drop_incomplete=False, seed=0, rank=rank,
                              world_size=world))
            for rank in range(world)
        ]  # fmt: skip
        assert sorted(index for one in taken for _, index in one) == list(range(23))

    def test_global_batches_do_not_depend_on_the_number_of_processes(self):
        def global_batches(world, size):
            ranks = [
                list(EpochSampler(50, size, shuffle=True, drop_incomplete=True, seed=5, rank=rank,
                                  world_size=world, epoch=lambda: 3))
                for rank in range(world)
            ]  # fmt: skip
            steps = len(ranks[0]) // size
            return [
                {index for one in ranks for _, index in one[step * size : (step + 1) * size]}
                for step in range(steps)
            ]

        assert global_batches(1, 8) == global_batches(2, 4)

    def test_resuming_goes_on_in_the_same_order(self):
        def order(done):
            return list(EpochSampler(20, 3, shuffle=True, drop_incomplete=True, seed=0,
                                     epoch=lambda: 4, batches_done=lambda: done))  # fmt: skip

        assert order(2) == order(0)[6:]

    def test_order_changes_with_the_epoch(self):
        def order(epoch):
            return [i for _, i in EpochSampler(20, 3, shuffle=True, drop_incomplete=True, seed=0,
                                               epoch=lambda: epoch)]  # fmt: skip

        assert order(0) != order(1)

    def test_incomplete_batch(self):
        def length(people, drop):
            return len(EpochSampler(people, 8, shuffle=True, drop_incomplete=drop, seed=0))

        assert length(23, True) == 16
        assert length(23, False) == 23
        assert length(5, True) == 5  # a split smaller than a batch is kept


class TestAugmentation:
    """Distributions of PROTOCOLS 2.5, from 4,000 draws: bounds at 4 standard errors."""

    @pytest.fixture
    def placements(self):
        person = Person(
            0, 0, None, np.array([50.0, 60.0]), np.array([100.0, 100.0]),
            np.random.default_rng(1).uniform(0, 100, (16, 2)), np.ones(16, np.float32),
            np.zeros(16, bool),
        )  # fmt: skip
        augmentation = GeometricAugmentation(0.25, 30.0)
        return [
            sample_placement(person, MPII, (256, 256), augmentation, np.random.default_rng([0, i]))
            for i in range(4000)
        ]

    def test_scale(self, placements):
        scale = np.array([p.box_size_img[0] / 100 for p in placements])
        assert scale.min() == pytest.approx(0.75)
        assert scale.max() == pytest.approx(1.25)
        ends = np.isclose(scale, 0.75) | np.isclose(scale, 1.25)
        assert ends.mean() == pytest.approx(0.317, abs=4 * np.sqrt(0.317 * 0.683 / 4000))

    def test_rotation(self, placements):
        rotation = np.array([p.rotation_deg for p in placements])
        turned = rotation != 0
        assert turned.mean() == pytest.approx(0.6, abs=4 * np.sqrt(0.24 / 4000))
        assert np.abs(rotation).max() <= 60
        inner = rotation[turned & (np.abs(rotation) < 60)] / 30
        assert stats.kstest(inner, stats.truncnorm(-2, 2).cdf).pvalue > 1e-4

    def test_flip(self, placements):
        flips = np.mean([p.mirrored for p in placements])
        assert flips == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 4000))

    def test_half_body(self):
        joints = np.random.default_rng(1).uniform(0, 100, (17, 2))
        joints[11:] += 1000  # the lower body is far away: which half was chosen is plain to see
        person = Person(
            0, 0, None, np.array([50.0, 60.0]), np.array([75.0, 100.0]), joints,
            np.ones(17, np.float32), np.zeros(17, bool),
        )  # fmt: skip
        augmentation = GeometricAugmentation(0.0, 0.0, half_body_probability=0.3)
        rngs = [np.random.default_rng([0, i]) for i in range(4000)]
        centers = np.array(
            [sample_placement(person, COCO, (256, 192), augmentation, r).center_img for r in rngs]
        )
        changed = ~np.isclose(centers, [50.0, 60.0]).all(1)
        assert changed.mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / 4000))
        upper = centers[changed, 0] < 500
        assert upper.mean() == pytest.approx(0.691, abs=4 * np.sqrt(0.21 / changed.sum()))
        np.testing.assert_allclose(centers[changed][upper][0], joints[:11].mean(0))

    def test_half_body_needs_more_than_eight_joints(self):
        visible = np.zeros(17, np.float32)
        visible[:8] = 1
        person = Person(
            0, 0, None, np.array([50.0, 60.0]), np.array([75.0, 100.0]),
            np.random.default_rng(1).uniform(0, 100, (17, 2)), visible, np.zeros(17, bool),
        )  # fmt: skip
        augmentation = GeometricAugmentation(0.0, 0.0, half_body_probability=1.0)
        placement = sample_placement(
            person, COCO, (256, 192), augmentation, np.random.default_rng(0)
        )
        np.testing.assert_array_equal(placement.center_img, person.center_img)


def test_mirrored_crop_swaps_left_and_right(people):
    never = GeometricAugmentation(0.0, 0.0, flip_probability=0.0)
    always = GeometricAugmentation(0.0, 0.0, flip_probability=1.0)
    plain, mirrored = (dataset(people, geometry=g)[(0, 0)] for g in (never, always))
    # Box centre and crop centre correspond: x -> 2 * 32 - x, and the photo is reversed.
    order = list(MPII.flip_permutation)
    expected = plain["joints_crop"][order] * torch.tensor([-1.0, 1.0]) + torch.tensor([64.0, 0.0])
    torch.testing.assert_close(mirrored["joints_crop"], expected, atol=1e-4, rtol=0)
    # Column c of one is column 64 - c of the other; the two outermost have no partner.
    difference = mirrored["crop"][..., 1:].int() - plain["crop"][..., 1:].flip(-1).int()
    assert difference.abs().max() <= 1


def test_unreadable_photo_is_one_sentence(tmp_path):
    with pytest.raises(PosematchError, match="does not exist"):
        read_photo(tmp_path / "nowhere.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"not a photo")
    with pytest.raises(PosematchError, match="not a readable image"):
        read_photo(tmp_path / "broken.jpg")
