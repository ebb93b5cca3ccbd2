"""The sparsemax supply against its definition by sorting, in float64."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from posematch.losses import Matching, to_mass
from posematch.losses.sparsemax import _projected, sparsemax


def by_sorting(row):
    """Algorithm 1 of Martins & Astudillo, ICML 2016, one row in float64."""
    z = np.sort(row.astype(np.float64))[::-1]
    sums = np.cumsum(z)
    k = np.arange(1, len(z) + 1)
    support = k[1 + k * z > sums].max()
    return np.maximum(row.astype(np.float64) - (sums[support - 1] - 1) / support, 0)


def maps():
    """(32, 64 * 64) float32: fresh, trained, peaked and adverse ones."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 64 * 64, generator=generator)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    blob = torch.exp(-((x - 20.3) ** 2 + (y - 30.6) ** 2) / 8).flatten()
    # Leave the support one after another: the slowest that Newton's method may be.
    steps = -torch.logspace(0, -7, 64 * 64).expand(4, -1)
    scaled = [scale * noise for scale in (1e-4, 0.1, 1.0, 100.0)]
    return torch.cat([*scaled, blob + 0.02 * noise, 10 * blob + noise, steps, 1e4 + noise])


def test_is_the_projection():
    """Against sorting in float64; 1e4 + noise has only 1e-3 of the noise left in float32."""
    found = sparsemax(maps())
    for row, mass in zip(maps().numpy(), found.numpy(), strict=True):
        expected = by_sorting(row)
        assert np.abs(mass - expected).max() < 2e-7
        assert abs(mass.sum(dtype=np.float64) - 1) < 2e-6


def test_is_the_nearest_probability():
    """No other one is nearer: (h - p) . (q - p) <= 0 for every q, so for every corner."""
    heatmaps = maps().double()
    mass = sparsemax(heatmaps)
    away = heatmaps - mass
    assert (away.amax(-1) - (away * mass).sum(-1) <= 1e-9).all()


@given(
    values=arrays(
        np.float64, (3, 12), elements=st.floats(-3, 3) | st.sampled_from([0.0, 1.0, -1e4, 1e4])
    )
)
@settings(max_examples=200)
def test_any_map(values):
    """Ties, constants, pixels exactly 1 below the highest, any spread."""
    found = sparsemax(torch.from_numpy(values)).numpy()
    for row, mass in zip(values, found, strict=True):
        np.testing.assert_allclose(mass, by_sorting(row), atol=1e-11)


@pytest.mark.parametrize("pixels", [1, 2, 4096])
def test_constant_maps_are_uniform_and_have_a_gradient(pixels):
    heatmaps = torch.full((2, pixels), -7.5, requires_grad=True)
    mass = sparsemax(heatmaps)
    torch.testing.assert_close(mass.detach(), torch.full((2, pixels), 1 / pixels))
    (mass[:, 0]).sum().backward()
    assert heatmaps.grad[0, 0] == pytest.approx(1 - 1 / pixels)


def test_ties_share_the_gradient():
    heatmaps = torch.tensor([[2.0, 2.0, 2.0, 0.0]], requires_grad=True)
    (sparsemax(heatmaps) * torch.tensor([1.0, 4.0, 7.0, 100.0])).sum().backward()
    assert heatmaps.grad.tolist() == [[-3.0, 0.0, 3.0, 0.0]]


def test_one_pixel_above_all_others_by_1_has_no_gradient():
    """Exactly so, and the reason why a temperature below 1 is a risk."""
    heatmaps = torch.tensor([[0.0, 1.01, -3.0]], requires_grad=True)
    mass = sparsemax(heatmaps)
    (mass * torch.tensor([1.0, 4.0, 7.0])).sum().backward()
    assert mass.tolist() == [[0.0, 1.0, 0.0]]
    assert (heatmaps.grad == 0).all()


