"""Paints puppets, what they stand before and what stands before them into a photo.

Image coordinates: pixels, 0-based, (x, y, z) with z towards the viewer. While people are painted,
an *owner map* records which part of whom is on top at each pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from posematch.data.synthetic_figure import (
    SKULL,
    Figure,
    FloatArray,
    Garment,
    is_face_point,
    random_color,
    turned,
    unit,
)

Canvas = NDArray[np.float32]
Owners = NDArray[np.uint16]

OCCLUDER = np.uint16(65535)
PARTS = (
    "torso",
    "hips",
    "neck",
    "head",
    *(
        f"{side}_{part}"
        for side in ("left", "right")
        for part in ("upper_arm", "forearm", "hand", "thigh", "shank", "foot")
    ),
)
# The parts that may lie on top at a joint without hiding it.
_PARTS_AROUND = {
    "shoulder": ("upper_arm", "torso"),
    "elbow": ("upper_arm", "forearm"),
    "wrist": ("forearm", "hand"),
    "hip": ("thigh", "torso", "hips"),
    "knee": ("thigh", "shank"),
    "ankle": ("shank", "foot"),
}


def owner_id(figure_index: int, part: str) -> int:
    """The value of a part's pixels in the owner map; 0 is background, `OCCLUDER` an occluder."""
    return 1 + figure_index * len(PARTS) + PARTS.index(part)


def owners_around(figure_index: int, joint: str) -> set[int]:
    """Owner values that may lie on top at a joint of a figure while it still counts as seen."""
    if is_face_point(joint):
        return {owner_id(figure_index, "head")}
    side, kind = joint.split("_")
    return {
        owner_id(figure_index, part if part in PARTS else f"{side}_{part}")
        for part in _PARTS_AROUND[kind]
    }


_CIRCLE = np.stack(
    [np.cos(np.linspace(0, 2 * np.pi, 14, endpoint=False)),
     np.sin(np.linspace(0, 2 * np.pi, 14, endpoint=False))], axis=1
)  # fmt: skip
_SHIFT_BITS = 4  # OpenCV draws polygons at 1/16 pixel


@dataclass(frozen=True)
class _Part:
    """A piece of the body to paint: a convex outline with an axis along which textures run.

    ``coverage`` is how far along the axis (0 to 1) the garment reaches; the rest is skin.
    """

    name: str
    outline_img: FloatArray
    start_img: FloatArray
    end_img: FloatArray
    radius_px: float
    depth_px: float
    garment: Garment
    coverage: float
    gain: float


def _hull(centers_img: list[FloatArray], radii_px: list[float]) -> FloatArray:
    """(M, 2) convex outline around discs."""
    discs = zip(centers_img, radii_px, strict=True)
    rims = [center[:2] + radius * _CIRCLE for center, radius in discs]
    return cv2.convexHull(np.concatenate(rims).astype(np.float32))[:, 0].astype(np.float64)


def _roi_mask(
    shape: tuple[int, ...], outline_img: FloatArray
) -> tuple[tuple[slice, slice], Canvas] | None:
    """Window of the photo around an outline and how much of each of its pixels it covers."""
    low = np.floor(outline_img.min(axis=0)).astype(int) - 1
    high = np.ceil(outline_img.max(axis=0)).astype(int) + 2
    (x0, y0), (x1, y1) = np.maximum(low, 0), np.minimum(high, (shape[1], shape[0]))
    if x0 >= x1 or y0 >= y1:
        return None
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    corners = np.round((outline_img - (x0, y0)) * 2**_SHIFT_BITS).astype(np.int32)
    cv2.fillPoly(mask, [corners], 255, lineType=cv2.LINE_AA, shift=_SHIFT_BITS)
    return (slice(y0, y1), slice(x0, x1)), mask.astype(np.float32) / np.float32(255)


def _blend(photo: Canvas, outline_img: FloatArray, color: FloatArray, opacity: float = 1.0) -> None:
    """Paint an outline in one colour."""
    found = _roi_mask(photo.shape, outline_img)
    if found is not None:
        window, mask = found
        alpha = opacity * mask[..., None]
        photo[window] += alpha * (color.astype(np.float32) - photo[window])


