"""Frames and maps: parity with HRNet's own code, and exact inverses under both conventions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from posematch.data.crops import read_photo
from posematch.data.mpii import read_mpii
from posematch.data.regions import warp_crop
from posematch.geometry import (
    apply_affine,
    box_to_center_size,
    box_to_crop_affine,
    crop_to_heatmap,
    heatmap_to_crop,
    invert_affine,
)
from posematch.skeletons import COCO, MPII

coordinates = st.floats(-500, 2500, allow_nan=False)


class TestAgainstHRNet:
    """Five rows of MPII's train.json through HRNet's original code."""

    @pytest.fixture
    def people(self, shared_data):
        return read_mpii(shared_data / "mpii", "train", (256, 256)).people

    @pytest.fixture(params=range(5))
    def case(self, request, hrnet_fixtures, people):
        fixture = {name: hrnet_fixtures[name][request.param] for name in (
            "mpii_train_row", "mpii_image", "center_img", "scale_after_1_25", "aug_scale",
            "aug_rotation_deg", "aug_flip", "affine_img_to_crop", "crop_rgb_uint8", "joints_crop",
        )}  # fmt: skip
        person = people[int(fixture["mpii_train_row"])]
        photo = read_photo(person.image)
        mirror = photo.shape[1] if fixture["aug_flip"] else None
        affine = box_to_crop_affine(
            person.center_img,
            person.box_size_img * float(fixture["aug_scale"]),
            (256, 256),
            float(fixture["aug_rotation_deg"]),
            mirror,
        )
        return fixture, person, photo, mirror, affine

    def test_centre_and_scale(self, case):
        fixture, person, *_ = case
        assert person.image.name == str(fixture["mpii_image"])
        np.testing.assert_allclose(person.center_img, fixture["center_img"], atol=1e-4)
        np.testing.assert_allclose(
            person.box_size_img / 200, np.full(2, fixture["scale_after_1_25"]), atol=1e-6
        )

    def test_affine_map(self, case):
        fixture, _, _, mirror, affine = case
        # The fixture's map starts from the mirrored photo: undo our mirroring.
        own = affine.copy()
        if mirror is not None:
            own[:, 2] += own[:, 0] * (mirror - 1)
            own[:, 0] *= -1
        corners = np.array([[0.0, 0.0], [1920.0, 0.0], [0.0, 1080.0], [960.0, 540.0]])
        # The original computes in float32: 1e-4 px is its resolution at these coordinates.
        np.testing.assert_allclose(
            apply_affine(own, corners),
            apply_affine(fixture["affine_img_to_crop"].astype(float), corners),
            atol=1e-3,
        )
        np.testing.assert_allclose(own, fixture["affine_img_to_crop"], atol=1e-4)

    def test_joints(self, case):
        fixture, person, _, mirror, affine = case
        joints_crop = apply_affine(affine, person.joints_img)
        visible = person.visible
        if mirror is not None:
            order = list(MPII.flip_permutation)
            joints_crop, visible = joints_crop[order], visible[order]
        np.testing.assert_allclose(
            joints_crop[visible > 0], fixture["joints_crop"][visible > 0], atol=1e-4
        )

    def test_crop(self, case):
        fixture, _, photo, _, affine = case
        crop = warp_crop(photo, affine, (256, 256))
        difference = np.abs(crop.astype(int) - fixture["crop_rgb_uint8"].astype(int))
        assert (difference <= 1).mean() >= 0.999

    def test_coco_boxes(self, hrnet_fixtures):
        for box, center, scale in zip(
            hrnet_fixtures["coco_box_xywh"],
            hrnet_fixtures["coco_center"],
            hrnet_fixtures["coco_scale"],
            strict=True,
        ):
            own_center, own_size = box_to_center_size(box, (256, 192))
            np.testing.assert_allclose(own_center, center, rtol=1e-6)
            np.testing.assert_allclose(own_size / 200, scale, rtol=1e-6)


@pytest.mark.parametrize("convention", ["hrnet", "udp"])
@given(
    point=st.tuples(coordinates, coordinates),
    center=st.tuples(coordinates, coordinates),
    width=st.floats(20, 2000),
    rotation=st.floats(-180, 180),
    mirrored=st.booleans(),
)
def test_affine_has_its_inverse(convention, point, center, width, rotation, mirrored):
    affine = box_to_crop_affine(
        np.array(center),
        np.array([width, width * 4 / 3]),
        (256, 192),
        rotation,
        1280 if mirrored else None,
        convention,
    )
    points = np.array([point])
    crop = apply_affine(affine, points)
    back = apply_affine(invert_affine(torch.from_numpy(affine)), torch.from_numpy(crop))
    np.testing.assert_allclose(back.numpy(), points, atol=1e-6)


@given(rotation=st.floats(-180, 180), mirrored=st.booleans())
def test_box_centre_goes_to_the_crop_centre(rotation, mirrored):
    center, size = np.array([431.0, 212.5]), np.array([300.0, 400.0])
    for convention, expected in (("hrnet", [96.0, 128.0]), ("udp", [95.5, 127.5])):
        affine = box_to_crop_affine(
            center, size, (256, 192), rotation, 640 if mirrored else None, convention
        )
        np.testing.assert_allclose(apply_affine(affine, center[None])[0], expected, atol=1e-9)


def test_udp_box_corners_are_the_crop_corner_pixels():
    """UDP measures between pixel centres: the box's edges lie on the outermost of them."""
    affine = box_to_crop_affine(
        np.array([100.0, 200.0]), np.array([150.0, 200.0]), (256, 192), convention="udp"
    )
    corners: NDArray[np.float64] = np.array([[25.0, 100.0], [175.0, 300.0]])
    np.testing.assert_allclose(apply_affine(affine, corners), [[0, 0], [191, 255]], atol=1e-9)


