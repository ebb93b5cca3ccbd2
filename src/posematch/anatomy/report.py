"""`posematch.anatomy.analysis` as files: pictures, films, tables and a page about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from posematch.anatomy.analysis import (
    FLOOR,
    NEAR_PX,
    SIZE,
    Film,
    Scene,
    descend,
    matching_variants,
    numbers_table,
    scenes,
)
from posematch.anatomy.pictures import (
    error_curves,
    film_gif,
    film_table,
    gradient_grid,
)
from posematch.app.settings import nearest
from posematch.errors import PosematchError
from posematch.files import write_output
from posematch.losses import HeatmapLoss


def chosen_losses(known: Sequence[str], only: Any) -> list[str]:
    """The names in ``only``, or all.

    Raises
    ------
    PosematchError
        It is no list of known names.
    """
    if only is None:
        return list(known)
    names = [only] if isinstance(only, str) else list(only)
    for name in names:
        if name not in known:
            raise PosematchError(f"only={name} is no loss here{nearest(str(name), known)}.")
    return names


def write_anatomy(
    losses: Mapping[str, HeatmapLoss], output: Path, film: tuple[int, int, float] | None
) -> list[Path]:
    """Write everything.

    Parameters
    ----------
    losses
        By name.
    output
        Folder; made if need be.
    film
        (steps, steps between frames, Adam's rate); None: no films.

    Returns
    -------
    The files: gradients_<scene>.png, matching_<scene>.png (its choices), numbers.csv, and with
    films film_<scene>.gif, films.png, films.csv; loss_anatomy.md last.
    """
    files: list[Path] = []

    def write(name: str, content: bytes) -> None:
        files.append(output / name)
        write_output(files[-1], content)

    of, variants = scenes(), matching_variants()
    for scene in tqdm(of, desc="gradients", leave=False, disable=None):
        write(f"gradients_{scene.name}.png", gradient_grid(scene, losses))
        write(f"matching_{scene.name}.png", gradient_grid(scene, variants))
    table = pd.concat(
        [
            numbers_table(losses, of).assign(of="loss"),
            numbers_table(variants, of).assign(of="matching"),
        ],
        ignore_index=True,
    )
    write("numbers.csv", table.to_csv(index=False, float_format="%.6g").encode())
    films: dict[str, Film] = {}
    if film is not None:
        named = {**losses, **{f"matching, {name}": one for name, one in variants.items()}}
        bar = tqdm(named.items(), desc="films", leave=False, disable=None)
        films = {name: descend(loss, of, *film) for name, loss in bar}
        for number, scene in enumerate(of):
            own = {name: films[name] for name in losses}
            write(f"film_{scene.name}.gif", film_gif(own, number, scene))
        write("films.png", error_curves({name: films[name] for name in losses}, of))
        write("films.csv", film_table(films, of).to_csv(index=False, float_format="%.6g").encode())
    write("loss_anatomy.md", _markdown(table, of, films, film).encode())
    return files


def _markdown(
    table: pd.DataFrame,
    of: Sequence[Scene],
    films: Mapping[str, Film],
    film: tuple[int, int, float] | None,
) -> str:
    lines = [
        "# What each loss does to one heatmap",
        "",
        f"Drawn maps of {SIZE[0]} x {SIZE[1]} pixels with a faint ripple, as trained maps have."
        " Losses that read their map through a softmax get the map whose mass is the drawn one (no"
        f" pixel below {FLOOR:g} of the mean), so that all start from the same distribution.",
        "",
        "In the pictures red pixels are raised by a step of gradient descent, blue ones lowered,"
        " white ones left alone; scales differ and are printed, as optimizers like Adam undo them."
        " Numbers are rates for a step of length 1 in the map's values: change of the share of mass"
        f" within {NEAR_PX:g} px of the dot (near) and of the far peak (far), and change of the"
        " mass's mean distance from the dot. Of raw maps the mass is the positive part.",
    ]
    for number, scene in enumerate(of):
        lines += ["", f"## {scene.title[0].upper()}{scene.title[1:]}", ""]
        lines += [f"![gradients](gradients_{scene.name}.png)", ""]
        lines += _table(table, "loss", scene, number, films)
        if films:
            lines += ["", f"![a free heatmap under each loss](film_{scene.name}.gif)"]
        lines += ["", "The matching loss, one choice changed at a time:", ""]
        lines += [f"![choices of the matching loss](matching_{scene.name}.png)", ""]
        lines += _table(table, "matching", scene, number, films)
    if film is not None:
        steps, _, rate = film
        lines += ["", "## Free heatmaps", "", "![error by step](films.png)", ""]
        lines.append(
            f"Adam, {steps} steps at rate {rate:g}, on the pixels themselves; the error is that of"
            " each loss's own decoder (quarter offset cannot do better than its quarter pixels)."
        )
    return "\n".join(lines) + "\n"


def _table(
    table: pd.DataFrame, of: str, scene: Scene, number: int, films: Mapping[str, Film]
) -> list[str]:
    head = ["", "zero gradient", "near", "far", "mean distance, px", "sub-pixel, px"]
    if films:
        head.append("error after the film, px")
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    rows = table[(table["of"] == of) & (table["scene"] == scene.name)]
    for row in rows.to_dict("records"):
        cells = [
            str(row["name"]),
            f"{row['zero_gradient_share']:.0%}",
            f"{row['near_rate']:+.3f}",
            "" if pd.isna(row["far_rate"]) else f"{row['far_rate']:+.3f}",
            f"{row['distance_rate_px']:+.3f}",
            f"{row['sub_pixel_rate_px']:+.3f}",
        ]
        if films:
            name = row["name"] if of == "loss" else f"matching, {row['name']}"
            cells.append(f"{films[name].error_px[-1, number]:.3f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines
