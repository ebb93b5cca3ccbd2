"""Augmentation: where the crop is taken (geometry) and what happens on it (appearance).

Geometry changes box, rotation and mirroring before the one warp; its distributions are HRNet's
(docs/protocols.md, Augmentation). Appearance is albumentations on the finished crop and never moves
a joint.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posematch.data.people import Person
from posematch.errors import PosematchError
from posematch.geometry import Size, grow_to_aspect
from posematch.skeletons import Skeleton

# P(N(0,1) < 0.5): HRNet's code compares a normal draw with 0.5 (docs/protocols.md, Augmentation).
_HRNET_UPPER_PROBABILITY = 0.6914624612740131
_HALF_BODY_PADDING = 1.5
_HALF_BODY_MIN_JOINTS = 3
# A half body whose joints nearly coincide would be magnified without bound.
_SMALLEST_BOX_PX = 8.0


@dataclass(frozen=True)
class GeometricAugmentation:
    """Random scale, rotation, mirroring and half-body boxes (docs/protocols.md, Augmentation).

    Attributes
    ----------
    scale_factor
        sf: the box is scaled by clip(1 + sf * N(0,1), 1 - sf, 1 + sf).
    rotation_deg
        rf: rotation is clip(rf * N(0,1), -2 rf, 2 rf) degrees ...
    rotation_probability
        ... with this probability, else 0.
    flip_probability
        Mirror the photo.
    half_body_probability
        Show only the upper or lower body, for people with more than ``half_body_above`` joints.
    half_body_above
        See above.
    """

    scale_factor: float
    rotation_deg: float
    rotation_probability: float = 0.6
    flip_probability: float = 0.5
    half_body_probability: float = 0.0
    half_body_above: int = 8


@dataclass(frozen=True)
class Placement:
    """Where a crop is taken: the arguments of `posematch.geometry.box_to_crop_affine`."""

    center_img: NDArray[np.float64]
    box_size_img: NDArray[np.float64]
    rotation_deg: float = 0.0
    mirrored: bool = False


def sample_placement(
    person: Person,
    skeleton: Skeleton,
    crop_size: Size,
    augmentation: GeometricAugmentation | None,
    rng: np.random.Generator,
) -> Placement:
    """Draw half-body, scale, rotation, mirroring, in this order (docs/protocols.md, Crop)."""
    center, size = person.center_img, person.box_size_img
    if augmentation is None:
        return Placement(center, size)
    # Every draw is made whatever the earlier ones said: changing one option leaves the other
    # options' randomness as it was.
    half_draw, upper_draw, rotate_draw, flip_draw = rng.random(4)
    scale_draw, rotation_draw = rng.standard_normal(2)
    if (
        half_draw < augmentation.half_body_probability
        and person.visible.sum() > augmentation.half_body_above
    ):
        box = half_body_box(person, skeleton, crop_size, upper_draw < _HRNET_UPPER_PROBABILITY)
        if box is not None:
            center, size = box
    sf, rf = augmentation.scale_factor, augmentation.rotation_deg
    size = size * np.clip(1 + sf * scale_draw, 1 - sf, 1 + sf)
    rotation = 0.0
    if rotate_draw < augmentation.rotation_probability:
        rotation = float(np.clip(rf * rotation_draw, -2 * rf, 2 * rf))
    return Placement(center, size, rotation, bool(flip_draw < augmentation.flip_probability))


def half_body_box(
    person: Person, skeleton: Skeleton, crop_size: Size, prefer_upper: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Centre and size of the box around the visible upper or lower joints, or None if too few."""
    upper = [k for k in skeleton.upper_body if person.visible[k] > 0]
    lower = [k for k in skeleton.lower_body if person.visible[k] > 0]
    if prefer_upper and len(upper) >= _HALF_BODY_MIN_JOINTS:
        chosen = upper
    else:
        chosen = lower if len(lower) >= _HALF_BODY_MIN_JOINTS else upper
    if len(chosen) < 2:
        return None
    joints = person.joints_img[chosen]
    extent = joints.max(axis=0) - joints.min(axis=0)
    size = grow_to_aspect(extent, crop_size) * _HALF_BODY_PADDING
    if size.min() < _SMALLEST_BOX_PX:
        return None
    return joints.mean(axis=0), size


class Appearance:
    """A chain of albumentations transforms on the crop, re-seeded for every sample.

    Parameters
    ----------
    transforms
        albumentations transforms that leave pixels where they are (colour, blur, noise, dropout);
        one that moves them would part the joints from the picture, and is refused.
    """

    def __init__(self, transforms: Sequence[Any]) -> None:
        albumentations = _albumentations()
        for transform in transforms:
            if not isinstance(
                transform, albumentations.ImageOnlyTransform | albumentations.CoarseDropout
            ):
                raise PosematchError(
                    f"augmentation/appearance: {type(transform).__name__} moves pixels; only"
                    " image-only transforms and CoarseDropout keep the joints in their places."
                )
        self.transforms = list(transforms)
        self._compose = albumentations.Compose(self.transforms)

    def __call__(self, crop: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """Change an (H, W, 3) RGB crop by randomness from ``seed`` alone."""
        return np.asarray(self.seeded(seed)(image=crop)["image"], dtype=np.uint8)

    def seeded(self, seed: int) -> Any:
        """albumentations' chain, whose next draws, and those of its transforms, are the seed's."""
        self._compose.set_random_seed(seed)
        return self._compose


def pixel_transforms() -> dict[str, type[Any]]:
    """albumentations' transforms that `Appearance` takes, by name."""
    albumentations = _albumentations()
    kinds = (albumentations.ImageOnlyTransform, albumentations.CoarseDropout)
    return {
        name: found
        for name, found in vars(albumentations).items()
        if isinstance(found, type)
        and issubclass(found, kinds)
        and found.__module__.startswith("albumentations.")
    }


def _albumentations() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no look-up of a newer version
    import albumentations

    return albumentations
