"""The report's section: what a calibration would change, for each loss."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from posematch.calibration.calibrating import calibrate_table
from posematch.calibration.measuring import ERROR
from posematch.reports.report import ReportSettings, page
from posematch.runs.finished import read_run

RUNS = Path(__file__).resolve().parents[1] / "golden" / "runs"


@pytest.mark.parametrize("data", ["", "coco-"], ids=["PCKh", "AP"])
def test_it_shows_what_calibrate_prints(data):
    runs = [read_run(RUNS / f"{data}{loss}-0") for loss in ("gaussian_mse", "matching")]
    made = page(runs, RUNS, ReportSettings(draws=100, joints=0))
    section = re.search(r'<section id="calibration">.*?</section>', made, re.DOTALL).group()
    plots = json.loads(re.search(r'id="plots">(.*?)</script>', made, re.DOTALL).group(1))
    for number, run in enumerate(runs):
        found = calibrate_table(run.last_predictions, (64, 64), "x", 3, draws=100)
        before, after, _ = found.reliability.figures[ERROR]
        for one in (before, after):
            assert f"<td>{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]</td>" in section
        assert (found.average_precision is not None) == (data == "coco-")
        lines = plots[f"reliability-{number}"]["data"]
        assert lines[0]["x"] == pytest.approx(list(found.reliability.bins_before["score"]))
        assert len(lines) == 1 + 5 + 1
    assert found.record.meaning in section
    assert ("AP before" in section) == (data == "coco-")
    # The scores as they are decoded stay in their own table.
    assert 'id="table-reliability-of-scores"' in made
