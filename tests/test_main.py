"""``posematch VERB`` is ``python scripts/VERB.py``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from posematch.app.main import VERBS, main

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def ended(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["posematch", *arguments])
    with pytest.raises(SystemExit) as error:
        main()
    return error.value.code


def test_verbs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["posematch"])
    main()
    told = capsys.readouterr().out
    assert all(verb in told for verb in VERBS)
    assert {file.stem for file in SCRIPTS.glob("*.py")} == set(VERBS)


def test_a_typo(monkeypatch, capsys):
    assert ended(monkeypatch, "rerunn") == 2
    assert "the nearest is rerun" in capsys.readouterr().err


def test_what_stands_alone_is_what_the_verb_is_about(monkeypatch, capsys):
    assert ended(monkeypatch, "rerun", "nowhere") == 1
    assert capsys.readouterr().err.startswith("run=nowhere is no finished run")


@pytest.mark.parametrize("more", [(), ("-m",)])
def test_a_candidate_is_a_loss(monkeypatch, capsys, more):
    """Another loss would be trained under its name."""
    assert ended(monkeypatch, "train", "candidate=paper", "loss=gaussian_mse", *more) == 1
    assert "candidate=paper brings its own loss" in capsys.readouterr().err
