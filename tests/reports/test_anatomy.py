"""Gradients of drawn maps: against finite differences, and the signs that the paper argues with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from scipy.stats import spearmanr

from posematch.anatomy.analysis import (
    FLOOR,
    SIZE,
    Scene,
    descend,
    distances_px,
    gradient,
    losses_of,
    matching_variants,
    numbers,
    own_mass,
    scenes,
    written_for,
)
from posematch.anatomy.report import chosen_losses, write_anatomy
from posematch.app.composition import register_resolvers
from posematch.errors import PosematchError
from posematch.losses import DotMSE, GaussianMSE, KLDivergence, Matching, to_mass
from posematch.training.build import build_loss

CONF = Path(__file__).resolve().parents[2] / "conf"
SCENES = {scene.name: scene for scene in scenes()}


def configured_losses():
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("loss_anatomy")
    return {name: build_loss(one) for name, one in cfg.losses.items()}


LOSSES = configured_losses()


def test_every_loss_is_looked_at():
    """Left out: matching_pot, which is matching by another solver, what only measures, and what
    lasts as long as a training."""
    left_out = {"matching_pot", "gaussian_mse_best_scale"}
    left_out |= {"annealed_matching", "cross_entropy_then_matching"}
    assert {*LOSSES} | left_out == {file.stem for file in CONF.glob("loss/*.yaml")}


@pytest.mark.parametrize("name", [*LOSSES, *matching_variants()])
def test_gradients_are_finite_differences_of_the_loss(name):
    """Central differences of 1e-5 in float64: error 1e-10 of a value that solves leave 1e-9 off."""
    loss = {**LOSSES, **matching_variants()}[name]
    if isinstance(loss, Matching):
        loss.distance = replace(loss.distance, tolerance=1e-12)
    scene = SCENES["two_peaks"]
    heatmap = written_for(loss, scene.heatmap)
    found = gradient(loss, scene)
    # The two peaks, between them, and where the ripple is positive and negative.
    pixels = [(11, 9), (10, 8), (21, 24), (16, 16), (0, 0), (30, 2)]
    pixels = [(y, x) for y, x in pixels if abs(float(heatmap[y, x])) > 1e-3]
    step = 1e-5
    for y, x in pixels:
        moved = heatmap.repeat(2, 1, 1)
        moved[0, y, x] += step
        moved[1, y, x] -= step
        up, down = losses_of(loss, moved, scene.dot_hm.expand(2, 2)).tolist()
        expected = (up - down) / (2 * step)
        scale = float(found.abs().max())
        assert float(found[y, x]) == pytest.approx(expected, rel=1e-4, abs=1e-4 * scale)


def test_mse_asks_each_pixel_alone():
    """Its gradient at a pixel is 2 (h - g) / HW there, whatever the others say."""
    loss, scene = GaussianMSE(sigma=1), SCENES["two_peaks"]
    before = gradient(loss, scene)
    changed = scene.heatmap.clone()
    changed[20, 5] += 0.7
    after = gradient(loss, Scene("", "", changed, scene.dot_hm))
    difference = after - before
    assert float(difference[20, 5]) == pytest.approx(2 * 0.7 / (SIZE[0] * SIZE[1]))
    difference[20, 5] = 0
    assert (difference == 0).all()


def test_the_far_blob_learns_where_the_dot_lies_from_matching_alone():
    """Moving a dot that is far away changes nothing at the blob under MSE."""
    scene = SCENES["far_blob"]
    other = Scene("", "", scene.heatmap, scene.dot_hm + torch.tensor([0.0, 6.0]))
    at_blob = distances_px(scene.far_hm) <= 4
    for loss in (GaussianMSE(sigma=1), DotMSE()):
        assert torch.equal(gradient(loss, scene)[at_blob], gradient(loss, other)[at_blob])
    moved = gradient(Matching(), scene)[at_blob] - gradient(Matching(), other)[at_blob]
    assert float(moved.abs().max()) > 0.05 * float(gradient(Matching(), scene).abs().max())


@pytest.mark.parametrize("name", list(SCENES))
def test_matching_pulls_along_the_distance(name):
    """Equation 3's a is, but for epsilon and the dot's four pixels, the distance to the dot."""
    scene = SCENES[name]
    found = gradient(Matching(), scene)
    positive = scene.heatmap > 0
    assert (found[~positive] == 0).all()  # ReLU
    distance = distances_px(scene.dot_hm)[positive]
    assert spearmanr(found[positive], distance).statistic > 0.99
    # dL/dh = (a - <a, s>) / sum relu(h): the slope over the distance is 1 / sum.
    slope = np.polyfit(distance, found[positive], 1)[0]
    assert slope == pytest.approx(1 / float(scene.heatmap.relu().sum()), rel=0.1)
    assert numbers(Matching(), scene)["distance_rate_px"] < 0


def test_numbers_of_a_known_gradient():
    """Dot MSE on a map that is the dot, twice too high at its pixel: 2 * 1 / HW there alone."""
    heatmap = torch.zeros(SIZE, dtype=torch.float64)
    heatmap[5, 7] = 2
    scene = Scene("", "", heatmap, torch.tensor([7.0, 5.0], dtype=torch.float64))
    found = numbers(DotMSE(), scene)
    assert found["gradient_norm"] == pytest.approx(2 / (SIZE[0] * SIZE[1]))
    assert found["zero_gradient_share"] == pytest.approx(1 - 1 / (SIZE[0] * SIZE[1]))
    assert found["near_rate"] == pytest.approx(0)  # all of the mass is there already
    assert np.isnan(found["far_rate"])


@pytest.mark.parametrize(
    "loss",
    [
        GaussianMSE(sigma=1),
        Matching(),
        Matching(supply="softplus"),
        KLDivergence(sigma=1),
        Matching(supply="sparsemax", temperature=0.5),
    ],
    ids=["none", "relu", "softplus", "softmax", "sparsemax"],
)
def test_every_loss_starts_from_the_same_mass(loss):
    """But for the floor: at most FLOOR of the mass is added, all pixels together."""
    for scene in scenes():
        drawn = to_mass(scene.heatmap, "relu")
        found = own_mass(loss, written_for(loss, scene.heatmap))
        assert float((found - drawn).abs().sum()) < 2 * FLOOR


def test_a_temperature_changes_no_scene():
    cold, plain = GaussianMSE(sigma=1, temperature=0.1), GaussianMSE(sigma=1)
    for scene in scenes():
        maps = [written_for(loss, scene.heatmap)[None] for loss in (cold, plain)]
        values = [
            losses_of(loss, drawn, scene.dot_hm[None])
            for loss, drawn in zip((cold, plain), maps, strict=True)
        ]
        torch.testing.assert_close(*values)


def test_free_heatmaps_go_to_the_dot():
    """Matching sees the sub-pixel dot; the quantised Gaussian's decoder has quarter pixels only."""
    of = [SCENES["off_grid"]]
    matching = descend(Matching(), of, steps=120, every=60, rate=0.03)
    gaussian = descend(GaussianMSE(sigma=1), of, steps=120, every=60, rate=0.03)
    assert list(matching.steps) == [0, 60, 120]
    assert matching.mass.shape == (3, 1, *SIZE)
    assert matching.error_px[-1, 0] < 0.05 < matching.error_px[0, 0]
    # The nearest place of quarter offset to (16.4, 14.7) is (16.25, 14.75).
    assert gaussian.error_px.min() >= np.hypot(0.15, 0.05) - 1e-6


@pytest.mark.slow
def test_files(tmp_path):
    losses = {name: LOSSES[name] for name in ("gaussian_mse", "kl")}
    files = write_anatomy(losses, tmp_path, film=(2, 1, 0.03))
    names = {file.name for file in files}
    for scene in SCENES:
        assert {f"gradients_{scene}.png", f"matching_{scene}.png", f"film_{scene}.gif"} <= names
        film = Image.open(tmp_path / f"film_{scene}.gif")
        assert film.n_frames == 3
    assert max(file.stat().st_size for file in files) < 1_000_000
    assert {"numbers.csv", "films.csv", "films.png", "loss_anatomy.md"} <= names
    text = (tmp_path / "loss_anatomy.md").read_text()
    for name in names - {"loss_anatomy.md", "numbers.csv", "films.csv"}:
        assert name in text


def test_an_unknown_loss_is_told():
    assert chosen_losses(["a", "b"], None) == ["a", "b"]
    assert chosen_losses(["a", "b"], ["b"]) == ["b"]
    with pytest.raises(PosematchError, match=r"only=matchin is no loss here; the nearest is match"):
        chosen_losses(["matching"], "matchin")
