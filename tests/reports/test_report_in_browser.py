"""The page in a real browser: nothing is missing, nothing is asked for, and it fits a phone.

POSEMATCH_SCREENSHOTS=FOLDER keeps pictures of it to be looked at.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pandas as pd
import pytest
from browser import chromium
from report_runs import LOSSES, make_comparison

from posematch.reports.ablation import ablation, write_ablation
from posematch.reports.report import ReportSettings, write_report
from posematch.runs.finished import find_runs

pytestmark = pytest.mark.slow
TABLE = """
const rows = [...document.querySelectorAll("#" + arguments[0] + " tr")];
return rows.map((row) => [...row.cells].map((cell) => cell.innerText.trim()));
"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    runs = find_runs([make_comparison(root / "runs")])
    write_report(runs, root / "made" / "report.html", ReportSettings(title="By <hand>", draws=200))
    write_ablation(ablation(runs, draws=200), root / "made")
    return root / "made"


@pytest.mark.parametrize(
    ("width", "dark"), [(390, False), (390, True), (1280, False), (1280, True)]
)
def test_opens_without_an_error_or_a_request(browser, folder, width, dark):
    browser.complaints(), browser.requests()  # of the test before
    page = folder / "report.html"
    browser.open(page, width, dark)
    assert browser.complaints() == []
    assert browser.requests() == {page.as_uri()}
    assert browser.run("return document.documentElement.dataset.drawn") == (
        "dark" if dark else "light"
    )
    if "POSEMATCH_SCREENSHOTS" in os.environ:
        name = f"report-{'dark' if dark else 'light'}-{width}.png"
        browser.screenshot(Path(os.environ["POSEMATCH_SCREENSHOTS"]) / name)
    # Tables scroll inside themselves: the page is never wider than the screen.
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    traces = browser.run(
        "return [...document.querySelectorAll('.plot')].map((one) =>"
        " one.querySelectorAll('.trace').length)"
    )
    assert len(traces) == 1 + 3 * len(LOSSES)
    assert all(number > 0 for number in traces)
    whole = "return [...document.images].every((one) => one.complete && one.naturalWidth > 0)"
    assert browser.run(whole)
    assert browser.run("return document.images.length") > len(LOSSES)


def test_an_error_of_the_console_would_be_seen(browser, tmp_path):
    file = tmp_path / "broken.html"
    file.write_text(
        "<!DOCTYPE html><html><title>x</title><script>document.documentElement.dataset.drawn=1;"
        "fetch('http://127.0.0.1:9/x').catch(() => 0); throw new Error('broken')</script></html>"
    )
    browser.complaints(), browser.requests()
    browser.open(file)
    assert any("broken" in line for line in browser.complaints())
    assert "http://127.0.0.1:9/x" in browser.requests()


def test_figures_of_the_table_are_those_of_the_csv(browser, folder):
    browser.open(folder / "report.html")
    head, *rows = browser.driver.execute_script(TABLE, "table-results")
    csv = pd.read_csv(folder / "ablation.csv").set_index(["loss", "figure"])
    assert [row[0].split()[0] for row in rows] == list(LOSSES)
    bold = browser.run(
        "return [...document.querySelectorAll('#table-results td')].map((one) =>"
        " one.classList.contains('best'))"
    )
    shown = [(row[0].split()[0], figure, cell) for row in rows
             for figure, cell in zip(head[1:], row[1:], strict=True)]  # fmt: skip
    assert len(shown) == len(csv)
    for (loss, figure, cell), is_bold in zip(shown, bold, strict=True):
        row = csv.loc[loss, figure]
        assert cell == f"{row['mean']:.1f} ± {row['std']:.1f}"
        assert is_bold == row["best"]
    _, *rows = browser.driver.execute_script(TABLE, "table-differences")
    for row in rows:
        for figure, cell in zip(head[1:], row[1:], strict=True):
            one = csv.loc[row[0].split()[0], figure]
            assert cell == f"{one['difference']:+.1f} [{one['low']:+.1f}, {one['high']:+.1f}]"


def test_curves_zoom_and_keep_it_when_it_gets_dark(browser, folder):
    browser.open(folder / "report.html")
    ranged = "return document.getElementById('plot-metric').layout.xaxis.range"
    browser.run("Plotly.relayout('plot-metric', {'xaxis.range': [2, 3]})")
    ink = "return getComputedStyle(document.querySelector('#plot-metric .xtick text')).fill"
    light = browser.run(ink)
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [dark]})
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser.driver, 60).until(
        lambda _: browser.run("return document.documentElement.dataset.drawn") == "dark"
    )
    assert browser.run(ink) != light
    assert browser.run(ranged) == [2, 3]


def test_headings_have_an_order_and_links_lead_to_run_folders(browser, folder):
    browser.open(folder / "report.html")
    levels = browser.run(
        "return [...document.querySelectorAll('h1,h2,h3')].map((one) => +one.tagName[1])"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    links = browser.run(
        "return [...document.querySelectorAll('#table-runs a')].map((one) =>"
        " one.getAttribute('href'))"
    )
    assert len(links) >= 2 * 2 * len(LOSSES)
    assert all((folder / one).exists() for one in links)
    unnamed = browser.run(
        "return [...document.images].filter((one) => !one.alt).length +"
        " [...document.querySelectorAll('.plot, .scroll')].filter((one) => !one.ariaLabel).length"
    )
    assert unnamed == 0
