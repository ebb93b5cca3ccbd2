"""mkdocs' hook: pages of the repository outside of docs/, and links to them.

In the repository ``docs/x.md`` links to ``../CHANGELOG.md``, and ``SECURITY.md`` to ``docs/x.md``.
On the site docs/ is the top, and what is linked from the rest of the repository lies beside it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/RESULTS.md")
# What pages link to and is shown or downloaded as it is.
OTHERS = (
    "CITATION.cff",
    "LICENSE",
    "benchmarks/results/**/*.csv",
    "benchmarks/results/**/*.png",
    "notebooks/*.ipynb",
)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Take in what lies outside of docs/."""
    for pattern in (*PAGES, *OTHERS):
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Let links say where things are on the site; the text alone of what is not on it."""
    own = page.file.src_uri
    here = own if own in PAGES else f"docs/{own}"

    def rewritten(found: re.Match[str]) -> str:
        mark, text, target = found.groups()
        path, hash_, anchor = target.partition("#")
        if not path or re.match(r"\w+:", target):
            return found[0]
        there = posixpath.normpath(posixpath.join(posixpath.dirname(here), path))
        on_site = there.removeprefix("docs/")
        if not (ROOT / there).exists():
            return found[0]  # strict mkdocs says so
        if files.get_file_from_path(on_site) is None:
            return str(text)
        relative = posixpath.relpath(on_site, posixpath.dirname(own) or ".")
        return f"{mark}[{text}]({relative}{hash_}{anchor})"

    # Not within blocks of code.
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else _LINK.sub(rewritten, part) for part in parts)
