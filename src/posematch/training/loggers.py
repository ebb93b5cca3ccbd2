"""W&B and TensorBoard; metrics.csv is written in any case and needs no logger.

Names are those of metrics.csv: ``train/loss``, ``train/<loss>/<health>``, ``train/grad_norm``,
``train/learning_rate``, ``train/images_per_second``, ``train/skipped_steps``, ``val/loss/<loss>``,
``val/<metric>``.
W&B gets pictures, and at the end of a run charts and tables, under the names below.
"""

from __future__ import annotations

import os
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from requests.utils import get_netrc_auth

from posematch.config import make, plain
from posematch.errors import PosematchError
from posematch.training.run_folder import RunFolder

PICTURES = "val/heatmaps"
LOSS_CHARTS = "charts/loss_against_metric"  # one below it for each measured loss
LOSSES_TABLE = "tables/losses"
JOINTS_TABLE = "tables/joints"

_REACH_SECONDS = 2.0  # a server that takes longer to answer is taken for absent


def build_loggers(cfg: DictConfig, folder: RunFolder, metric_name: str) -> list[Logger]:
    """The loggers of ``cfg.logger``.

    One that is made as it stands (any of Lightning's) is taken so; a partial one gets ``folder``,
    ``config`` (resolved) and ``metric_name`` first.
    """
    loggers = []
    for name, one in cfg.logger.items():
        made = make(one, f"logger.{name}")
        if not isinstance(made, Logger):
            made = made(folder=folder.path, config=plain(cfg), metric_name=metric_name)
        if not isinstance(made, Logger):
            raise PosematchError(f"logger.{name} does not make a Lightning logger.")
        loggers.append(made)
    return loggers


def wandb_logger(
    folder: Path,
    config: Mapping[str, Any],
    metric_name: str,
    project: str,
    entity: str | None,
    group: str | None,
    tags: Sequence[str],
) -> Logger:
    """A W&B run in ``folder/wandb``; offline by itself where there is no key or no network.

    A resumed training goes on in the same W&B run: its id is the folder's name.

    Parameters
    ----------
    folder
        Run folder.
    config
        Resolved configuration, shown with the run.
    metric_name
        The data set's main metric; any validation loss is plotted against it by default.
    project, entity, group, tags
        As in ``wandb.init``.

    Raises
    ------
    PosematchError
        wandb is not installed.
    """
    try:
        import wandb
    except ImportError:
        raise PosematchError(
            "logger=wandb needs the wandb package: pip install 'posematch[wandb]'."
        ) from None

    if getattr(rank_zero_only, "rank", 0) != 0:
        return WandbLogger(project=project)  # logs nothing outside process 0
    mode: Literal["online", "offline"] | None = None  # what WANDB_MODE says
    if "WANDB_MODE" not in os.environ:
        reason = why_offline()
        mode = "online"
        if reason:
            mode = "offline"
            print(
                f"W&B: {reason}, so this run logs offline; `wandb sync"
                f" {folder / 'wandb' / 'offline-run-*'}` uploads it later.",
                file=sys.stderr,
            )
    try:
        # Not through Lightning's own call, which would reuse a run that this process has open.
        run = wandb.init(
            dir=folder,
            id=folder.name[-64:],
            name=folder.name,
            resume="allow",
            project=project,
            entity=entity,
            group=group,
            tags=list(tags),
            config=dict(config),
            mode=mode,
            settings=wandb.Settings(
                silent=True, console="off", init_timeout=30, reinit="create_new"
            ),
        )
    except wandb.Error as error:
        raise PosematchError(
            f"W&B does not take this run ({' '.join(str(error).split())}); log in again, or set"
            " WANDB_MODE=offline."
        ) from error
    _define_metrics(run, metric_name)
    return WandbLogger(experiment=run)