def _pattern(garment: Garment, along: Canvas, across: Canvas, noise: Canvas) -> Canvas:
    """How much of the garment's second colour shows; coordinates in periods."""
    if garment.pattern == "rings":
        return np.asarray(np.mod(along, 1) < 0.4, dtype=np.float32)
    if garment.pattern == "stripes":
        return np.asarray(np.mod(across + 0.25, 1) < 0.4, dtype=np.float32)
    if garment.pattern == "checks":
        return np.asarray((np.mod(along, 1) < 0.5) ^ (np.mod(across, 1) < 0.5), dtype=np.float32)
    if garment.pattern == "speckle":
        return np.asarray(noise > 0.5, dtype=np.float32)
    return np.zeros_like(noise)


def _paint_part(
    photo: Canvas, owners: Owners, noise: Canvas, part: _Part, skin: FloatArray,
    height_px: float, owner: int,
) -> None:  # fmt: skip
    found = _roi_mask(photo.shape, part.outline_img)
    if found is None:
        return
    window, mask = found
    axis = part.end_img - part.start_img
    length_px = max(float(np.hypot(*axis)), 1e-3)
    axis = axis / length_px
    y = np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None] - part.start_img[1]
    x = np.arange(window[1].start, window[1].stop, dtype=np.float32)[None, :] - part.start_img[0]
    along = (x * axis[0] + y * axis[1]).astype(np.float32)
    across = (y * axis[0] - x * axis[1]).astype(np.float32)

    period_px = part.garment.period * height_px
    second = _pattern(part.garment, along / period_px, across / period_px, noise[window])[..., None]
    first_color, second_color = (
        c.astype(np.float32) for c in (part.garment.color, part.garment.second)
    )
    color = first_color + second * (second_color - first_color)
    bare = (along > part.coverage * length_px)[..., None]
    color = np.where(bare, skin.astype(np.float32), color * np.float32(part.gain))

    # Round like a cylinder, lit from above, the nearer the brighter: near limbs stand off from
    # what they cross.
    rounded = 1.06 - 0.42 * np.clip(across / part.radius_px, -1, 1) ** 2
    lit = rounded - 0.10 * np.clip(y / height_px, -1, 1)
    light = (lit + 0.05 * noise[window]) * (
        1 + 0.45 * np.clip(part.depth_px / height_px, -0.5, 0.5)
    )
    color = np.clip(color * light[..., None].astype(np.float32), 0, 255)
    photo[window] += mask[..., None] * (color - photo[window])
    owners[window][mask > 0.5] = owner


def _limb_parts(figure: Figure) -> list[_Part]:
    p, h, look = figure.points_img, figure.height_px, figure.look
    skin = Garment(look.skin, look.skin, "plain", 1.0)
    parts = []
    for side, gain in zip(("left", "right"), look.side_gain, strict=True):
        pieces = (
            ("upper_arm", "shoulder", "elbow", 0.040, 0.032, look.sleeves, look.sleeve),
            ("forearm", "elbow", "wrist", 0.033, 0.026, look.sleeves, look.sleeve - 1),
            ("hand", "wrist", "hand", 0.026, 0.032, skin, 0.0),
            ("thigh", "hip", "knee", 0.060, 0.043, look.trousers, look.leg),
            ("shank", "knee", "ankle", 0.041, 0.028, look.trousers, look.leg - 1),
            ("foot", "ankle", "toe", 0.031, 0.024, look.shoes, 1.5),
        )
        for name, start, end, start_radius, end_radius, garment, coverage in pieces:
            a, b = p[f"{side}_{start}"], p[f"{side}_{end}"]
            parts.append(
                _Part(
                    name=f"{side}_{name}",
                    outline_img=_hull([a, b], [start_radius * h, end_radius * h]),
                    start_img=a[:2],
                    end_img=b[:2],
                    radius_px=max(start_radius, end_radius) * h,
                    depth_px=0.5 * float(a[2] + b[2]),
                    garment=garment,
                    coverage=coverage,
                    gain=gain if garment is not skin else 1.0,
                )
            )
    return parts


def _trunk_parts(figure: Figure) -> list[_Part]:
    p, h, look = figure.points_img, figure.height_px, figure.look
    pelvis, thorax, neck = p["pelvis"], p["thorax"], p["upper_neck"]
    hips = [p["left_hip"], p["right_hip"], pelvis]
    shoulders = [p["left_shoulder"], p["right_shoulder"], thorax]
    skin = Garment(look.skin, look.skin, "plain", 1.0)
    waist = pelvis + 0.2 * (thorax - pelvis)
    return [
        _Part("torso", _hull([*shoulders, waist], [0.036 * h, 0.036 * h, 0.05 * h, 0.07 * h]),
              thorax[:2], pelvis[:2], 0.15 * h, 0.5 * float(pelvis[2] + thorax[2]), look.shirt,
              2.0, 1.0),
        _Part("hips", _hull([*hips, waist], [0.052 * h, 0.052 * h, 0.058 * h, 0.062 * h]),
              thorax[:2], pelvis[:2], 0.12 * h, float(pelvis[2]) - 0.01 * h, look.trousers,
              2.0, 1.0),
        _Part("neck", _hull([thorax, neck], [0.034 * h, 0.032 * h]), thorax[:2], neck[:2],
              0.04 * h, float(thorax[2]) - 0.01 * h, skin, 0.0, 0.9),
    ]  # fmt: skip


