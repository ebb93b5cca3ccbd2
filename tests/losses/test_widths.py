"""Widths of joints: from annotations through augmented crops into the loss, against the metrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from posematch.data.augmentation import GeometricAugmentation
from posematch.data.crops import CropDataset
from posematch.data.datamodule import SyntheticDataModule
from posematch.data.synthetic import SyntheticSpec
from posematch.data.widths import have_widths
from posematch.errors import PosematchError
from posematch.geometry import (
    apply_affine,
    crop_to_heatmap,
    crop_to_heatmap_lengths,
    heatmap_to_crop,
    invert_affine,
)
from posematch.losses import GaussianMSE, Matching, Scheduled, WeightedSum
from posematch.metrics.hits import distances_heads, joint_oks, within_heads
from posematch.transport import TransportProblem, point_demand, subpixel_demand

SIZE = (12, 10)
# Costs without a length of their own have one of 1 px.
LENGTHS = {"l2": 1.0, "l1": 1.0, "squared_l2": 1.0, "oks": 3.0, "power": 1.5, "log1p": 2.5,
           "truncated": 2.5, "miss": 3.0}  # fmt: skip


def maps_and_dots(people=2, joints=3):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(people, joints, *SIZE, generator=generator).requires_grad_()
    dots = torch.rand(people, joints, 2, generator=generator) * torch.tensor([9.0, 11.0])
    return maps, dots, torch.ones(people, joints)


def value_and_gradient(loss, *targets):
    maps = maps_and_dots()[0]
    value = loss(maps, *targets)
    value.backward()
    return value.detach(), maps.grad


@pytest.mark.parametrize("relaxation", [math.inf, 1.5])
@pytest.mark.parametrize("demand", ["point", "nearest"])
@pytest.mark.parametrize("cost", LENGTHS)
def test_equal_widths_are_the_costs_own_length_to_the_bit(cost, demand, relaxation):
    options = {"cost": cost, "demand": demand, "relaxation": relaxation, "supply": "softmax"}
    _, dots, visible = maps_and_dots()
    length = LENGTHS[cost]
    plain = value_and_gradient(Matching(scale_px=length, **options), dots, visible)
    # Twice the half, so that nothing but the widths can have made it.
    loss = Matching(scale_px=0.7, widths="metric", width_factor=2.0, **options)
    by_widths = value_and_gradient(loss, dots, visible, torch.full((2, 3), length / 2))
    torch.testing.assert_close(by_widths, plain, rtol=0, atol=0)
    assert float(loss.health["width_px"]) == length


def by_hand(cost, width):
    """sum_n s_n c(d_n) pixel by pixel, in float64; (2, 3) of softmax maps and dots."""
    maps, dots, _ = maps_and_dots()
    found = np.zeros((2, 3))
    for person, joint in np.ndindex(2, 3):
        mass = maps[person, joint].detach().double().flatten().softmax(0).reshape(SIZE).numpy()
        x, y = dots[person, joint].double().tolist()
        for row, column in np.ndindex(SIZE):
            squared = (column - x) ** 2 + (row - y) ** 2
            found[person, joint] += mass[row, column] * cost(squared, width[person, joint])
    return found


class TestTwoPeople:
    """Widths of every joint and person, one unknown, one beyond the range."""

    WIDTHS = torch.tensor([[1.0, 2.5, 0.0], [6.0, 0.5, 20.0]])
    MEANT = np.array([[1.0, 2.5, 4.0], [6.0, 1.0, 8.0]])  # scale_px is 4, the range 1 to 8

    def losses(self, **options):
        loss = Matching(
            supply="softmax", demand="point", scale_px=4.0, widths="metric",
            width_range_px=[1.0, 8.0], **options,
        )  # fmt: skip
        maps, dots, visible = maps_and_dots()
        return loss.per_joint(maps.double(), dots, visible, self.WIDTHS).detach().numpy()

    def test_expected_oks(self):
        """ProbPose (CVPR 2025), without its smoothing: sum s (1 - exp(-d^2 / (2 w^2)))."""
        expected = by_hand(lambda d2, w: 1 - math.exp(-d2 / (2 * w * w)), self.MEANT)
        np.testing.assert_allclose(self.losses(cost="oks"), expected, rtol=1e-6)

    def test_its_calibration(self):
        """ProbPose's other loss, -log sum s exp(-d^2 / (2 w^2)): relaxed, without epsilon."""
        oks = by_hand(lambda d2, w: math.exp(-d2 / (2 * w * w)), self.MEANT)
        found = self.losses(cost="squared_l2", relaxation=1.0, epsilon=1e-9)
        np.testing.assert_allclose(found, -np.log(oks), rtol=1e-6)

    def test_misses(self):
        expected = by_hand(lambda d2, w: float(d2 > w * w), self.MEANT)
        np.testing.assert_allclose(self.losses(cost="miss"), expected, rtol=1e-6)

    def test_inside_other_losses(self):
        oks = Matching(supply="softmax", demand="point", cost="oks", widths="metric")
        mse = GaussianMSE(1.0)
        maps, dots, visible = maps_and_dots()
        each = oks(maps, dots, visible, self.WIDTHS), mse(maps, dots, visible)
        whole = WeightedSum({"mse": mse, "oks": oks}, {"oks": 2.0})
        assert whole.takes_widths
        torch.testing.assert_close(whole(maps, dots, visible, self.WIDTHS), each[1] + 2 * each[0])
        per_joint = whole.per_joint(maps, dots, visible, self.WIDTHS)
        torch.testing.assert_close(per_joint.mean(), each[1] + 2 * each[0])
        later = Scheduled(mse, oks, switch_epoch=0)
        torch.testing.assert_close(later(maps, dots, visible, self.WIDTHS), each[0])
        assert not WeightedSum({"mse": mse}).takes_widths

    def test_gradient(self):
        loss = Matching(supply="softmax", demand="point", cost="oks", widths="metric")
        maps, dots, visible = maps_and_dots()
        assert torch.autograd.gradcheck(
            lambda one: loss.per_joint(one, dots.double(), visible, self.WIDTHS), maps.double()
        )


