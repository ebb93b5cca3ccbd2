"""Wrong inputs: a sentence that says what, where and what to do, exit code 1, nothing left."""

from __future__ import annotations

import importlib.util
import json
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import torch
from hydra.core.global_hydra import GlobalHydra

from posematch.app.verbs.train import _train
from posematch.data.synthetic import SyntheticSpec, ensure_synthetic

REPOSITORY = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("processes_once")
SPEC = SyntheticSpec(train_photos=6, valid_photos=3)
TINY = ("data.spec.train_photos=6", "data.spec.valid_photos=3", "data.input_size=[64,64]",
        "data.batch_size=4", "data.workers=0", "trainer.accelerator=cpu", "trainer.max_epochs=1",
        "measure=none", "pictures.every_n_epochs=0")  # fmt: skip


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """Root of a small synthetic data set, and of the same in MPII's and COCO's own layouts."""
    root = tmp_path_factory.mktemp("drawn")
    ensure_synthetic(root, SPEC)
    return root


@pytest.fixture
def mpii(drawn, tmp_path) -> Path:
    return shutil.copytree(next(drawn.glob("*/mpii")), tmp_path / "mpii")


@pytest.fixture
def coco(drawn, tmp_path) -> Path:
    return shutil.copytree(next(drawn.glob("*/coco")), tmp_path / "coco")


