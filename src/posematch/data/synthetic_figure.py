"""A puppet that stands in for people: its body, its pose, its clothes.

The puppet is three-dimensional and seen orthographically, so that foreshortening, near and far
limbs and what the body's facing shows (face or hair, chest or back, toes or heels) agree with its
joints by construction. Nothing on it tells left from right by colour alone: a mirrored photo with
mirrored labels is a photo that could have been drawn, as flip augmentation and flip test assume.

Frames. *Body*: lengths in units of the standing height, axes (the person's left, down, forward).
*Image*: pixels, 0-based, axes (x, y, z), z towards the viewer. An (3, 3) array of axes holds a
frame's own axes as rows in its parent's coordinates: ``v_parent = v @ axes``.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# Lengths of the body in standing heights (sole to head top).
HIP_HALF_WIDTH = 0.058
SHOULDER_HALF_WIDTH = 0.115
SPINE = 0.288
NECK = 0.045
HEAD = 0.142
UPPER_ARM = 0.17
FOREARM = 0.15
HAND = 0.055
THIGH = 0.245
SHANK = 0.245
FOOT = 0.10
# Half axes of the skull: across, along, front to back. Seen from any side, the diagonal of the box
# around it (padded below) is about 0.208 heights, so 0.6 of it is MPII's 0.125 of the height.
SKULL = np.array([0.062, HEAD / 2, 0.070])
HEAD_BOX_PADDING = 1.08

_FACE = {  # on the skull: direction from its centre in the head's frame (left, down, forward)
    "nose": (0.0, 0.25, 1.0),
    "left_eye": (0.42, -0.08, 0.88),
    "right_eye": (-0.42, -0.08, 0.88),
    "left_ear": (1.0, 0.08, -0.05),
    "right_ear": (-1.0, 0.08, -0.05),
}
# A point of the face can be seen where its outward direction has at least this z: ears stand out
# from the skull and show from slightly behind.
_SEEN_FROM_Z = {"nose": 0.0, "eye": 0.05, "ear": -0.3}


@dataclass(frozen=True)
class Garment:
    """What covers a part: a colour and a pattern.

    ``color`` and ``second`` are BGR in 0..255; ``pattern`` is one of `PATTERNS`; ``period`` is the
    pattern's, in standing heights.
    """

    color: FloatArray
    second: FloatArray
    pattern: str
    period: float


PATTERNS = ("plain", "plain", "rings", "stripes", "checks", "speckle")


@dataclass(frozen=True)
class Look:
    """A person's clothes and colours. Colours are BGR in 0..255.

    ``sleeve`` and ``leg`` say how much of the whole arm (upper arm, then forearm) and leg (thigh,
    then shank) is covered, from 0 to 2; ``side_gain`` is the brightness (left, right) of the
    garments on the person's two sides.
    """

    skin: FloatArray
    hair: FloatArray
    shirt: Garment
    sleeves: Garment
    trousers: Garment
    shoes: Garment
    sleeve: float
    leg: float
    side_gain: tuple[float, float]
    hatted: bool


@dataclass(frozen=True)
class Figure:
    """A posed person in an image.

    Attributes
    ----------
    points_img
        By joint name (those of the MPII and COCO skeletons, plus ``*_hand`` and ``*_toe``): (3,) x
        and y in pixels, z towards the viewer.
    torso_axes, head_axes
        (3, 3) rows left, down, forward in image axes.
    height_px
        Standing height in pixels.
    look
        Clothes and colours.
    """

    points_img: dict[str, FloatArray]
    torso_axes: FloatArray
    head_axes: FloatArray
    height_px: float
    look: Look

    def joints_img(self, names: tuple[str, ...]) -> FloatArray:
        """(K, 2) image coordinates of the named joints."""
        return np.stack([self.points_img[name][:2] for name in names])

    def moved(self, shift_px: FloatArray) -> Figure:
        """The same figure, (2,) ``shift_px`` further right and down."""
        shift = np.array([shift_px[0], shift_px[1], 0.0])
        points = {name: point + shift for name, point in self.points_img.items()}
        return Figure(points, self.torso_axes, self.head_axes, self.height_px, self.look)

    def skull_center_img(self) -> FloatArray:
        """(3,) centre of the skull."""
        return 0.5 * (self.points_img["upper_neck"] + self.points_img["head_top"])

    def head_box_img(self) -> FloatArray:
        """(2, 2) upper-left and lower-right corner of the box around the head."""
        # Half extents of a projected ellipsoid: the norms of its scaled axes' x and of their y.
        half = np.linalg.norm(SKULL[:, None] * self.head_axes, axis=0)[:2]
        half = half * HEAD_BOX_PADDING * self.height_px
        center = self.skull_center_img()[:2]
        return np.stack([center - half, center + half])

    def faces_viewer(self, name: str) -> bool:
        """Whether the named point of the face is on the side of the head that can be seen."""
        direction = np.array(_FACE[name]) / np.linalg.norm(_FACE[name])
        return bool((direction @ self.head_axes)[2] >= _SEEN_FROM_Z[name.rsplit("_", 1)[-1]])


def is_face_point(name: str) -> bool:
    """Whether a joint lies on the face, so that the head itself can turn it out of sight."""
    return name in _FACE


def turned(yaw_deg: float = 0.0, pitch_deg: float = 0.0, roll_deg: float = 0.0) -> FloatArray:
    """Axes of a frame turned about down, then bent forward, then tilted, in its parent's frame."""
    (cy, cp, cr), (sy, sp, sr) = (
        f(np.deg2rad([yaw_deg, pitch_deg, roll_deg])) for f in (np.cos, np.sin)
    )
    yaw = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    roll = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    return np.asarray(yaw @ pitch @ roll, dtype=np.float64)


