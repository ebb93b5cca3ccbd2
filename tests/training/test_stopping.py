"""Signals, locks, moved and damaged run folders: what is kept, and that it is told truly."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import pandas as pd
import pytest
import torch
from light import LIGHT

from posematch.errors import PosematchError
from posematch.runs.folder import LOCK, RunFolder, held, new_run_folder
from posematch.training import run
from posematch.training.run import train
from posematch.training.stopping import InterruptedTrainingError, request_stop

REPOSITORY = Path(__file__).resolve().parents[2]


class Send(pl.Callback):
    """Signals this process, in the n-th call of a hook, counted from 1."""

    def __init__(self, hook: str, call: int, *numbers: int):
        self.left = call
        self.numbers = numbers
        setattr(self, hook, self._send)

    def _send(self, *_):
        self.left -= 1
        if self.left == 0:
            for number in self.numbers:
                os.kill(os.getpid(), number)


@pytest.fixture
def composed(composed):
    return functools.partial(composed, *LIGHT, "loss=gaussian_mse")


def train_until(cfg, callback) -> tuple[RunFolder | None, str]:
    """Train until a callback stops it; the run folder and the sentence."""
    build = run.build_trainer

    def stopping(*arguments):
        trainer = build(*arguments)
        trainer.callbacks.append(callback)
        return trainer

    root = Path(cfg.run_root)
    before = set(root.glob("*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "build_trainer", stopping)
        with pytest.raises(InterruptedTrainingError) as error:
            train(cfg)
    new = set(root.glob("*")) - before
    return RunFolder(new.pop()) if new else None, str(error.value)


@pytest.fixture
def stopped():
    return train_until


@pytest.fixture(scope="module")
def stopped_runs(composed_in, tmp_path_factory):
    """Trainings stopped by SIGTERM after a batch, by its number; each is made once."""

    @functools.cache
    def make(batch: int) -> RunFolder:
        cfg = composed_in(tmp_path_factory.mktemp("stopped"), *LIGHT, "loss=gaussian_mse")
        return train_until(cfg, Send("on_train_batch_end", batch, signal.SIGTERM))[0]

    return make


@pytest.fixture
def stopped_after(stopped_runs, tmp_path):
    """A copy of one of them, in the folder where the test's trainings look for runs."""

    def copy(batch: int) -> RunFolder:
        source = stopped_runs(batch).path
        return RunFolder(shutil.copytree(source, tmp_path / "runs" / source.name))

    return copy


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_in_training(composed, stopped, number):
    folder, told = stopped(composed(), Send("on_train_batch_end", 2, number))
    assert told == (
        f"Stopped; epoch 1, step 2 is kept. Repeat the command with resume={folder.path} to go on"
        " there."
    )
    assert train(composed("resume=auto")).folder == folder
    assert not (folder.path / LOCK).exists()


def test_a_signal_in_validation(composed, stopped):
    """Its epoch's steps are kept, and it is not finished first."""
    folder, told = stopped(composed(), Send("on_validation_batch_start", 1, signal.SIGTERM))
    assert "epoch 1, step 4 is kept" in told
    assert not folder.metrics.exists()
    assert train(composed("resume=auto")).folder == folder
    assert list(pd.read_csv(folder.metrics).epoch) == [0, 1]


def test_a_signal_in_the_validation_before_training(composed, stopped, tmp_path):
    folder, told = stopped(
        composed("validate_first=true"), Send("on_validation_batch_start", 1, signal.SIGTERM)
    )
    assert told == "Stopped before the first checkpoint; the run folder is removed."
    assert folder is None
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_second_signal_stops_at_once(composed, stopped):
    """In the middle of a step; the sentence says what there is."""
    cfg = composed("checkpoint_every_minutes=null")
    twice = Send("on_train_batch_end", 3, signal.SIGTERM, signal.SIGTERM)
    folder, told = stopped(cfg, twice)
    assert told.startswith("Stopped at once; epoch 1, step 0 is kept.")
    state = torch.load(folder.last_checkpoint, weights_only=True)
    assert state["global_step"] == 0
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_request_is_never_a_second_signal(composed, stopped):
    class Ask(pl.Callback):
        def on_train_batch_end(self, *_):
            request_stop("The sweep has ended")
            request_stop("The sweep has ended")

    _, told = stopped(composed(), Ask())
    assert told.startswith("Stopped; epoch 1, step 1 is kept.")


