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
    assert done.returncode in (0, 1)
    return eval(done.stdout.splitlines()[-1]), done.stderr


MISSING = "does not exist"
NO_CHECKPOINT = "a checkpoint is looked for there"
NO_TRUTH = "There is no file /nope/annot/gt_valid.mat"
NO_COCO = "/nope/annotations/person_keypoints_val2017.json"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        # Names and choices,
        ("train los=x", "the nearest is loss"),
        ("evaluate prediction=x", "the nearest is predictions"),
        ("compare a=x", "b is not set: add b=... to the command."),
        # values of settings, and of the arguments of what is made,
        ("train seed=x", "seed=x must be an integer"),
        ("report runs=. draws=few", "draws=few must be an integer of at least 100"),
        ("train data.batch_size=abc", "data.batch_size=abc must be an integer."),
        ("train +data.batch_sise=1", "no argument of SyntheticDataModule; the nearest is data.b"),
        ("train data.spec.seed=-1", "data.spec.seed=-1 must be an integer of at least 0."),
        ("train augmentation.geometry.rotation_deg=x", "rotation_deg=x must be a number."),
        ("train data.geometry=5", "must be a mapping whose _target_ makes GeometricAugmentation."),
        ("train loss=gaussian_then_matching loss.first.sigma=x", "loss.first.sigma=x must be"),
        ("train schedule.warmup_share=x", "schedule.warmup_share=x must be a number."),
        ("evaluate checkpoint=x decoder=dark decoder.kernel=x", "decoder.kernel=x must be"),
        ("export_weights checkpoint=x output=y backbone.head=x", "must be one of auto, conv, dec"),
        ("loss_anatomy losses.matching.demand=1", "losses.matching.demand=1 must be"),
        ("export checkpoint=x output=y format=z", "format=z must be one of onnx, torchscript"),
        ("summary seconds=x", "seconds=x must be a number of at least 0."),
        ("prepare_data what=x root=y", "what=x must be one of mpii, coco, lspet."),
        ("prepare_data coco", "root is not set: add root=... to the command."),
        ("prepare_data coco root=x parts=[y]", "parts=y must be of annotations, val2017, train"),
        # and files.
        ("prepare_data coco root=x source=/nope", "source=/nope does not exist"),
        ("train data=mpii data.root=/nope", "/nope/annot/valid.json does not exist"),
        ("train data=mpii data.root=/nope data.holdout=0.1", "/nope/annot/train.json does not"),
        ("train data=coco data.root=/nope", f"{NO_COCO} {MISSING}"),
        ("train data=coco data.root=/nope data.own_skeleton=true", f"{NO_COCO} {MISSING}"),
        ("train resume=/nope", "resume=/nope is not a run with a checkpoint"),
        ("train checkpoint=/nope", NO_CHECKPOINT),
        ("evaluate checkpoint=/nope", NO_CHECKPOINT),
        ("export checkpoint=/nope output=x", NO_CHECKPOINT),
        ("export checkpoint=FILE output=x photos=/nope", "photos=/nope is no folder"),
        ("summary checkpoint=/nope", NO_CHECKPOINT),
        ("evaluate checkpoint=/tmp", "checkpoint=/tmp is a folder"),
        ("evaluate checkpoint=FILE data=coco data.root=/nope", f"{NO_COCO} {MISSING}"),
        ("evaluate predictions=/nope.mat data.root=/nope", NO_TRUTH),
        ("evaluate predictions=/nope.parquet", "a prediction table (.parquet) is looked for"),
        ("evaluate predictions=/nope.json data=coco", "COCO results (.json) is looked for"),
        ("evaluate predictions=FILE data=coco data.root=/nope", f"{NO_COCO} cannot be read"),
        ("evaluate run=/nope", "/nope is no run folder"),
        ("compare a=/nope b=/nope", "/nope is no folder"),
        ("compare a=FILE.mat b=FILE.mat data.root=/nope", NO_TRUTH),
        ("export_weights checkpoint=/nope output=x", NO_CHECKPOINT),
        ("predict checkpoint=/nope input=x output=y", NO_CHECKPOINT),
        ("predict checkpoint=FILE input=/nope output=y", "input=/nope does not exist"),
        ("predict checkpoint=FILE input=x output=y format=z", "format=z must be one of csv, par"),
        ("publish run=/nope output=x", "/nope is no run folder"),
        ("rerun run=/nope", "run=/nope is no finished run"),
        ("replay_step run=/nope", "/nope has no dump of a step"),
        ("qualitative a=/nope b=/nope output=x", "/nope is no folder"),
        ("theorem runs=/nope", "/nope is no folder"),
        ("report runs=EMPTY", "holds no finished run"),
    ],
)
def test_a_wrong_command_is_told_before_anything_large_is_imported(command, told, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("file", "file.mat"):
        (tmp_path / name).touch()
    command = command.replace("FILE", f"{tmp_path}/file").replace("EMPTY", f"{tmp_path}/empty")
    verb, *arguments = command.split()
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
