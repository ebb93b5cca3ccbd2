"""People kept as columns are the people that were put in."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np

from posematch.data.people import People, Person, PersonRows
from posematch.skeletons import COCO


def drawn(number: int) -> Person:
    rng = np.random.default_rng(number)
    return Person(
        person_id=10**12 + number,
        image_id=number // 2,
        image=Path("photos") / f"\udcffä {number // 2}.jpg",  # a name that is no UTF-8
        center_img=rng.random(2),
        box_size_img=rng.random(2),
        joints_img=rng.random((17, 2)),
        visible=rng.integers(0, 2, 17).astype(np.float32),
        occluded=rng.integers(0, 2, 17).astype(bool),
        box_score=float(rng.random()),
        area=float(rng.random()),
        photo_size=(640, 480 + number) if number % 3 else None,
    )


def assert_same(found: Person, expected: Person) -> None:
    for one in fields(Person):
        a, b = getattr(found, one.name), getattr(expected, one.name)
        if isinstance(b, np.ndarray):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        else:
            assert a == b
            assert type(a) is type(b)


def test_rows_give_back_their_people_in_parts_and_from_the_end() -> None:
    everybody = [drawn(number) for number in range(7)]
    rows = People("a", "train", COCO, everybody).rows
    for found, expected in zip(rows, everybody, strict=True):
        assert_same(found, expected)
    assert_same(rows[-1], everybody[-1])
    for part, expected in (
        (rows[2:5], everybody[2:5]),
        (rows[np.array([6, 0])], [everybody[6], everybody[0]]),
        (rows[np.arange(7) > 4], everybody[5:]),
    ):
        assert isinstance(part, PersonRows)
        for one, other in zip(part, expected, strict=True):
            assert_same(one, other)


def test_nobody_is_a_split_too() -> None:
    nobody = People("a", "train", COCO, [])
    assert list(nobody.people) == []
    assert nobody.rows.joints_img.shape == (0, 17, 2)
