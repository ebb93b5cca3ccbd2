"""Pictures of people: heatmaps and skeletons, predicted and true."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch.nn.functional import grid_sample

from posematch import files
from posematch.errors import PosematchError
from posematch.geometry import Convention, crop_to_heatmap
from posematch.skeletons import Skeleton

Picture = NDArray[np.uint8]
Points = NDArray[np.float64]
Colour = tuple[int, int, int]
_Fixed = tuple[int, int]  # a point in 1/16 of a pixel, as cv2 takes it

# Two of Okabe and Ito's colours, told apart by the colour-blind too.
RIGHT: Colour = (230, 159, 0)
LEFT: Colour = (86, 180, 233)
MIDDLE: Colour = (245, 245, 245)
MISS: Colour = (230, 0, 60)
_SIDES = {"left": LEFT, "right": RIGHT, "middle": MIDDLE}
# The joints of a side share a family of hues, so that a blob on the wrong leg shows.
_HUES = {
    LEFT: ((40, 225, 190), (50, 150, 255), (125, 110, 255)),
    RIGHT: ((255, 225, 40), (255, 140, 0), (255, 70, 40)),
    MIDDLE: ((255, 255, 255), (255, 190, 235), (255, 120, 210)),
}
_OUTLINE: Colour = (25, 25, 25)
_MISS_NAME, _MISS_SWATCH = "error", (150, 150, 150)
_INK: Colour = (60, 60, 60)

_ROWS = ("truth", "heatmaps", "prediction")
_PEOPLE_ABREAST = 6
_SHIFT = 4  # cv2 takes points and radii in 1/16 of a pixel
_SUPERSAMPLING = 4  # of what is drawn: cv2's lines are a whole number of pixels thick


@dataclass(frozen=True)
class PanelLayout:
    """Where the cells of a panel lie, in its pixels.

    Attributes
    ----------
    people
        How many; they stand side by side, in bands of at most six.
    crop_size
        (height, width) of a crop.
    height_px
        Height to come close to; a cell has a whole number of pixels for each of the crop's.
    captioned
        Whether there is a line of text below each person.
    rows
        What the cells below one another show.
    """

    people: int
    crop_size: tuple[int, int]
    height_px: int = 256
    captioned: bool = False
    rows: tuple[str, ...] = _ROWS

    @property
    def scale(self) -> int:
        """Cell pixels for a crop pixel."""
        return max(1, round(self.height_px / self.crop_size[0]))

    @property
    def cell_size(self) -> tuple[int, int]:
        """(height, width) of a cell."""
        return self.scale * self.crop_size[0], self.scale * self.crop_size[1]

    @property
    def unit(self) -> float:
        """What lengths grow with: 1 for cells 256 pixels high."""
        return self.cell_size[0] / 256

    @property
    def font_px(self) -> int:
        return max(11, round(15 * self.unit))

    @property
    def line_px(self) -> int:
        """Room for a line of text."""
        return round(1.6 * self.font_px)

    @property
    def gap_px(self) -> int:
        """White between cells."""
        return max(2, round(4 * self.unit))

    @property
    def margin_px(self) -> int:
        """White around everything, and between bands."""
        return 3 * self.gap_px

    @property
    def bands(self) -> int:
        return -(-self.people // _PEOPLE_ABREAST)

    @property
    def abreast(self) -> int:
        """People in a band; the last one may have fewer."""
        return -(-self.people // self.bands)

    @property
    def band_px(self) -> int:
        """From the top of a band to that of the next."""
        cells = len(self.rows) * (self.cell_size[0] + self.gap_px) - self.gap_px
        return cells + self.captioned * self.line_px + self.margin_px

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the bands with their white, without the key below them."""
        cells = self.abreast * (self.cell_size[1] + self.gap_px) - self.gap_px
        height = self.margin_px + self.bands * self.band_px
        return height, 2 * self.margin_px + self.line_px + cells

    def corner(self, person: int, row: int) -> tuple[int, int]:
        """(top, left) of a person's cell in one of the rows."""
        band, column = divmod(person, self.abreast)
        top = self.margin_px + band * self.band_px + row * (self.cell_size[0] + self.gap_px)
        left = self.margin_px + self.line_px + column * (self.cell_size[1] + self.gap_px)
        return top, left

    def to_cell(self, points_crop: Points) -> Points:
        """(..., 2) crop pixels to cell pixels; pixel centres lie at integers in both."""
        return (points_crop + 0.5) * self.scale - 0.5


