"""The pictures of `posematch.reports.qualitative`: a column per joint, as in the paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from posematch.files import write_output
from posematch.plots import DOT_COLOUR, MAP_COLOURS, figure_bytes, mark_dot, outline
from posematch.reports.qualitative import (
    KINDS,
    WORST_SHARE,
    Pair,
    choices_table,
    choose,
    compactness_intervals,
    summary,
)
from posematch.skeletons import SKELETONS

# Beside the dot's; truth and decoded joint are told apart by shape as well.
DECODED, BONE = "#ffffff", "#9a9a9a"
_COLUMN_IN, _LABEL_IN, _TEXT_IN, _HEAD_IN, _FOOT_IN = 1.9, 0.62, 0.47, 0.52, 0.34
_COMPACTNESS = {
    "mass_within_2px": "share of the mass within 2 px of the highest pixel",
    "mass_within_2px_of_truth": "share of the mass within 2 px of the truth",
    "spread_px": "root mean square distance of the mass from its barycentre",
}
_TITLES = {
    "gains": "Where {b} gains most over {a}",
    "losses": "Where {b} loses most against {a}",
    "failures": "Worst failures of {b}",
}


def write_figures(
    pair: Pair,
    output: Path,
    number: int,
    near: float | None = None,
    crop: Callable[[int], NDArray[np.uint8]] | None = None,
) -> list[Path]:
    """Write gains.png, losses.png, failures.png, choices.csv and qualitative.md.

    Parameters
    ----------
    pair, crop
        See `panel`.
    output
        Folder; made if need be.
    number, near
        See `posematch.reports.qualitative.choose`.

    Returns
    -------
    The files; a figure without a joint to show is not written.
    """
    chosen = {kind: choose(pair, kind, number, near) for kind in KINDS}
    files = []
    for kind, joints in chosen.items():
        if len(joints):
            files.append(output / f"{kind}.png")
            write_output(files[-1], panel(pair, joints, crop))
    table = choices_table(pair, chosen)
    files.append(output / "choices.csv")
    write_output(files[-1], table.to_csv(index=False, float_format="%.6g"))
    files.append(output / "qualitative.md")
    write_output(files[-1], _markdown(pair, chosen, near))
    return files


def _markdown(pair: Pair, chosen: Mapping[str, pd.DataFrame], near: float | None) -> str:
    names = {
        which: f"{run.loss} (run {which}, seed {run.seed})"
        for which, run in (("a", pair.a), ("b", pair.b))
    }
    all_of = summary(pair)
    lines = [
        f"# {names['b']} against {names['a']}",
        "",
        f"Of {all_of['joints']:.0f} labelled joints {names['b']} is nearer to the truth in"
        f" {all_of['b_nearer']:.1%}; median errors are {all_of['median_error_b']:.3f} and"
        f" {all_of['median_error_a']:.3f} {pair.unit}. The figures below show extremes: joints of"
        f" {len(pair.maps_a.person_id)} people whose maps the runs keep"
        f" ({all_of['drawable']:.0f} joints), at most one of each person.",
    ]
    if pair.tells_occlusion:
        lines += [
            "",
            f"Occluded are {all_of['occluded']:.1%} of all joints, and"
            f" {all_of['occluded_of_worst']:.1%} of the {WORST_SHARE:.0%} with the largest errors"
            f" of {names['b']}.",
        ]
    else:
        lines += ["", "The annotation does not tell which joints are occluded."]
    compact = compactness_intervals(pair)
    if compact:
        lines += [
            "",
            f"| heatmaps, heatmap pixels | {names['a']} | {names['b']} | difference |",
            "|---|---|---|---|",
            *(
                f"| {_COMPACTNESS[name]} | {a.value:.3f} | {b.value:.3f} | {between.value:+.3f}"
                f" ({between.low:+.3f} to {between.high:+.3f}) |"
                for name, (a, b, between) in compact.items()
            ),
            "",
            "Of the positive part of the maps that are decoded, over all labelled joints; in"
            " brackets the 95 % interval, paired by photo (of these two trainings, not of seeds).",
        ]
    for kind, joints in chosen.items():
        title = _TITLES[kind].format(a=names["a"], b=names["b"])
        lines += ["", f"## {title}", ""]
        if not len(joints):
            lines.append("None.")
            continue
        only = ""
        if near is not None and kind != "failures":
            only = f" Only joints that both miss by less than {near:g} {pair.unit}."
        lines += [
            f"![{title}]({kind}.png)",
            "",
            f"Colours ({MAP_COLOURS}) run from 0 to each map's own peak. Cross: truth; ring:"
            f" decoded joint; coordinates in photo pixels, errors in {pair.unit}.{only}",
        ]
    return "\n".join(lines) + "\n"


def panel(
    pair: Pair, chosen: pd.DataFrame, crop: Callable[[int], NDArray[np.uint8]] | None = None
) -> bytes:
    """One figure as png.

    Rows: the photo's crop (where there are photos), what a predicts, what b predicts, the truth;
    with the joint's coordinates in photo pixels. Each map is scaled to its own peak.

    Parameters
    ----------
    pair
        The runs.
    chosen
        From `posematch.reports.qualitative.choose`; at least one row.
    crop
        From `posematch.reports.qualitative.crop_reader`.
    """
    rows = [*(["photo"] if crop else []), "a", "b", "truth"]
    map_h, map_w = pair.frames[1]
    cell = (_COLUMN_IN, _COLUMN_IN * map_h / map_w)
    width = _LABEL_IN + len(chosen) * (cell[0] + 0.08)
    width = max(width, _LABEL_IN + 3 * cell[0])
    heights = [cell[1] + (0.06 if row == "photo" else _TEXT_IN) for row in rows]
    height = _HEAD_IN + sum(heights) + _FOOT_IN
    figure = Figure(figsize=(width, height), facecolor="white")
    top = height - _HEAD_IN
    for row, row_height in zip(rows, heights, strict=True):
        bottom = top - cell[1]
        middle = (bottom + cell[1] / 2) / height
        figure.text(
            0.5 * _LABEL_IN / width, middle, _label(pair, row), rotation=90, ha="center",
            va="center", fontsize=9, linespacing=1.3,
        )  # fmt: skip
        for column, joint in enumerate(chosen.itertuples()):
            left = _LABEL_IN + column * (cell[0] + 0.08)
            axes = figure.add_axes(
                (left / width, bottom / height, cell[0] / width, cell[1] / height)
            )
            _draw(axes, pair, joint, row, crop)
            figure.text(
                (left + cell[0] / 2) / width, (bottom - 0.06) / height, _words(pair, joint, row),
                ha="center", va="top", fontsize=8, linespacing=1.3,
            )  # fmt: skip
            if row == rows[0]:
                figure.text(
                    (left + cell[0] / 2) / width, (top + 0.07) / height, _heading(pair, joint),
                    ha="center", va="bottom", fontsize=9, linespacing=1.25,
                )  # fmt: skip
        top -= row_height
    _key(figure, (_LABEL_IN / width, 0.5 * _FOOT_IN / height), width)
    return figure_bytes(figure)


def _label(pair: Pair, row: str) -> str:
    if row in ("a", "b"):
        run = pair.a if row == "a" else pair.b
        return f"{run.loss}\n(run {row}, seed {run.seed})"
    return {"photo": "crop", "truth": "ground truth"}[row]


def _heading(pair: Pair, joint: Any) -> str:
    name = str(joint.joint).replace("_", " ")
    if not pair.tells_occlusion:
        return f"{name}\nperson {joint.person_id}"
    return f"{name}{', occluded' if joint.occluded else ''}\nperson {joint.person_id}"


def _words(pair: Pair, joint: Any, row: str) -> str:
    if row == "photo":
        return ""
    if row == "truth":
        return f"({joint.true_x:.1f}, {joint.true_y:.1f})"
    x, y, error = (getattr(joint, f"{name}_{row}") for name in ("x", "y", "error"))
    words = f"({x:.1f}, {y:.1f})  error {error:.2f}"
    if not hasattr(joint, f"spread_px_{row}"):
        return words
    near, spread = (getattr(joint, f"{name}_{row}") for name in ("mass_within_2px", "spread_px"))
    return f"{words}\nwithin 2 px {near:.0%}, spread {spread:.1f} px"


def _draw(
    axes: Any,
    pair: Pair,
    joint: Any,
    row: str,
    crop: Callable[[int], NDArray[np.uint8]] | None,
) -> None:
    """One cell, in heatmap pixels."""
    map_h, map_w = pair.frames[1]
    points = [[joint.true_x, joint.true_y], [joint.x_a, joint.y_a], [joint.x_b, joint.y_b]]
    true_hm, *decoded_hm = pair.to_heatmap(joint.person_id, np.array(points))
    if row == "photo":
        assert crop is not None
        photo = crop(joint.person_id)
        axes.imshow(photo, extent=_extent(pair), interpolation="bilinear")
    elif row == "truth":
        axes.imshow(_dot(true_hm, (map_h, map_w)), cmap=MAP_COLOURS, vmin=0, vmax=1)
    else:
        heatmap = pair.map_of(row, joint.person_id, joint.joint_index)
        axes.imshow(heatmap, cmap=MAP_COLOURS, vmin=0, vmax=max(float(heatmap.max()), 1e-12))
    _bones(axes, pair, joint.person_id, on_photo=row == "photo")
    if row != "truth":
        mark_dot(axes, true_hm)
    for which, place in zip("ab", decoded_hm, strict=True):
        if row == which:
            _ring(axes, place)
        elif row == "photo":
            axes.text(*place, which, color=DECODED, fontsize=8, ha="center", va="center",
                      path_effects=outline(), clip_on=True)  # fmt: skip
    axes.set(xlim=(-0.5, map_w - 0.5), ylim=(map_h - 0.5, -0.5), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color="0.7", linewidth=0.6)


def _extent(pair: Pair) -> tuple[float, float, float, float]:
    """Where a crop's outer edges lie in the heatmap's frame: left, right, bottom, top."""
    (height, width), (map_h, map_w) = pair.frames
    if pair.a.config["data"].get("convention", "hrnet") == "hrnet":
        x, y = map_w / width, map_h / height
    else:
        x, y = (map_w - 1) / (width - 1), (map_h - 1) / (height - 1)
    return -0.5 * x, (width - 0.5) * x, (height - 0.5) * y, -0.5 * y


def _dot(dot_hm: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """The dot-annotated heatmap: bilinear masses on the four pixels around the dot, scaled to 1."""
    x, y = np.arange(size[1]) - dot_hm[0], np.arange(size[0]) - dot_hm[1]
    mass = np.outer((1 - abs(y)).clip(0), (1 - abs(x)).clip(0))
    return np.asarray(mass / max(mass.max(), 1e-12))


def _bones(axes: Any, pair: Pair, person_id: int, on_photo: bool) -> None:
    """The true skeleton, thin, so that a map without its photo tells where it lies."""
    joints = tuple(pair.joint_names)
    limbs = next((one.limbs for one in SKELETONS.values() if one.joints == joints), ())
    table = pair.joints[pair.joints["person_id"] == person_id].set_index("joint_index")
    places = pair.to_heatmap(person_id, table[["true_x", "true_y"]].to_numpy(np.float64))
    by_index = dict(zip(table.index.tolist(), places, strict=True))
    for one, other in limbs:
        if one in by_index and other in by_index:
            x, y = zip(by_index[one], by_index[other], strict=True)
            axes.plot(x, y, color=DOT_COLOUR if on_photo else BONE, lw=0.9, alpha=0.75)


def _ring(axes: Any, place: NDArray[np.float64]) -> None:
    axes.plot(*place, marker="o", ms=8, mew=1.2, mfc="none", mec=DECODED, path_effects=outline())


def _key(figure: Figure, place: tuple[float, float], width_in: float) -> None:
    """What the marks and the colours mean, in a line below."""
    left, middle = place
    axes = figure.add_axes((left, middle - 0.01, 0.9 / width_in, 0.02))
    axes.imshow(np.linspace(0, 1, 64)[None], cmap=MAP_COLOURS, aspect="auto")
    axes.set_axis_off()
    # In the words of the caption below the figure; the marks are drawn, not described.
    text = f"0 to its peak, each map ({MAP_COLOURS})"
    figure.text(left + 0.97 / width_in, middle, text, fontsize=7.5, va="center")
    marks = figure.add_axes((left + 3.0 / width_in, middle - 0.02, 2.2 / width_in, 0.04))
    marks.set(xlim=(0, 2.2), ylim=(-1, 1))
    marks.set_axis_off()
    mark_dot(marks, (0.1, 0), size=8)
    marks.text(0.22, 0, "truth", fontsize=7.5, va="center")
    marks.plot(0.72, 0, marker="o", ms=6, mew=1.2, mfc="none", mec=DECODED,
               path_effects=outline())  # fmt: skip
    marks.text(0.84, 0, "decoded", fontsize=7.5, va="center")
    marks.plot([1.42, 1.6], [0, 0], color=BONE, lw=1)
    marks.text(1.66, 0, "true limbs", fontsize=7.5, va="center")
