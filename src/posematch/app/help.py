"""What ``--help`` prints: a verb's groups, its keys and their comments, read from conf/."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

import yaml

from posematch.app.places import CONF

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FOOTER = """\
Options:
  --cfg job       print every key with its value; conf/ says what each is for
  --multirun, -m  all combinations: loss=gaussian_mse,matching seed=1,2
  --config-dir D  look for configurations in your own folder too
  --hydra-help    Hydra's own options"""
_OFTEN = """\
Keys of groups that are most often set:
  data.root=FOLDER          data.batch_size=32         trainer.max_epochs=15
  data.input_size=[256,256] optimizer.lr=0.001         trainer.devices=1"""
_INDENT = 30


def help_text(verb: str, conf: Path | None, about: str) -> str:
    """Everything that a command of this verb may say.

    Parameters
    ----------
    verb
        Name of its configuration.
    conf
        Folder of configurations; None: posematch's own.
    about
        What the verb does, and examples.
    """
    conf = conf or CONF
    parts = [about.strip()]
    groups = _groups(conf, verb)
    if groups:
        lines = [_row(f"  {group}", ", ".join(_choices(conf, group))) for group in groups]
        parts.append("\n".join(["Groups and their choices (group=choice):", *lines]))
    keys = [_row(f"  {key}={value}", comment) for key, value, comment in _keys(conf, verb)]
    if keys:
        parts.append("\n".join(["Keys (key=value):", *keys]))
    if "trainer" in groups:
        parts.append(_OFTEN)
    return "\n\n".join([*parts, _FOOTER])


def _row(begin: str, comment: str) -> str:
    width = max(60, min(shutil.get_terminal_size((100, 24)).columns, 120))
    lines = textwrap.wrap(comment, width - _INDENT) or [""]
    head = [begin] if len(begin) >= _INDENT - 1 else []
    first = "" if head else begin
    rows = [f"{first if number == 0 else '':{_INDENT}}{line}" for number, line in enumerate(lines)]
    return "\n".join(row.rstrip() for row in [*head, *rows])


def _defaults(conf: Path, verb: str) -> Iterator[str]:
    """Groups of a file's defaults list and of the files at the top that it begins with."""
    content = yaml.load((conf / f"{verb}.yaml").read_text("utf-8"), _LOADER) or {}
    for entry in content.get("defaults", []):
        if isinstance(entry, str) and (conf / f"{entry}.yaml").is_file():
            yield from _defaults(conf, entry)
        elif isinstance(entry, dict):
            (group,) = entry
            yield str(group)


def _groups(conf: Path, verb: str) -> list[str]:
    """Those that a command may choose; with @ the choice is put somewhere else."""
    named = dict.fromkeys(_defaults(conf, verb))
    return [
        one
        for one in named
        if not one.startswith("override ") and "@" not in one and (conf / one).is_dir()
    ]


def _choices(conf: Path, group: str) -> list[str]:
    return sorted({file.stem for file in (conf / group).glob("*.yaml")} - {"base"})


def _keys(conf: Path, verb: str) -> Iterator[tuple[str, str, str]]:
    """Key, value and comment of each line of a verb's own file."""
    text = (conf / f"{verb}.yaml").read_text("utf-8")
    lines = text.splitlines()
    root = yaml.compose(text, _LOADER)
    if not isinstance(root, yaml.MappingNode):
        return
    yield from _of_node(root, "", lines)


def _of_node(
    node: yaml.MappingNode, prefix: str, lines: list[str]
) -> Iterator[tuple[str, str, str]]:
    for name, value in node.value:
        if not prefix and name.value in ("defaults", "hydra"):
            continue
        key = f"{prefix}{name.value}"
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield from _of_node(value, f"{key}.", lines)
            continue
        begin, end = value.start_mark, value.end_mark
        shown = lines[begin.line][begin.column : end.column]
        rest = lines[end.line][end.column :]
        yield key, shown, rest.partition("#")[2].strip()
