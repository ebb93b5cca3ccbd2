"""Every relative link and every anchor of the documents leads to something."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from blocks import DOCUMENTS, REPOSITORY, name_of

PAGES = [
    *DOCUMENTS,
    REPOSITORY / "CHANGELOG.md",
    REPOSITORY / "benchmarks" / "RESULTS.md",
    *sorted(REPOSITORY.glob("docs/results/**/*.md")),
    *sorted(REPOSITORY.glob("notebooks/*.ipynb")),
]
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(([^()\s]+)\)")


def text_of(page: Path) -> str:
    """Markdown without its code."""
    if page.suffix == ".ipynb":
        cells = nbformat.read(page, as_version=4).cells
        text = "\n".join(one.source for one in cells if one.cell_type == "markdown")
    else:
        text = page.read_text("utf-8")
    text = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "code", text)


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as a repository's web page makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = []
    for heading in re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.append(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    assert len(found) == len(set(found)), f"{name_of(page)} has two headings of one name"
    return set(found)


@pytest.mark.parametrize("page", list(dict.fromkeys(PAGES)), ids=name_of)
def test_links(page):
    for target in _LINK.findall(text_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.is_relative_to(REPOSITORY), target
        assert there.exists(), f"{name_of(page)}: {target}"
        if anchor:
            assert anchor in anchors(there), f"{name_of(page)}: {target}"


@pytest.mark.parametrize("page", list(dict.fromkeys(PAGES)), ids=name_of)
def test_no_path_of_a_machine(page):
    text = page.read_text("utf-8")
    assert not re.search(r"(?<![\w.])/(?:home|root|tmp|work|mnt|Users)/", text)


def test_readme_is_a_start_and_no_reference():
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 130


@pytest.mark.parametrize("page", DOCUMENTS, ids=name_of)
def test_lists_are_lists_on_the_site_too(page):
    """Python-Markdown wants an empty line before a list, and four spaces for one inside."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    before = ""
    for line in text.splitlines():
        if re.match(r"(?:- |\d+\. )", line):
            assert not before.strip() or re.match(r"(?:- |\d+\. |  )", before), line
        assert not re.match(r" {1,3}- ", line), line
        before = line