def script(name: str) -> Callable[[], None]:
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def refused(monkeypatch, tmp_path, capsys):
    """Run a script in this process; its sentence, after checking the rest."""

    def run(*overrides: str, name: str = "train", left: int = 0, lines: int = 1) -> str:
        root = tmp_path / "runs"
        extra = [f"run_root={root}"] if name == "train" else []
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *extra, *overrides])
        GlobalHydra.instance().clear()
        # A sweep is run by another process, whose words do not come here.
        called = (lambda: _train(sys.argv[1:])) if "-m" in overrides else script(name)
        with pytest.raises(SystemExit) as ended:
            called()
        told = capsys.readouterr().err.strip()
        assert ended.value.code == 1, told
        assert told.count("\n") == lines - 1, told
        assert told.endswith((".", "?")), told
        assert "Traceback" not in told
        assert len(list(root.glob("*"))) == left, "something was left in run_root"
        return told

    return run


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        # names
        ("trainer.max_epoch=3", "the nearest is trainer.max_epochs"),
        ("los=matching", "the nearest is loss"),
        ("loss=matchin", "the nearest is matching; there are: adaptive_wing, annealed_matching"),
        ("loss.sigma=2", "loss.sigma is no key of what is chosen; it is one of loss=adaptive_"),
        ("loss=null", "loss=null is no choice; there are: adaptive_wing"),
        ("hydra.run.dirr=x", "the nearest is hydra.run.dir"),
        ("callbacks=[ema,early]", "callbacks=early is no choice"),
        ("backbone.name=hrnet_w18_smal", "hrnet_w18_small"),
        ("+loss.epsilonn=1", "the nearest is loss.epsilon"),
        ("+trainer.max_epoch=1", "the nearest is trainer.max_epochs"),
        ("+trainer.max_epochs=1", "leave out its +"),
        ("+logger=wandb", "logger is chosen twice"),
        ("+lr=1", "Nothing reads the key lr"),
        ("~decoder", "lacks decoder"),
        ("loss._target_=mypackage.Loss", "mypackage.Loss cannot be imported"),
        ("decoder=argmax decoder._target_=posematch.decoding.Argmin", "has no attribute 'Argmin'"),
        ("decoder=udp_combined", "reads 3 maps a joint, and the network has 1"),
        ("decoder=dark decoder.kernel=4", "decoder.kernel=4 must be odd"),
        ("decoder=soft_argmax decoder.temperature=0", "decoder.temperature=0 must be positive"),
        ("decoder=quarter_offset decoder.edge_rule=dark", "must be one of hrnet, mmpose"),
        ("loss=udp_combined loss.radius_share=0", "loss.radius_share=0 must be positive"),
        ("loss=gaussian_then_matching loss.then.epsilonn=1", "the nearest is loss.then.epsilon"),
        ("loss=matching_and_gaussian loss.weights.matchin=1", "the nearest is loss.weights.match"),
        ("loss=matching_and_gaussian +loss.weights.js=1", "loss.weights.js: there is no such loss"),
        # the command line
        ("data.root", "is no override; write data.root=VALUE"),
        ("data.input_size=[64", "is no override that can be read; write key=value"),
        ("=3", "'=3' is no override"),
        ("=", "'=' is no override; write key=value"),
        ("~=[64,64]", "'~=[64,64]' is no override"),
        ("~loss=[matching]", "~loss=[matching] is no choice; there are: adaptive_wing"),
        ("+a=" + 60 * "[" + 60 * "]", "nested more than 50 levels deep"),
        ("data.batch_size=" + 5000 * "9", "data.batch_size=9999"),
        ("-m --cfg job", "Only one of --run, --multirun, --cfg"),
        ("logger=csv,wandb", "write logger=[csv,wandb] for a list, or add -m"),
        ("--hlep", "the nearest is --help"),
        ("--cfg jbo", "choose from 'job'"),
        ("--config-dir nowhere", "nowhere' not found"),
        ("--config-name trian", "no configuration trian"),
        ("predictions=x", "predictions is no key of the configuration"),
        ("data.root=${oc.env:POSEMATCH_NOT_SET}", "variable 'POSEMATCH_NOT_SET' not found"),
        ("loss.epsilon=???", "loss.epsilon is not set"),
        # sweeps, before any job
        ("-m trainer.max_epoch=1,2", "the nearest is trainer.max_epochs"),
        ("-m loss=matching,matchin", "the nearest is matching"),
        ("-m loss=matching,dot_mse loss.epsilon=1,2", "loss=adaptive_wing, loss=matching."),
        ("-m loss.epsilon=interval(0,1)", "hydra/sweeper=optuna"),
        # a dry run
        ("dry_run=maybe", "dry_run=maybe must be true or false"),
        ("dry_run=true seed=one", "seed=one must be an integer"),
        ("dry_run=true trainer.max_epochs=-1", "would never end"),
        ("dry_run=true checkpoint=/nope.ckpt", "/nope.ckpt"),
        # types
        ("data.batch_size=abc", "data.batch_size=abc must be an integer"),
        ("loss.epsilon=[1]", "loss.epsilon=[1] must be a number"),
        ("backbone.head=top", "backbone.head=top must be one of auto, conv, deconv"),
        ("flip_test=maybe", "flip_test=maybe must be true or false"),
        ("data.input_size=64", "data.input_size=64 must be a list of 2 integers"),
        ("loss.epsilon=nan", "loss.epsilon=nan must be a number"),
        ("data.geometry=5", "must be a mapping whose _target_ makes GeometricAugmentation"),
        # values
        ("data.batch_size=0", "data.batch_size=0 must be at least 1"),
        ("data.input_size=[100,100]", "multiples of 32"),
        ("data.spec.max_photo_px=1000000000", "data.spec.max_photo_px=1000000000 must be an int"),
        ("data.spec.min_photo_px=400", "data.spec.min_photo_px=400 must be at most data.spec.max"),
        ("data.spec.people_weights=[0,0]", "data.spec.people_weights=[0, 0] must have a positive"),
        ("data.spec.people_weights=[-1]", "must be a list of a number from 0 to 1000000"),
        ("data.spec.jpeg_quality=101", "data.spec.jpeg_quality=101 must be an integer from 0 to"),
        ("data.spec.min_photo_px=1 data.spec.max_photo_px=2", "Nobody fits into the 3 validation"),
        ("data.skeleton=mpi", "data.skeleton=mpi must be one of mpii, coco"),
        ("data.convention=dark", "data.convention=dark must be"),
        ("loss.epsilon=0", "loss.epsilon=0 must be positive"),
        ("optimizer.lr=-1", "Invalid learning rate: -1"),
        ("seed=-1", "seed=-1 must be an integer between"),
        ("reference_batch_size=0", "reference_batch_size=0 must be an integer of at least 1"),
        ("schedule.warmup_share=7", "schedule.warmup_share=7 must lie between 0 and 1"),
        ("callbacks=ema callbacks.ema.decay=2", "callbacks.ema.decay=2 must lie in"),
        ("trainer.precision=17", "trainer.precision=17 must be one of"),
        ("trainer.accelerator=tpuu", "tpuu"),
        ("loss=gaussian_mse loss.sigma=-1", "loss.sigma=-1 must be positive"),
        ("loss=gaussian_then_matching loss.switch_epoch=soon", "loss.switch_epoch=soon must be an"),
        ("loss=gaussian_then_matching loss.first=3", "loss.first=3 must be a mapping whose"),
        ("loss=matching_and_gaussian loss.weights.matching=x", "loss.weights.matching=x must be a"),
        # files
        ("resume=nowhere", "resume=nowhere is not a run with a checkpoint"),
        ("checkpoint=nowhere.ckpt", "nowhere.ckpt does not exist: a checkpoint is looked for"),
        # the same mistakes in other keys
        pytest.param("augmentation/geometri=none",
                     "the nearest is augmentation/geometry", marks=pytest.mark.slow),
        pytest.param("logger=wanbd", "the nearest is wandb", marks=pytest.mark.slow),
        pytest.param("trainer=ddpp", "the nearest is ddp", marks=pytest.mark.slow),
        pytest.param("debug=onestep", "the nearest is one_step", marks=pytest.mark.slow),
        pytest.param("+pictures.every_epochs=1",
                     "the nearest is pictures.every_n_epochs", marks=pytest.mark.slow),
        pytest.param("loss=gaussian_then_matching +loss.first.sigmaa=1",
                     "the nearest is loss.first.sigma", marks=pytest.mark.slow),
        pytest.param("data.sigma=${data.sigmaa}",
                     "data.sigma=${data.sigmaa} cannot be resolved", marks=pytest.mark.slow),
        pytest.param("-m loss=glob(*) los=1", "the nearest is loss", marks=pytest.mark.slow),
        pytest.param("-m seed=1,2 +lr=1",
                     "the key lr; the nearest is optimizer.lr", marks=pytest.mark.slow),
        pytest.param("data.batch_size=2.5",
                     "data.batch_size=2.5 must be an integer", marks=pytest.mark.slow),
        pytest.param("optimizer.lr=fast",
                     "optimizer.lr=fast must be a number", marks=pytest.mark.slow),
        pytest.param("trainer.max_epochs=ten",
                     "trainer.max_epochs=ten must be an integer or null", marks=pytest.mark.slow),
        pytest.param("seed=abc", "seed=abc must be an integer", marks=pytest.mark.slow),
        pytest.param("data.input_size=[64,64,3]",
                     "data.input_size=[64,64,3] must be a list of 2", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_wrong_command_lines(refused, drawn, overrides, words):
    assert words in refused(f"data.root={drawn}", *TINY, *overrides.split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_where_there_is_none(refused, drawn):
    assert "gpu" in refused(f"data.root={drawn}", *TINY, "trainer.accelerator=gpu")


def test_weights_that_cannot_be_had(refused, drawn, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert "pretrained=false" in refused(f"data.root={drawn}", *TINY, "backbone.pretrained=true")


def test_not_a_checkpoint(refused, drawn, tmp_path):
    (tmp_path / "x.ckpt").write_text("no checkpoint")
    told = refused(f"data.root={drawn}", *TINY, f"checkpoint={tmp_path / 'x.ckpt'}")
    assert "x.ckpt" in told


def test_run_root_is_a_file(refused, drawn, tmp_path):
    (tmp_path / "runs").write_text("")
    assert "set run_root" in refused(f"data.root={drawn}", *TINY)


def test_no_space_for_the_run_folder(refused, drawn, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=2**20)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert "has 1 MiB left" in refused(f"data.root={drawn}", *TINY)


def test_disk_that_fills_up(refused, drawn):
    """A limit on the size of files stands for it: the first checkpoint is larger than 100 KiB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100 * 2**10, limits[1]))
    try:
        told = refused(f"data.root={drawn}", *TINY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert told.startswith("File too large; free some space")


def test_more_memory_than_there_is(refused, drawn):
    """8 TB of weights: PyTorch's allocator is asked for them."""
    wide = ("backbone.head=deconv", "backbone.deconv_channels=1000000000")
    told = refused(f"data.root={drawn}", *TINY, *wide)
    assert told.startswith("Out of memory (8192000000000 bytes more were needed); lower data.batch")


def test_loss_that_is_not_finite(refused, drawn):
    """A whole training of such steps: told one by one, then in one sentence; the dump is left."""
    told = refused(
        f"data.root={drawn}", *TINY, "backbone.head_init_std=1e30", "loss=gaussian_mse",
        "max_skipped_steps=1", left=1, lines=2,
    )  # fmt: skip
    assert "optimizer.lr" in told
    assert "Epoch 1, step 0 had a loss or gradient that is NaN or infinite, with" in told


LIKE_MPII = ("data=mpii", "experiment=cpu", "data.input_size=[64,64]", "data.batch_size=4",
             "data.workers=0", "trainer.max_epochs=1")  # fmt: skip


HARM = {
    "annot/valid.json does not exist; MPII Human Pose site": lambda root: shutil.rmtree(root),
    "photos of mpii are missing; MPII Human Pose site": lambda root: shutil.rmtree(root / "images"),
    "1 of; photos of mpii; .jpg": lambda root: next((root / "images").iterdir()).unlink(),
    "valid.json; as json": lambda root: (root / "annot/valid.json").write_text('[{"image":'),
    "does not hold; right file": lambda root: (root / "annot/valid.json").write_text("{}"),
    "train.json; not an MPII person": lambda root: (root / "annot/train.json").write_text("[{}]"),
    "There is no file; gt_valid.mat": lambda root: (root / "annot/gt_valid.mat").unlink(),
    "gt_valid.mat": lambda root: (root / "annot/gt_valid.mat").write_text("x"),
}


@pytest.mark.parametrize("words", HARM)
def test_broken_mpii(refused, mpii, words):
    HARM[words](mpii)
    told = refused(f"data.root={mpii}", *LIKE_MPII)
    for word in words.split("; "):
        assert word in told


def test_joint_count_that_does_not_fit(refused, mpii):
    rows = json.loads((mpii / "annot/train.json").read_text())
    rows[0]["joints"] = rows[0]["joints"][:5]
    (mpii / "annot/train.json").write_text(json.dumps(rows))
    told = refused(f"data.root={mpii}", *LIKE_MPII)
    assert "5 joints" in told
    assert "'mpii' has 16" in told


def test_photo_that_is_no_photo(refused, mpii):
    for photo in (mpii / "images").iterdir():
        photo.write_text("no photo")
    assert ".jpg" in refused(f"data.root={mpii}", *LIKE_MPII)


def test_coco_annotation_of_another_kind(refused, coco):
    for file in coco.glob("annotations/*.json"):
        file.write_text('{"images": []}')
    told = refused(f"data.root={coco}", *(o.replace("mpii", "coco") for o in LIKE_MPII))
    assert "COCO annotations" in told


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "absent"), (b"x", "predictions"), (np.zeros(3).tobytes(), "predictions")],
)
def test_predictions_of_another_kind(refused, mpii, tmp_path, content, words):
    file = tmp_path / ("absent.mat" if content is None else "predictions.mat")
    if content is not None:
        file.write_bytes(content)
    assert words in refused(
        f"predictions={file}", "data=mpii", f"data.root={mpii}", name="evaluate"
    )


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("", "Name what is to be scored: checkpoint=FILE, predictions=FILE or run=FOLDER."),
        ("prediction=x", "the nearest is predictions"),
        ("predictions=5", "predictions=5 must be text"),
        ("predictions=x data.root=null", "data.root=null must be text"),
        ("predictions=x data=synthetic", "use data=mpii or data=coco"),
        ("predictions=x data=coco data.valid_annotations=5", "must be text or null"),
    ],
)
def test_wrong_command_lines_of_evaluate(refused, overrides, words):
    assert words in refused(*overrides.split(), name="evaluate")


