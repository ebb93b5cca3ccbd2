"""What all figures of matplotlib share: colours, marks, and files that are the same every time.

Pictures that a training draws between two epochs are not of matplotlib, which takes seconds where
`posematch.rendering` takes milliseconds.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import patheffects
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from posematch.files import write_output

MAP_COLOURS = "magma"  # of heatmaps, from 0 to the peak
DOT_COLOUR = "#4dd2ff"  # of the true joint, which shows on all of them
DPI = 110


def mark_dot(axes: Any, place: Any, size: float = 11.0) -> None:
    """The true joint: a cross, outlined so that it shows on every colour."""
    axes.plot(
        *place, marker="+", ms=size, mew=1.5, color=DOT_COLOUR, path_effects=outline(),
    )  # fmt: skip


def outline() -> list[Any]:
    """A dark edge around a mark."""
    return [patheffects.withStroke(linewidth=2.6, foreground="black")]


def figure_bytes(figure: Figure, kind: str = "png", dpi: int = DPI) -> bytes:
    """A figure as ``png`` or ``svg``, the same bytes for the same figure."""
    FigureCanvasAgg(figure)
    metadata = {"png": {"Software": None}, "svg": {"Date": None}}[kind]
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "posematch", "svg.fonttype": "none"}):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def figure_picture(figure: Figure, dpi: int = DPI) -> NDArray[np.uint8]:
    """A figure as (height, width, 3) RGB, to stand beside pictures of `posematch.rendering`."""
    canvas: Any = FigureCanvasAgg(figure)
    figure.set_dpi(dpi)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), np.uint8)[..., :3].copy()


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write ``stem.png`` and ``stem.svg``."""
    kinds = ("png", "svg")
    return [write_output(stem.with_suffix(f".{k}"), figure_bytes(figure, k)) for k in kinds]
