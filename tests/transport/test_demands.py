"""Dots as masses on pixels, and what moving, mirroring and permuting must leave alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import HEIGHT, SIZE, WIDTH

from posematch.transport import nearest_demand, point_demand, subpixel_demand

anywhere = {"x": st.floats(-0.49, WIDTH - 0.51), "y": st.floats(-0.49, HEIGHT - 0.51)}


@given(**anywhere)
@settings(max_examples=200)
def test_subpixel_demand_has_its_barycentre_on_the_dot(x, y):
    places, mass = subpixel_demand(torch.tensor([[x, y]], dtype=torch.float64), SIZE)
    assert float(mass.sum()) == pytest.approx(1, abs=1e-12)
    assert (mass >= 0).all()
    used = mass[0] > 0
    inside = (places[0][used] >= 0) & (places[0][used] < torch.tensor([WIDTH, HEIGHT]))
    assert inside.all()
    # Off the grid's edge the pixels beyond it drop out: the dot is drawn onto the grid.
    expected = np.clip([x, y], 0, [WIDTH - 1, HEIGHT - 1])
    np.testing.assert_allclose((mass[0, :, None] * places[0]).sum(0), expected, atol=1e-9)


@given(**anywhere)
def test_nearest_and_point_demand(x, y):
    dots_hm = torch.tensor([[x, y]], dtype=torch.float64)
    (place,), mass = nearest_demand(dots_hm, SIZE)
    assert mass.tolist() == [[1.0]]
    assert place.tolist() == place.round().tolist()
    assert float((place - dots_hm).abs().max()) <= 0.5
    places, mass = point_demand(dots_hm, SIZE)
    assert torch.equal(places[:, 0], dots_hm)
    assert mass.tolist() == [[1.0]]
