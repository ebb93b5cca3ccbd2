"""Several processes (gloo, CPU): few people, and one that dies or falls silent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from posematch.errors import PosematchError
from posematch.runs.folder import RunFolder
from posematch.training.build import build_datamodule, build_trainer, check_devices
from posematch.training.processes import failures_told, sentence_of

REPOSITORY = Path(__file__).resolve().parents[2]
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@pytest.fixture
def command(drawn, tmp_path):
    """A command of scripts/train.py for a tiny training, with more overrides."""

    def make(root, *overrides):
        return [
            sys.executable, str(REPOSITORY / "scripts" / "train.py"), f"data.root={drawn}",
            f"run_root={tmp_path / root}", "data.spec.train_photos=12", "data.spec.valid_photos=1",
            "data.input_size=[64,64]", "data.workers=0", "data.batch_size=2", "loss=gaussian_mse",
            "measure=none", "decoders=none", "trainer=ddp", "trainer.accelerator=cpu",
            "trainer.precision=32-true", "trainer.devices=2", *overrides,
        ]  # fmt: skip

    return make


class TestDevices:
    """On a machine without a GPU."""

    pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")

    @pytest.mark.parametrize("devices", [8, "8", -1, "-1", [0], [0, 1], "0,1"])
    def test_none_there(self, devices):
        with pytest.raises(PosematchError, match=r"trainer\.devices=.*no GPU here"):
            check_devices("auto", devices)

    @pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
    def test_asked_for_by_name(self, accelerator):
        with pytest.raises(PosematchError, match=f"accelerator={accelerator}: there is no GPU"):
            check_devices(accelerator, 1)

    @pytest.mark.parametrize("devices", [-1, 0, "auto", [0, 1]])
    def test_a_cpu_takes_a_number_of_processes(self, devices):
        with pytest.raises(PosematchError, match="must be a number of processes"):
            check_devices("cpu", devices)

    def test_what_runs(self):
        assert not check_devices("auto", 1)
        assert not check_devices("auto", "auto")
        assert not check_devices("cpu", 1)
        assert check_devices("cpu", 8)

    def test_nothing_is_started(self, composed):
        cfg = composed("trainer.accelerator=auto", "trainer.devices=8", "trainer.precision=32-true")
        with pytest.raises(PosematchError, match=r"trainer\.devices=8: there is no GPU here"):
            build_trainer(cfg)


def test_devices_that_are_not_there(monkeypatch):
    """How many there are is torch's to say; here of a machine with two."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for devices in (3, "3", [0, 2], "0,2"):
        with pytest.raises(PosematchError, match=r"there are 2 GPUs here, .* is number 2;"):
            check_devices("auto", devices)
    severally = {2: True, 1: False, -1: True, "auto": True, "0,1": True}
    assert {one: check_devices("gpu", one) for one in severally} == severally
    assert not check_devices("auto", [1])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("DataLoader worker (pid(s) 12) exited unexpectedly", "pid 12) was killed, out of memory?"),
        ("DataLoader worker (pid 12) is killed by signal: Killed. ", "pid 12) was killed"),
        ("DataLoader timed out after 30.0 seconds", "not answered for 0.5 minutes"),
        (
            "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that"
            " dataloader's workers are out of shared memory.",
            "--shm-size",
        ),
    ],
)
def test_a_loaders_worker(text, words):
    assert words in sentence_of(RuntimeError(text))


def test_other_errors_are_not_told():
    for error in (RuntimeError("a shape does not fit"), ValueError("DataLoader timed out")):
        assert sentence_of(error) is None


def test_a_mistake_in_the_code_goes_through(composed):
    cfg = composed("trainer.precision=32-true")
    with pytest.raises(RuntimeError, match="a shape"), failures_told(build_trainer(cfg)):
        raise RuntimeError("a shape does not fit")