def test_untrained_figures_survive_a_resume(composed, stopped):
    cfg = composed("validate_first=true")
    folder, _ = stopped(cfg, Send("on_train_batch_end", 2, signal.SIGTERM))
    result = train(composed("validate_first=true", "resume=auto"))
    assert result.folder == folder
    assert result.figures.keys() == {"mean pose", "untrained", "last"}


def test_one_process_trains_a_run_folder(composed, stopped_after, tmp_path):
    folder = stopped_after(2)
    holder = (
        "import sys; from pathlib import Path;"
        "from posematch.runs.folder import RunFolder, held\n"
        "with held(RunFolder(Path(sys.argv[1]))):\n print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", holder, str(folder.path)], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout.readline() == "held\n"
        with pytest.raises(PosematchError, match=rf"another process \({process.pid} on "):
            train(composed(f"resume={folder.path}"))
        # By itself it is passed over: a new run begins.
        assert train(composed("resume=auto", "trainer.max_epochs=2")).folder != folder
        process.kill()
    with held(folder):  # a dead one's is taken over
        pass


def test_a_moved_run_keeps_its_best(composed, stopped, tmp_path):
    """The record of the best checkpoint holds no path."""
    cfg = composed("trainer.max_epochs=3")
    folder, _ = stopped(cfg, Send("on_train_epoch_start", 3, signal.SIGTERM))
    best = folder.best_checkpoint.read_bytes()
    moved = RunFolder(shutil.move(folder.path, tmp_path / "elsewhere"))
    result = train(composed("trainer.max_epochs=3", f"resume={moved.path}"))
    figures = list(pd.read_csv(moved.metrics)["val/PCKh@0.5"])
    assert result.folder == moved
    if figures[2] <= max(figures[:2]):
        assert moved.best_checkpoint.read_bytes() == best
    kept = torch.load(moved.best_checkpoint, weights_only=True)["epoch"]
    assert figures[kept] == max(figures)


def test_beginnings_of_killed_trainings_go(tmp_path):
    """And nothing else: not a run, not one that is held, not a user's folder."""
    dead, mine, kept, alive = (new_run_folder(tmp_path, name) for name in "abcd")
    for folder in (dead, kept, alive):
        (folder.path / LOCK).touch()
        folder.config.write_text("seed: 0\n")
    kept.checkpoints.mkdir()
    kept.last_checkpoint.touch()
    mine.config.write_text("seed: 0\n")  # an earlier version's has no lock
    (tmp_path / "notes").mkdir()
    with held(alive):
        new_run_folder(tmp_path, "next")
    assert not dead.path.exists()
    assert all(one.path.exists() for one in (mine, kept, alive))
    assert (tmp_path / "notes").exists()


HARM = {
    "checkpoints/last.ckpt": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "config.yaml": lambda path: path.write_text("a: [1,"),
    "config.yaml  ": lambda path: path.write_text(
        path.read_text().partition("max_epochs")[0] + "ma"
    ),
    "config.yaml   ": lambda path: path.write_text(
        "".join(path.read_text().partition("max_epochs:")[:2])
    ),
    "config.yaml ": lambda path: path.write_text("a: &x [1]\nb: *x\n"),
    "environment.json": lambda path: path.write_text("[]"),
    "metrics.csv": lambda path: path.unlink(),
    "metrics.csv ": lambda path: path.write_text("step\n1\n"),
}


@pytest.mark.parametrize("harmed", HARM)
def test_a_damaged_run_is_told_before_anything_starts(composed, stopped_after, harmed):
    folder = stopped_after(6)
    folder.previous_checkpoint.unlink()
    HARM[harmed](folder.path / harmed.strip())
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
    with pytest.raises(PosematchError, match=harmed.strip()) as error:
        train(composed(f"resume={folder.path}"))
    assert "\n" not in str(error.value)
    after = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
    assert before.keys() == after.keys()


