"""Crops: randomness by key, order by epoch, augmentation as published."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from posematch.data.augmentation import Appearance, GeometricAugmentation, sample_placement
from posematch.data.crops import CropDataset, EpochSampler, Sample, read_photo
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
    @staticmethod
    def batches(people, size, world, done=0, **options):
        """Each process's batches, as a loader groups what its sampler yields."""
        options = {"shuffle": True, "drop_incomplete": True, **options}
        of_each = []
        for rank in range(world):
            sampler = EpochSampler(
                people, size, seed=5, rank=rank, world_size=world, epoch=lambda: 3,
                batches_done=lambda: done, **options,
            )  # fmt: skip
            samples = list(sampler)
            of_each.append([samples[at : at + size] for at in range(0, len(samples), size)])
            if done == 0:
                assert len(sampler) == len(samples)
                assert sampler.batches == len(of_each[-1])
        return of_each

    @given(
        people=st.integers(1, 24), size=st.integers(1, 6), world=st.integers(1, 5),
        drop=st.booleans(), data=st.data(),
    )  # fmt: skip
    @settings(max_examples=300, deadline=None)
    def test_any_number_of_processes_is_one(self, people, size, world, drop, data):
        """The same people in each global batch, everybody once, every process in every batch."""
        options = {"shuffle": data.draw(st.booleans()), "drop_incomplete": drop}
        (alone,) = self.batches(people, size * world, 1, **options)
        of_each = self.batches(people, size, world, **options)
        used = people - people % (size * world) if drop and people >= size * world else people
        assert sum(len(batch) for batch in alone) == used
        assert all(sample.counted for batch in alone for sample in batch)
        for batches in of_each:
            assert len(batches) == len(alone)
            assert all(batches)
        for number, batch in enumerate(alone):
            parts = [batches[number] for batches in of_each]
            counted = [sample for part in parts for sample in part if sample.counted]
            assert counted == batch
            sizes = [sum(sample.counted for sample in part) for part in parts]
            assert max(sizes) - min(sizes) <= 1
            assert sizes[0] > 0
            for part in parts:
                # Who does not count is alone, and one of the batch.
                assert len(part) == 1 or all(sample.counted for sample in part)
                assert {sample.place for sample in part} <= {sample.place for sample in batch}
        done = data.draw(st.integers(0, len(alone)))
        resumed = self.batches(people, size, world, done, **options)
        assert resumed == [batches[done:] for batches in of_each]

    def test_order_changes_with_the_epoch(self):
        def order(epoch):
            sampler = EpochSampler(
                20, 3, shuffle=True, drop_incomplete=True, seed=0, epoch=lambda: epoch
            )
            return [sample.place for sample in sampler]

        assert order(0) != order(1)

    def test_incomplete_batch(self):
        def length(people, drop):
            return len(EpochSampler(people, 8, shuffle=True, drop_incomplete=drop, seed=0))

        assert length(23, True) == 16
        assert length(23, False) == 23
        assert length(5, True) == 5  # a split smaller than a batch is kept


class TestBrokenPhotos:
    """One sentence that names the photo, wherever it is read."""

    @staticmethod
    def loaded(data, workers):
        sampler = EpochSampler(len(data), 4, shuffle=False, drop_incomplete=False, seed=0)
        return list(torch.utils.data.DataLoader(data, 4, sampler=sampler, num_workers=workers))

    @pytest.mark.parametrize("workers", [0, 1, 2])
    def test_a_broken_photo(self, people, workers):
        people.people[0].image.write_bytes(b"not a photo")
        with pytest.raises(PosematchError) as caught:
            self.loaded(dataset(people), workers)
        with pytest.raises(PosematchError) as alone:
            read_photo(people.people[0].image)
        assert str(caught.value) == str(alone.value)

    @pytest.mark.parametrize("workers", [0, 1])
    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (OSError(5, "Input/output error"), "Input/output error"),
            (MemoryError(), "not enough memory"),
            (None, "inv_scale_x > 0"),  # cv2.error
        ],
    )
    def test_a_region_that_cannot_be_read(self, people, workers, error, words):
        class Regions:
            def __getitem__(self, index):
                if error is None:
                    cv2.resize(np.zeros((4, 4, 3), np.uint8), None, fx=0.0, fy=0.0)
                raise error

        with pytest.raises(PosematchError) as caught:
            self.loaded(dataset(people, regions=Regions()), workers)
        told = str(caught.value)
        assert str(people.people[0].image) in told
        assert words in told
        assert "\n" not in told

    def test_a_mistake_in_the_code_keeps_its_traceback(self, people):
        class Regions:
            def __getitem__(self, index):
                raise ValueError("no input")

        with pytest.raises(ValueError, match="Original Traceback"):
            self.loaded(dataset(people, regions=Regions()), 1)


def test_who_does_not_count_has_no_visible_joint(people):
    counted, other = dataset(people)[(3, 0)], dataset(people)[Sample(3, 0, counted=False)]
    assert counted["counted"]
    assert not other["counted"]
    assert counted["visible"].any()
    assert not other["visible"].any()
    assert torch.equal(counted["crop"], other["crop"])


class TestAugmentation:
    """docs/protocols.md, Augmentation, from 4,000 draws: bounds at 4 standard errors."""

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
