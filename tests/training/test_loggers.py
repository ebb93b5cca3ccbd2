"""What W&B and TensorBoard get, read back from the files they wrote."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from wandb_files import read_wandb

from posematch.training import loggers
from posematch.training.run import train

REPOSITORY = Path(__file__).resolve().parents[2]
HEALTH = ("marginal_error", "iterations", "dead_share", "zero_pixel_share", "positive_sum",
          "mass_within_2px")  # fmt: skip
TRAIN = {"train/loss", "train/grad_norm", "train/learning_rate", "train/images_per_second"} | {
    f"train/matching/{name}" for name in HEALTH
}
VALID = {"val/PCKh@0.5", "val/PCKh@0.1"} | {
    f"val/loss/{name}" for name in ("matching", "gaussian_mse", "dot_mse")
}


def offline(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


def test_wandb_offline_run_holds_every_name(composed, monkeypatch, tmp_path, capsys):
    offline(monkeypatch, tmp_path)
    result = train(
        composed(
            "logger=wandb", "sweep=s1", "trainer.log_every_n_steps=1", "pictures.every_n_epochs=1"
        )
    )
    assert "wandb sync" in capsys.readouterr().err
    rows, metrics, summary, runs, exits = read_wandb(result.folder.path)
    assert exits == [0]
    named = set().union(*rows)
    assert named >= TRAIN | VALID
    joints = {name for name in named if name.startswith("val/PCKh@0.5/")}
    assert joints, sorted(named)
    assert any("val/heatmaps" in name for name in named)
    # Any loss against PCKh: both stand in one row, and PCKh is the axis of the losses' charts.
    together = [row for row in rows if row.keys() >= VALID]
    assert len(together) == 2
    assert metrics["val/loss/*"] == "val/PCKh@0.5"
    assert metrics["val/PCKh@0.5"] == "epoch"
    table = pd.read_csv(result.folder.metrics)
    assert [row["val/PCKh@0.5"] for row in together] == pytest.approx(
        list(table["val/PCKh@0.5"]), rel=1e-6
    )
    assert summary.keys() >= VALID
    assert runs[0].run_group == "s1"
    closing_charts_are_the_csv(result.folder.path, table)
    config = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert config["loss"]["name"] == "matching"
    assert list(result.folder.path.glob("figures/epoch=*.png"))


def closing_charts_are_the_csv(folder: Path, metrics: pd.DataFrame):
    """The tables that W&B draws and shows, as files of the offline run."""
    (media,) = folder.glob("wandb/offline-run-*/files/media/table")

    def logged(name: str) -> pd.DataFrame:
        (file,) = media.glob(f"{name}_*.table.json")
        content = json.loads(file.read_text())
        return pd.DataFrame(content["data"], columns=content["columns"])

    for loss in ("matching", "gaussian_mse", "dot_mse"):
        chart = logged(f"charts/loss_against_metric/{loss}_table")
        assert list(chart["epoch"]) == [0, 1]
        assert list(chart["loss"]) == pytest.approx(list(metrics[f"val/loss/{loss}"]))
        assert list(chart["metric"]) == pytest.approx(list(metrics["val/PCKh@0.5"]))
    assert set(logged("tables/losses")["name"]) >= {"matching", "gaussian_mse", "dot_mse"}
    joints = logged("tables/joints").set_index(["figure", "joint"])["value"]
    assert joints["PCKh@0.5", "left_wrist"] == pytest.approx(
        metrics["val/PCKh@0.5/joint/left_wrist"].iloc[-1]
    )


def test_second_run_of_a_process_is_a_run_of_its_own(composed, monkeypatch, tmp_path):
    offline(monkeypatch, tmp_path)
    folders = [
        train(composed("logger=wandb", f"seed={seed}", "trainer.max_epochs=1",
                       "measure=none")).folder.path
        for seed in (0, 1)
    ]  # fmt: skip
    ids = {read_wandb(folder)[3][0].run_id for folder in folders}
    assert len(ids) == 2


def test_tensorboard_gets_the_same_names(composed):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(composed("logger=tensorboard", "trainer.log_every_n_steps=1"))
    events = EventAccumulator(str(result.folder.path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) >= TRAIN | VALID
    assert events.Tags()["images"] == ["val/heatmaps"]


@pytest.mark.slow
def test_without_network_and_key_wandb_costs_under_five_seconds(drawn, tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    environment["NETRC"] = str(tmp_path / "none")
    seconds = {}
    for logger in ("csv", "wandb"):
        started = time.monotonic()
        subprocess.run(
            [sys.executable, str(REPOSITORY / "scripts" / "train.py"), f"data.root={drawn}",
             f"run_root={tmp_path / logger}", "data.spec.train_photos=12",
             "data.spec.valid_photos=6", "data.input_size=[64,64]", "data.batch_size=4",
             "trainer.max_epochs=1", "trainer.accelerator=cpu", f"logger={logger}"],
            check=True, capture_output=True, env=environment,
        )  # fmt: skip
        seconds[logger] = time.monotonic() - started
    (run,) = (tmp_path / "wandb").iterdir()
    assert read_wandb(run)[4] == [0]
    (offline_run,) = run.glob("wandb/offline-run-*")
    synced = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", "--dry-run", str(offline_run)],
        check=True, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert "Would sync 1 run" in synced.stderr
    assert seconds["wandb"] - seconds["csv"] < 5


@pytest.mark.slow
def test_wandb_server_that_hangs_costs_no_training(composed, monkeypatch, tmp_path, capsys):
    """It accepts connections and says nothing: the run logs offline, told once."""
    offline(monkeypatch, tmp_path)
    monkeypatch.setattr(loggers, "_ANSWER_SECONDS", 5.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        result = train(composed("logger=wandb", "trainer.max_epochs=1", "measure=none"))
    assert capsys.readouterr().err.count("logs offline") == 1
    assert result.folder.result.exists()
    _, _, summary, _, exits = read_wandb(result.folder.path)
    assert exits == [0]
    assert "val/PCKh@0.5" in summary


def test_a_logger_that_fails_is_told_once(composed, monkeypatch, tmp_path, capsys):
    """W&B's own process dies in the middle of an epoch, say."""
    offline(monkeypatch, tmp_path)

    def broken(*_: object, **__: object) -> None:
        raise BrokenPipeError("gone")

    monkeypatch.setattr("lightning.pytorch.loggers.WandbLogger.log_metrics", broken)
    result = train(composed("logger=wandb", "measure=none", "trainer.log_every_n_steps=1"))
    assert capsys.readouterr().err.count("W&B no longer logs this run") == 1
    assert result.folder.result.exists()
