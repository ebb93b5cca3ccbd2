"""The group table of docs/configuration.md is that of conf/."""

from __future__ import annotations

import re

import yaml
from blocks import REPOSITORY

from posematch.app.composition import choices
from posematch.app.places import CONF

TABLE = {
    row[1]: set(re.findall(r"`([\w/]+)`", row[2]))
    for row in re.finditer(
        r"^\| `([\w/]+)` \| (.+) \|$",
        (REPOSITORY / "docs" / "configuration.md").read_text(),
        re.MULTILINE,
    )
}


def test_every_group_of_a_training_is_in_it():
    defaults = yaml.safe_load((CONF / "train.yaml").read_text())["defaults"]
    groups = {next(iter(one)) for one in defaults if isinstance(one, dict)}
    assert set(TABLE) == groups


def test_every_choice_is_named_and_there():
    for group, named in TABLE.items():
        assert choices([CONF], group) <= named, group


def test_defaults_are_those_of_a_bare_command():
    text = (REPOSITORY / "docs" / "configuration.md").read_text()
    for one in yaml.safe_load((CONF / "train.yaml").read_text())["defaults"]:
        if isinstance(one, dict):
            ((group, choice),) = one.items()
            row = re.search(rf"^\| `{group}` \| .*$", text, re.MULTILINE)
            assert row is not None
            default = re.search(r"`([\w/]+)` \(default", row[0])
            assert (default[1] if default else None) == choice, group