def people_panel(
    crops: torch.Tensor,
    maps: torch.Tensor,
    predicted_crop: torch.Tensor,
    true_crop: torch.Tensor,
    visible: torch.Tensor,
    scores: torch.Tensor,
    skeleton: Skeleton,
    convention: Convention = "hrnet",
    *,
    captions: Sequence[str] | None = None,
    height_px: int = 256,
) -> Picture:
    """A column per person: the true skeleton, the heatmaps over the crop, the predicted skeleton.

    Left limbs are blue, right ones orange. The less a predicted joint scores, the fainter it is;
    a red line leads from it to its annotated dot, if that lies beyond the joint's circle. Each
    joint's map is scaled to its own peak and has its own colour: of the blues for left joints, from
    yellow to red for right ones, from white to pink for the rest. More than six people stand in
    several bands, one below the other.

    Parameters
    ----------
    crops
        (N, 3, H, W) uint8 RGB.
    maps
        (N, K, h, w) heatmaps or masses; what is negative or not finite is drawn as nothing.
    predicted_crop, true_crop
        (N, K, 2) joints in crop pixels; what is not finite is left out.
    visible
        (N, K): the truth of a joint is drawn where positive.
    scores
        (N, K) in [0, 1].
    skeleton
        Limbs, and by the joints' names which of them are left and right.
    convention
        How heatmap pixels lie over crop pixels.
    captions
        A line of ASCII text below each person, cut off if it is wider than the crop.
    height_px
        About how high a crop is drawn: it is enlarged by a whole factor, and never reduced.

    Returns
    -------
    (height, width, 3) uint8 RGB on white.

    Raises
    ------
    PosematchError
        If there is nobody, or the shapes do not fit one another.
    """
    _check(crops, maps, predicted_crop, true_crop, visible, scores, skeleton, captions)
    people, _, crop_h, crop_w = crops.shape
    layout = PanelLayout(people, (crop_h, crop_w), height_px, captions is not None)
    height, width = layout.cell_size
    predicted, true = layout.to_cell(_array(predicted_crop)), layout.to_cell(_array(true_crop))
    true[~(_array(visible) > 0)] = np.nan
    certainty = np.nan_to_num(_array(scores)).clip(0, 1)
    sides = [_side(name) for name in skeleton.joints]
    colours = _map_colours(sides)

    panel, photos, key = _blank(layout, crops, sides)
    for person in range(people):
        photo = photos[person]
        truth, prediction = (_Overlay(layout.cell_size, layout.unit) for _ in range(2))
        truth.skeleton(true[person], np.ones(len(sides)), skeleton.limbs, sides)
        prediction.skeleton(
            predicted[person], certainty[person], skeleton.limbs, sides, true[person]
        )
        heat = _heat(photo, _strengths(maps[person], layout, convention), colours)
        cells = (truth.over(photo), heat, prediction.over(photo))
        for row, cell in enumerate(cells):
            top, left = layout.corner(person, row)
            panel[top : top + height, left : left + width] = cell
    return _finished(panel, layout, key, captions)