def _paint_chest_and_back(photo: Canvas, figure: Figure) -> None:
    """The light front panel or the dark back panel of the shirt, whichever faces the viewer."""
    h, look = figure.height_px, figure.look
    side, down, forward = figure.torso_axes * h
    for sign, target, half_width in ((1.0, 245.0, 0.035), (-1.0, 15.0, 0.075)):
        if sign * figure.torso_axes[2, 2] < 0.1:
            continue
        surface = figure.points_img["thorax"] + sign * 0.05 * forward
        corners = np.stack([
            surface + across * half_width * side + along * down
            for across, along in ((-1, 0.03), (1, 0.03), (0.7, 0.2), (-0.7, 0.2))
        ])  # fmt: skip
        _blend(photo, corners[:, :2], 0.25 * look.shirt.color + 0.75 * target)


def _cap(angle_deg: float) -> FloatArray:
    """(M, 3) unit vectors within an angle of straight ahead, in the head's frame."""
    polar = np.deg2rad(np.linspace(0, angle_deg, 6)[1:, None])
    azimuth = np.linspace(0, 2 * np.pi, 20, endpoint=False)[None]
    polar, azimuth = np.broadcast_arrays(polar, azimuth)
    vectors = [np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)]
    return np.stack(vectors, axis=-1).reshape(-1, 3)


_FACE_CAP = _cap(58.0) @ turned(pitch_deg=14.0)  # the face looks a little down from the skull


def _paint_head(photo: Canvas, owners: Owners, figure: Figure, owner: int) -> None:
    h, look, axes = figure.height_px, figure.look, figure.head_axes
    center = figure.skull_center_img()
    ears = [name for name in ("left_ear", "right_ear") if figure.faces_viewer(name)]

    def disc(point: FloatArray, radius: float) -> FloatArray:
        return np.asarray(point[:2] + radius * h * _CIRCLE)

    # The outline of a projected ellipsoid is the image of the unit circle under the square root
    # of (scaled axes)^T (scaled axes).
    spread = (SKULL[:, None] * axes)[:, :2] * h
    values, vectors = np.linalg.eigh(spread.T @ spread)
    outline = center[:2] + _CIRCLE @ (np.sqrt(values)[:, None] * vectors.T)
    hair = look.shoes.color if look.hatted else look.hair
    _blend(photo, outline, hair)
    found = _roi_mask(photo.shape, outline)
    if found is not None:
        owners[found[0]][found[1] > 0.5] = owner

    seen = (_FACE_CAP @ axes)[:, 2] > 0
    if seen.sum() >= 6:
        face = (center + (0.98 * SKULL * _FACE_CAP[seen]) @ axes * h)[:, :2].astype(np.float32)
        _blend(photo, cv2.convexHull(face)[:, 0].astype(np.float64), look.skin)
    for ear in ears:
        _blend(photo, disc(figure.points_img[ear], 0.020), 0.82 * look.skin)
        window = _roi_mask(photo.shape, disc(figure.points_img[ear], 0.014))
        if window is not None:
            owners[window[0]][window[1] > 0.5] = owner
    for eye in ("left_eye", "right_eye"):
        if figure.faces_viewer(eye):
            _blend(photo, disc(figure.points_img[eye], 0.013), np.full(3, 240.0))
            _blend(photo, disc(figure.points_img[eye], 0.007), np.full(3, 25.0))
    if figure.faces_viewer("nose"):
        _blend(photo, disc(figure.points_img["nose"], 0.010), look.skin * (0.75, 0.7, 0.9))
        mouth = center + (SKULL * unit(np.array([0.0, 0.68, 0.75]))) @ axes * h
        _blend(photo, _hull([mouth - 0.016 * h * axes[0], mouth + 0.016 * h * axes[0]],
                            [0.006 * h] * 2), np.array([50.0, 40.0, 150.0]))  # fmt: skip