def test_without_widths_everybody_is_unknown():
    options = {"supply": "softmax", "demand": "point", "cost": "oks", "scale_px": 3.0}
    maps, dots, visible = maps_and_dots()
    found = Matching(widths="metric", **options)(maps, dots, visible)
    assert found == Matching(**options)(maps, dots, visible)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"widths": "metric"}, "loss.widths=metric needs loss.demand=point or nearest"),
        ({"widths": "metric", "demand": "nearest", "debiased": True}, "and loss.debiased=false"),
        ({"widths": "head"}, "loss.widths=head must be one of none, metric"),
        ({"width_factor": 0.0}, "loss.width_factor=0.0 must be positive"),
        ({"width_range_px": [2.0, 1.0]}, "width_range_px=.* must be .least,most."),
        ({"width_range_px": [1.0]}, "width_range_px=.* must be .least,most."),
    ],
)
def test_what_cannot_be_is_refused(options, words):
    with pytest.raises(PosematchError, match=words):
        Matching(**options)


def test_four_places_share_their_costs():
    dots, supply = torch.tensor([[3.0, 3.0]]), torch.full((1, *SIZE), 1 / 120)
    TransportProblem(supply, *point_demand(dots, SIZE), widths_px=torch.ones(1))
    with pytest.raises(ValueError, match="one place"):
        TransportProblem(supply, *subpixel_demand(dots, SIZE), widths_px=torch.ones(1))


# --------------------------------------------------------------- from the photo into the loss


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return tmp_path_factory.mktemp("drawn")


def module(drawn, skeleton, convention="hrnet"):
    made = SyntheticDataModule(
        drawn, spec=SyntheticSpec(train_photos=6, valid_photos=6), skeleton=skeleton,
        input_size=[128, 96], batch_size=2, workers=0, seed=0, convention=convention,
    )  # fmt: skip
    made.setup()
    return made


