"""docs/troubleshooting.md lists the sentences that the code has now."""

from __future__ import annotations

import ast
import sys

import pytest
from blocks import REPOSITORY

sys.path.append(str(REPOSITORY / "docs"))

import messages
import troubleshooting


@pytest.fixture(scope="module")
def found():
    return messages.messages()


def test_the_list_is_of_this_code(found):
    page = troubleshooting.PAGE.read_text("utf-8")
    assert page == troubleshooting.page(found), "it is due: python docs/troubleshooting.py"


def test_nearly_every_error_is_found(found):
    """A call without a readable sentence has one of a library in it, or is told elsewhere."""
    calls, silent = 0, []
    for file, module in messages.modules().items():
        for node in module.nodes:
            if isinstance(node, ast.Call) and messages._called(node) == "PosematchError":
                calls += 1
                if not any(map(messages._is_sentence, module._of_call(node, "PosematchError"))):
                    silent.append(f"{file}: {ast.unparse(node)}")
    assert calls > 350
    assert len(silent) < 0.03 * calls, "\n".join(silent)


def test_forms_of_a_sentence():
    """What stands in f-strings, concatenations, names, conditions and functions of the module."""
    module = messages._Module(
        ast.parse(
            "def f(path, cfg):\n"
            "    said = 'is cut off' if path else 'is missing'\n"
            "    raise PosematchError(f'{path} {said}; ' + _advice(cfg.data.name))\n"
            "def _advice(name):\n"
            "    return f'restore {len(name)}.'\n"
        )
    )
    assert list(module.sentences()) == ["{path} {said}; restore {number of name}."]


def test_sentences_of_tests_are_in_it(found):
    """Of what tests of other rooms hold the code to."""
    texts = {one.text for one in found}
    assert "loss.mask={mask} must be inside or hrnet." in texts
    assert "decoder.radius_px={radius_px} must be at least 1." in texts
    assert any(one.startswith("Out of memory") for one in texts)
