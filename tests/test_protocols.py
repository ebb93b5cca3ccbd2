"""The sections that code and tests cite of docs/protocols.md, and the files that it names."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROTOCOLS = (ROOT / "docs" / "protocols.md").read_text()
HEADINGS = re.findall(r"^## (\d+)\. (.+)$", PROTOCOLS, re.MULTILINE)


def cited() -> list[tuple[Path, str]]:
    """Files, and what follows "docs/protocols.md," in them, over the ends of lines."""
    found = []
    for folder in ("src", "tests", "conf", "scripts", "benchmarks"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".yaml") and file != Path(__file__):
                text = re.sub(r"\s*\n[\s#]*", " ", file.read_text())
                found += [(file, name) for name in re.findall(r"docs/protocols\.md, (.{20})", text)]
    return found


def test_sections_are_numbered():
    assert [int(number) for number, _ in HEADINGS] == list(range(1, len(HEADINGS) + 1))


def test_cited_sections_are_there():
    names = [name for _, name in HEADINGS]
    found = cited()
    assert len(found) > 40
    for file, text in found:
        assert any(text.startswith(name[:20]) for name in names), f"{file}: {text}"


def test_files_it_names_are_there():
    named = re.findall(r"`((?:tests|scripts|conf|src|docs)/[\w./-]+\.\w+)`", PROTOCOLS)
    assert named
    for file in named:
        assert (ROOT / file).is_file(), file
