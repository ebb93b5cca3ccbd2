"""Commands in the documents: each is run or says why not, and all of them compose."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from blocks import DOCUMENTS, REPOSITORY, SMALL, Block, blocks, inline_commands, name_of
from omegaconf import OmegaConf

from posematch.app.command_line import read_arguments
from posematch.app.composition import choices, composed, flatten, judge, varied
from posematch.app.main import _ABOUT, VERBS
from posematch.app.places import CONF

RUN = [one for one in DOCUMENTS if any(block.mark == "run" for block in blocks(one))]
# Options of the command itself, and verbs that take what another one takes.
_NO_VERBS = {"--help", "--version", "VERB"}
_AS_TRAIN = {"paper"}
_PLACEHOLDERS = {"RATE": "0.001", "LOSS": "matching"}


def place(block: Block) -> str:
    return f"{name_of(block.document)}:{block.line}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_each_block_is_run_or_says_why_not(document):
    for block in blocks(document):
        if not block.is_run_somewhere:
            continue
        assert block.mark, f"{place(block)}: a comment before it says whether it is run"
        if block.mark == "run by":
            files = [REPOSITORY / name for name in block.detail.split(", ")]
            assert all(file.is_file() for file in files), place(block)
            texts = "".join(file.read_text() for file in files)
            own = name_of(document).split("/")[-2:]
            assert any(one in texts for one in own), f"{place(block)}: they do not know it"
        elif block.mark == "not run":
            assert block.detail, place(block)
            for name in re.findall(r"tests/[\w/]+\.py", block.detail):
                assert (REPOSITORY / name).is_file(), f"{place(block)}: {name}"


@pytest.fixture(scope="module")
def my_conf(tmp_path_factory) -> Path:
    """The folder of configurations that the documents' reader has."""
    own = tmp_path_factory.mktemp("reader") / "my_conf"
    (own / "data").mkdir(parents=True)
    readme = (REPOSITORY / "README.md").read_text()
    (own / "data" / "mine.yaml").write_text(re.findall(r"```yaml\n(.*?)```", readme, re.S)[0])
    return own


def check(words: list[str], my_conf: Path) -> None:
    """Raise a sentence unless a command composes to a configuration that something reads."""
    verb, *given = words
    if verb in _NO_VERBS:
        return
    assert verb in VERBS
    if verb in _ABOUT and given and "=" not in given[0] and not given[0].startswith("-"):
        given[0] = f"{_ABOUT[verb]}={given[0]}"
    if {"--help", "-h"} & set(given):
        return
    if "my_conf" in given:
        given[given.index("my_conf")] = str(my_conf)
    said = read_arguments([one for one in given if one != "..."], CONF)
    overrides = [
        f"{key}={_PLACEHOLDERS.get(value, value)}"
        for key, _, value in (one.partition("=") for one in said.overrides)
        if value != "..."
    ]
    first, *others = varied(said.folders, overrides)
    for choice in {one for job in others for one in job} - set(first):  # of groups
        group, _, name = choice.partition("=")
        assert name in choices(said.folders, group), choice
    chosen = tuple(one for one in first if choices(said.folders, one.partition("=")[0]))
    known = keys("train" if verb in _AS_TRAIN else verb, chosen, tuple(said.folders))
    for one in set(first) - set(chosen):
        key = one.partition("=")[0].lstrip("+")
        assert key in known or key.startswith("hydra"), f"there is no key {key}"


@functools.cache
def keys(verb: str, chosen: tuple[str, ...], folders: tuple[Path, ...]) -> set[str]:
    """Of what choices compose to, which takes a third of a second; many commands have the same."""
    cfg = composed(verb, chosen, folders)
    judge(cfg, folders, verb)
    return set(flatten(OmegaConf.to_container(cfg)))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_its_commands_compose(document, my_conf, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    in_blocks = [
        words
        for block in blocks(document)
        if block.language == "bash"
        for words in block.commands()
    ]
    for words in [*in_blocks, *inline_commands(document)]:
        try:
            check(list(words), my_conf)
        except Exception as error:
            raise AssertionError(f"{name_of(document)}: posematch {' '.join(words)}") from error


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_targets_of_make_are_there(document):
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    text = document.read_text("utf-8")
    code = "\n".join([*re.findall(r"`([^`\n]+)`", text), *(one.text for one in blocks(document))])
    for target in re.findall(r"^make ([a-z][\w-]*)", code, re.MULTILINE):
        assert target in targets, target


@pytest.mark.slow
@pytest.mark.parametrize("document", RUN, ids=name_of)
def test_its_blocks_run(document, tmp_path):
    """One after the other in one folder, as a reader would."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, arguments in (("python", ""), ("posematch", "-P -m posematch ")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n')
        program.chmod(0o755)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("scripts", "examples", "docs"):
        (folder / name).symlink_to(REPOSITORY / name)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    environment |= {
        "PATH": f"{programs}{os.pathsep}{environment['PATH']}",
        "NETRC": str(tmp_path / "none"),
        "COLUMNS": "100",
    }
    for block in blocks(document):
        if block.mark == "run":
            done = subprocess.run(
                ["bash", "-e", "-c", runnable(block, folder)],
                cwd=folder, env=environment, capture_output=True, text=True, timeout=1800,
            )  # fmt: skip
            assert done.returncode == 0, f"{place(block)}\n{done.stdout[-2000:]}\n{done.stderr}"


def runnable(block: Block, folder: Path) -> str:
    """The block's text with what its mark says put in."""
    text = block.text
    for word in block.detail.split():
        name, _, glob = word.partition("=")
        if name == "small":
            text = re.sub(r"\\\n\s*", " ", text)
            added = " ".join(f"'{one}'" for one in SMALL)
            text = re.sub(r"^(posematch train [^#\n]*)", rf"\1 {added} ", text, flags=re.M)
        elif glob:
            newest = max(folder.glob(glob), key=lambda one: one.stat().st_mtime)
            text = re.sub(rf"\b{name}\b", str(newest.relative_to(folder)), text)
        else:
            raise AssertionError(f"{place(block)}: {word} is no word of a mark")
    return text
