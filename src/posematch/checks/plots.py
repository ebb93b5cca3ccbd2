"""Plots of the labels, in the page's colours: see `posematch.reports.report_plots`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from posematch.checks.split import Floats, Split
from posematch.reports.report_plots import Plot

_MOST_DOTS = 3000
_BINS = 30
_SIDES = {"left": "series-4", "right": "series-1", "middle": "series-7"}
_OF_SPLITS = ("series-0", "series-1")


def label_plots(splits: Sequence[Split]) -> list[Plot]:
    """How often joints are labelled, how large people are, where joints lie in their boxes."""
    return [_shares(splits), _sizes(splits), *(_places(split) for split in splits if len(split))]


def _shares(splits: Sequence[Split]) -> Plot:
    data = [
        {
            "type": "bar", "name": split.name, "meta": colour, "orientation": "h",
            "y": [joint.replace("_", " ") for joint in split.skeleton.joints],
            "x": split.labelled.mean(axis=0).round(4).tolist(),
        }
        for split, colour in zip(splits, _OF_SPLITS, strict=False) if len(split)
    ]  # fmt: skip
    layout = _layout("share of the people", "")
    layout["yaxis"] |= {"autorange": "reversed", "dtick": 1}
    layout["xaxis"] |= {"range": [0, 1]}
    return Plot(
        "shares", "How often each joint is labelled", {"data": data, "layout": layout}, True
    )


def _sizes(splits: Sequence[Split]) -> Plot:
    sizes = [np.sqrt(np.maximum(split.boxes_img[:, 2:].prod(axis=1), 1.0)) for split in splits]
    whole = np.concatenate([*sizes, np.ones(1)])
    low, high = float(max(whole.min(), 1.0)), float(max(whole.max(), 2.0))
    edges = np.geomspace(low, high * 1.001, _BINS + 1)
    data = []
    for split, of_split, colour in zip(splits, sizes, _OF_SPLITS, strict=False):
        counts = np.histogram(of_split, edges)[0] / max(len(of_split), 1)
        data.append(
            {
                "type": "scatter", "mode": "lines", "name": split.name, "meta": colour,
                "x": np.sqrt(edges[1:] * edges[:-1]).round(2).tolist(),
                "y": counts.round(5).tolist(), "line": {"shape": "hvh", "width": 2},
            }
        )  # fmt: skip
    layout = _layout("root of the box's area, px", "share of the people")
    layout["xaxis"] |= {"type": "log"}
    layout["yaxis"] |= {"rangemode": "tozero"}
    return Plot("sizes", "How large people are in their photos", {"data": data, "layout": layout})


def _places(split: Split) -> Plot:
    places = (split.joints_img - split.boxes_img[:, None, :2]) / np.maximum(
        split.boxes_img[:, None, 2:], 1.0
    )
    data = []
    sides = [_side(joint) for joint in split.skeleton.joints]
    for side, colour in _SIDES.items():
        joints = [k for k, one in enumerate(sides) if one == side]
        dots: Floats = places[:, joints].reshape(-1, 2)
        names = np.tile(np.array([split.skeleton.joints[k] for k in joints]), len(split))
        told = np.isfinite(dots).all(axis=1)
        dots, names = dots[told], names[told]
        step = max(1, -(-len(dots) // (_MOST_DOTS // 3)))
        if not len(dots):
            continue
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": side, "meta": colour,
                "x": dots[::step, 0].round(3).tolist(), "y": dots[::step, 1].round(3).tolist(),
                "text": names[::step].tolist(), "hoverinfo": "text",
                "marker": {"size": 4, "opacity": 0.5},
            }
        )  # fmt: skip
    layout = _layout("across the box", "down the box")
    layout["yaxis"] |= {"autorange": "reversed", "scaleanchor": "x"}
    title = f"{split.name}: where joints lie in the box, from 0 to 1"
    return Plot(f"places-{split.name}", title, {"data": data, "layout": layout}, True)


def _side(joint: str) -> str:
    lowered = joint.lower()
    return next((side for side in ("left", "right") if side in lowered), "middle")


def _layout(x: str, y: str) -> dict[str, Any]:
    return {
        "xaxis": {"title": {"text": x, "standoff": 6}, "automargin": True},
        "yaxis": {"title": {"text": y, "standoff": 10}, "automargin": True},
        "margin": {"l": 56, "r": 12, "t": 32, "b": 44},
        "legend": {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0},
        "hovermode": "closest",
        "meta": {},
    }
