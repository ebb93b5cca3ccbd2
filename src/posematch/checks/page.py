"""The findings as one page of HTML, which needs neither a network nor another file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from plotly.offline import get_plotlyjs

from posematch.checks.checking import Checked
from posematch.checks.findings import KINDS, Finding
from posematch.checks.pictures import contact_sheet, examples_panel
from posematch.checks.plots import label_plots
from posematch.console import printable
from posematch.data.datamodule import PoseDataModule
from posematch.files import write_output
from posematch.reports.report import Picture
from posematch.reports.report_tables import Table

CONTENTS = {"findings": "Findings", "labels": "Labels", "crops": "Crops"}
_QUALITY = 85  # of WebP


def write_page(
    checked: Checked, module: PoseDataModule, name: str, sigma: float, output: Path
) -> Path:
    """Write the page in one piece.

    Parameters
    ----------
    checked
        What was found.
    module
        Says how crops are cut and augmented.
    name
        Of the data set.
    sigma
        Of the Gaussian target, in heatmap pixels.
    output
        The html file.

    Raises
    ------
    PosematchError
        It cannot be written.
    """
    plots = label_plots(checked.splits)
    errors, warnings = checked.count("error"), checked.count("warning")
    people = sum(len(split) for split in checked.splits)
    text = _template().render(
        title=f"{name}: check of the data",
        lede=f"{people} people in {checked.photos} photos: {_number(errors, 'kind')} of errors,"
        f" {_number(warnings, 'kind')} of warnings.",
        readings=[
            f"{split.name}: {split.people.report.sentence()}."
            for split in checked.splits
            if split.people.report is not None
        ],
        looked=f"Of {checked.photos} photos the header and the end were read, and"
        f" {checked.decoded} were decoded whole.",
        contents=CONTENTS.items(),
        summary=_summary(checked.findings),
        findings=[
            _shown(number, finding, checked) for number, finding in enumerate(checked.findings)
        ],
        plot_list=plots,
        sheets=_sheets(checked, module, sigma),
        plots={plot.name: plot.spec for plot in plots},
        plotly=get_plotlyjs(),
    )
    return write_output(output, text)


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("posematch.reports"),
        autoescape=True,  # names and texts of annotations may come from strangers
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("check.html")


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _heading(finding: Finding) -> str:
    told = KINDS[finding.kind].title
    if finding.kind in ("left_out", "repaired", "suspicious") or finding.detail:
        told += f": {finding.detail}"
    of = f" of {finding.of}" if finding.of else ""
    return printable(f"{finding.split}: {finding.count}{of} {told}")


def _summary(findings: Sequence[Finding]) -> Table:
    rows = [[one.severity, one.split, str(one.count), _what(one)] for one in findings]
    return Table("table-findings", "Findings", ["", "split", "count", "what"], rows)


def _what(finding: Finding) -> str:
    detail = f": {finding.detail}" if finding.detail else ""
    return printable(f"{KINDS[finding.kind].title}{detail}")


def _shown(number: int, finding: Finding, checked: Checked) -> dict[str, Any]:
    split = next(one for one in checked.splits if one.name == finding.split)
    panel = examples_panel(split, finding) if finding.severity != "note" else None
    picture = None
    if panel is not None:
        title = "The worst" if finding.count > len(finding.examples) else "All of them"
        picture = _webp(panel[0], title, printable(panel[1]))
    headings = ["person", "file", "what"]
    rows = [
        [
            "-" if one.person_id is None else str(one.person_id),
            printable(Path(one.file).name),
            printable(one.said),
        ]
        for one in finding.examples
    ]
    return {
        "severity": finding.severity,
        "heading": _heading(finding),
        "meaning": KINDS[finding.kind].meaning,
        "picture": picture,
        "examples": Table(f"table-finding-{number}", _heading(finding), headings, rows),
    }


def _sheets(checked: Checked, module: PoseDataModule, sigma: float) -> list[Picture]:
    split = next((one for one in checked.splits if len(one)), None)
    if split is None:
        return []
    found = []
    for augmented, title in ((False, "As they are"), (True, "With training’s augmentation")):
        sheet = contact_sheet(module, split.people, sigma, augmented)
        if sheet is not None:
            alt = f"{title}: crops with skeletons, and the targets of two losses"
            found.append(_webp(sheet, f"{split.name}: {title.lower()}", alt))
    return found


def _webp(pixels: NDArray[np.uint8], title: str, alt: str) -> Picture:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="WEBP", quality=_QUALITY)
    source = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    height, width = pixels.shape[:2]
    return Picture(title, alt, source, width, height)