@pytest.mark.slow
@pytest.mark.parametrize("people", [1, 3, 20])
def test_few_people(command, tmp_path, people):
    """2 and 3 processes make of 1, 3, 20 people what one process makes of them.

    The last batch, or the only one, has fewer people than there are processes. Statistics are
    frozen, as each process has its own; rounding is what is left.
    """
    common = (
        f"data.train_people={people}", "data.valid_batch_size=1", "trainer.max_epochs=1",
        f"data.spec.valid_photos={max(1, people // 2)}", "backbone.freeze_norm=true",
        "optimizer._target_=torch.optim.SGD", "optimizer.lr=1e-2",
    )  # fmt: skip
    folders = []
    for processes in (1, 2, 3):
        more = f"data.batch_size={6 // processes}", f"trainer.devices={processes}"
        done = subprocess.run(
            command(str(processes), *common, *more),
            capture_output=True, text=True, cwd=tmp_path, timeout=500,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (folder,) = (tmp_path / str(processes)).iterdir()
        folders.append(RunFolder(folder))
    alone, *others = folders
    table = pd.read_parquet(alone.predictions(0))
    ids = table.person_id.unique()
    assert not table.duplicated(["person_id", "joint"]).any()
    epoch = pd.read_csv(alone.metrics)
    figures = json.loads(alone.result.read_text())
    for folder in others:
        other = pd.read_parquet(folder.predictions(0))
        assert list(other.person_id) == list(table.person_id)
        assert other.person_id.nunique() == len(ids)
        np.testing.assert_allclose(other[["x", "y"]], table[["x", "y"]], atol=1e-3)
        losses = [name for name in epoch if name.endswith("loss") or name.startswith("val/loss")]
        assert len(losses) == 2
        mine = pd.read_csv(folder.metrics)
        np.testing.assert_allclose(mine[losses], epoch[losses], rtol=1e-5)
        assert mine["step"].equals(epoch["step"])
        found = json.loads(folder.result.read_text())
        assert found["figures"] == figures["figures"]
        assert found["protocol"] == figures["protocol"]


def children(pid):
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # of those nobody may ask any more in a container


class Training:
    """One that runs, past its first epoch."""

    def __init__(self, command, folder):
        self.root = folder / "runs"
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=folder
        )
        while not list(self.root.glob("*/checkpoints/last.ckpt")):
            assert self.process.poll() is None, self.process.stderr.read()
            time.sleep(0.1)
        below = children(self.process.pid)
        (self.second,) = [one for one in below if b"LOCAL_RANK=1\0" in self.environ(one)]
        # Of training: those of validation come later.
        self.workers = [one for one in below if one != self.second], children(self.second)
        self.all = [self.process.pid, *below, *self.workers[1]]

    @staticmethod
    def environ(pid):
        return Path(f"/proc/{pid}/environ").read_bytes()

    def told(self):
        """What it prints until it ends; nothing that it started is left."""
        _, errors = self.process.communicate(timeout=200)
        assert "Traceback" not in errors
        deadline = time.monotonic() + 20
        while any(is_running(pid) for pid in self.all):
            assert time.monotonic() < deadline, "a process is left"
            time.sleep(0.1)
        return errors


@linux
@pytest.mark.slow
@pytest.mark.parametrize(
    ("who", "blow", "words"),
    [
        ("second", signal.SIGKILL, "(pid {pid}, counted from 0) was ended by SIGKILL"),
        ("second", signal.SIGSTOP, "(pid {pid}, counted from 0) is stopped"),
        ("worker of the first", signal.SIGKILL, "worker (pid {pid}) was killed"),
        ("worker of the second", signal.SIGKILL, "worker (pid {pid}) was killed"),
        ("worker of the second", signal.SIGSTOP, "worker has not answered for 0.7 minutes"),
    ],
)  # fmt: skip
def test_a_process_that_dies_or_is_silent(command, tmp_path, who, blow, words):
    """One sentence, exit code 1, nothing left, and a run that goes on."""
    workers = "data.workers=1" if "worker" in who else "data.workers=0"
    more = "silence_minutes=0.7", workers
    training = Training(command("runs", *more, "trainer.max_epochs=2000"), tmp_path)
    workers = [*training.workers[0], None], [*training.workers[1], None]
    pid = {
        "second": training.second,
        "worker of the first": workers[0][0],
        "worker of the second": workers[1][0],
    }[who]
    os.kill(pid, blow)
    errors = training.told()
    assert training.process.returncode == 1
    assert errors.count(words.format(pid=pid)) == 1, errors
    (folder,) = training.root.iterdir()
    assert f"resume={folder}" in errors
    assert RunFolder(folder).last_checkpoint.exists()


@linux
@pytest.mark.slow
def test_the_first_process_killed(command, tmp_path):
    """The others, and the workers of all, end by themselves."""
    training = Training(command("runs", "data.workers=1", "trainer.max_epochs=2000"), tmp_path)
    training.process.kill()
    training.told()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_photo_of_the_second_process(command, composed, tmp_path, workers):
    """Its sentence is told once, nothing hangs, and no empty run folder is left."""
    options = (
        f"data.root={tmp_path / 'data'}", "data.spec.people_weights=[1.0,0.0,0.0]",
        "data.train_people=2", "data.batch_size=1", f"data.workers={workers}",
    )  # fmt: skip
    datamodule = build_datamodule(composed(*options, "data.spec.valid_photos=1"))
    datamodule.setup("fit")
    # Of the first epoch's order the second person is the second process's.
    second = np.random.default_rng([0, 0]).permutation(2)[1]
    photo = datamodule.train.people[second].image
    photo.write_bytes(b"not a photo")
    done = subprocess.run(
        command("runs", *options, "trainer.max_epochs=1"),
        capture_output=True, text=True, cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count(f"The photo {photo} is not a readable image") == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "runs").iterdir())
