"""``temperature``: maps are divided by it, in the loss and in what maps mean."""

import math

import pytest
import torch
from omegaconf import OmegaConf

from posematch.app.commands import compose
from posematch.errors import PosematchError
from posematch.losses import (
    DSNT,
    OHKM,
    AdaptiveWing,
    DotMSE,
    GaussianMSE,
    JSDivergence,
    KLDivergence,
    MarginalCrossEntropy,
    MarginalTransport,
    Matching,
    SpatialCrossEntropy,
)

MAKE = {
    "gaussian_mse": lambda **more: GaussianMSE(1.0, **more),
    "ohkm": lambda **more: OHKM(1.0, top_k=2, **more),
    "dot_mse": DotMSE,
    "adaptive_wing": lambda **more: AdaptiveWing(1.0, **more),
    "cross_entropy": SpatialCrossEntropy,
    "cross_entropy_of_blocks": lambda **more: SpatialCrossEntropy(pool=4, **more),
    "cross_entropy_to_gaussian": lambda **more: SpatialCrossEntropy("gaussian", 1.0, **more),
    "simcc": MarginalCrossEntropy,
    "marginal_transport": MarginalTransport,
    "kl": lambda **more: KLDivergence(1.0, **more),
    "kl_softplus": lambda **more: KLDivergence(1.0, "softplus", **more),
    "js": lambda **more: JSDivergence(1.0, **more),
    "dsnt": DSNT,
    "relaxed": lambda **more: Matching(supply="softmax", relaxation=0.5, **more),
}


@pytest.fixture(params=MAKE)
def make(request):
    return MAKE[request.param]


def test_maps_are_divided_by_it(make):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 12, 16, generator=generator, dtype=torch.float64)
    dots = torch.rand(2, 3, 2, generator=generator) * torch.tensor([15.0, 11.0])
    visible = torch.ones(2, 3)
    cold, plain = make(temperature=0.25), make()
    assert cold.meaning.temperature == 0.25
    torch.testing.assert_close(cold.mass(maps / 4), plain.mass(maps))
    torch.testing.assert_close(
        cold.per_joint(maps / 4, dots, visible), plain.per_joint(maps, dots, visible)
    )


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_one_that_nothing_can_be_divided_by_is_refused(make, temperature):
    with pytest.raises(PosematchError, match=r"loss\.temperature=.* must be positive"):
        make(temperature=temperature)


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_height_that_a_share_of_the_mass_takes(share, temperature):
    """docs/theory.md: a = T log(p (N - m) / ((1 - p) m)), the other pixels level."""
    maps = torch.zeros(1, 1, 24, 24, dtype=torch.float64)
    odds = share * (24 * 24 - 4) / ((1 - share) * 4)
    maps[..., 3:5, 7:9] = temperature * math.log(odds)
    mass = SpatialCrossEntropy(temperature=temperature).mass(maps)
    assert float(mass[..., 3:5, 7:9].sum()) == pytest.approx(share, rel=1e-12)


@pytest.mark.parametrize(
    ("choice", "first", "others"),
    [
        ("cross_entropy_then_matching", "first", ["then"]),
        ("matching_and_blocks", "losses.matching", ["losses.blocks_of_4", "losses.blocks_of_8"]),
    ],
)
def test_losses_of_one_softmax_have_one_temperature(choice, first, others):
    config = compose([f"loss={choice}", f"loss.{first}.temperature=0.1"])
    for name in (first, *others):
        assert OmegaConf.select(config.loss, f"{name}.temperature") == 0.1
