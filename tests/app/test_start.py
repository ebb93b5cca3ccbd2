"""Nothing large is imported before a command is known to be right, and the public face is lazy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import posematch
from posematch.app.main import VERBS
from posematch.errors import PosematchError

LARGE = ("torch", "timm", "lightning", "torchmetrics", "scipy", "pandas", "matplotlib")
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
# What a command imports, whatever it ends with.
WATCHED = """
import sys, runpy, atexit
import os
atexit.register(lambda: print([one for one in {large} if one in sys.modules]))
sys.argv = {argv}
{run}
"""


def imported(run: str, *argv: str) -> tuple[list[str], str]:
    """The large packages that a program has imported at its end, and its standard error."""
    code = WATCHED.format(large=LARGE, argv=list(argv), run=run)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return eval(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.parametrize(
    ("verb", "arguments", "told"),
    [
        ("train", ["los=x"], "the nearest is loss"),
        ("train", ["seed=x"], "seed=x must be an integer"),
        ("train", ["checkpoint=nowhere.ckpt"], "nowhere.ckpt does not exist"),
        ("evaluate", ["prediction=x"], "the nearest is predictions"),
        ("report", ["runs=nowhere"], "nowhere is no folder"),
        ("report", ["runs=.", "draws=few"], "draws=few must be an integer of at least 100"),
        ("compare", ["a=x"], "b is not set: add b=... to the command."),
    ],
)
def test_a_wrong_command_is_told_before_anything_large_is_imported(verb, arguments, told):
    run = f"runpy.run_path({str(SCRIPTS / f'{verb}.py')!r}, run_name='__main__')"
    large, said = imported(run, f"{verb}.py", *arguments)
    assert told in said
    assert said.count("\n") == 1
    assert large == []


def test_the_package_is_light_until_it_is_asked_for_something():
    large, said = imported("import posematch; posematch.compose(['loss=matching'])", "x")
    assert (large, said) == ([], "")


def test_the_face():
    assert {"compose", "evaluate", "load", "read_runs", "train"} <= set(dir(posematch))
    with pytest.raises(AttributeError, match="no attribute 'lood'"):
        _ = posematch.lood
    with pytest.raises(PosematchError, match="the nearest is loss"):
        posematch.compose(["los=1"])
    with pytest.raises(PosematchError, match="loss=js,kl has several values"):
        posematch.compose(["loss=js,kl"])
    with pytest.raises(PosematchError, match="Name what is to be scored"):
        posematch.evaluate()
    with pytest.raises(PosematchError, match="nowhere is no folder"):
        posematch.read_runs("nowhere")


def test_a_path_is_given_as_it_is(tmp_path):
    """Whatever Hydra's parser would make of it."""
    odd = tmp_path / "a=b, 'c' [d] e\\f ~" / "f.ckpt"
    with pytest.raises(PosematchError, match=r"f\.ckpt does not exist"):
        posematch.evaluate(odd, overrides=["backbone=small", "data=synthetic"])


def test_composed_as_the_command_composes():
    cfg = posematch.compose(["loss=gaussian_mse", "trainer.max_epochs=3"])
    assert (cfg.loss.name, cfg.trainer.max_epochs) == ("gaussian_mse", 3)
    assert "hydra" not in cfg


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("lr=0.1", "optimizer.lr"),
        ("epochs=3", "trainer.max_epochs"),
        ("devices=8", "trainer.devices"),
        ("batch_size=8", "data.batch_size"),
        ("root=x", "data.root"),
        ("optim.lr=1", "optimizer.lr"),
        ("optimiser.lr=1", "optimizer.lr"),
        ("los=x", "loss"),
    ],
)
def test_a_key_without_its_group_is_found_by_its_last_part(override, nearest):
    with pytest.raises(PosematchError) as told:
        posematch.compose([override])
    assert str(told.value).endswith(f"; the nearest is {nearest}.")


@pytest.mark.parametrize(
    ("override", "sign", "quoted"),
    [
        ("checkpoint=epoch=3.ckpt", "=", "checkpoint='epoch=3.ckpt'"),
        ("data.root=~/mpii", "~", "data.root='~/mpii'"),
    ],
)
def test_signs_of_hydras_own_in_values(override, sign, quoted):
    with pytest.raises(PosematchError) as told:
        posematch.compose([override])
    assert f"has a {sign} in its value" in str(told.value)
    assert f'"{quoted}"' in str(told.value)
    posematch.compose([quoted])


@pytest.mark.parametrize("verb", VERBS)
def test_help_lists_a_verbs_own_keys(verb, capsys):
    from posematch.app.main import run

    run(verb, ["--help"])
    told = capsys.readouterr().out
    assert f"posematch {verb}" in told
    own = {"train": "max_skipped_steps=5", "report": "title=posematch", "rerun": "data.root=null"}
    assert own.get(verb, "") in told
    assert "hydra.run" not in told
