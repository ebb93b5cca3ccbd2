"""Pictures of the checks: the people in question with their skeletons, crops and their targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from posematch.checks.findings import Example, Finding
from posematch.checks.split import Split
from posematch.data.crops import Crop, CropDataset
from posematch.data.datamodule import PoseDataModule
from posematch.data.people import People, Person
from posematch.errors import PosematchError
from posematch.geometry import crop_to_heatmap, grow_to_aspect
from posematch.losses.gaussian_mse import gaussian_targets
from posematch.rendering import MISS, poses_panel, targets_panel

CROP = (256, 256)
SHEET_PEOPLE = 6
_WIDEST = 4.0  # of the person's box, that a picture shows of a joint far away
_STRIDE = 4  # of the heatmaps, in crop pixels


def examples_panel(split: Split, finding: Finding) -> tuple[NDArray[np.uint8], str] | None:
    """The people of a finding, side by side, their joints in question ringed in red.

    Returns
    -------
    (height, width, 3) uint8 RGB and what it shows in words; None where no photo can be read.
    """
    crops, captions, marks = [], [], []
    for example in finding.examples:
        if example.row is None:
            continue
        crop = _crop_of(split.people, example)
        if crop is not None:
            crops.append(crop)
            captions.append(f"person {example.person_id}")
            marks.append(example)
    if not crops:
        return None
    pixels = torch.stack([crop["crop"] for crop in crops])
    for place, (crop, example) in enumerate(zip(crops, marks, strict=True)):
        pixels[place] = _ringed(crop, example.joints)
    panel = poses_panel(
        pixels,
        {},
        torch.stack([crop["joints_crop"] for crop in crops]),
        torch.stack([crop["visible"] for crop in crops]),
        split.skeleton,
        captions=captions,
        height_px=CROP[0],
    )
    words = "; ".join(f"person {one.person_id}: {one.said}" for one in marks)
    return panel, words


def _crop_of(people: People, example: Example) -> Crop | None:
    """A crop with all of the person's joints, as far as `_WIDEST` lets it."""
    assert example.row is not None
    person = _widened(people.people[example.row])
    dataset = CropDataset(replace(people, people=[person]), CROP, "hrnet", 0)
    try:
        return dataset[0, 0]
    except PosematchError:
        if person.photo_size is None:
            return None
    # A photo of another size than the annotation says is shown as it is.
    try:
        return CropDataset(
            replace(people, people=[replace(person, photo_size=None)]), CROP, "hrnet", 0
        )[0, 0]
    except PosematchError:
        return None


def _widened(person: Person) -> Person:
    joints = person.joints_img[person.visible > 0]
    half = person.box_size_img / 2
    corners = [person.center_img - half, person.center_img + half]
    reach = _WIDEST * half.max()
    low = np.minimum(corners[0], joints.min(axis=0) - 0.1 * half) if len(joints) else corners[0]
    high = np.maximum(corners[1], joints.max(axis=0) + 0.1 * half) if len(joints) else corners[1]
    low = np.maximum(low, person.center_img - reach)
    high = np.minimum(high, person.center_img + reach)
    size = grow_to_aspect(np.maximum(high - low, 8.0), CROP)
    return replace(person, center_img=(low + high) / 2, box_size_img=size)


def _ringed(crop: Crop, joints: Sequence[int]) -> torch.Tensor:
    pixels = np.ascontiguousarray(crop["crop"].permute(1, 2, 0).numpy())
    for joint in joints:
        if crop["visible"][joint] > 0:
            x, y = crop["joints_crop"][joint].clamp(-999, 999).round().int().tolist()
            cv2.circle(pixels, (x, y), 10, (255, 255, 255), 5, cv2.LINE_AA)
            cv2.circle(pixels, (x, y), 10, MISS, 3, cv2.LINE_AA)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def contact_sheet(
    module: PoseDataModule, people: People, sigma: float, augmented: bool
) -> NDArray[np.uint8] | None:
    """Crops as a training sees them, and below each what two losses want of its maps.

    Parameters
    ----------
    module
        Says how crops are cut and augmented.
    people
        Of a split; people spread over it are shown.
    sigma
        Of the Gaussian, in heatmap pixels.
    augmented
        Whether by training's augmentation.

    Returns
    -------
    (height, width, 3) uint8 RGB; None where no photo can be read.
    """
    dataset = CropDataset(
        people, module.input_size, module.convention, module.seed,
        module.geometry if augmented else None, module.appearance if augmented else None,
    )  # fmt: skip
    crops: list[Crop] = []
    for row in np.linspace(0, len(people.people) - 1, 4 * SHEET_PEOPLE).astype(int).tolist():
        try:
            crops.append(dataset[0, row])
        except PosematchError:
            continue
        if len(crops) == SHEET_PEOPLE:
            break
    if not crops:
        return None
    height, width = module.input_size
    map_size = (height // _STRIDE, width // _STRIDE)
    joints_crop = torch.stack([crop["joints_crop"] for crop in crops])
    visible = torch.stack([crop["visible"] for crop in crops])
    joints_hm = crop_to_heatmap(joints_crop, module.input_size, map_size, module.convention)
    counted = (visible > 0)[..., None, None]
    gaussian = gaussian_targets(joints_hm, map_size, sigma, "quantised") * counted
    return targets_panel(
        torch.stack([crop["crop"] for crop in crops]),
        {"Gaussian": gaussian, "dot": (gaussian == 1).float() * counted},
        joints_crop,
        visible,
        people.skeleton,
        module.convention,
        captions=[f"person {crop['person_id']}" for crop in crops],
    )
