"""The documents as a site: built strictly, read from a folder, asking no network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from blocks import REPOSITORY

sys.path.append(str(REPOSITORY / "tests" / "reports"))

from browser import chromium

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=REPOSITORY, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_all_pages_are_there_and_fetch_nothing(site):
    pages = list(site.rglob("*.html"))
    documents = {one.relative_to(REPOSITORY / "docs") for one in REPOSITORY.glob("docs/*.md")}
    own = {one.relative_to(site).with_suffix(".md") for one in pages}
    assert own >= {*documents, Path("CHANGELOG.md"), Path("benchmarks/RESULTS.md")}
    for page in pages:
        tags = re.findall(r"<(?:script|img|iframe|link)\b[^>]*>", page.read_text("utf-8"))
        fetched = [one for one in tags if re.search(r"(?:src|href)=\"?(?:\w+:)?//", one)]
        assert not [one for one in fetched if "canonical" not in one], page.name


def test_search_works_without_a_server(site):
    from selenium.webdriver.support.ui import WebDriverWait

    with chromium() as browser:
        browser.driver.set_window_size(1300, 900)
        browser.driver.get((site / "index.html").as_uri())
        field = browser.driver.find_element("css selector", "input[name=query]")
        field.click()
        field.send_keys("referee")
        found = WebDriverWait(browser.driver, 60).until(
            lambda driver: driver.find_elements("css selector", ".md-search-result__item a")
        )
        assert "glossary.html" in found[0].get_attribute("href")
        assert not browser.complaints()
        assert all(one.startswith("file://") for one in browser.requests())