def unit(vector: FloatArray) -> FloatArray:
    """The vector at length 1."""
    return vector / np.linalg.norm(vector)


def _arm(
    rng: np.random.Generator, outward: float, free_arm_share: float
) -> tuple[FloatArray, FloatArray]:
    """Directions of upper arm and forearm in the torso's frame; ``outward`` is 1 for the left."""
    if rng.random() < free_arm_share:
        upper = rng.normal((0.9 * outward, 0.0, 0.1), (0.6, 1.0, 0.4))
    else:
        upper = rng.normal((0.45 * outward, 1.0, 0.1), 0.25)
    upper = unit(upper)
    bend = rng.normal((0.5 * outward, -0.4, 0.4), 0.5)  # elbows bend up, out and forward
    bend = unit(bend - (bend @ upper) * upper)
    flex = np.deg2rad(rng.uniform(0, 100))
    return upper, np.cos(flex) * upper + np.sin(flex) * bend


def _leg_direction(forward_deg: float, left_deg: float) -> FloatArray:
    """Direction of a piece of leg in the pelvis' frame, straight down turned by two angles."""
    forward, left = np.deg2rad([forward_deg, left_deg])
    across = np.cos(left)
    return np.array([np.sin(left), across * np.cos(forward), across * np.sin(forward)])


def _leg_angles(
    rng: np.random.Generator, free_leg_share: float
) -> list[tuple[float, float, float]]:
    """For the left and the right leg: thigh forward, thigh outward, knee bend, in degrees."""
    if rng.random() >= free_leg_share:  # standing
        return [(rng.normal(3, 8), rng.uniform(0, 14), rng.uniform(0, 15)) for _ in range(2)]
    kind = rng.choice(["stride", "sit", "free"])
    if kind == "stride":
        legs = [
            (rng.uniform(15, 75), rng.uniform(0, 25), rng.uniform(0, 90)),
            (rng.uniform(-45, -5), rng.uniform(0, 25), rng.uniform(0, 60)),
        ]
        return legs if rng.random() < 0.5 else legs[::-1]
    if kind == "sit":
        thigh_deg, knee_deg = rng.uniform(55, 105), rng.uniform(50, 110)
        return [
            (thigh_deg + rng.normal(0, 8), rng.uniform(0, 35), knee_deg + rng.normal(0, 12))
            for _ in range(2)
        ]
    return [(rng.uniform(-25, 115), rng.uniform(0, 60), rng.uniform(0, 130)) for _ in range(2)]