def draw_figure(
    photo: Canvas, owners: Owners, noise: Canvas, figure: Figure, figure_index: int
) -> None:
    """Paint a person over what is there, far parts first.

    Parameters
    ----------
    photo
        (H, W, 3) float32 BGR in 0..255, changed in place.
    owners
        (H, W) who is on top at each pixel (see `owner_id`), changed in place.
    noise
        (H, W) standard normal grain of the photo's fabrics.
    figure, figure_index
        Who, and its number in the owner map.
    """
    parts = _limb_parts(figure) + _trunk_parts(figure)
    skull_depth_px = float(figure.skull_center_img()[2])
    queue: list[tuple[float, _Part | None]] = [(part.depth_px, part) for part in parts]
    queue.append((skull_depth_px, None))
    for _, part in sorted(queue, key=lambda entry: entry[0]):
        if part is None:
            _paint_head(photo, owners, figure, owner_id(figure_index, "head"))
            continue
        owner = owner_id(figure_index, part.name)
        _paint_part(photo, owners, noise, part, figure.look.skin, figure.height_px, owner)
        if part.name == "torso":
            _paint_chest_and_back(photo, figure)


def draw_background(rng: np.random.Generator, width: int, height: int, clutter: int) -> Canvas:
    """A muted room or landscape: (H, W, 3) float32 BGR in 0..255.

    Parameters
    ----------
    rng
        Source of everything random.
    width, height
        Of the photo, in pixels.
    clutter
        How many plates, discs and bars stand about.
    """
    # At half the photo's resolution: a quarter of the work, and a little out of focus.
    half_width, half_height = (width + 1) // 2, (height + 1) // 2
    top, bottom = (random_color(rng, (10, 90), (70, 220)) for _ in range(2))
    ramp = np.linspace(0, 1, half_height, dtype=np.float32)[:, None, None]
    photo = np.tile(top + ramp * (bottom - top), (1, half_width, 1)).astype(np.float32)
    for _ in range(clutter):
        color = random_color(rng, (10, 120), (50, 230))
        start = rng.uniform((0, 0), (half_width, half_height))
        reach = rng.normal(0, 0.35 * half_width, size=2)
        kind = rng.integers(3)
        if kind == 0:
            outline = _hull([start, start + reach], [rng.uniform(2, 6)] * 2)
        elif kind == 1:
            outline = start + rng.uniform(5, 25) * _CIRCLE
        else:
            outline = start + np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * reach
        _blend(photo, outline, color, opacity=rng.uniform(0.5, 1.0))
    for cell_px, gray, tint in ((12, 14.0, 5.0), (3, 8.0, 2.0)):
        cells = (half_height // cell_px + 2, half_width // cell_px + 2)
        grain = rng.normal(0, gray, size=(*cells, 1)) + rng.normal(0, tint, size=(*cells, 3))
        photo += cv2.resize(grain.astype(np.float32), (half_width, half_height))
    resized = cv2.resize(np.clip(photo, 0, 255), (width, height))
    return np.asarray(resized, dtype=np.float32)


def draw_occluder(
    rng: np.random.Generator, photo: Canvas, owners: Owners, center_img: FloatArray, size_px: float
) -> None:
    """Put a box, a pole, a disc or foliage of about ``size_px`` in front of a (2,) place."""
    kind = rng.choice(["box", "pole", "disc", "foliage"])
    color = random_color(rng, (20, 160), (40, 220))
    outlines: list[FloatArray]
    if kind == "box":
        half = 0.5 * size_px * rng.uniform(0.7, 1.3, size=2)
        outlines = [center_img + np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half]
    elif kind == "pole":
        lean = np.array([rng.normal(0, 0.2), 1.0]) * 2.5 * size_px
        outlines = [_hull([center_img - lean, center_img + lean], [0.2 * size_px] * 2)]
    elif kind == "disc":
        outlines = [center_img + 0.5 * size_px * _CIRCLE]
    else:
        outlines = [
            center_img + rng.normal(0, 0.25 * size_px, size=2) + size_px * rng.uniform(0.08, 0.2)
            * _CIRCLE
            for _ in range(14)
        ]  # fmt: skip
        outlines.append(center_img + 0.12 * size_px * _CIRCLE)  # so that the place is covered
        color = np.array([50.0, 130.0, 60.0]) * rng.uniform(0.5, 1.3)
    for outline in outlines:
        _blend(photo, outline, color * rng.uniform(0.85, 1.1))
        found = _roi_mask(photo.shape, outline)
        if found is not None:
            owners[found[0]][found[1] > 0.5] = OCCLUDER