def test_gradient_by_finite_differences():
    """Random maps lie on no kink."""
    generator = torch.Generator().manual_seed(1)
    heatmaps = torch.randn(5, 9, generator=generator).double().requires_grad_()
    assert torch.autograd.gradcheck(sparsemax, heatmaps, eps=1e-7)


def test_backward_is_the_derivative_that_autograd_finds():
    """Through the last Newton step, whose tau depends on the map as the root's does."""
    heatmaps = maps().double()
    weights = torch.randn(heatmaps.shape, generator=torch.Generator().manual_seed(2)).double()
    own, automatic = (heatmaps.clone().requires_grad_() for _ in range(2))
    (sparsemax(own) * weights).sum().backward()
    tau_free = _projected(heatmaps)
    support = (tau_free > 0).double()
    tau = ((automatic * support).sum(-1, keepdim=True) - 1) / support.sum(-1, keepdim=True)
    ((automatic - tau).relu() * weights).sum().backward()
    torch.testing.assert_close(own.grad, automatic.grad)


def test_temperature_divides_first():
    heatmaps = maps().view(-1, 64, 64)
    torch.testing.assert_close(
        to_mass(heatmaps, "sparsemax", 0.5).flatten(1), sparsemax(maps() / 0.5)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_computed_in_float32(dtype):
    """A count of 4,096 pixels or 1 / 4096 beside 1 would be lost."""
    heatmaps = maps()[:28].to(dtype)
    found = sparsemax(heatmaps)
    assert found.dtype == dtype
    torch.testing.assert_close(found, sparsemax(heatmaps.float()).to(dtype))


def test_bf16_maps_train_through_the_loss():
    """The loss is that of the same maps in float32, and the gradient reaches the bf16 map."""
    heatmaps = (0.1 * maps()[4:8].view(1, 4, 64, 64)).bfloat16().requires_grad_()
    dots, visible = torch.tensor([[[20.3, 30.6]]]).expand(1, 4, 2), torch.ones(1, 4)
    loss = Matching(supply="sparsemax", temperature=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(heatmaps, dots, visible)
    value.backward()
    torch.testing.assert_close(value, loss(heatmaps.detach().float(), dots, visible))
    assert heatmaps.grad.dtype == torch.bfloat16
    assert (heatmaps.grad != 0).any((-2, -1)).all()


def test_matching_solves_them_to_its_tolerance():
    """Masses sum to 1 well enough: no warning of an unconverged solve."""
    heatmaps = maps().view(1, -1, 64, 64)
    dots, visible = torch.tensor([20.3, 30.6]).expand(1, 32, 2), torch.ones(1, 32)
    loss = Matching(supply="sparsemax")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = loss.per_joint(heatmaps, dots, visible)
        loss.check_health()
    exact = Matching(supply="sparsemax", solver="exact").per_joint(
        heatmaps[:, :4].double(), dots[:, :4], visible[:, :4]
    )
    assert (values[:, :4] >= exact - 1e-4).all()
    assert (values[:, :4] <= exact + 0.1 * np.log(4)).all()  # W <= E <= W + epsilon H(d)


def test_only_the_gradient_on_the_support_is_read():
    """`mass_only` solves leave the other potentials out; the loss's gradient is the full one's."""
    generator = torch.Generator().manual_seed(3)
    heatmaps = torch.randn(1, 2, 12, 10, generator=generator).double()
    dots, visible = torch.tensor([[[3.3, 7.6], [8.0, 1.0]]]).double(), torch.ones(1, 2)
    loss = Matching(supply="sparsemax", tolerance=1e-12)
    own, full = (heatmaps.clone().requires_grad_() for _ in range(2))
    loss(own, dots, visible).backward()
    mass = loss.mass(full)
    problem = loss.problem(mass.detach()[0], dots[0])
    potential = loss.distance.solver(problem, 1e-12, 1000).supply_potential
    (mass[0] * potential).sum().div(2).backward()
    torch.testing.assert_close(own.grad, full.grad, rtol=1e-7, atol=1e-9)
