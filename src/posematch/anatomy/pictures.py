"""The pictures and films of `posematch.anatomy.analysis`."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from posematch.anatomy.analysis import Film, Scene, gradient, numbers
from posematch.losses import HeatmapLoss
from posematch.plots import MAP_COLOURS, figure_bytes, mark_dot

GRADIENT_COLOURS = "RdBu_r"
COLUMNS = 5
_ENLARGED = 3  # a film's pixels per heatmap pixel
_LABEL_PX, _GAP_PX = 15, 6
_DPI = 100
_FRAME_MS, _LAST_FRAME_MS = 120, 1500


def gradient_grid(scene: Scene, losses: Mapping[str, HeatmapLoss], columns: int = COLUMNS) -> bytes:
    """The scene's map and, for each loss, where a step of gradient descent would raise or lower it.

    Red pixels are raised, blue ones lowered, white ones left alone; each field has a scale of its
    own, from minus to plus the largest absolute gradient, which is printed.

    Returns
    -------
    png.
    """
    rows = math.ceil((1 + len(losses)) / columns)
    figure = Figure(figsize=(2.05 * columns, 2.55 * rows + 0.35), layout="constrained")
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    cells[0].imshow(scene.heatmap.numpy(), cmap=MAP_COLOURS, vmin=0)
    cells[0].set_title("the map", fontsize=9, fontweight="bold")
    cells[0].set_xlabel(f"0 to {float(scene.heatmap.max()):.2f} ({MAP_COLOURS})\n\n", fontsize=7.5)
    for cell, (name, loss) in zip(cells[1:], losses.items(), strict=False):
        step = -gradient(loss, scene)
        largest = float(step.abs().max())
        limit = max(largest, 1e-30)
        cell.imshow(step.numpy(), cmap=GRADIENT_COLOURS, vmin=-limit, vmax=limit)
        cell.set_title(name, fontsize=9)
        cell.set_xlabel(_words(numbers(loss, scene), largest), fontsize=7.5)
    for cell in cells:
        cell.set(xticks=[], yticks=[])
    for cell in cells[: 1 + len(losses)]:
        mark_dot(cell, scene.dot_hm.tolist(), size=9)
    for cell in cells[1 + len(losses) :]:
        cell.set_axis_off()
    figure.suptitle(f"{scene.title} (cross: the dot)", fontsize=10)
    return figure_bytes(figure, dpi=_DPI)


def _words(found: Mapping[str, float], largest: float) -> str:
    far = "" if math.isnan(found["far_rate"]) else f", far {found['far_rate']:+.3f}"
    return (
        f"±{largest:.1e}; zero in {found['zero_gradient_share']:.0%}\n"
        f"mass near {found['near_rate']:+.3f}{far}\n"
        f"mean distance {found['distance_rate_px']:+.2f} px"
    )


def error_curves(films: Mapping[str, Film], scenes: Sequence[Scene]) -> bytes:
    """Distance of the decoded joint from the dot by step, one panel per scene; png."""
    rows = math.ceil(len(scenes) / 2)
    figure = Figure(figsize=(9.5, 2.9 * rows), layout="constrained")
    colours = mpl.colormaps["tab20"]
    styles = ("-", "--", ":")
    cells = figure.subplots(rows, 2, squeeze=False, sharex=True).ravel()
    for n, (cell, scene) in enumerate(zip(cells, scenes, strict=False)):
        for i, (name, film) in enumerate(films.items()):
            cell.plot(
                film.steps, film.error_px[:, n].clip(1e-3), label=name, lw=1.3,
                color=colours(i * 2 % 20 + (i >= 10)), ls=styles[i % 3],
            )  # fmt: skip
        cell.set_yscale("log")
        cell.set_title(scene.title, fontsize=8.5)
        cell.set_ylabel("error, px (down to 0.001)", fontsize=8)
        cell.tick_params(labelsize=8)
    for cell in cells[len(scenes) :]:
        cell.set_axis_off()
    cells[min(len(scenes), len(cells)) - 1].set_xlabel("step of Adam", fontsize=8)
    figure.legend(*cells[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure_bytes(figure, dpi=_DPI)


def film_gif(films: Mapping[str, Film], number: int, scene: Scene, columns: int = COLUMNS) -> bytes:
    """One scene's free heatmaps under all losses, side by side, each scaled to its own peak.

    Parameters
    ----------
    films
        By the losses' names, of the same steps.
    number
        Of the scene in the films.
    scene
        Which it is.
    columns
        Losses abreast.

    Returns
    -------
    gif.
    """
    first = next(iter(films.values()))
    map_h, map_w = first.mass.shape[-2:]
    cell = (map_h * _ENLARGED + _LABEL_PX + _GAP_PX, max(map_w * _ENLARGED, 130) + _GAP_PX)
    rows = math.ceil(len(films) / columns)
    size = (columns * cell[1] + _GAP_PX, rows * cell[0] + _LABEL_PX + _GAP_PX)
    # 200 colours of the maps, then white, ink and the dot's.
    ramp = (mpl.colormaps[MAP_COLOURS](np.linspace(0, 1, 200))[:, :3] * 255).round().astype(int)
    palette = [*ramp.ravel().tolist(), 255, 255, 255, 40, 40, 40, 77, 210, 255]
    white, ink, cyan = 200, 201, 202
    font = ImageFont.load_default(size=11)
    frames = []
    for t, step in enumerate(first.steps):
        picture = Image.new("P", size, white)
        picture.putpalette(palette)
        draw = ImageDraw.Draw(picture)
        draw.fontmode = "1"
        draw.text((_GAP_PX, 3), f"step {step}: {scene.title}", fill=ink, font=font)
        for i, (name, film) in enumerate(films.items()):
            left = _GAP_PX + i % columns * cell[1]
            top = _LABEL_PX + _GAP_PX + i // columns * cell[0]
            draw.text((left, top), name, fill=ink, font=font)
            mass: NDArray[np.float32] = film.mass[t, number]
            levels = (mass.clip(0) / max(float(mass.max()), 1e-30) * 199).round().astype(np.uint8)
            tile = Image.fromarray(levels.repeat(_ENLARGED, 0).repeat(_ENLARGED, 1), "P")
            picture.paste(tile, (left, top + _LABEL_PX))
            x, y = ((scene.dot_hm + 0.5) * _ENLARGED).round().int().tolist()
            x, y = x + left, y + top + _LABEL_PX
            draw.line((x - 4, y, x + 4, y), fill=cyan)
            draw.line((x, y - 4, x, y + 4), fill=cyan)
        frames.append(picture)
    buffer = io.BytesIO()
    frames[0].save(
        buffer, format="GIF", save_all=True, append_images=frames[1:], loop=0, optimize=False,
        duration=[_FRAME_MS] * (len(frames) - 1) + [_LAST_FRAME_MS],
    )  # fmt: skip
    return buffer.getvalue()


def film_table(films: Mapping[str, Film], scenes: Sequence[Scene]) -> pd.DataFrame:
    """name, scene, step, error_px: every kept frame."""
    return pd.DataFrame(
        [
            (name, scene.name, int(step), float(film.error_px[t, n]))
            for name, film in films.items()
            for n, scene in enumerate(scenes)
            for t, step in enumerate(film.steps)
        ],
        columns=["name", "scene", "step", "error_px"],
    )
