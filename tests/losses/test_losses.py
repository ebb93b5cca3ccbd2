"""The losses' contract, and parity with HRNet's own code."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from posematch.data.mpii import read_mpii
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
    Scheduled,
    SpatialCrossEntropy,
    UDPCombined,
    WeightedSum,
    gaussian_targets,
    to_mass,
)
from posematch.skeletons import MPII

LOSSES = {
    "gaussian_mse": lambda: GaussianMSE(sigma=2.0),
    "gaussian_mse_subpixel": lambda: GaussianMSE(sigma=2.0, centre="subpixel"),
    "gaussian_mse_hrnet": lambda: GaussianMSE(sigma=2.0, reduction="hrnet", mask="hrnet"),
    "dot_mse": DotMSE,
    "matching": Matching,
    "matching_pot": lambda: Matching(solver="pot", tolerance=1e-5),
    "matching_softmax": lambda: Matching(supply="softmax"),
    "matching_softplus": lambda: Matching(supply="softplus"),
    "matching_sparsemax": lambda: Matching(supply="sparsemax", temperature=0.5),
    "kl_sparsemax": lambda: KLDivergence(1.0, "sparsemax"),
    "matching_widths": lambda: Matching(
        supply="softmax", demand="point", cost="oks", widths="metric"
    ),
    "kl": lambda: KLDivergence(1.0),
    "kl_relu": lambda: KLDivergence(1.0, "relu"),
    "js_softplus": lambda: JSDivergence(1.0, "softplus"),
    "js_relu": lambda: JSDivergence(1.0, "relu"),
    "spatial_cross_entropy": SpatialCrossEntropy,
    "spatial_cross_entropy_gaussian": lambda: SpatialCrossEntropy("gaussian", 1.0),
    "simcc": MarginalCrossEntropy,
    "simcc_dot": lambda: MarginalCrossEntropy("dot"),
    "marginal_transport": MarginalTransport,
    "marginal_transport_squared": lambda: MarginalTransport(2.0, "relu"),
    "ohkm_all": lambda: OHKM(2.0, top_k=8),  # of at most four joints here: all of them
    "adaptive_wing": lambda: AdaptiveWing(2.0, centre="subpixel"),
    "dsnt": DSNT,
    "udp_combined": lambda: UDPCombined(radius_share=0.2),
    "weighted_sum": lambda: WeightedSum(members(), {"first": 2.0, "then": 0.5}),
    "scheduled_blend": lambda: Scheduled(**members(), switch_epoch=0, blend_epochs=1),
}


def members():
    return {"first": GaussianMSE(2.0, centre="subpixel"), "then": KLDivergence(1.0)}


@pytest.fixture(params=LOSSES)
def loss(request):
    return LOSSES[request.param]()


def batch(seed=0, people=3, joints=4, height=16, width=12, channels=1):
    generator = torch.Generator().manual_seed(seed)
    heatmaps = torch.randn(people, joints * channels, height, width, generator=generator)
    joints_hm = torch.rand(people, joints, 2, generator=generator) * torch.tensor(
        [width - 1.0, height - 1.0]
    )
    visible = (torch.rand(people, joints, generator=generator) > 0.3).float()
    visible[0, 0] = 1.0
    return heatmaps, joints_hm, visible


def batch_for(loss, **sizes):
    return batch(channels=loss.channels_per_joint, **sizes)


def by_joint(maps, loss):
    """(B, K, C, H, W) view of the maps."""
    return maps.unflatten(1, (-1, loss.channels_per_joint))


class TestContract:
    def test_scalar_is_the_weighted_mean_of_the_joints(self, loss):
        if getattr(loss, "reduction", "mean") == "hrnet":
            pytest.skip("that reduction is HRNet's own, tested against it")
        heatmaps, joints_hm, visible = batch_for(loss)
        visible = visible * 0.5 + visible * torch.rand_like(visible) * 0.5
        per_joint = loss.per_joint(heatmaps, joints_hm, visible)
        assert per_joint.shape == visible.shape
        expected = (per_joint * visible).sum() / visible.sum()
        torch.testing.assert_close(loss(heatmaps, joints_hm, visible), expected)

    def test_joints_that_do_not_count_change_nothing(self, loss):
        heatmaps, joints_hm, visible = batch_for(loss)
        before = loss(heatmaps, joints_hm, visible)
        unlabelled = visible == 0
        heatmaps = heatmaps.clone()
        by_joint(heatmaps, loss)[unlabelled] = 1e3
        joints_hm = torch.where(unlabelled[..., None], torch.tensor(-1e4), joints_hm)
        heatmaps.requires_grad_()
        after = loss(heatmaps, joints_hm, visible)
        if getattr(loss, "reduction", "mean") == "mean":
            torch.testing.assert_close(after, before)
        after.backward()
        assert heatmaps.grad is not None
        assert (by_joint(heatmaps.grad, loss)[unlabelled] == 0).all()
        assert heatmaps.grad.isfinite().all()

    def test_nothing_counts_gives_zero_and_a_zero_gradient(self, loss):
        heatmaps, joints_hm, visible = batch_for(loss)
        heatmaps.requires_grad_()
        value = loss(heatmaps, joints_hm, torch.zeros_like(visible))
        value.backward()
        assert value == 0
        assert heatmaps.grad is not None
        assert (heatmaps.grad == 0).all()

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_not_finite_raises_and_names_the_sample(self, loss, bad):
        heatmaps, joints_hm, visible = batch_for(loss)
        heatmaps[1, 2, 3, 4] = bad
        with pytest.raises(FloatingPointError, match="sample 1 "):
            loss(heatmaps, joints_hm, visible)

    def test_permuting_batch_and_joints_permutes_the_losses(self, loss):
        heatmaps, joints_hm, visible = batch_for(loss)
        people, joints = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0, 2])
        direct = loss.per_joint(heatmaps, joints_hm, visible)[people][:, joints]
        permuted = loss.per_joint(
            by_joint(heatmaps, loss)[people][:, joints].flatten(1, 2),
            joints_hm[people][:, joints],
            visible[people][:, joints],
        )
        torch.testing.assert_close(permuted, direct)

    def test_bf16_is_computed_in_float32_under_autocast(self, loss):
        heatmaps, joints_hm, visible = batch_for(loss)
        heatmaps = heatmaps.bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(heatmaps, joints_hm, visible)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, loss(heatmaps.float(), joints_hm, visible))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_losses_are_of_the_maps_dtype_whatever_the_joints(self, loss, dtype):
        heatmaps, joints_hm, visible = batch_for(loss)
        losses = loss.per_joint(heatmaps.to(dtype), joints_hm.double(), visible)
        assert losses.dtype == dtype

    def test_mirroring_everything_changes_nothing(self, loss):
        if getattr(loss, "centre", "") == "quantised" or isinstance(loss, DotMSE):
            pytest.skip("int(x + 0.5) is not symmetric at half pixels only; see the next test")
        heatmaps, joints_hm, visible = batch_for(loss)
        width = heatmaps.shape[-1]
        signs = torch.tensor(loss.mirror_signs)[:, None, None]
        mirrored = torch.stack([width - 1 - joints_hm[..., 0], joints_hm[..., 1]], -1)
        torch.testing.assert_close(
            loss.per_joint(
                (by_joint(heatmaps, loss).flip(-1) * signs).flatten(1, 2), mirrored, visible
            ),
            loss.per_joint(heatmaps, joints_hm, visible),
            rtol=1e-4,
            atol=1e-5,
        )

    def test_gradient_by_finite_differences(self, loss):
        heatmaps, joints_hm, visible = batch_for(loss, people=1, joints=2, height=6, width=5)
        if isinstance(loss, Matching):
            loss.distance = replace(loss.distance, tolerance=1e-12)
        # Away from ReLU's kink, which finite differences would straddle.
        heatmaps = (heatmaps.sign() * (heatmaps.abs() + 0.1)).double().requires_grad_()
        assert torch.autograd.gradcheck(
            lambda maps: loss(maps, joints_hm.double(), torch.ones_like(visible).double()),
            heatmaps,
            eps=1e-6,
            atol=1e-6,
        )


class TestMask:
    """inside: the dot lies on the grid; hrnet: the patch rule of docs/protocols.md, Targets."""

    @pytest.mark.parametrize(
        ("x", "inside"), [(-0.51, False), (-0.49, True), (11.49, True), (11.5, False)]
    )
    def test_inside(self, x, inside):
        joints_hm = torch.tensor([[[x, 5.0]]])
        for loss in (GaussianMSE(1.0), DotMSE(), Matching()):
            weight = loss.weights(joints_hm, torch.ones(1, 1), (16, 12))
            assert bool(weight[0, 0] > 0) == inside

    @pytest.mark.parametrize(
        ("x", "counts"),
        # sigma 2, radius 6, width 12: out if mu - 6 >= 12 or mu + 7 < 0.
        [(17.4, True), (17.5, False), (-8.4, True), (-8.6, False)],
    )
    def test_hrnet(self, x, counts):
        loss = GaussianMSE(2.0, mask="hrnet")
        weight = loss.weights(torch.tensor([[[x, 5.0]]]), torch.ones(1, 1), (16, 12))
        # mu = int(x + 0.5): 17 -> 17 - 6 = 11 < 12 counts, 18 does not; -7 counts, -8 does not.
        assert bool(weight[0, 0] > 0) == counts

    def test_matching_refuses_dots_off_the_grid(self):
        with pytest.raises(PosematchError, match="inside"):
            Matching(mask="hrnet")


class TestAgainstHRNet:
    """Targets, weights and JointsMSELoss of HRNet's original code."""

    def test_targets_and_weights(self, hrnet_fixtures, shared_data):
        joints_hm = torch.from_numpy(hrnet_fixtures["joints_crop"]).float() / 4
        weight = torch.from_numpy(hrnet_fixtures["target_weight"]).float().reshape(5, 16)
        expected = torch.from_numpy(hrnet_fixtures["target_heatmaps_sigma2"])
        own = gaussian_targets(joints_hm, (64, 64), 2.0, "quantised")
        for person in range(5):
            for joint in range(16):
                if weight[person, joint] > 0:
                    torch.testing.assert_close(own[person, joint], expected[person, joint])
        # From the json's labels, in the order of the mirrored photo where it was mirrored.
        people = read_mpii(shared_data / "mpii", "train", (256, 256)).people
        visible = torch.stack(
            [
                torch.from_numpy(people[int(row)].visible)[
                    list(MPII.flip_permutation) if flip else list(range(16))
                ]
                for row, flip in zip(
                    hrnet_fixtures["mpii_train_row"], hrnet_fixtures["aug_flip"], strict=True
                )
            ]
        )
        loss = GaussianMSE(2.0, mask="hrnet")
        torch.testing.assert_close(loss.weights(joints_hm, visible, (64, 64)), weight)

    def test_joints_mse_loss(self, hrnet_fixtures):
        prediction = torch.from_numpy(hrnet_fixtures["mse_pred"])
        target = torch.from_numpy(hrnet_fixtures["mse_target"])
        weight = torch.from_numpy(hrnet_fixtures["mse_weight"]).reshape(prediction.shape[:2])
        squared = (prediction - target).square().mean((-2, -1))
        own = GaussianMSE(2.0, reduction="hrnet").reduce(squared, weight)
        torch.testing.assert_close(
            own, torch.tensor(float(hrnet_fixtures["joints_mse_loss"])), rtol=1e-6, atol=0
        )


