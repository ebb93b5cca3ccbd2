"""Blocks of commands in the documents, and what is said before each: that it is run, or why not.

A comment in the line before a block of commands or Python says one of

- ``<!-- run -->``: in a folder of the document's own, after the document's blocks before it.
- ``<!-- run: small NAME=GLOB -->``: the same; ``small``: trainings on a few drawn people, by
  `SMALL`; NAME, a placeholder in the block, stands for the newest folder that the glob finds.
- ``<!-- run by: FILE, FILE -->``: tests that run it.
- ``<!-- not run: WHY -->``
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [
        *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
        *REPOSITORY.glob("docs/*.md"),
        *REPOSITORY.glob("docs/results/*.md"),
        *REPOSITORY.glob("examples/*/README.md"),
    ]
)
SMALL = (
    *("data.spec.train_photos=12", "data.spec.valid_photos=6", "data.input_size=[64,64]"),
    *("data.batch_size=4", "data.workers=0", "trainer.accelerator=cpu", "trainer.max_epochs=4"),
    "pictures.heatmaps_of=6",
)
_COMMANDS = {"bash", "sh", "console", "shell"}
_FIRST_WORDS = ("posematch", "python", "pip", "make", "git", "source", "mkdocs", "cd")
_MARK = re.compile(r"<!-- (run by|not run|run)(?:: (.+?))? -->")
_LINE = re.compile(r"(?:posematch|python scripts/(\w+)\.py)(?=\s)")


@dataclass(frozen=True)
class Block:
    """Code in a document.

    Attributes
    ----------
    document, line
        Where it begins, counted from 1.
    language
        As its fence says; of an indented one ``bash`` where it begins like a command.
    text
        Without fence and indentation.
    mark, detail
        ``run``, ``run by``, ``not run`` and what follows; empty where nothing is said.
    """

    document: Path
    line: int
    language: str
    text: str
    mark: str
    detail: str

    @property
    def is_run_somewhere(self) -> bool:
        """Whether a reader would run it, so that somebody has to have."""
        return self.language in _COMMANDS or self.language == "python"

    def commands(self) -> list[list[str]]:
        """Words of each ``posematch VERB`` in it, from the verb on."""
        return [words for one in logical_lines(self.text) if (words := posematch_words(one))]


def name_of(document: Path) -> str:
    """Of a document or a block's place, for the names of tests."""
    return document.relative_to(REPOSITORY).as_posix()


def blocks(document: Path) -> list[Block]:
    """All blocks of a document."""
    return list(_blocks(document, document.read_text("utf-8").splitlines()))


def _blocks(document: Path, lines: list[str]) -> Iterator[Block]:
    at = 0
    while at < len(lines):
        fence = re.match(r"( *)```(\w*)\s*$", lines[at])
        indented = lines[at].startswith("    ") and (at == 0 or not lines[at - 1].strip())
        begin, indent = at, "    "
        if fence:
            indent, language = fence[1], fence[2]
            end = next(i for i in range(at + 1, len(lines)) if lines[i] == f"{indent}```")
            body, at = lines[at + 1 : end], end + 1
        elif indented and lines[at].lstrip().startswith(_FIRST_WORDS):
            language = "bash"
            end = next(
                (i for i in range(at, len(lines)) if lines[i] and not lines[i].startswith(indent)),
                len(lines),
            )
            body, at = lines[at:end], end
        else:
            at += 1
            continue
        before = next((one for one in reversed(lines[:begin]) if one.strip()), "")
        said = _MARK.fullmatch(before.strip())
        mark, detail = (said[1], said[2] or "") if said else ("", "")
        text = "\n".join(one.removeprefix(indent) for one in body).strip("\n")
        yield Block(document, begin + 1, language, text, mark, detail)


def logical_lines(text: str) -> list[str]:
    """Lines of a shell's block, those that go on put together."""
    return [one for one in re.sub(r"\\\n\s*", " ", text).splitlines() if one.strip()]


def posematch_words(line: str) -> list[str]:
    """Verb and arguments of a line that calls posematch; nothing of another."""
    found = _LINE.match(line.strip())
    if not found:
        return []
    words = shlex.split(line, comments=True)
    return [found[1], *words[2:]] if found[1] else words[1:]


def inline_commands(document: Path) -> list[list[str]]:
    """``posematch VERB ...`` within a text's own lines, in backticks."""
    text = re.sub(r"^ *```.*?^ *```$", "", document.read_text("utf-8"), flags=re.M | re.S)
    found = re.findall(r"`((?:posematch|python scripts/\w+\.py) [^`]+)`", text)
    return [words for one in found if (words := posematch_words(" ".join(one.split())))]