def test_mirroring_reverses_the_photo():
    affine = box_to_crop_affine(np.array([50.0, 40.0]), np.array([64.0, 64.0]), (64, 64))
    mirrored = box_to_crop_affine(
        np.array([50.0, 40.0]), np.array([64.0, 64.0]), (64, 64), mirror_image_width=101
    )
    # The photo's middle column, x = 50, stays; a point right of it goes left by as much.
    right, left = np.array([[57.0, 31.0]]), np.array([[43.0, 31.0]])
    np.testing.assert_allclose(apply_affine(mirrored, right), apply_affine(affine, left))


@pytest.mark.parametrize("convention", ["hrnet", "udp"])
@given(x=st.floats(-50, 300), y=st.floats(-50, 300))
def test_crop_and_heatmap_are_exact_inverses(convention, x, y):
    joints_crop = torch.tensor([[x, y]])
    joints_hm = crop_to_heatmap(joints_crop, (256, 192), (64, 48), convention)
    back = heatmap_to_crop(joints_hm, (256, 192), (64, 48), convention)
    # 1e-4 px is the promise; float32 resolves 3e-5 at 300.
    torch.testing.assert_close(back, joints_crop, atol=1e-4, rtol=0)


def test_conventions_differ_as_published():
    corner = torch.tensor([[191.0, 255.0]])
    udp = crop_to_heatmap(corner, (256, 192), (64, 48), "udp")
    hrnet = crop_to_heatmap(corner, (256, 192), (64, 48), "hrnet")
    torch.testing.assert_close(udp, torch.tensor([[47.0, 63.0]]))
    torch.testing.assert_close(hrnet, corner / 4)


@pytest.mark.parametrize("skeleton", [MPII, COCO], ids=lambda s: s.name)
def test_skeletons_are_consistent(skeleton):
    order = skeleton.flip_permutation
    assert [order[order[k]] for k in range(skeleton.num_joints)] == list(range(skeleton.num_joints))
    for k, name in enumerate(skeleton.joints):
        mirrored = name.replace("left", "*").replace("right", "left").replace("*", "right")
        assert skeleton.joints[order[k]] == mirrored
    halves = sorted(skeleton.upper_body + skeleton.lower_body)
    assert halves == list(range(skeleton.num_joints))
