"""Pictures of people: heatmaps and skeletons, predicted and true."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from posematch.errors import PosematchError
from posematch.geometry import Convention, heatmap_to_crop
from posematch.skeletons import Skeleton

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

CELL_HEIGHT_PX = 256
_GAP_PX = 6
_FONT_PX = 17
_HEADINGS = ("truth", "heatmaps", "prediction")
# Okabe and Ito's palette, told apart by the colour-blind too.
RIGHT: Colour = (230, 159, 0)
LEFT: Colour = (86, 180, 233)
MIDDLE: Colour = (240, 240, 240)
_OUTLINE: Colour = (30, 30, 30)
_MISS: Colour = (255, 60, 60)
_SHIFT = 5  # cv2 draws at 1/32 of a pixel


def people_panel(
    crops: torch.Tensor,
    maps: torch.Tensor,
    predicted_crop: torch.Tensor,
    true_crop: torch.Tensor,
    visible: torch.Tensor,
    scores: torch.Tensor,
    skeleton: Skeleton,
    convention: Convention = "hrnet",
    captions: Sequence[str] | None = None,
) -> Picture:
    """A column per person: true skeleton, heatmaps over the crop, predicted skeleton.

    Left limbs are blue, right ones orange. Each joint's map has its own colour and is scaled to its
    own peak. Red lines lead from a predicted joint to its annotated dot; the less a joint scores,
    the paler it is.

    Parameters
    ----------
    crops
        (N, 3, H, W) uint8 RGB.
    maps
        (N, K, h, w) heatmaps or masses; what is negative or not finite is drawn as nothing.
    predicted_crop, true_crop
        (N, K, 2) joints in crop pixels; what is not finite is left out.
    visible
        (N, K) labelled joints.
    scores
        (N, K) in [0, 1].
    skeleton
        Limbs, and which joints lie left and right (by their names).
    convention
        How heatmap pixels lie over crop pixels.
    captions
        A line below each person.

    Returns
    -------
    (height, width, 3) uint8 RGB on white.
    """
    count, _, height, width = crops.shape
    scale = CELL_HEIGHT_PX / height
    cell_w, cell_h = round(width * scale), CELL_HEIGHT_PX
    font = ImageFont.load_default(size=_FONT_PX)
    margin = _GAP_PX * 2 + max(math.ceil(font.getlength(text)) for text in _HEADINGS)
    caption_h = 2 * _FONT_PX if captions else 0
    panel = np.full(
        (
            _GAP_PX + 3 * (cell_h + _GAP_PX) + caption_h,
            margin + count * (cell_w + _GAP_PX),
            3,
        ),
        255,
        dtype=np.uint8,
    )
    photos = crops.permute(0, 2, 3, 1).cpu().numpy().astype(np.uint8)
    labelled = visible.cpu().numpy() > 0
    truth, predicted = true_crop.double().cpu().numpy(), predicted_crop.double().cpu().numpy()
    certainty = scores.double().cpu().numpy().clip(0, 1)
    for person in range(count):
        photo = cv2.resize(photos[person], (cell_w, cell_h), interpolation=cv2.INTER_CUBIC)
        photo = cast(Picture, photo)
        true_px = (truth[person] + 0.5) * scale - 0.5
        predicted_px = (predicted[person] + 0.5) * scale - 0.5
        true_px[~labelled[person]] = np.nan
        predicted_cell = photo.copy()
        _misses(predicted_cell, predicted_px, true_px)
        _skeleton(predicted_cell, predicted_px, certainty[person], skeleton)
        true_cell = photo.copy()
        _skeleton(true_cell, true_px, np.ones(len(true_px)), skeleton)
        heat = _heatmaps(photo, maps[person].double().cpu(), (height, width), scale, convention)
        left = margin + person * (cell_w + _GAP_PX)
        for row, cell in enumerate((true_cell, heat, predicted_cell)):
            top = _GAP_PX + row * (cell_h + _GAP_PX)
            panel[top : top + cell_h, left : left + cell_w] = cell
    image = Image.fromarray(panel)
    draw = ImageDraw.Draw(image)
    for row, heading in enumerate(_HEADINGS):
        middle = _GAP_PX + row * (cell_h + _GAP_PX) + cell_h / 2
        draw.text((margin - _GAP_PX, middle), heading, fill=(60, 60, 60), font=font, anchor="rm")
    for person, caption in enumerate(captions or ()):
        centre = margin + person * (cell_w + _GAP_PX) + cell_w / 2
        bottom = panel.shape[0] - caption_h / 2 - _GAP_PX / 2
        draw.text((centre, bottom), caption, fill=(60, 60, 60), font=font, anchor="mm")
    return np.asarray(image, dtype=np.uint8)


def _heatmaps(
    photo: Picture,
    maps: torch.Tensor,
    crop_size: tuple[int, int],
    scale: float,
    convention: Convention,
) -> Picture:
    """The maps in a colour per joint over the darkened grey photo."""
    size = (maps.shape[-2], maps.shape[-1])
    corners = heatmap_to_crop(
        torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64), crop_size, size, convention
    )
    corners_px = (corners.numpy() + 0.5) * scale - 0.5
    (x0, y0), (x1, y1) = corners_px
    to_photo = np.array([[x1 - x0, 0, x0], [0, y1 - y0, y0]])
    clean = torch.nan_to_num(maps, nan=0.0, posinf=0.0).clamp_min(0)
    peaks = clean.amax(dim=(1, 2), keepdim=True)
    strength = (clean / peaks.clamp_min(1e-12)).numpy()
    cell_h, cell_w = photo.shape[:2]
    weight = np.stack(
        [
            cv2.warpAffine(one, to_photo, (cell_w, cell_h), flags=cv2.INTER_LINEAR)
            for one in strength
        ]
    ).clip(0, 1)
    hue = np.arange(len(maps)) * 180 / len(maps)
    hsv = np.stack([hue, np.full_like(hue, 190), np.full_like(hue, 255)], axis=1)
    colours = cv2.cvtColor(hsv[None].astype(np.uint8), cv2.COLOR_HSV2RGB)[0].astype(np.float64)
    total = weight.sum(axis=0)
    mixed = np.einsum("khw,kc->hwc", weight, colours) / np.maximum(total, 1e-9)[..., None]
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY).astype(np.float64)[..., None] * 0.4
    alpha = weight.max(axis=0)[..., None] * 0.9
    blended = grey * (1 - alpha) + mixed * alpha
    return np.asarray(blended.round().clip(0, 255), dtype=np.uint8)


def _skeleton(
    cell: Picture, joints_px: NDArray[np.float64], certainty: NDArray[np.float64], kind: Skeleton
) -> None:
    """Bones and joints, in place."""
    sides = [_side(name) for name in kind.joints]
    drawn = np.asarray(np.isfinite(joints_px).all(axis=1))
    bones = [(a, b) for a, b in kind.limbs if drawn[a] and drawn[b]]
    for colour_of, thickness in ((None, 5), (_limb_colour, 3)):
        for a, b in bones:
            colour = _OUTLINE if colour_of is None else colour_of(sides[a], sides[b])
            if colour_of is not None:
                colour = _paler(colour, min(certainty[a], certainty[b]))
            cv2.line(
                cell,
                _fixed(joints_px[a]),
                _fixed(joints_px[b]),
                colour,
                thickness,
                cv2.LINE_AA,
                _SHIFT,
            )
    for joint in np.flatnonzero(drawn):
        centre = _fixed(joints_px[joint])
        cv2.circle(cell, centre, 5 << _SHIFT, _OUTLINE, -1, cv2.LINE_AA, _SHIFT)
        colour = _paler(sides[joint], certainty[joint])
        cv2.circle(cell, centre, 4 << _SHIFT, colour, -1, cv2.LINE_AA, _SHIFT)


def _misses(cell: Picture, predicted_px: NDArray[np.float64], true_px: NDArray[np.float64]) -> None:
    for predicted, true in zip(predicted_px, true_px, strict=True):
        if np.isfinite(predicted).all() and np.isfinite(true).all():
            cv2.line(cell, _fixed(predicted), _fixed(true), _MISS, 2, cv2.LINE_AA, _SHIFT)


def _side(joint: str) -> Colour:
    if "left" in joint:
        return LEFT
    return RIGHT if "right" in joint else MIDDLE


def _limb_colour(one: Colour, other: Colour) -> Colour:
    """The side's own; of a limb from the middle to a side, the side's."""
    if one == other or other == MIDDLE:
        return one
    return other if one == MIDDLE else MIDDLE


def _paler(colour: Colour, certainty: float) -> Colour:
    share = 0.35 + 0.65 * float(certainty)
    red, green, blue = (round(share * c + (1 - share) * 128) for c in colour)
    return red, green, blue


def _fixed(point_px: NDArray[np.float64]) -> tuple[int, int]:
    """cv2's fixed-point coordinates; far outside is as good as infinitely far."""
    x, y = (point_px.clip(-4096, 4096) * (1 << _SHIFT)).round().astype(int)
    return int(x), int(y)


def save_png(path: Path, picture: Picture) -> None:
    """Write an (H, W, 3) RGB picture, in one piece, into a folder that is made if need be."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            Image.fromarray(picture).save(partial, format="PNG", optimize=True)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise PosematchError(f"{path} cannot be written ({error.strerror or error}).") from error