class TestGaussianMSE:
    @given(x=st.floats(0, 11), y=st.floats(0, 15))
    def test_quantised_peak_is_one_on_the_dots_pixel(self, x, y):
        """Theorem 1 needs a peak of exactly 1 there."""
        target = gaussian_targets(torch.tensor([x, y]), (16, 12), 2.0, "quantised")
        assert target[int(y + 0.5), int(x + 0.5)] == 1

    def test_value_by_hand(self):
        heatmaps = torch.zeros(1, 1, 1, 3)
        value = GaussianMSE(1.0)(heatmaps, torch.tensor([[[1.0, 0.0]]]), torch.ones(1, 1))
        assert float(value) == pytest.approx((1 + 2 * math.exp(-1)) / 3)


def test_dot_mse_by_hand():
    heatmaps = torch.full((1, 1, 2, 2), 0.25)
    value = DotMSE()(heatmaps, torch.tensor([[[0.6, 0.2]]]), torch.ones(1, 1))
    assert float(value) == pytest.approx((0.75**2 + 3 * 0.25**2) / 4)


class TestMass:
    @pytest.mark.parametrize("supply", ["relu", "softplus", "softmax", "sparsemax"])
    @given(values=arrays("float64", (3, 4), elements=st.floats(-5, 5)))
    @settings(max_examples=50)
    def test_is_a_distribution(self, supply, values):
        mass = to_mass(torch.from_numpy(values), supply)
        assert (mass >= 0).all()
        assert float(mass.sum()) == pytest.approx(1, abs=1e-12)

    @pytest.mark.parametrize("supply", ["relu", "softplus", "softmax", "sparsemax"])
    def test_no_map_is_too_dead(self, supply):
        mass = to_mass(torch.full((1, 3, 4), -200.0), supply)
        torch.testing.assert_close(mass, torch.full((1, 3, 4), 1 / 12))

    @given(scale=st.floats(1e-6, 1e6))
    def test_relu_does_not_see_the_amplitude(self, scale):
        heatmap = batch()[0].double()
        torch.testing.assert_close(to_mass(heatmap * scale, "relu"), to_mass(heatmap, "relu"))

    def test_dead_map_falls_back_to_softmax_in_value_and_gradient(self):
        dead = (-batch()[0].abs()).requires_grad_()
        alive = dead.detach().clone().requires_grad_()
        weights = torch.randn(dead.shape, generator=torch.Generator().manual_seed(1))
        (to_mass(dead, "relu") * weights).sum().backward()
        (to_mass(alive, "softmax") * weights).sum().backward()
        torch.testing.assert_close(to_mass(dead, "relu"), to_mass(alive, "softmax"))
        torch.testing.assert_close(dead.grad, alive.grad)

    def test_one_dead_joint_leaves_its_neighbours_alone(self):
        heatmaps = batch()[0]
        expected = to_mass(heatmaps, "relu")
        heatmaps[0, 1] = -1.0
        mass = to_mass(heatmaps, "relu")
        torch.testing.assert_close(mass[0, 0], expected[0, 0])
        torch.testing.assert_close(mass[0, 1], torch.full((16, 12), 1 / 192))