def poses_panel(
    crops: torch.Tensor,
    predicted_crop: Mapping[str, torch.Tensor],
    true_crop: torch.Tensor,
    visible: torch.Tensor,
    skeleton: Skeleton,
    *,
    captions: Sequence[str] | None = None,
    height_px: int = 256,
) -> Picture:
    """A column per person: the true skeleton, and below it each prediction's.

    Parameters
    ----------
    crops
        (N, 3, H, W) uint8 RGB.
    predicted_crop
        (N, K, 2) joints in crop pixels, by what the row is called; what is not finite is left out.
    true_crop, visible, skeleton, captions, height_px
        As for `people_panel`.

    Returns
    -------
    (height, width, 3) uint8 RGB on white.

    Raises
    ------
    PosematchError
        If there is nobody, or the shapes do not fit one another.
    """
    for joints_crop in predicted_crop.values():
        maps = visible[..., None, None]  # any will do
        _check(crops, maps, joints_crop, true_crop, visible, visible, skeleton, captions)

    def row(joints_crop: torch.Tensor) -> _Row:
        def draw(sheet: _Sheet, person: int) -> Picture:
            joints_px = sheet.layout.to_cell(_array(joints_crop[person]))
            return sheet.skeleton(person, joints_px, sheet.true[person])

        return draw

    others = {name: row(joints_crop) for name, joints_crop in predicted_crop.items()}
    return _truth_and(crops, true_crop, visible, skeleton, captions, height_px, others)


def targets_panel(
    crops: torch.Tensor,
    maps: Mapping[str, torch.Tensor],
    true_crop: torch.Tensor,
    visible: torch.Tensor,
    skeleton: Skeleton,
    convention: Convention = "hrnet",
    *,
    captions: Sequence[str] | None = None,
    height_px: int = 256,
) -> Picture:
    """A column per person: the true skeleton, and below it each kind of maps over the crop.

    Parameters
    ----------
    crops
        (N, 3, H, W) uint8 RGB.
    maps
        (N, K, h, w), by what the row is called.
    true_crop, visible, skeleton, convention, captions, height_px
        As for `people_panel`.

    Returns
    -------
    (height, width, 3) uint8 RGB on white.

    Raises
    ------
    PosematchError
        If there is nobody, or the shapes do not fit one another.
    """
    for one in maps.values():
        _check(crops, one, true_crop, true_crop, visible, visible, skeleton, captions)
    colours = _map_colours([_side(name) for name in skeleton.joints])

    def row(maps_of_all: torch.Tensor) -> _Row:
        def draw(sheet: _Sheet, person: int) -> Picture:
            strengths = _strengths(maps_of_all[person], sheet.layout, convention)
            return _heat(sheet.photos[person], strengths, colours)

        return draw

    others = {name: row(of_all) for name, of_all in maps.items()}
    return _truth_and(crops, true_crop, visible, skeleton, captions, height_px, others)


def skeletons_over(
    picture: Picture,
    joints_img: Points,
    scores: Points,
    skeleton: Skeleton,
    sizes_px: Points,
) -> Picture:
    """A picture with the joints of N people drawn over it; what is uncertain is faint.

    Parameters
    ----------
    picture
        (H, W, 3) uint8 RGB; it is left as it is.
    joints_img
        (N, K, 2) in its pixels; what is not finite is left out.
    scores
        (N, K) in [0, 1].
    skeleton
        Names and limbs of the joints.
    sizes_px
        (N,) how large the people are, by which lines and dots are.

    Returns
    -------
    (H, W, 3) uint8 RGB.
    """
    drawn = picture.copy()
    height, width = picture.shape[:2]
    sides = [_side(name) for name in skeleton.joints]
    for joints_px, certainty, size_px in zip(joints_img, scores, sizes_px, strict=True):
        unit = float(np.clip(size_px, 40, 4000)) / 256
        there = joints_px[_finite(joints_px)].clip(-10_000, 10_000)
        if not len(there):
            continue
        reach = 6 * unit  # of the largest dot
        left, top = np.floor(there.min(axis=0) - reach).clip(0).astype(int)
        right, bottom = np.ceil(there.max(axis=0) + reach).clip(0).astype(int) + 1
        right, bottom = min(right, width), min(bottom, height)
        if right <= left or bottom <= top:
            continue
        # cv2's own smooth edges are enough but for lines of a pixel or two, and far faster.
        fine = 2 if unit < 1 else 1
        overlay = _Overlay((bottom - top, right - left), unit, fine)
        overlay.skeleton(joints_px - (left, top), certainty.clip(0, 1), skeleton.limbs, sides)
        drawn[top:bottom, left:right] = overlay.over(drawn[top:bottom, left:right])
    return drawn


