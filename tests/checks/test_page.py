"""The page of the check, and the command that writes it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = ["data.spec.train_photos=12", "data.spec.valid_photos=6"]


def check_data(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "check_data.py"), *overrides],
        capture_output=True, text=True, cwd=folder, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """What a command prints about drawn people, of whose photos two are spoiled, and its page."""
    folder = tmp_path_factory.mktemp("checked")
    done = check_data(folder, *SMALL)
    assert done.returncode == 0, done.stderr
    (root,) = folder.glob("data/*/mpii")
    rows = json.loads((root / "annot" / "train.json").read_text())
    names = {row["image"] for row in rows}
    first, second, *_ = (root / "images" / name for name in sorted(names))
    first.write_bytes(first.read_bytes()[:-900])
    second.write_text("no <b>picture</b>")
    rows[-1]["joints"][9], rows[-1]["joints_vis"][9] = [-50, 20], 1
    (root / "annot" / "train.json").write_text(json.dumps(rows))
    done = check_data(folder, *SMALL, "photos=all")
    assert done.returncode == 0, done.stderr
    return done.stdout, (folder / "check.html").read_text()


def test_a_line_for_each_kind(checked):
    said, _ = checked
    assert re.search(r"^error +train: 1 of \d+ photos that are cut off", said, re.MULTILINE)
    assert re.search(r"^error +train: 1 of \d+ people with a joint outside", said, re.MULTILINE)
    assert re.search(r"^error +train: 1 of \d+ photos that cannot be read", said, re.MULTILINE)
    assert said.rstrip().endswith("with pictures: check.html")


def test_the_page_needs_nothing_but_itself(checked):
    _, page = checked
    policy = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'"
    assert page.startswith("<!DOCTYPE html>")
    assert policy in page
    assert 'name="viewport" content="width=device-width' in page
    assert "prefers-color-scheme: dark" in page
    without_scripts = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"(src|href)=\"(?!data:|#)", without_scripts)


def test_the_page_shows_findings_plots_and_crops(checked):
    _, page = checked
    assert "photos that are cut off" in page
    assert page.count('<div class="plot') == 4
    assert page.count('src="data:image/webp') >= 3, "an example and two contact sheets"


def test_what_cannot_be_read_is_a_sentence(tmp_path):
    done = check_data(tmp_path, "data=coco", "data.root=/nope")
    assert done.returncode == 1
    assert "/nope/annotations" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_wrong_value_is_a_sentence(tmp_path):
    done = check_data(tmp_path, "photos=some")
    assert done.returncode == 1
    assert done.stderr.startswith("photos=some must be ")