def pose_figure(
    rng: np.random.Generator,
    height_px: float,
    *,
    facing_front_share: float,
    tilt_std_deg: float,
    tumbled_share: float,
    free_arm_share: float,
    free_leg_share: float,
    side_contrast: float,
) -> Figure:
    """A person in a random pose and random clothes, pelvis at the image's origin.

    Parameters
    ----------
    rng
        Source of everything random.
    height_px
        Standing height.
    facing_front_share
        Share of people turned roughly to the viewer; the others face any way, backs included.
    tilt_std_deg
        Spread of the whole body's tilt in the image.
    tumbled_share
        Share of people tilted by any angle at all: lying, upside down.
    free_arm_share, free_leg_share
        Share of arms that reach anywhere (the others hang), of people whose legs do not stand.
    side_contrast
        Largest relative brightness difference between the garments of the two sides.
    """
    front = rng.random() < facing_front_share
    yaw_deg = rng.normal(0, 35) if front else rng.uniform(-180, 180)
    tumbled = rng.random() < tumbled_share
    tilt_deg = rng.uniform(-180, 180) if tumbled else rng.normal(0, tilt_std_deg)
    pelvis_axes = turned(yaw_deg=yaw_deg) @ turned(pitch_deg=rng.normal(0, 14), roll_deg=tilt_deg)
    torso_axes = turned(rng.normal(0, 12), rng.normal(10, 14), rng.normal(0, 12)) @ pelvis_axes
    head_axes = turned(rng.normal(0, 25), rng.normal(5, 14), rng.normal(0, 12)) @ torso_axes

    points = {"pelvis": np.zeros(3)}
    points["thorax"] = points["pelvis"] + (0.0, -SPINE, 0.0) @ torso_axes
    points["upper_neck"] = points["thorax"] + (0.0, -NECK, 0.01) @ torso_axes
    points["head_top"] = points["upper_neck"] + (0.0, -HEAD, 0.0) @ head_axes
    for (side, outward), (forward_deg, outward_deg, knee_deg) in zip(
        (("left", 1.0), ("right", -1.0)), _leg_angles(rng, free_leg_share), strict=True
    ):
        upper, fore = _arm(rng, outward, free_arm_share)
        shoulder = points["thorax"] + (outward * SHOULDER_HALF_WIDTH, 0.015, 0.0) @ torso_axes
        elbow = shoulder + UPPER_ARM * upper @ torso_axes
        wrist = elbow + FOREARM * fore @ torso_axes
        hand = wrist + HAND * fore @ torso_axes

        away_deg = outward * outward_deg
        shank_deg = forward_deg - knee_deg
        foot_deg = shank_deg + rng.uniform(50, 95)
        hip = points["pelvis"] + (outward * HIP_HALF_WIDTH, 0.0, 0.0) @ pelvis_axes
        knee = hip + THIGH * _leg_direction(forward_deg, away_deg) @ pelvis_axes
        ankle = knee + SHANK * _leg_direction(shank_deg, away_deg) @ pelvis_axes
        toe = ankle + FOOT * _leg_direction(foot_deg, away_deg) @ pelvis_axes
        for name, point in zip(
            ("shoulder", "elbow", "wrist", "hand", "hip", "knee", "ankle", "toe"),
            (shoulder, elbow, wrist, hand, hip, knee, ankle, toe),
            strict=True,
        ):
            points[f"{side}_{name}"] = point
    skull = 0.5 * (points["upper_neck"] + points["head_top"])
    for name, direction in _FACE.items():
        points[name] = skull + (SKULL * unit(np.array(direction))) @ head_axes
    points_img = {name: height_px * point for name, point in points.items()}
    return Figure(points_img, torso_axes, head_axes, height_px, _random_look(rng, side_contrast))


def random_color(
    rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]
) -> FloatArray:
    """A BGR colour in 0..255 of any hue; ``saturation`` and ``value`` are ranges in 0..255."""
    hsv = np.array([[[rng.uniform(0, 180), rng.uniform(*saturation), rng.uniform(*value)]]])
    bgr = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2BGR)[0, 0]
    return np.asarray(bgr, dtype=np.float64)


def _random_garment(rng: np.random.Generator) -> Garment:
    color = random_color(rng, (90, 240), (90, 240))
    second = np.clip(color * rng.uniform(0.5, 0.75) + rng.uniform(0, 60, size=3), 0, 255)
    return Garment(color, second, str(rng.choice(PATTERNS)), rng.uniform(0.025, 0.06))


def _random_look(rng: np.random.Generator, side_contrast: float) -> Look:
    shirt = _random_garment(rng)
    contrast = rng.uniform(-side_contrast, side_contrast)
    skin = np.array([150.0, 178.0, 228.0]) * rng.uniform(0.45, 1.08)
    return Look(
        skin=np.clip(skin + rng.normal(0, 6, size=3), 0, 255),
        hair=np.array([30.0, 45.0, 60.0]) * rng.uniform(0.4, 2.4),
        shirt=shirt,
        sleeves=shirt if rng.random() < 0.2 else _random_garment(rng),
        trousers=_random_garment(rng),
        shoes=_random_garment(rng),
        sleeve=float(rng.choice([0.45, 1.0, 2.0])),
        leg=float(rng.choice([0.6, 2.0, 2.0])),
        side_gain=(1 + contrast, 1 - contrast),
        hatted=bool(rng.random() < 0.25),
    )