def test_predictions_for_other_people(refused, mpii, tmp_path):
    scipy.io.savemat(tmp_path / "preds.mat", {"preds": np.zeros((7, 16, 2))})
    told = refused(
        f"predictions={tmp_path / 'preds.mat'}", "data=mpii", f"data.root={mpii}", name="evaluate"
    )
    assert "(7, 16, 2)" in told
    assert "people" in told


USERS = {
    "loss/broken.yaml": ("epsilon: [", "broken.yaml, line 2, is not YAML"),
    "backbone/mine.yaml": ("defaults: [hrnet_w488]", "(in backbone/mine.yaml); the nearest is hrn"),
    "loss/number.yaml": ("5", "number.yaml is no mapping of keys to values"),
    "loss/defaults.yaml": ("defaults: 5", "defaults.yaml must be a list, such as"),
    "loss/itself.yaml": ("defaults: [itself]", "itself.yaml lead back to itself"),
    "loss/open.yaml": ("name: '${a'", "open.yaml cannot be read as a configuration"),
    "loss/nobody.yaml": ("null: 3", "nobody.yaml cannot be read as a configuration"),
    "loss/base.yaml": ("a: " + 5000 * "1:" + "1", "base.yaml has a whole number that is larger"),
    "loss/deep.yaml": ("name: '" + 99 * "${" + "a" + 99 * "}" + "'", "nested more than 50 levels"),
    "experiment/group.yaml": ("defaults: [override /los: matching]", "(in experiment/group.yaml)"),
    "experiment/key.yaml": ("losss: 1", "Nothing reads the key losss"),
    "experiment/argument.yaml": ("trainer: {max_epoch: 1}", "the nearest is trainer.max_epochs"),
}


