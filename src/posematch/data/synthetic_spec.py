"""What the embedded data set holds; it is drawn by `posematch.data.synthetic`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from posematch.errors import PosematchError

# A photo of that side takes half a gigabyte to draw.
MOST_PHOTO_PX = 4096
# A training photo's number is below the first of the other split.
MOST_PHOTOS = 10**6


def _from(least: float, most: float, what: str = "a number") -> Any:
    return Field(ge=least, le=most, description=f"{what} from {least} to {most}")


_Share = Annotated[float, _from(0, 1)]
_Photos = Annotated[int, _from(0, MOST_PHOTOS, "an integer")]
_PhotoPx = Annotated[int, _from(1, MOST_PHOTO_PX, "an integer")]
_HeightPx = Annotated[float, _from(1, 2 * MOST_PHOTO_PX)]


@dataclass(frozen=True)
class SyntheticSpec:
    """What the data set holds and how hard it is.

    Its annotations are the ranges that a configuration's values are held against.

    Attributes
    ----------
    seed
        Of everything random.
    train_photos, valid_photos
        Photos of each split; 1.6 people a photo with the default ``people_weights``.
    people_weights
        Relative frequency of photos with 1, 2, ... annotated people.
    min_photo_px, max_photo_px
        Range of a photo's width and of its height, in pixels.
    min_height_px, max_height_px
        Range of a person's standing height, in pixels.
    jpeg_quality
        0 to 100.
    facing_front_share
        Share of people turned roughly (35 degrees) to the viewer; the rest face any way.
    tilt_std_deg
        Spread of the tilt of a whole body in the image, in degrees.
    tumbled_share
        Share of people tilted by any angle: lying, upside down.
    free_arm_share
        Share of arms that reach out or up; the others hang.
    free_leg_share
        Share of people who stride, sit, kick, crouch; the others stand.
    side_contrast
        Largest relative difference in brightness between the clothes of the two sides, at random
        the left or the right the brighter: it tells one leg from the other, not left from right.
    center_jitter
        Standard deviation of the annotated box centre, in standing heights, along x and along y.
    scale_jitter
        Largest relative error of the annotated standing height.
    occluder_share
        Share of people with something in front of one of their joints.
    occluder_size
        Size of it, in standing heights.
    truncated_share
        Share of people whom the photo's border cuts.
    min_separation
        Least distance between the middles of two people of a photo, in their mean height.
    distant_share
        Share of photos with a small, unannotated person in the background.
    clutter
        Shapes in the background of a photo.
    sensor_noise
        Standard deviation of the pixel noise, of 255.
    """

    seed: Annotated[int, Field(ge=0, description="an integer of at least 0")] = 0
    train_photos: _Photos = 1000
    valid_photos: _Photos = 160
    people_weights: tuple[Annotated[float, _from(0, 1e6)], ...] = (0.5, 0.4, 0.1)
    min_photo_px: _PhotoPx = 200
    max_photo_px: _PhotoPx = 320
    min_height_px: _HeightPx = 120.0
    max_height_px: _HeightPx = 220.0
    jpeg_quality: Annotated[int, _from(0, 100, "an integer")] = 92
    facing_front_share: _Share = 0.95
    tilt_std_deg: Annotated[float, _from(0, 360)] = 20.0
    tumbled_share: _Share = 0.02
    free_arm_share: _Share = 0.3
    free_leg_share: _Share = 0.3
    side_contrast: _Share = 0.35
    center_jitter: _Share = 0.06
    scale_jitter: Annotated[float, _from(0, 0.9)] = 0.15
    occluder_share: _Share = 0.1
    occluder_size: _Share = 0.16
    truncated_share: _Share = 0.10
    min_separation: Annotated[float, _from(0, 100)] = 0.55
    distant_share: _Share = 0.2
    clutter: Annotated[int, _from(0, 10_000, "an integer")] = 8
    sensor_noise: Annotated[float, _from(0, 255)] = 2.0

    def __post_init__(self) -> None:
        for least, most in (("min_photo_px", "max_photo_px"), ("min_height_px", "max_height_px")):
            low, high = getattr(self, least), getattr(self, most)
            if low > high:
                raise PosematchError(
                    f"data.spec.{least}={low} must be at most data.spec.{most}={high}."
                )
        if not sum(self.people_weights) > 0:
            raise PosematchError(
                f"data.spec.people_weights={list(self.people_weights)} must have a positive number."
            )

    def photos(self, split: str) -> int:
        """How many photos a split has."""
        return {"train": self.train_photos, "valid": self.valid_photos}[split]
