"""Where networks put their mass: on maps made by hand, and of a trained run."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from posematch.losses import GaussianMSE, Matching, SpatialCrossEntropy
from posematch.reports.hedging import COLUMNS, markdown, means, of_maps

# A joint with its twin, and one without.
TWINS = (1, 0, 2)
TRUE_HM = torch.tensor([[[2.0, 8.0], [14.0, 8.0], [8.0, 3.0]]])
VISIBLE = torch.ones(1, 3)


def maps_with_mass_at(*places):
    """Logits of a softmax whose mass lies on single pixels, for each joint {(x, y): share}."""
    maps = torch.full((1, 3, 17, 17), -60.0)
    for joint, shares in enumerate(places):
        for (x, y), share in shares.items():
            maps[0, joint, y, x] = math.log(share)
    return maps


def test_places():
    maps = maps_with_mass_at(
        {(2, 8): 0.5, (14, 8): 0.25, (8, 8): 0.25}, {(2, 8): 1.0}, {(8, 4): 1.0}
    )
    decoded_hm = torch.tensor([[[2.0, 9.0], [2.0, 8.0], [8.0, 4.0]]])
    found = of_maps(maps, TRUE_HM, decoded_hm, VISIBLE, TWINS, SpatialCrossEntropy())
    nan = math.nan
    expected = {
        "distance_px": [0.25 * 12 + 0.25 * 6, 12.0, 1.0],
        "error_px": [1.0, 12.0, 1.0],
        "near_truth": [0.5, 0.0, 1.0],
        "near_twin": [0.25, 1.0, nan],
        "between": [0.25, 0.0, nan],
        "nearer_to_twin": [0.0, 1.0, nan],
        "forgotten": [0.0, 1.0, 0.0],
    }
    for name, values in expected.items():
        torch.testing.assert_close(
            found[name][0], torch.tensor(values), atol=1e-5, rtol=1e-5, equal_nan=True, msg=name
        )
    # Of a cross-entropy half of the gradient, in absolute value, asks for mass at the dot: s - t
    # sums to 0, and t's part is all near the dot.
    torch.testing.assert_close(found["pull"][0], torch.tensor([nan, 0.5, nan]), equal_nan=True)


def test_no_mass_no_pull():
    """A softmax's gradient is s (a - <a, s>): nothing reaches a joint without mass."""
    lost = {(14, 8): 0.5, (14, 14): 0.5}
    maps = maps_with_mass_at(lost, {(2, 8): 1.0}, {(8, 3): 1.0})
    loss = Matching(supply="softmax")
    pull = of_maps(maps, TRUE_HM, TRUE_HM, VISIBLE, TWINS, loss)["pull"]
    assert pull[0, 0] < 1e-6
    evenly = Matching(supply="softmax", even_share=1.0)
    assert of_maps(maps, TRUE_HM, TRUE_HM, VISIBLE, TWINS, evenly)["pull"][0, 0] > 0.01


def test_twins_that_tell_nothing():
    true_hm = torch.tensor([[[2.0, 8.0], [9.0, 8.0], [8.0, 3.0]]])  # 7 px apart
    maps = maps_with_mass_at({(2, 8): 1.0}, {(9, 8): 1.0}, {(8, 3): 1.0})
    for dots, visible in (
        (true_hm, VISIBLE), (TRUE_HM, torch.tensor([[1.0, 0, 1]])), (TRUE_HM, 0 * VISIBLE),
    ):  # fmt: skip
        found = of_maps(maps, dots, dots, visible, TWINS, SpatialCrossEntropy())
        assert found["near_twin"].isnan().all()
        assert found["between"].isnan().all()


def test_an_mse_is_read_by_its_positive_part():
    maps = -torch.ones(1, 3, 17, 17)
    maps[0, :, 8, 2] = 3.0
    maps[0, :, 8, 14] = 1.0
    found = of_maps(maps, TRUE_HM, TRUE_HM, VISIBLE, TWINS, GaussianMSE(1.0))
    assert found["near_truth"][0, :2].tolist() == [0.75, 0.25]
    assert found["near_twin"][0, :2].tolist() == [0.25, 0.75]


def test_means_and_intervals():
    """Of joints that all say the same there is no doubt; else by photo, as numpy resamples it."""
    generator = np.random.default_rng(0)
    values = generator.normal(3.0, 1.0, (50, 4))
    frame = pd.DataFrame({"loss": "x", "image_id": np.repeat(np.arange(50), 4)})
    for name in COLUMNS:
        frame[name] = 0.5
    frame["distance_px"] = values.ravel()
    frame["pull"] = np.nan
    (row,) = means(frame).to_dict("records")
    assert (row["error_px"], row["error_px_low"], row["error_px_high"]) == (0.5, 0.5, 0.5)
    assert math.isnan(row["pull"])
    assert row["distance_px"] == pytest.approx(values.mean())
    # The standard error of a mean over photos of equal size.
    error = values.mean(1).std(ddof=1) / math.sqrt(50)
    assert row["distance_px_high"] - row["distance_px_low"] == pytest.approx(3.92 * error, rel=0.1)
    assert "`x`" in markdown(means(frame))
