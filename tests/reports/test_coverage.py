"""How often an interval holds the true difference, in populations whose truth is known.

A population has photos with one to three people of eight joints each, who share their photo's
difficulty, the more people the harder. The rate at which a and b find a joint depends on the photo,
on what the photo does to the difference, on the seed's training, and on what that training makes of
the photo. True is the difference over all photos and all seeds, found from two million of both.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from posematch.statistics.intervals import distribution, multiplicities

POPULATIONS = 2000
DRAWS = 1000
EASE, GAIN, OF_GAIN = 0.8, 0.3, 0.4


def rates(photo, of_gain, seeds, scatter):
    """Rates at which a and b find joints; ``seeds`` and ``scatter`` are pairs of arrays."""
    a = EASE + photo + seeds[0] + scatter[0]
    b = EASE + photo + GAIN + OF_GAIN * of_gain + seeds[1] + scatter[1]
    return expit(a), expit(b)


def seed_effects(generator, size, spread):
    """Of a and of b; a pair of the same seed has half of its variance in common."""
    common, own_a, own_b = generator.standard_normal((3, size)) * spread * np.sqrt(0.5)
    return common + own_a, common + own_b


def photos_of(generator, size):
    """People in each, and its ease."""
    people = generator.integers(1, 4, size=size)
    return people, generator.standard_normal(size) - 0.3 * (people - 2)


def true_difference(generator, spread, scatter):
    size = 2_000_000
    people, ease = photos_of(generator, size)
    own = scatter * generator.standard_normal((2, size))
    a, b = rates(ease, generator.standard_normal(size), seed_effects(generator, size, spread), own)
    return 100 * np.sum(people * (b - a)) / people.sum()


def coverage(photos, trainings, spread, scatter, paired=True, seed=0):
    """Share of populations' samples whose 95 % interval holds the truth."""
    generator = np.random.default_rng(seed)
    truth = true_difference(generator, spread, scatter)
    held = 0
    for _ in range(POPULATIONS):
        people, ease = photos_of(generator, photos)
        of_a, of_b = seed_effects(generator, trainings, spread)
        if not paired:
            _, of_b = seed_effects(generator, trainings, spread)
        own = scatter * generator.standard_normal((2, trainings, photos))
        gain = generator.standard_normal(photos)
        joints = 8 * people
        weights = multiplicities(photos, DRAWS, generator)
        sides = []
        for rate in rates(ease, gain, (of_a[:, None], of_b[:, None]), own):
            found = generator.binomial(joints, rate)
            points = 100 * found.sum(axis=1) / joints.sum()
            sides.append((points, 100 * (found @ weights.T) / (weights @ joints)))
        _, draws = distribution(*sides, paired, photos)
        low, high = np.quantile(draws, [0.025, 0.975])
        held += low <= truth <= high
    return held / POPULATIONS


@pytest.mark.slow
@pytest.mark.parametrize("photos", [40, 240])
def test_over_photos(photos):
    """One training on each side; 2,000 populations have a standard error of 0.5 %."""
    found = coverage(photos, trainings=1, spread=0, scatter=0.3)
    print(f"coverage of {photos} photos: {found:.4f}")
    assert 0.93 <= found <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("trainings", [3, 5])
@pytest.mark.parametrize("spread", [0.02, 0.2])
def test_over_photos_and_seeds_in_pairs(trainings, spread):
    """Where photos matter most, and where seeds do."""
    found = coverage(120, trainings, spread, scatter=0.5)
    print(f"coverage of {trainings} paired seeds, spread {spread}: {found:.4f}")
    assert 0.93 <= found <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("trainings", [3, 5])
def test_over_photos_and_independent_seeds(trainings):
    """Too wide rather than too narrow: Welch's degrees of freedom are estimated from so few."""
    found = coverage(120, trainings, spread=0.1, scatter=0.5, paired=False)
    print(f"coverage of {trainings} independent seeds: {found:.4f}")
    assert 0.93 <= found <= 0.985