@pytest.mark.parametrize("file", USERS)
def test_wrong_configuration_of_ones_own(refused, drawn, tmp_path, file):
    content, words = USERS[file]
    group, _, name = file.partition("/")
    (tmp_path / "own" / group).mkdir(parents=True)
    package = "# @package _global_\n" if group == "experiment" else ""
    (tmp_path / "own" / file).write_text(package + content)
    choice = f"{group}={name.removesuffix('.yaml')}"
    own = f"--config-dir={tmp_path / 'own'}"
    assert words in refused(f"data.root={drawn}", *TINY, choice, own)


def test_monitor_that_is_not_measured_is_told_before_the_first_epoch(refused, drawn):
    early = ("callbacks=early_stopping", "callbacks.early_stopping.monitor=val/PCKh@0.6")
    assert "the nearest is val/PCKh@0.5" in refused(f"data.root={drawn}", *TINY, *early)


def test_checkpoint_of_another_network(refused, drawn, tmp_path):
    torch.save({"network.conv.weight": torch.zeros(1)}, tmp_path / "x.ckpt")
    told = refused(f"data.root={drawn}", *TINY, f"checkpoint={tmp_path / 'x.ckpt'}")
    assert "has no last layer that makes heatmaps" in told


def test_resume_of_another_configuration(refused, drawn, tmp_path, monkeypatch):
    first = tmp_path / "first"
    command = [f"run_root={first}", f"data.root={drawn}", *TINY]
    monkeypatch.setattr(sys, "argv", ["train.py", *command])
    GlobalHydra.instance().clear()
    script("train")()
    (run,) = first.iterdir()
    told = refused(f"data.root={drawn}", *TINY, f"resume={run}", "optimizer.lr=0.5")
    assert "optimizer.lr" in told


def test_debug_shows_the_traceback(drawn, monkeypatch, tmp_path):
    command = [f"run_root={tmp_path}", f"data.root={drawn}", *TINY, "seed=-1", "debug=traceback"]
    monkeypatch.setattr(sys, "argv", ["train.py", *command])
    GlobalHydra.instance().clear()
    with pytest.raises(Exception, match="seed=-1 must be"):
        script("train")()


def test_the_right_command_is_not_refused(drawn, monkeypatch, tmp_path, capsys):
    """Or the tests above would mean little."""
    root = tmp_path / "runs"
    monkeypatch.setattr(sys, "argv", ["train.py", f"run_root={root}", f"data.root={drawn}", *TINY])
    GlobalHydra.instance().clear()
    script("train")()
    assert len(list(root.glob("*/result.json"))) == 1
    assert capsys.readouterr().err == ""
    assert cv2.haveImageReader(str(next(drawn.glob("*/mpii/images/*.jpg"))))