@dataclass(frozen=True)
class _Sheet:
    """What the cells of a panel are drawn with: joints in pixels of a cell, photos in its size."""

    layout: PanelLayout
    photos: list[Picture]
    true: Points
    limbs: Sequence[tuple[int, int]]
    sides: Sequence[Colour]

    def skeleton(self, person: int, joints_px: Points, errors_to: Points | None = None) -> Picture:
        overlay = _Overlay(self.layout.cell_size, self.layout.unit)
        certainty = np.ones(len(self.sides))
        overlay.skeleton(joints_px, certainty, self.limbs, self.sides, errors_to)
        return overlay.over(self.photos[person])


# Draws the cell of a person, (height, width, 3) RGB.
_Row = Callable[[_Sheet, int], Picture]


def _truth_and(
    crops: torch.Tensor,
    true_crop: torch.Tensor,
    visible: torch.Tensor,
    skeleton: Skeleton,
    captions: Sequence[str] | None,
    height_px: int,
    others: Mapping[str, _Row],
) -> Picture:
    """A column per person: the true skeleton, and below it what draws each other row's cell."""
    people, _, crop_h, crop_w = crops.shape
    rows = ("truth", *others)
    layout = PanelLayout(people, (crop_h, crop_w), height_px, captions is not None, rows)
    height, width = layout.cell_size
    true = layout.to_cell(_array(true_crop))
    true[~(_array(visible) > 0)] = np.nan
    sides = [_side(name) for name in skeleton.joints]
    panel, photos, key = _blank(layout, crops, sides)
    sheet = _Sheet(layout, photos, true, skeleton.limbs, sides)
    for person in range(people):
        cells = [sheet.skeleton(person, true[person])]
        cells += [draw(sheet, person) for draw in others.values()]
        for row, cell in enumerate(cells):
            top, left = layout.corner(person, row)
            panel[top : top + height, left : left + width] = cell
    return _finished(panel, layout, key, captions)