def finish_wandb(
    loggers: Sequence[Logger],
    summary: Mapping[str, Any],
    failed: bool,
    metrics_csv: Path,
    metric_name: str,
) -> None:
    """Write the last figures into the summary, log `_closing_charts`, and close the runs."""
    for logger in loggers:
        if isinstance(logger, WandbLogger) and getattr(rank_zero_only, "rank", 0) == 0:
            logger.experiment.summary.update(dict(summary))
            if not failed:
                logger.experiment.log(_closing_charts(metrics_csv, f"val/{metric_name}"))
            logger.experiment.finish(exit_code=int(failed))


def _closing_charts(metrics_csv: Path, metric: str) -> dict[str, Any]:
    """The run at a glance: each loss against the metric, a dot an epoch; and both as tables.

    From the csv, which holds the epochs before a training was resumed, too.
    """
    import wandb

    epochs = pd.read_csv(metrics_csv)
    names = [str(one) for one in epochs.columns]
    if metric not in names:
        return {}
    logged: dict[str, Any] = {}
    losses = []
    for column in (one for one in names if one.startswith("val/loss/")):
        name = column.removeprefix("val/loss/")
        points = epochs[["epoch", column, metric]].dropna()
        # A chart would take a dot in a column's name for a path.
        points = points.set_axis(["epoch", "loss", "metric"], axis=1)
        logged[f"{LOSS_CHARTS}/{name}"] = wandb.plot.scatter(
            wandb.Table(dataframe=points),
            "loss",
            "metric",
            title=f"{metric} (metric) against {column} (loss)",
        )
        losses.append(points.assign(name=name)[["name", "epoch", "loss", "metric"]])
    if losses:
        logged[LOSSES_TABLE] = wandb.Table(dataframe=pd.concat(losses, ignore_index=True))
    joints = [
        (*name.removeprefix("val/").split("/joint/"), float(epochs[name].dropna().iloc[-1]))
        for name in names
        if "/joint/" in name and epochs[name].notna().any()
    ]
    if joints:
        table = pd.DataFrame(joints, columns=["figure", "joint", "value"])
        logged[JOINTS_TABLE] = wandb.Table(dataframe=table)
    return logged


def _define_metrics(run: Any, metric_name: str) -> None:
    """Which axis each figure is plotted over; the first of a chart's axes one can choose."""
    metric = f"val/{metric_name}"
    run.define_metric("trainer/global_step", hidden=True)
    run.define_metric("epoch", hidden=True)
    run.define_metric("train/*", step_metric="trainer/global_step")
    run.define_metric("val/*", step_metric="epoch")
    run.define_metric(metric, step_metric="epoch", summary="max,last")
    # What posematch is about: a loss that falls while the metric stands still shows here.
    run.define_metric("val/loss/*", step_metric=metric, summary="min,last")


def why_offline() -> str | None:
    """What keeps a run from being uploaded to ``WANDB_BASE_URL`` or W&B's own server, or None."""
    base_url = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    if not os.environ.get("WANDB_API_KEY") and get_netrc_auth(base_url) is None:
        return "no API key (WANDB_API_KEY or `wandb login`)"
    server = urllib.parse.urlsplit(base_url)
    if urllib.request.getproxies():
        return None  # the proxy knows
    port = server.port or (443 if server.scheme == "https" else 80)
    try:
        socket.create_connection((server.hostname or "", port), timeout=_REACH_SECONDS).close()
    except OSError:
        return f"{server.hostname} cannot be reached"
    return None


def tensorboard_logger(folder: Path, config: Mapping[str, Any], metric_name: str) -> Logger:
    """Event files in ``folder/tensorboard``."""
    try:
        logger = TensorBoardLogger(save_dir=folder, name="", version="tensorboard")
    except ModuleNotFoundError:
        raise PosematchError(
            "logger=tensorboard needs the tensorboard package: pip install"
            " 'posematch[tensorboard]'."
        ) from None
    logger.log_hyperparams(dict(config))
    return logger
