"""What stands in the page; how it looks is tested in a browser."""

from __future__ import annotations

import json
import re
import shutil
from html import unescape

import numpy as np
import pandas as pd
import pytest
from folders import make_run
from report_runs import EPOCHS, LOSSES, make_comparison

from posematch.errors import PosematchError
from posematch.evaluation.files import evaluate_run
from posematch.reports.report import ReportSettings, page, write_report
from posematch.reports.report_plots import SERIES
from posematch.runs.finished import find_runs

SETTINGS = ReportSettings(draws=100, joints=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_comparison(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def made(folder):
    """The page without Plotly's code, which says everything somewhere."""
    text = page(find_runs([folder]), folder, SETTINGS)
    assert text.count("<script") == 3
    return re.sub(r"<script>/\*\*.*?</script>", "", text, count=1, flags=re.DOTALL)


def table(made, name):
    """Text of a table's cells."""
    body = re.search(rf'<table id="{name}">(.*?)</table>', made, re.DOTALL).group(1)
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[unescape(re.sub("<.*?>", "", cell)) for cell in row] for row in cells]


def test_every_section_is_there(made):
    for section in ("results", "errors", "curves", "theorem", "pictures", "configuration",
                    "environment", "runs"):  # fmt: skip
        assert f'<section id="{section}">' in made
        assert f'href="#{section}"' in made
    assert 'class="note"></p>' not in made
    # The same errors, only larger: the others gain nowhere on the baseline, so of each of them
    # losses and failures are shown; and a picture of each training.
    assert made.count("<img ") == 2 * (len(LOSSES) - 1) + len(LOSSES)


def test_errors_are_those_of_evaluate(made, folder):
    """Means over the seeds of what `evaluate run=` tells of each run."""
    runs = find_runs([folder])
    kinds = table(made, "table-kinds-of-errors")
    assert kinds[0] == ["loss", "good", "jitter", "inversion", "swap", "miss", "joints"]
    assert {row[0] for row in kinds[1:]} == {run.loss for run in runs}
    for row in kinds[1:]:
        of_loss = [evaluate_run(run.folder.path).diagnosis() for run in runs if run.loss == row[0]]
        expected = [one["kinds of errors"].set_index("joint").loc["all"] for one in of_loss]
        assert [float(cell) for cell in row[1:6]] == pytest.approx(
            np.mean([one[list(kinds[0][1:6])] for one in expected], axis=0), abs=5e-4
        )
    for name in ("distances-in-sizes-of-the-person", "reliability-of-scores"):
        assert len(table(made, f"table-{name}")) > len({run.loss for run in runs})


def test_it_names_no_address_of_another_machine(made):
    """What it shows is in it: no source, style or script from elsewhere."""
    assert re.findall(r"(?:src|href)=[\"'](?:https?:)?//", made) == []
    assert "url(" not in made
    assert "@import" not in made


def test_curves_are_the_runs_metrics(made, folder):
    plots = json.loads(re.search(r'id="plots">(.*?)</script>', made, re.DOTALL).group(1))
    assert len(plots) == 1 + 3 * len(LOSSES)
    csv = pd.read_csv(folder / "dot_mse_2" / "metrics.csv")
    by_name = {one["name"]: one for one in plots["metric"]["data"]}
    assert by_name["dot_mse, seed 2"]["x"] == list(range(1, EPOCHS + 1))
    assert by_name["dot_mse, seed 2"]["y"] == pytest.approx(list(csv["val/PCKh@0.5"]))
    other = pd.read_csv(folder / "dot_mse_1" / "metrics.csv")
    mean = (csv["val/PCKh@0.5"] + other["val/PCKh@0.5"]) / 2
    assert by_name["dot_mse"]["y"] == pytest.approx(list(mean))
    own = {one["name"]: one for one in plots["loss-1"]["data"]}
    assert own["dot_mse, seed 1"]["x"] == [2, 3, 4, 5]  # the paper begins with epoch 2
    assert own["dot_mse, seed 1"]["y"] == pytest.approx(list(other["val/loss/dot_mse"])[1:])


def test_the_style_sheet_has_every_colour_that_plots_name(made):
    plots = json.loads(re.search(r'id="plots">(.*?)</script>', made, re.DOTALL).group(1))
    asked = {str(trace["meta"]) for spec in plots.values() for trace in spec["data"]}
    asked |= {str(c) for spec in plots.values() for c in spec["layout"]["meta"].values()}
    asked |= {f"series-{number}" for number in range(SERIES)}
    assert asked >= {"loss", "metric"}
    for colour in asked:  # light, and dark
        assert made.count(f"--{colour}: #") == 2


def test_a_loss_that_falls_in_step_with_a_rising_metric_is_consistent(made):
    """By hand: losses fall and PCKh rises in every step."""
    rows = table(made, "table-consistency")
    assert [row[0] for row in rows[1:]] == list(LOSSES)
    for row in rows[1:]:
        assert [cell.split()[0] for cell in row[1:]] == ["-1.00", "-1.00", "0.00", "0.00"]


def test_configurations_and_environments(made):
    rows = table(made, "table-configuration")
    assert rows == [
        ["key", *LOSSES],
        ["loss.name", *LOSSES],
        ["seed", *["1, 2"] * len(LOSSES)],
    ]
    common = dict(table(made, "table-environment")[1:])
    assert {"device", "python", "torch", "git commit", "command"} <= common.keys()
    assert common["device"] == "cpu"
    different = table(made, "table-environments")
    assert different[0][1:3] == ["gaussian_mse, seed 1", "gaussian_mse, seed 2"]
    assert different[1] == ["seed", *["1", "2"] * len(LOSSES)]


def test_links_are_relative_to_where_the_page_lies(folder, tmp_path):
    output = tmp_path / "deep" / "page.html"
    write_report(find_runs([folder]), output, ReportSettings(draws=100, joints=0))
    links = re.findall(r'<th scope="row"><a href="(.*?)/"', output.read_text())
    assert len(links) == 2 * len(LOSSES)
    assert all((output.parent / one / "result.json").exists() for one in links)
    minutes = [row[4] for row in table(output.read_text(), "table-runs")[1:]]
    assert minutes == ["3.0"] * len(minutes)  # 2 (60 + 30) s


def test_the_same_runs_make_the_same_page(made, folder):
    again = page(find_runs([folder]), folder, SETTINGS)
    assert re.sub(r"<script>/\*\*.*?</script>", "", again, count=1, flags=re.DOTALL) == made


def test_what_is_missing_is_told(tmp_path):
    """One run of one epoch: a table, and sentences for the rest."""
    runs = find_runs([make_run(tmp_path / "run", loss="matching")])
    text = page(runs, tmp_path, SETTINGS)
    assert "has 1 validated epochs between 2 and 15" in unescape(text) or "0 validated" in text
    assert 'id="table-differences"' not in text
    assert "The runs keep no pictures." in text
    assert "matching (quarter_offset)" in table(text, "table-results")[1][0]


def test_names_of_strangers_are_text(tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    run = make_run(tmp_path / "run", config={"backbone.name": "</script><script>alert(1)</script>"},
                   protocol=evil)  # fmt: skip
    text = page(find_runs([run]), tmp_path, ReportSettings(title=evil, draws=100))
    assert evil not in text
    assert "<script>alert" not in text


def test_runs_that_are_not_comparable_are_refused(folder, tmp_path):
    shutil.copytree(folder / "matching_1", tmp_path / "matching_1")
    make_run(tmp_path / "other", config={"backbone.name": "hrnet_w48"})
    with pytest.raises(PosematchError, match="cannot be compared"):
        page(find_runs([tmp_path]), tmp_path, SETTINGS)
    with pytest.raises(PosematchError, match="no run was trained with it"):
        page(find_runs([folder]), folder, ReportSettings(baseline="kl", draws=100))