def test_one_unreadable_folder_does_not_break_auto(composed, stopped_after, tmp_path, capsys):
    folder = stopped_after(2)
    bad = tmp_path / "runs" / "9999-bad"
    bad.mkdir()
    (bad / "config.yaml").write_text("a: &x [1]\nb: *x\n")
    assert train(composed("resume=auto")).folder == folder
    assert "9999-bad/config.yaml, line 2, has an alias" in capsys.readouterr().err


def test_a_checkpoints_paths_are_not_followed(composed, stopped_after, tmp_path):
    """Of an earlier version's, or a stranger's: Lightning would remove what it names."""
    folder = stopped_after(2)
    victim = tmp_path / "thesis"
    victim.mkdir()
    state = torch.load(folder.last_checkpoint, weights_only=True)
    key = "ModelCheckpoint{'monitor': 'val/PCKh@0.5', 'mode': 'max'}"
    state["callbacks"][key] = {"best_model_path": str(victim), "dirpath": str(folder.checkpoints)}
    torch.save(state, folder.last_checkpoint)
    train(composed("resume=auto"))
    assert victim.is_dir()


def test_a_run_folder_with_links_is_not_written_to(composed, stopped_after, tmp_path, capsys):
    folder = stopped_after(2)
    victim = tmp_path / "thesis"
    victim.mkdir()
    (folder.path / "predictions").symlink_to(victim)
    with pytest.raises(PosematchError, match=r"predictions is a link"):
        train(composed(f"resume={folder.path}"))
    assert train(composed("resume=auto")).folder != folder
    assert "predictions is a link" in capsys.readouterr().err
    assert list(victim.iterdir()) == []


OTHERS = {
    "text for a moment": lambda it: it["optimizer_states"][0]["state"][0].update(exp_avg="text"),
    "no length": lambda it: it["lr_schedulers"][0].update(total_steps=None),
    # As when data of another size lie at data.root, which is free.
    "another length": lambda it: it["lr_schedulers"][0].update(total_steps=3),
    "a phase of no steps": lambda it: it["lr_schedulers"][0]["_schedule_phases"][0].update(
        end_step=0.0
    ),
    "a negative count": lambda it: it["loops"]["fit_loop"]["epoch_progress"]["current"].update(
        ready=-3
    ),
    "more steps than any float": lambda it: it.update(global_step=10**400),
    "NaN": lambda it: next(iter(it["state_dict"].values())).fill_(torch.nan),
}


@pytest.mark.parametrize("spoilt", OTHERS)
def test_a_checkpoint_of_another_training_is_refused(composed, stopped_after, spoilt):
    folder = stopped_after(2)
    folder.previous_checkpoint.unlink()
    state = torch.load(folder.last_checkpoint, weights_only=True)
    OTHERS[spoilt](state)
    torch.save(state, folder.last_checkpoint)
    with pytest.raises(PosematchError, match=r"last\.ckpt is not the checkpoint of this training"):
        train(composed("resume=auto"))


def test_a_moment_that_overflowed_is_no_damage(composed, stopped_after):
    """A gradient of 1e20 is finite, its square in float32 is not; the weights are fine."""
    folder = stopped_after(2)
    state = torch.load(folder.last_checkpoint, weights_only=True)
    state["optimizer_states"][0]["state"][0]["exp_avg_sq"].fill_(torch.inf)
    torch.save(state, folder.last_checkpoint)
    assert train(composed("resume=auto")).folder == folder


def test_the_environment_says_what_changed(composed, stopped_after, capsys):
    folder = stopped_after(2)
    environment = json.loads(folder.environment.read_text())
    environment["versions"]["torch"] = "1.0"
    folder.environment.write_text(json.dumps(environment))
    train(composed("resume=auto"))
    assert "versions.torch was 1.0 and is " in capsys.readouterr().err
