"""All of a comparison on one page of HTML, which needs neither a network nor another file.

Tables and pictures are those of the other modules here, curves are drawn by Plotly, whose
JavaScript is in the page. What a run folder lacks is missing in the page with a sentence why; runs
that are not comparable are refused.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd
import yaml
from PIL import Image
from plotly.offline import get_plotlyjs

from posematch.data.pictures import MOST_PIXELS
from posematch.errors import PosematchError
from posematch.files import write_output
from posematch.metrics.columns import to_percent
from posematch.reports.ablation import DECIMALS, ablation
from posematch.reports.calibrated import calibration_section
from posematch.reports.curves import curves_of
from posematch.reports.groups import (
    OVER_SEEDS,
    by_loss,
    recipe_line,
    seeds_of,
    with_limits,
)
from posematch.reports.panels import panel
from posematch.reports.qualitative import (
    KINDS,
    Pair,
    choose,
    compactness_intervals,
    crop_reader,
    read_pair,
    summary,
)
from posematch.reports.report_plots import (
    against_plots,
    loss_plots,
    metric_plots,
    theorem_plots,
)
from posematch.reports.report_tables import (
    Cell,
    Table,
    configuration_table,
    consistency_table,
    cross_table,
    differences_table,
    environments,
    error_tables,
    joints_table,
    results_table,
    theorem_table,
)
from posematch.reports.theorem import theorem_of
from posematch.runs.contents import read_epochs
from posematch.runs.finished import Run
from posematch.untrusted import MIB, in_memory, own_file

CONTENTS = {
    "results": "Results",
    "errors": "Errors",
    "calibration": "Calibration of scores",
    "curves": "Loss and metric",
    "theorem": "Theorem 1",
    "pictures": "Predictions",
    "configuration": "Configuration",
    "environment": "Environment",
    "runs": "Runs",
}
_KINDS = {
    "gains": "Where {b} gains most over {a}",
    "losses": "Where {b} loses most against {a}",
    "failures": "Worst failures of {b}",
}
_COMPACTNESS = {
    "mass_within_2px": "mass within 2 px of the peak",
    "mass_within_2px_of_truth": "mass within 2 px of the truth",
    "spread_px": "spread of the mass, px",
}
_MOST_PICTURE_BYTES = 64 * MIB
_PICTURE_QUALITY = 85  # of WebP; photos, maps and lines stay clear, a tenth of the PNG's size


@dataclass(frozen=True)
class ReportSettings:
    """What a report shows.

    Attributes
    ----------
    title
        The page's.
    baseline
        Training loss that the others are compared with; None: ``gaussian_mse`` where there is one,
        else the first.
    first, last
        Epochs of loss against metric, counted from 1, both included.
    draws
        Resamplings of the photos, for the intervals.
    joints
        Columns of each figure of heatmaps; 0: no such figures.
    near
        See `posematch.reports.qualitative.choose`.
    data_root
        Folder of the data set, whose photos the figures show; None: no photos. Where the runs
        found them is not looked at.
    """

    title: str = "posematch"
    baseline: str | None = None
    first: int = 2
    last: int = 15
    draws: int = 2000
    joints: int = 4
    near: float | None = None
    data_root: Path | None = None


@dataclass(frozen=True)
class Picture:
    """An image of the page; ``source`` is a data URI, the size in its own pixels."""

    title: str
    alt: str
    source: str
    width: int
    height: int


def write_report(runs: Sequence[Run], output: Path, settings: ReportSettings) -> Path:
    """Write the page in one piece.

    Parameters
    ----------
    runs
        Comparable ones, one per loss and seed.
    output
        The html file; links to run folders are relative to where it lies.
    settings
        What it shows.

    Raises
    ------
    PosematchError
        Runs are not comparable, there is no run of the baseline, or the file cannot be written.
    """
    return write_output(output, page(runs, output.parent, settings))


def page(runs: Sequence[Run], folder: Path, settings: ReportSettings) -> str:
    """The page as text; ``folder`` is where it will lie."""
    groups = by_loss(runs)
    everybody = [run for group in groups.values() for run in group]
    metric = everybody[0].metric
    baseline = settings.baseline
    if baseline is None:
        baseline = "gaussian_mse" if "gaussian_mse" in groups else next(iter(groups))
    table = ablation(everybody, baseline, draws=settings.draws)
    curves, no_curves = _or_why(curves_of, everybody, settings.first, settings.last)
    theorem, no_theorem = _or_why(theorem_of, everybody)
    calibration, no_calibration = _or_why(calibration_section, groups, settings.draws)
    files = {"ablation.csv": table.frame()}
    of_metric = metric_plots(groups, metric)
    plots = list(of_metric)
    shown_curves, shown_theorem = None, None
    if curves is not None:
        of_losses, against = loss_plots(curves), against_plots(curves)
        plots += [*of_losses, *against]
        files |= {"loss_curves.csv": curves.series, "consistency.csv": curves.table}
        shown_curves = {
            "first": int(curves.series["epoch"].min()),
            "last": int(curves.series["epoch"].max()),
            "loss_plots": of_losses,
            "against_plots": against,
            "consistency": consistency_table(curves),
            "cross": cross_table(curves),
        }
    if theorem is not None:
        of_theorem = theorem_plots(theorem)
        plots += of_theorem
        files["theorem.csv"] = theorem.terms
        shown_theorem = {"plots": of_theorem, "table": theorem_table(theorem)}
    if calibration is not None:
        plots += calibration.plots
    common, different = environments(everybody)
    return _template().render(
        title=settings.title,
        contents=CONTENTS.items(),
        recipe=f"{recipe_line(everybody[0])}; "
        + ", ".join(f"{loss} ({seeds_of(group)})" for loss, group in groups.items()),
        protocol=f"{metric}: {everybody[0].result['protocol']}.",
        metric=metric,
        baseline=baseline,
        results=results_table(table),
        differences=differences_table(table),
        under_results=table.protocol,
        files=[_file(name, frame) for name, frame in files.items()],
        zoom_help="Drag to zoom into a plot and double-click to see it whole again; on a touch"
        " screen, use the buttons above it. A tap on a name in the legend hides it.",
        metric_plots=of_metric,
        joints=joints_table(groups),
        errors=error_tables(groups),
        calibration=calibration,
        calibration_absent=no_calibration,
        over_seeds=OVER_SEEDS,
        curves=shown_curves,
        curves_absent=no_curves,
        theorem=shown_theorem,
        theorem_absent=no_theorem,
        pairs=_pairs(groups, baseline, settings),
        pictures=_pictures(groups),
        configuration=configuration_table(groups),
        config_of=everybody[0].folder.path.name,
        config_text=yaml.safe_dump(everybody[0].config, sort_keys=False, allow_unicode=True),
        environment=common,
        environments=different,
        runs=[_run(run, folder) for run in everybody],
        plots={plot.name: plot.spec for plot in plots},
        plotly=get_plotlyjs(),
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("posematch.reports"),
        autoescape=True,  # names and texts of run folders may come from strangers
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html")


def _or_why(make: Any, *arguments: Any) -> tuple[Any, str]:
    """What is made, or None and the sentence that says why it is not."""
    try:
        return make(*arguments), ""
    except PosematchError as error:
        return None, str(error)


def _pairs(
    groups: Mapping[str, Sequence[Run]], baseline: str, settings: ReportSettings
) -> list[dict[str, Any]]:
    """The baseline against each other loss, at a seed that both have, or at their first."""
    if settings.joints == 0:
        return []
    found = []
    for loss in (one for one in groups if one != baseline):
        seeds = {run.seed: run for run in groups[baseline]}
        b = next((run for run in groups[loss] if run.seed in seeds), groups[loss][0])
        a = seeds.get(b.seed, groups[baseline][0])
        pair, why = _or_why(read_pair, a, b)
        shown: dict[str, Any] = {"title": f"{loss} against {baseline}", "absent": why}
        if pair is not None:
            shown |= _shown_pair(pair, settings)
        found.append(shown)
    return found


def _shown_pair(pair: Pair, settings: ReportSettings) -> dict[str, Any]:
    names = {"a": f"{pair.a.loss}, seed {pair.a.seed}", "b": f"{pair.b.loss}, seed {pair.b.seed}"}
    figures = summary(pair)
    crop = crop_reader(pair, settings.data_root)
    pictures = []
    for kind in KINDS:
        chosen = choose(pair, kind, settings.joints, settings.near)
        if len(chosen):
            title = _KINDS[kind].format(**names)
            joints = ", ".join(str(one).replace("_", " ") for one in chosen["joint"])
            pictures.append(_png(panel(pair, chosen, crop), title, f"{title}: {joints}"))
    compact = compactness_intervals(pair)
    rows: list[list[str | Cell]] = []
    for place, one in enumerate("ab"):
        limits = (of[place] for of in compact.values())
        told = (with_limits(c.value, c.low, c.high, decimals=2) for c in limits)
        rows.append([names[one], f"{figures[f'median_error_{one}']:.3f}", *told])
    if compact:
        gain = figures["median_error_b"] - figures["median_error_a"]
        limits = (of[2] for of in compact.values())
        told = (with_limits(c.value, c.low, c.high, decimals=2, sign=True) for c in limits)
        rows.append(["difference", f"{gain:+.3f}", *told])
    headings = ["run", f"median error, {pair.unit}", *(_COMPACTNESS[name] for name in compact)]
    return {
        "sentence": f"Of {figures['joints']:.0f} labelled joints {names['b']} is nearer to the"
        f" truth in {figures['b_nearer']:.1%}. The figures show extremes: cross: truth, ring:"
        " decoded joint, coordinates in photo pixels, each map scaled to its own peak. Brackets"
        " in the table: 95 % intervals over photos.",
        "compactness": Table(
            f"table-compactness-{pair.b.loss}", f"Maps of {names['a']} and {names['b']}",
            headings, rows,
        ),
        "pictures": pictures,
    }  # fmt: skip


def _pictures(groups: Mapping[str, Sequence[Run]]) -> list[Picture]:
    """The last picture that the first run of each loss wrote."""
    found = []
    for loss, runs in groups.items():
        run_folder = runs[0].folder.path
        figures = own_file(run_folder, run_folder / "figures")
        files = sorted(figures.glob("epoch=[0-9][0-9][0-9].png"))
        if files:
            epoch = int(files[-1].stem.removeprefix("epoch=")) + 1
            own_file(run_folder, files[-1])
            title = f"{loss}, seed {runs[0].seed}, epoch {epoch}"
            alt = f"{title}: true skeletons, predicted heatmaps, predicted skeletons"
            found.append(_webp(files[-1], title, alt))
    return found


def _png(content: bytes, title: str, alt: str) -> Picture:
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
    return Picture(title, alt, _data_uri("image/png", content), width, height)


def _webp(file: Path, title: str, alt: str) -> Picture:
    buffer = io.BytesIO()
    try:
        with Image.open(in_memory(file, _MOST_PICTURE_BYTES), formats=["PNG"]) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise ValueError(f"{width} x {height} pixels")
            image.convert("RGB").save(buffer, format="WEBP", quality=_PICTURE_QUALITY)
    # Besides its own errors, what zlib and struct say of a damaged file.
    except Exception as error:
        if isinstance(error, PosematchError):
            raise
        raise PosematchError(f"{file} is not a readable picture ({error}).") from error
    return Picture(title, alt, _data_uri("image/webp", buffer.getvalue()), width, height)


def _file(name: str, frame: pd.DataFrame) -> dict[str, str]:
    """A csv that the page holds, the same as the script of its table writes."""
    return {"name": name, "source": _data_uri("text/csv", frame.to_csv(index=False).encode())}


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _run(run: Run, folder: Path) -> dict[str, Any]:
    minutes = "-"
    if os.path.lexists(run.folder.timing):
        timing = read_epochs(own_file(run.folder.path, run.folder.timing))
        seconds = float(timing.filter(like="_seconds").to_numpy().sum())
        minutes = f"{seconds / 60:.1f}"
    percent = to_percent(run.metric)
    files = (run.folder.config, run.folder.environment, run.folder.metrics, run.folder.result)
    return {
        "name": run.folder.path.name,
        # A name may hold what means something in an address.
        "folder": quote(
            os.path.relpath(run.folder.path.resolve(), folder.resolve()).replace(os.sep, "/")
        ),
        "loss": run.loss,
        "seed": run.seed,
        "figure": f"{percent * run.figures[run.metric]:.{DECIMALS}f}",
        "minutes": minutes,
        "files": [file.name for file in files if file.exists()],
    }