def _blank(
    layout: PanelLayout, crops: torch.Tensor, sides: Sequence[Colour]
) -> tuple[Picture, list[Picture], Picture]:
    """A white panel, the crops in the size of its cells, and the key that goes below them."""
    height, width = layout.cell_size
    photos = [
        np.asarray(cv2.resize(crop, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
        for crop in crops.permute(0, 2, 3, 1).cpu().numpy()
    ]
    key = _key(layout, sides)
    panel_h, panel_w = layout.size
    shape = (panel_h + key.shape[0], max(panel_w, key.shape[1] + 2 * layout.margin_px), 3)
    return np.full(shape, 255, dtype=np.uint8), photos, key


def _finished(
    panel: Picture, layout: PanelLayout, key: Picture, captions: Sequence[str] | None
) -> Picture:
    """The panel with its words and its key, in place."""
    _headings(panel, layout)
    _captions(panel, layout, captions or ())
    right = panel.shape[1] - layout.margin_px
    bottom = panel.shape[0] - layout.margin_px // 2
    panel[bottom - key.shape[0] : bottom, right - key.shape[1] : right] = key
    return panel


def save_png(path: Path, picture: Picture) -> None:
    """Write a picture, in one piece.

    Parameters
    ----------
    path
        The file, which may exist; its folder is made if need be.
    picture
        (height, width, 3) uint8 RGB.

    Raises
    ------
    PosematchError
        If it cannot be written.
    """
    _, png = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    try:
        files.write_bytes(path, png.tobytes())
    except OSError as error:
        raise PosematchError(
            f"{path} cannot be written ({error.strerror or error}); free the place or choose"
            " another folder."
        ) from error


def _check(
    crops: torch.Tensor,
    maps: torch.Tensor,
    predicted_crop: torch.Tensor,
    true_crop: torch.Tensor,
    visible: torch.Tensor,
    scores: torch.Tensor,
    skeleton: Skeleton,
    captions: Sequence[str] | None,
) -> None:
    if crops.ndim != 4 or crops.shape[1] != 3 or crops.dtype != torch.uint8 or not crops.numel():
        raise PosematchError(
            "people_panel: crops must be (N, 3, H, W) uint8 with at least one person, not"
            f" {tuple(crops.shape)} {str(crops.dtype).removeprefix('torch.')}."
        )
    joints = (len(crops), skeleton.num_joints)
    for name, tensor, shape in (
        ("maps", maps, (*joints, *maps.shape[2:])),
        ("predicted_crop", predicted_crop, (*joints, 2)),
        ("true_crop", true_crop, (*joints, 2)),
        ("visible", visible, joints),
        ("scores", scores, joints),
    ):
        if tuple(tensor.shape) != shape or (tensor is maps and (maps.ndim != 4 or 0 in shape)):
            wanted = "(N, K, h, w)" if tensor is maps else f"{shape}"
            raise PosematchError(
                f"people_panel: {name} must be {wanted} for {joints[0]} crops and the"
                f" {joints[1]} joints of {skeleton.name}, not {tuple(tensor.shape)}."
            )
    if captions is not None and len(captions) != len(crops):
        raise PosematchError(
            f"people_panel: give a caption for each of the {len(crops)} crops, not {len(captions)}."
        )


# ---------------------------------------------------------------------------------------- heatmaps


def _strengths(
    maps: torch.Tensor, layout: PanelLayout, convention: Convention
) -> NDArray[np.float32]:
    """(K, height, width) in [0, 1]: a person's maps laid over the cell, each scaled to its peak."""
    clean = maps.detach().float().cpu().nan_to_num(0.0, 0.0, 0.0).clamp_min(0)
    peaks = clean.amax(dim=(1, 2), keepdim=True)
    clean = clean / torch.where(peaks > 0, peaks, 1.0)
    height, width = layout.cell_size
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    points_crop = (torch.stack([x, y], dim=-1) + 0.5) / layout.scale - 0.5
    map_h, map_w = clean.shape[1:]
    points_hm = crop_to_heatmap(points_crop, layout.crop_size, (map_h, map_w), convention)
    # grid_sample's -1 and 1 are the outer edges of the outermost pixels.
    grid = (2 * points_hm + 1) / torch.tensor([map_w, map_h]) - 1
    laid = grid_sample(
        clean[None], grid[None], mode="bicubic", padding_mode="border", align_corners=False
    )
    return np.asarray(laid[0].clamp(0, 1).numpy(), dtype=np.float32)


def _map_colours(sides: Sequence[Colour]) -> NDArray[np.float32]:
    """(K, 3) a colour per joint, spread over the hues of its side."""
    colours = np.empty((len(sides), 3), dtype=np.float32)
    for side, hues in _HUES.items():
        joints = [joint for joint, its_side in enumerate(sides) if its_side == side]
        places = np.linspace(0, len(hues) - 1, len(joints))
        for channel, values in enumerate(np.transpose(hues)):
            colours[joints, channel] = np.interp(places, np.arange(len(hues)), values)
    return colours


def _heat(photo: Picture, strengths: NDArray[np.float32], colours: NDArray[np.float32]) -> Picture:
    """The maps over the darkened grey photo."""
    # Squares, so that where maps overlap the stronger one's hue wins.
    weights = strengths**2
    mixed = np.einsum("khw,kc->hwc", weights, colours, optimize=True)
    mixed /= np.maximum(weights.sum(axis=0), 1e-6)[..., None]
    opacity = 0.92 * strengths.max(axis=0)[..., None]
    grey = 0.42 * cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]
    return np.asarray((grey * (1 - opacity) + mixed * opacity).round(), dtype=np.uint8)


# --------------------------------------------------------------------------------------- skeletons


class _Overlay:
    """What is drawn over a cell: (height, width, 4) RGB and opacity, enlarged and premultiplied.

    cv2 blends all four channels by how much of a pixel a shape covers, so the last drawn wins, and
    faint shapes do not add up where they cross.
    """

    def __init__(
        self, size: tuple[int, int], unit: float, supersampling: int = _SUPERSAMPLING
    ) -> None:
        height, width = size
        self.supersampling = supersampling
        self.unit = unit * supersampling
        self.layer = np.zeros((height * supersampling, width * supersampling, 4), dtype=np.uint8)

    def over(self, photo: Picture) -> Picture:
        """The photo with the overlay."""
        size = (photo.shape[1], photo.shape[0])
        fine = self.layer
        if self.supersampling > 1:
            fine = np.asarray(cv2.resize(fine, size, interpolation=cv2.INTER_AREA), np.uint8)
        layer = fine.astype(np.float32)
        blended = layer[..., :3] + photo * (1 - layer[..., 3:] / 255)
        return np.asarray(blended.round().clip(0, 255), dtype=np.uint8)

    def skeleton(
        self,
        joints_px: Points,
        certainty: Points,
        limbs: Sequence[tuple[int, int]],
        sides: Sequence[Colour],
        true_px: Points | None = None,
    ) -> None:
        """Bones and joints; what is uncertain is faint, what is not finite is left out.

        With ``true_px``, lines lead there from the joints: under these, so that what shows is an
        error larger than a joint's circle.
        """
        drawn = _finite(joints_px)
        joints = self._fixed(joints_px)
        opacity = (0.3 + 0.7 * certainty).tolist()
        bones = [(a, b, min(opacity[a], opacity[b])) for a, b in limbs if drawn[a] and drawn[b]]
        for a, b, solid in bones:
            self._line(joints[a], joints[b], 4.5, _OUTLINE, solid)
        for a, b, solid in bones:
            self._line(joints[a], joints[b], 3.0, _limb_colour(sides[a], sides[b]), solid)
        if true_px is not None:
            true = self._fixed(true_px)
            for joint in np.flatnonzero(drawn & _finite(true_px)).tolist():
                self._line(joints[joint], true[joint], 1.5, MISS, 1.0)
                self._dot(true[joint], 2.0, MISS, 1.0)
        for joint in np.flatnonzero(drawn).tolist():
            self._dot(joints[joint], 4.0, _OUTLINE, opacity[joint])
            self._dot(joints[joint], 3.1, sides[joint], opacity[joint])

    def _line(self, start: _Fixed, end: _Fixed, width: float, colour: Colour, solid: float) -> None:
        """A line with round ends; width in cell pixels of a cell 256 pixels high."""
        thickness = max(1, round(width * self.unit))
        ink = _premultiplied(colour, solid)
        cv2.line(self.layer, start, end, ink, thickness, cv2.LINE_AA, _SHIFT)

    def _dot(self, centre: _Fixed, radius: float, colour: Colour, solid: float) -> None:
        """A filled circle; units as for `_line`."""
        ink = _premultiplied(colour, solid)
        radius_fixed = round(radius * self.unit * (1 << _SHIFT))
        cv2.circle(self.layer, centre, radius_fixed, ink, -1, cv2.LINE_AA, _SHIFT)

    def _fixed(self, points_px: Points) -> list[_Fixed]:
        """(K, 2) cell pixels as cv2's fixed-point coordinates in the enlarged overlay."""
        # cv2's integers overflow; so far outside, a line's direction hardly matters.
        within = np.nan_to_num(points_px).clip(-10_000, 10_000)
        enlarged = (within + 0.5) * self.supersampling - 0.5
        fixed = (enlarged * (1 << _SHIFT)).round().astype(int).tolist()
        return [(x, y) for x, y in fixed]


def _array(values: torch.Tensor) -> Points:
    return np.asarray(values.detach().double().cpu().numpy())


def _finite(points: Points) -> NDArray[np.bool_]:
    """(K,) which of (K, 2) points are somewhere."""
    return np.asarray(np.isfinite(points).all(axis=1))


def _side(joint: str) -> Colour:
    """A joint's side, by its name: ``left_knee``, ``knee_left``."""
    for side in ("left", "right"):
        if joint.startswith(side) or joint.endswith(side):
            return _SIDES[side]
    return MIDDLE


def _limb_colour(one: Colour, other: Colour) -> Colour:
    """The side's, also of a limb that leads there from the middle; across the body the middle's."""
    if one in (other, MIDDLE):
        return other
    return one if other == MIDDLE else MIDDLE


def _premultiplied(colour: Colour, opacity: float) -> tuple[float, float, float, float]:
    red, green, blue = (float(opacity) * channel for channel in colour)
    return red, green, blue, 255 * float(opacity)


# ----------------------------------------------------------------------------------------- letters


def _write(
    panel: Picture, text: str, layout: PanelLayout, place: tuple[float, float], anchor: str
) -> None:
    """Text on the panel, in place; ``place`` (x, y) and ``anchor`` as in Pillow."""
    image = Image.fromarray(panel)
    ImageDraw.Draw(image).text(place, text, fill=_INK, font=_font(layout), anchor=anchor)
    panel[:] = np.asarray(image)


def _font(layout: PanelLayout) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=layout.font_px)  # comes with Pillow


def _headings(panel: Picture, layout: PanelLayout) -> None:
    """What the rows of each band show, upwards at its left, in place."""
    for band in range(layout.bands):
        for row, heading in enumerate(layout.rows):
            top, left = layout.corner(band * layout.abreast, row)
            height = layout.cell_size[0]
            strip = np.full((layout.line_px, height, 3), 255, dtype=np.uint8)
            _write(strip, heading, layout, (height / 2, 0.4 * layout.line_px), "mm")
            panel[top : top + height, left - layout.line_px : left] = np.rot90(strip)


def _captions(panel: Picture, layout: PanelLayout, captions: Sequence[str]) -> None:
    """A line of text below each person, in place."""
    font, (height, width) = _font(layout), layout.cell_size
    for person, caption in enumerate(captions):
        text = caption
        while font.getlength(text) > 0.96 * width and len(text) > 1:
            text = f"{text.removesuffix('…')[:-1].rstrip()}…"
        top, left = layout.corner(person, len(layout.rows) - 1)
        strip = panel[top + height : top + height + layout.line_px, left : left + width]
        _write(strip, text, layout, (width / 2, 0.6 * layout.line_px), "mm")


def _key(layout: PanelLayout, sides: Sequence[Colour]) -> Picture:
    """(height, width, 3) what the skeletons' colours mean, in as many lines as it takes."""
    unit, font = layout.unit, _font(layout)
    swatch, space = 26 * unit, 10 * unit
    names = [*(name for name, colour in _SIDES.items() if colour in sides), _MISS_NAME]
    room = layout.size[1] - 2 * layout.margin_px
    places, left, line, right = [], 0.0, 0, 0.0
    for name in names:
        width = swatch + space + font.getlength(name)
        if left and left + width > room:
            left, line = 0.0, line + 1
        places.append((left, (line + 0.5) * layout.line_px))
        right = max(right, left + width)
        left += width + 2 * space
    key = np.full(((line + 1) * layout.line_px, math.ceil(right) + 1, 3), 255, dtype=np.uint8)
    overlay = _Overlay((key.shape[0], key.shape[1]), unit)
    for name, (left, middle) in zip(names, places, strict=True):
        ends = np.array([[left + 5 * unit, middle], [left + swatch, middle]]) - 0.5
        if name == _MISS_NAME:
            overlay.skeleton(ends[:1], np.ones(1), [], [_MISS_SWATCH], ends[1:])
        else:
            overlay.skeleton(ends, np.ones(2), [(0, 1)], [_SIDES[name]] * 2)
    key = overlay.over(key)
    for name, (left, middle) in zip(names, places, strict=True):
        _write(key, name, layout, (left + swatch + space, middle), "lm")
    return key