@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("convention", ["hrnet", "udp"])
@pytest.mark.parametrize("skeleton", ["coco", "mpii"])
def test_the_loss_is_what_the_metric_misses(drawn, skeleton, convention, split):
    """All mass on a pixel: 1 - OKS of that place in the photo; or whether PCKh@0.5 counts it.

    In augmented crops: turned, mirrored, from 1 / 1.35 to 1.35 times as large.
    """
    people = getattr(module(drawn, skeleton, convention), split)
    augmentation = GeometricAugmentation(0.35, 40.0, half_body_probability=0.3)
    size, grid = (128, 96), (32, 24)
    crops = CropDataset(people, size, convention, seed=0, geometry=augmentation)
    batch = default_collate([crops[(epoch, n)] for epoch in range(3) for n in range(len(crops))])
    rows = {int(one): row for row, one in enumerate(people.rows.person_ids)}
    row = [rows[one] for one in batch["person_id"].tolist()]
    affine = batch["crop_affine"]
    scales = torch.linalg.det(affine[..., :2]).abs().sqrt()
    assert scales.max() > 1.5 * scales.min()

    # Near the dots, where similarities are not all 0; float64, as the metrics are.
    joints_crop = batch["joints_crop"].double()
    joints_hm = crop_to_heatmap(joints_crop, size, grid, convention)
    near = torch.from_numpy(np.random.default_rng(0).integers(-2, 3, joints_hm.shape))
    pixels = torch.minimum(
        (joints_hm.round() + near).clamp_min(0), torch.tensor([grid[1] - 1.0, grid[0] - 1.0])
    )
    maps = torch.zeros(*joints_hm.shape[:2], *grid, dtype=torch.float64)
    x, y = pixels.long().unbind(-1)
    maps.view(*maps.shape[:2], -1).scatter_(2, (y * grid[1] + x)[..., None], 1.0)
    widths_hm = crop_to_heatmap_lengths(batch["widths_crop"], size, grid, convention)
    cost = "oks" if skeleton == "coco" else "miss"
    loss = Matching(supply="relu", demand="point", cost=cost, widths="metric")
    visible = batch["visible"]
    found = loss.per_joint(maps, joints_hm, visible, widths_hm)
    counted = (loss.weights(joints_hm, visible, grid) > 0).numpy()
    assert counted.sum() > 50

    # In the photo, by the metrics' own code.
    back = invert_affine(affine)
    predicted_img, true_img = (
        apply_affine(back, one).numpy()
        for one in (heatmap_to_crop(pixels.double(), size, grid, convention), joints_crop)
    )
    if skeleton == "coco":
        oks = joint_oks(predicted_img, true_img, people.rows.areas[row], people.skeleton.oks_sigmas)
        # udp's maps are scaled by 31 / 127 and 23 / 95, and lengths by the mean, 0.4 % from either.
        bound = 1e-5 if convention == "hrnet" else 5e-3
        np.testing.assert_allclose(found.numpy()[counted], 1 - oks[counted], atol=bound)
        assert 0.05 < oks[counted].mean() < 0.95
        return
    heads = distances_heads(predicted_img, true_img, people.rows.head_sizes_img[row])
    # Who has no head is not scored, nor are rounded ties.
    clear = counted & (people.rows.head_sizes_img[row] > 0)[:, None] & (abs(heads - 0.5) > 5e-3)
    assert clear.sum() > 50
    right = within_heads(heads, 0.5)
    np.testing.assert_array_equal(found.numpy()[clear] < 0.5, right[clear])
    assert 0.05 < right[clear].mean() < 0.95


def test_heads_of_both_splits(drawn):
    """Of the training people from their joints, of the others from what PCKh is measured by."""
    made = module(drawn, "mpii")
    assert have_widths(made.train)
    np.testing.assert_array_equal(made.valid.rows.head_sizes_img, made.valid.truth.head_size_img)
    numbered = made._scored(made.train)
    has = made.train.rows.head_sizes_img > 0
    np.testing.assert_array_equal(
        numbered.truth.head_size_img[has], made.train.rows.head_sizes_img[has]
    )
    assert not (numbered.truth.visible[~has] > 0).any()
