"""The documents as a site: built strictly, and nothing of it asks the network."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from blocks import REPOSITORY


@pytest.mark.slow
def test_it_builds_and_needs_no_network(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=REPOSITORY, capture_output=True, text=True,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        fetched = re.findall(r"<(?:script|img|iframe)[^>]* src=\"?(\w+:)?//", page.read_text())
        fetched += re.findall(
            r"<link[^>]* rel=\"?(?:stylesheet|preconnect|icon)[^>]* href=\"?\w*:?//",
            page.read_text(),
        )
        assert not fetched, page.name
    assert (tmp_path / "site" / "CHANGELOG.html").is_file()
    assert (tmp_path / "site" / "search" / "search_index.js").is_file()
