"""UDP's combined target against a plain restatement of docs/protocols.md, Targets."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch

from posematch.decoding import UDPCombined as Decoder
from posematch.errors import PosematchError
from posematch.losses import GaussianMSE, UDPCombined, WeightedSum

SIZE = (64, 48)


def plainly(maps, dot):
    """0.5 [MSE(cls) + MSE(gt off_x) + MSE(gt off_y)], r = 0.0546875 H, over (3, H, W) maps."""
    height, width = SIZE
    radius, total = 0.0546875 * height, 0.0
    for y in range(height):
        for x in range(width):
            off_x, off_y = (dot[0] - x) / radius, (dot[1] - y) / radius
            gt = 1.0 if off_x**2 + off_y**2 <= 1 else 0.0
            total += (maps[0, y, x] - gt) ** 2
            total += (gt * maps[1, y, x] - gt * off_x) ** 2
            total += (gt * maps[2, y, x] - gt * off_y) ** 2
    return 0.5 * total / (height * width)


def batch():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 2 * 3, *SIZE, generator=generator, dtype=torch.float64)
    dots = torch.tensor([[[20.3, 30.8], [0.0, -0.4]], [[47.2, 63.4], [3.5, 11.0]]]).double()
    return maps, dots, torch.ones(2, 2)


def test_definition():
    maps, dots, visible = batch()
    expected = [
        [plainly(*one) for one in zip(person.unflatten(0, (2, 3)).numpy(), its, strict=True)]
        for person, its in zip(maps, dots.numpy(), strict=True)
    ]
    np.testing.assert_allclose(UDPCombined().per_joint(maps, dots, visible), expected, rtol=1e-9)


def test_zero_at_its_target_and_blind_to_offsets_beyond_the_disk():
    _, dots, visible = batch()
    disk, x, y = UDPCombined().targets(dots, SIZE)
    for beyond in (0.0, 7.0):
        offsets = [torch.where(disk, one, beyond) for one in (x, y)]
        ideal = torch.stack([disk.double(), *offsets], dim=2).flatten(1, 2).requires_grad_()
        value = UDPCombined()(ideal, dots, visible)
        value.backward()
        assert float(value.detach()) == 0
        assert (ideal.grad == 0).all()


def test_disk_has_the_published_radius():
    disk, _, _ = UDPCombined().targets(torch.tensor([[[24.0, 32.0]]]), SIZE)
    # 3.5 px: the 37 pixels with d^2 <= 12.25.
    inside = sum(x * x + y * y <= 12.25 for x in range(-4, 5) for y in range(-4, 5))
    assert int(disk.sum()) == inside == 37


def test_loss_and_decoder_mean_the_same_disk():
    default = inspect.signature(Decoder).parameters["radius_share"].default
    assert default == UDPCombined().radius_share == 0.0546875
    assert UDPCombined(0.1).decoder_config()["radius_share"] == 0.1


def test_dots_that_do_not_count_may_be_anywhere():
    maps, dots, visible = batch()
    visible[0, 0], dots[0, 0] = 0.0, torch.tensor([math.nan, 1e300])
    value = UDPCombined()(maps.requires_grad_(), dots, visible)
    value.backward()
    assert value.isfinite()
    assert maps.grad.isfinite().all()


def test_cannot_share_a_network_with_losses_of_one_map():
    with pytest.raises(PosematchError, match=r"needs 1 maps a joint and .* 3"):
        WeightedSum({"udp_combined": UDPCombined(), "gaussian_mse": GaussianMSE(2.0)})
